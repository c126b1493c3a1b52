"""Writing files so that nothing half-written is ever left under the final name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Union

from edgeseg.errors import SinkError

PathLike = Union[str, "os.PathLike[str]"]


def check_writable(path: PathLike) -> None:
    """Refuse a file path that cannot be written, before the work whose result it is for. Makes nothing.

    Raises:
        SinkError: it is a folder, or its folder can be neither written nor made; exit code 2.
    """
    path = Path(path)
    for name in (path, temporary_beside(path)):
        try:
            os.stat(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SinkError(
                f"{path} cannot be written ({error.strerror})", "choose another name", exit_code=2
            ) from error
    if path.is_dir():
        raise SinkError(f"{path} is a folder, not a file", "add a file name", exit_code=2)
    check_writable_folder(path.parent)


def check_writable_folder(folder: PathLike) -> None:
    """Refuse a folder that can be neither written nor made. Makes nothing.

    Raises:
        SinkError: with exit code 2.
    """
    mend = "choose a folder you may write to"
    nearest = Path(folder).absolute()
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
    except OSError as error:
        raise SinkError(f"The folder {folder} cannot be used ({error.strerror})", mend, exit_code=2) from error
    if not nearest.is_dir():
        raise SinkError(f"The folder {folder} cannot be made: {nearest} is a file", mend, exit_code=2)
    try:
        # Permissions alone do not tell: not for root, nor on some network and system folders.
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise SinkError(f"The folder {nearest} is not writable ({error.strerror})", mend, exit_code=2) from error


def temporary_beside(path: PathLike) -> Path:
    """Where a file grows before it takes its name: hidden, beside it, with its suffix.

    Raises:
        SinkError: the path has no file name; exit code 2.
    """
    path = Path(path)
    if not path.name:
        raise SinkError(f"{path} is a folder, not a file", "add a file name", exit_code=2)
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends without an error.

    The suffix is kept, for writers that choose a format by it. Missing folders are made.

    Raises:
        SinkError: the folder cannot be written or the disk is full; the old file, if any, stays.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise SinkError(
            f"Cannot write {path} ({error.strerror or error})", "free some space or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(folder: PathLike) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its name when the block ends without an error.

    Raises:
        SinkError: ``folder`` is there and not empty, or cannot be written; exit code 2. The disk is full.
    """
    folder = Path(folder).absolute()
    check_writable_folder(folder.parent)
    temporary = temporary_beside(folder)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SinkError(f"{folder} exists and is no empty folder", "choose another name, or remove it", exit_code=2)
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise SinkError(
            f"Cannot write {folder} ({error.strerror or error})", "free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: PathLike, text: str) -> None:
    """Write UTF-8 text at once or not at all.

    Raises:
        SinkError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
