"""Golden frames: a few pictures with the class maps a model gave for them where it was made.

Run on another machine, they answer one question without a data set: does this machine compute what was scored at
export? So what is expected are the model file's own class maps, not the truth and not those of the network it was
converted from: how far a conversion moved from its original is measured at export, once.

They lie beside the model in one file, ``model.golden.zip``, of PNGs that any viewer opens and a JSON record:

- not in the ONNX metadata, because pictures of a data set may often not be passed on with the weights trained on
  it, because an engine built from the ONNX shares the file, and because every engine would load them for nothing;
- pictures, not a recipe for drawing them: another version of OpenCV draws the synthetic street a little otherwise;
- PNG, not JPEG, which decoders may decode differently by one level.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.dataset import DataSet, check_same_classes
from edgeseg.errors import EdgesegError, ModelError
from edgeseg.files import PathLike, replacing, sha256_of
from edgeseg.images import image_from_bytes, mask_from_bytes
from edgeseg.metrics import ConfusionMatrix
from edgeseg.segmenter import Segmenter

SCHEMA = 1
FRAMES = 4
SLACK = {"int8": 0.02}
DEFAULT_SLACK = 0.005
"""Least share of a frame's pixels that may get another class, by precision. Float engines differ in about one pixel
in ten thousand; INT8 kernels round after every layer, and two of them were seen to differ in one pixel in a hundred.
A mistake, such as red and blue exchanged, costs a third of the pixels."""

MARGIN = 2.0
"""How many times the difference between the engines of one machine another machine may show: each is off by its own
rounding, so a third one differs from the first about as much as the second does."""

_RECORD = "golden.json"
_MAKE = "make them where the model is known to be right: edgeseg verify {} --make"

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]


class VerifyError(EdgesegError):
    """A model does not give the class maps on this machine that it gave where it was made."""

    exit_code = 1


@dataclass(frozen=True)
class Golden:
    """Frames with their expected class maps.

    Attributes:
        frames: uint8 [H, W, 3] each, BGR.
        masks: uint8 [H, W] each, class ids.
        classes: names by id.
        min_agreement: share of pixels, 0 to 1, that must get the expected class in every frame.
        frames_from: where the frames are from, such as "synthetic://street".
        masks_from: engine, version and device that gave the masks.
        model: name of the model file.
        model_sha256: of that file; "" as long as it is not written.
    """

    frames: tuple[Image, ...]
    masks: tuple[Mask, ...]
    classes: tuple[str, ...]
    min_agreement: float
    frames_from: str
    masks_from: str
    model: str = ""
    model_sha256: str = ""


@dataclass(frozen=True)
class Verification:
    """How a machine's class maps compare with the expected ones.

    Attributes:
        agreement: by frame, the share of pixels with the expected class, 0 to 1; a frame without a valid result
            has 0.
        iou: by class, over all frames, of the pixels that have the class with those that should; None where the
            class is in neither.
        min_agreement: the share that is asked for in every frame.
    """

    agreement: tuple[float, ...]
    iou: dict[str, float | None]
    min_agreement: float

    @property
    def passed(self) -> bool:
        """Whether every frame agrees as far as is asked for."""
        return min(self.agreement) >= self.min_agreement

    @property
    def worst_class(self) -> tuple[str, float]:
        """Name and IoU of the class that differs most."""
        return min(((name, iou) for name, iou in self.iou.items() if iou is not None), key=lambda entry: entry[1])

    def check(self) -> None:
        """Raise unless it passed.

        Raises:
            VerifyError: names the worst frame.
        """
        if self.passed:
            return
        worst = min(self.agreement)
        raise VerifyError(
            f"Frame {self.agreement.index(worst)} agrees with its golden class map on {100 * worst:.3f} % of pixels, "
            f"{100 * self.min_agreement:g} % are asked for",
            "try another --backend; if that one passes, update this engine and its driver; if none does, copy the "
            "model again",
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        name, iou = self.worst_class
        return {
            "passed": self.passed,
            "min_agreement": self.min_agreement,
            "agreement": list(self.agreement),
            "worst_class": {"name": name, "iou": iou},
            "iou": self.iou,
        }


def golden_path(model: PathLike) -> Path:
    """Where the golden frames of a model file are: ``model.golden.zip`` beside ``model.onnx`` or ``model.engine``."""
    return Path(model).with_suffix(".golden.zip")


def frames_for_golden(size_hw: tuple[int, int], data: DataSet | None = None, split: str = "val") -> list[Image]:
    """``FRAMES`` pictures to store: evenly spaced ones of a split, or of the synthetic street.

    Args:
        size_hw: of the network's input, in pixels: larger pictures would only take more room.
        data: the data set, or None for the street, drawn without noise because noise does not compress.
        split: split of the data set.

    Returns:
        uint8 [H, W, 3] each, BGR.

    Raises:
        DataError: the split is missing, or an image cannot be read.
    """
    import cv2

    from edgeseg.io.street import Street

    if data is None:
        street = Street(size_hw=size_hw, seed=0, noise=0)
        return [street.render(300 * index)[0] for index in range(FRAMES)]
    samples = data.samples(split)
    chosen = islice(samples[:: max(1, len(samples) // FRAMES)], FRAMES)
    return [np.asarray(cv2.resize(data.read(sample)[0], size_hw[::-1]), np.uint8) for sample in chosen]


def golden_from_data(segmenters: Sequence[Segmenter], data: DataSet | None = None, split: str = "val") -> Golden:
    """``make_golden`` on ``frames_for_golden``, whose errors it has.

    Args:
        segmenters: the same model file in at least one engine; the first gives the expected class maps.
        data: the data set, or None for the synthetic street.
        split: split of the data set.
    """
    frames = frames_for_golden(segmenters[0].card.input_size_hw, data, split)
    frames_from = "synthetic://street" if data is None else f"{data.path.resolve().parent.name}, {split}"
    return make_golden(segmenters[0], frames, frames_from, segmenters[1:])


def make_golden(
    segmenter: Segmenter, frames: Iterable[Image], frames_from: str, others: Sequence[Segmenter] = ()
) -> Golden:
    """Frames with the class maps that a model gives for them here.

    The share of pixels that must agree elsewhere is 1 less ``MARGIN`` times what the other engines of this machine
    differ by in their worst frame; never above what ``SLACK`` leaves.

    Args:
        segmenter: gives the expected class maps; of an engine that computes the graph as it is written.
        frames: at least one uint8 [H, W, 3] in BGR.
        frames_from: where they are from, for the record.
        others: the same model file in other engines.

    Raises:
        ModelError: the model gives NaN or infinity, or two engines differ so much that nothing could be expected.
        EdgesegError: see ``Segmenter.__call__``.
    """
    frames = tuple(frames)
    results = [segmenter(frame) for frame in frames]
    if not all(result.valid for result in results):
        raise ModelError("The model gives NaN or infinite logits", "export it again, in fp32 or from other weights")
    backend = segmenter.backend
    least = 1.0 - SLACK.get(segmenter.card.precision, DEFAULT_SLACK)
    golden = Golden(
        frames, tuple(result.mask for result in results), segmenter.card.classes, least, frames_from,
        f"{backend.name} {backend.version}, {backend.device}",
    )  # fmt: skip
    for other in others:
        allowed = 1.0 - MARGIN * (1.0 - min(verify(other, golden).agreement))
        if allowed < 0.5:
            raise ModelError(
                f"{backend.name} and {other.backend.name} disagree about this model, so neither can be expected "
                "elsewhere",
                "export it again, or make the golden frames with one engine installed",
            )
        golden = dataclasses.replace(golden, min_agreement=min(golden.min_agreement, allowed))
    return golden


def write_golden(golden: Golden, model: PathLike) -> Path:
    """Store golden frames beside the finished model file they were made with. The same frames give the same bytes.

    Raises:
        SinkError: the file cannot be written.
    """
    import cv2

    model = Path(model)
    golden = dataclasses.replace(golden, model=model.name, model_sha256=sha256_of(model))
    record = {
        "schema": SCHEMA,
        **{f.name: getattr(golden, f.name) for f in dataclasses.fields(golden) if f.name not in ("frames", "masks")},
    }
    files = {_RECORD: json.dumps(record, indent=2).encode()}
    for index, pictures in enumerate(zip(golden.frames, golden.masks)):
        for name, picture in zip(_names(index), pictures):
            files[name] = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    path = golden_path(model)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in files.items():
            # A name instead of a ZipInfo would store the time of writing.
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def read_golden(path: PathLike) -> Golden:
    """Golden frames from their file.

    Raises:
        ModelError: it is missing, damaged or not a file of golden frames.
        DataError: a picture in it is damaged.
    """
    path = Path(path)
    mend = f"copy {path.name} again, or {_MAKE.format('MODEL')}"
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: np.frombuffer(archive.read(name), np.uint8) for name in archive.namelist()}
    except FileNotFoundError as error:
        raise ModelError(f"There are no golden frames {path}", _MAKE.format("MODEL")) from error
    # What zipfile raises for damaged, encrypted and strangely compressed files.
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise ModelError(f"The golden frames {path} cannot be read ({error})", mend) from error
    try:
        record = json.loads(bytes(files[_RECORD]))
        if record.pop("schema") != SCHEMA:
            raise ModelError(f"{path} has golden frames of another version of edgeseg", mend)
        frames, masks = [], []
        for index in range((len(files) - 1) // 2):
            frame, mask = _names(index)
            frames.append(image_from_bytes(files[frame], f"{path}/{frame}"))
            masks.append(mask_from_bytes(files[mask], f"{path}/{mask}"))
        golden = Golden(tuple(frames), tuple(masks), **{**record, "classes": tuple(record["classes"])})
        if not frames or not 0.0 <= golden.min_agreement <= 1.0:
            raise ValueError("no frames, or a share outside 0..1")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} holds no golden frames ({error})", mend) from error
    return golden


def golden_of(model: Path) -> Golden:
    """The golden frames beside a model file.

    Raises:
        ModelError: there are none; says how to make them. Or they are of another model file.
        DataError: a picture among them is damaged.
    """
    path = golden_path(model)
    if not path.exists():
        raise ModelError(
            f"{model} has no golden frames {path.name} beside it", f"copy them too, or {_MAKE.format(model)}"
        )
    golden = read_golden(path)
    # An engine or a checkpoint of the same name is another file by its nature.
    if model.suffix == Path(golden.model).suffix and sha256_of(model) != golden.model_sha256:
        raise ModelError(
            f"{model} is not the file that {path.name} was made with: it was changed, damaged, or copied without it",
            f"copy both again, or {_MAKE.format(model)}",
        )
    return golden


def verify(segmenter: Segmenter, golden: Golden) -> Verification:
    """Run the golden frames and compare the class maps. Pixels count as in the parity check of export.

    Raises:
        DataError: the frames are of other classes, or a mask does not fit its frame.
        EdgesegError: see ``Segmenter.__call__``.
    """
    check_same_classes(golden.classes, segmenter.card.classes, "The golden frames", str(segmenter.path or "the model"))
    confusion = ConfusionMatrix(golden.classes, None)
    agreement = []
    for frame, expected in zip(golden.frames, golden.masks):
        # Where the result is not valid the mask is 255 everywhere, which is no class.
        found = segmenter(frame).mask
        confusion.update(expected, found)
        agreement.append(float(np.mean(found == expected)))
    return Verification(tuple(agreement), confusion.scores().iou, golden.min_agreement)


def _names(index: int) -> tuple[str, str]:
    """Names of a frame and of its mask in the file."""
    return f"{index}.png", f"{index}.mask.png"
