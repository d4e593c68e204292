"""How scripts run: one settings file a run, exit codes, one line for each failure."""

import errno
import fcntl

import pytest
from conftest import run_script, save_settings

from base.command import claim
from base.files import only_one
from base.problem import Problem


def test_two_settings_files_of_one_name_do_not_share_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for path in ("demo.yaml", "a/demo.yaml"):
        (tmp_path / path).write_text("")
    run = tmp_path / "runs/demo"
    claim(run, tmp_path / "demo.yaml")  # before there is a run
    assert not run.exists()
    run.mkdir(parents=True)
    claim(run, tmp_path / "demo.yaml")
    with pytest.raises(
        Problem, match="its run, .*runs/demo, is that of demo.yaml, expected a name of its own"
    ) as caught:
        claim(run, tmp_path / "a/demo.yaml")
    assert caught.value.code == 2
    claim(run, tmp_path / "demo.yaml")  # and again
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "demo.yaml").rename(tmp_path / "b/demo.yaml")  # moved: the run goes along
    claim(run, tmp_path / "a/demo.yaml")
    claim(run, tmp_path / "b/demo.yaml")
    assert (run / ".settings_file").read_text() == "a/demo.yaml"


def test_a_script_refuses_the_run_of_another_settings_file(project, settings):
    (project / "a").mkdir()
    save_settings(project / "a", settings)
    assert run_script("prepare_data.py", "--params", "tiny.yaml").returncode == 0
    assert run_script("evaluate.py", "--params", "tiny.yaml").returncode == 3  # nothing to score yet
    (project / "runs/tiny").mkdir(parents=True, exist_ok=True)
    assert run_script("evaluate.py", "--params", "tiny.yaml").returncode == 3
    done = run_script("evaluate.py", "--params", "a/tiny.yaml")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "error: settings file a/tiny.yaml: its run, runs/tiny, is that of tiny.yaml" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_flock_is_said_and_used(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_one(tmp_path / "run"):
        (tmp_path / "run/a").touch()
    told = capsys.readouterr().err
    assert "its file system has no flock" in told and told.count("\n") == 1


def test_other_failures_of_a_lock_are_failures(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken"):
        with only_one(tmp_path):
            pass
