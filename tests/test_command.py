"""How scripts run: one settings file a run, exit codes, one line for each failure."""

import errno
import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_script, save_settings

from base.command import claim
from base.files import only_one
from base.problem import Problem
from base.settings import run_folder


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


def test_the_settings_that_a_training_wrote_are_its_runs(tmp_path):
    run = tmp_path / "runs/x"
    run.mkdir(parents=True)
    assert run_folder("a/wide.yaml") == Path("runs/wide") and run_folder(run / "params.yaml").name == "params"
    (run / "run.json").write_text("{}")
    assert run_folder(run / "params.yaml") == run == run_folder(run / ".make/x.yaml")
    assert run_folder(run / "other.yaml") == Path("runs/other")
    (run / ".settings_file").write_text("x.yaml")
    claim(run, run / "params.yaml")  # no other file's: its own record
    assert (run / ".settings_file").read_text() == "x.yaml"


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


@pytest.mark.parametrize("sign, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_python_drops_in_a_destructor_ends_the_step_at_its_next_progress(sign, code):
    script = (
        "import signal; from base.command import cleanly, progress\n"
        "class Dropping:\n"
        f"    def __del__(self): signal.raise_signal({int(sign)})\n"
        "def work():\n"
        "    Dropping()\n"
        "    print('went on', flush=True)\n"
        "    progress('half way', last=True)\n"
        "    print('and to the end')\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cleanly(work)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "went on\n" and done.returncode == code
    assert done.stderr.endswith("error: interrupted; the same command goes on from what is finished\n")
