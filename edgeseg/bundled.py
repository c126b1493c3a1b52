"""The models that come inside the package."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import ModelError, nearest

DEFAULT = "ddrnet-c32-camvid"
"""The model that commands use where none is named."""

MODEL_SUFFIXES = (".onnx", ".engine", ".pt")

_FOLDER = Path(__file__).parent / "models"


def names() -> tuple[str, ...]:
    """Names of the bundled models."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("*.onnx")))


def resolve(name_or_path: str) -> Path:
    """The file of a bundled model's name, or the path itself.

    Raises:
        ModelError: neither a bundled model nor an existing file; suggests the nearest.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    if name_or_path in names():
        return _FOLDER / f"{name_or_path}.onnx"
    if path.suffix in MODEL_SUFFIXES or len(path.parts) > 1:
        raise ModelError(f"There is no model file {path}", "check the path")
    raise ModelError(
        f"There is no bundled model '{name_or_path}'",
        f"{nearest(name_or_path, names())}; or give the path of a model file",
    )
