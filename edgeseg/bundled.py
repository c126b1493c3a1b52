"""The models that come inside the package."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import ModelError, nearest
from edgeseg.processor import VNNI, features

FP32, INT8 = "ddrnet-c32-camvid", "ddrnet-c32-camvid-int8"

MODEL_SUFFIXES = (".onnx", ".engine", ".pt")

_FOLDER = Path(__file__).parent / "models"


def names() -> tuple[str, ...]:
    """Names of the bundled models."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("*.onnx")))


def default(*, on_gpu: bool = False) -> str:
    """The model that commands use where none is named: INT8 where it was measured to win, on processors with VNNI."""
    return INT8 if features() & VNNI and not on_gpu else FP32


def resolve(name_or_path: str) -> Path:
    """The file of a bundled model's name, or the path itself.

    Raises:
        ModelError: neither a bundled model nor an existing file; suggests the nearest.
    """
    path = Path(name_or_path)
    try:
        if path.exists():
            return path
    except OSError as error:
        raise ModelError(f"Cannot read {path} ({error.strerror})", "check the path") from error
    if name_or_path in names():
        return _FOLDER / f"{name_or_path}.onnx"
    if path.suffix in MODEL_SUFFIXES or len(path.parts) > 1:
        bundled = f", or give the bundled '{path.stem}'" if path.stem in names() else ""
        raise ModelError(f"There is no model file {path}", f"check the path{bundled}")
    raise ModelError(
        f"There is no bundled model '{name_or_path}'",
        f"{nearest(name_or_path, names())}; or give the path of a model file",
    )
