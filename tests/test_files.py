import zipfile

import pytest

from base.files import only_one, replacing, sha256
from base.patterns import archives


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists() and temporary.suffix == ".txt"
    with pytest.raises(RuntimeError):
        with replacing(path) as temporary:
            temporary.write_text("second, half writ")
            raise RuntimeError
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_next_holder_clears_only_what_a_crash_can_have_left(tmp_path):
    keep = [
        "raw/.notes.tmp2024",
        "other/checkpoints/.epoch_00002.tmp42.npz",
        ".my.tmpfile",
        "a.tmp7",
    ]
    clear = [
        ".history.tmp12.csv",
        ".make/.seed.tmp9",
        "checkpoints/.epoch_00001.tmp3.npz",
        "predictions/.2_13.tmp5.tif",
        "predictions/Train/Urban/.13.tmp5.tif",
    ]
    for name in [*keep, *clear]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".folder.tmp1").mkdir()
    with only_one(tmp_path):
        assert [name for name in keep if not (tmp_path / name).exists()] == []
        assert [name for name in clear if (tmp_path / name).exists()] == []


def test_an_archive_is_opened_once_for_all_of_its_members_and_again_when_it_changes(tmp_path, monkeypatch):
    path, opened = tmp_path / "chips.zip", []
    assert archives(tmp_path) == []
    with zipfile.ZipFile(path, "w") as target:
        for number in range(20):
            target.writestr(f"{number}.png", b"abc")
    (tmp_path / "abc").write_bytes(b"abc")
    assert archives(tmp_path) == [path]
    real = zipfile.ZipFile.__init__
    monkeypatch.setattr(
        zipfile.ZipFile, "__init__", lambda self, *args: opened.append(1) or real(self, *args)
    )
    assert {sha256(path / f"{number}.png") for number in range(20)} == {sha256(tmp_path / "abc")}
    assert len(opened) == 1
    path.unlink()
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("other.png", b"abcd")
    (tmp_path / "abc").write_bytes(b"abcd")
    assert sha256(path / "other.png") == sha256(tmp_path / "abc")
