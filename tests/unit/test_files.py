from __future__ import annotations

import hashlib
import os

import pytest

from edgeseg import files
from edgeseg.errors import SinkError


def test_a_file_appears_at_once_with_its_folders(tmp_path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    with files.replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["x.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_the_old_file_stays_and_nothing_else_is_left(tmp_path, error) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    expected = SinkError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write()
    if expected is SinkError:
        assert "No space left on device" in str(caught.value)
        assert caught.value.exit_code == 1
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_what_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "x.txt", tmp_path, tmp_path / ("n" * 300)):
        with pytest.raises(SinkError):
            files.write_text(path, "x")
    with pytest.raises(SinkError, match="folder, not a file"):
        files.write_text("/", "x")
    assert os.listdir(tmp_path) == ["file"]


def test_check_writable_accepts_and_makes_nothing(tmp_path) -> None:
    (tmp_path / "old.txt").write_text("x")
    for path in (tmp_path / "x.txt", tmp_path / "a" / "b" / "x.txt", tmp_path / "old.txt"):
        files.check_writable(path)
    files.check_writable_folder(tmp_path / "c" / "d")
    assert os.listdir(tmp_path) == ["old.txt"]


def test_check_writable_accepts_a_name_in_the_working_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.check_writable("x.txt")
    files.write_text("x.txt", "x")
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "folder, not a file"),
        ("file/x.txt", "is a file"),
        ("file/a/b/x.txt", "is a file"),
        ("n" * 300, "too long"),
        # Room for the name itself, but not for the temporary one beside it.
        ("n" * 250, "too long"),
        ("n" * 300 + "/x.txt", "too long"),
    ],
)
def test_check_writable_refuses_before_any_work(tmp_path, name, said) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError) as caught:
        files.check_writable(tmp_path / name)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_takes_no_file(tmp_path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        # Root may write anywhere but into the kernel's own folders.
        folder = files.Path("/proc/sys")
        if not folder.is_dir():
            pytest.skip("no folder here refuses files")
    with pytest.raises(SinkError, match="not writable") as caught:
        files.check_writable(folder / "x.txt")
    assert caught.value.exit_code == 2


def test_sha256(tmp_path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "x").write_bytes(data)
    assert files.sha256_of(tmp_path / "x") == hashlib.sha256(data).hexdigest()
