"""A run as one page: ``python -m edgeseg_train.report runs/first`` writes ``runs/first/report.html``.

The page is a single file that fetches nothing and runs no script. Its curves are SVG drawn by the template rather
than pictures by a plotting library: so they follow the page's colours, light or dark, scale on a phone, and say
their values under the pointer. The figures are measured anew, image by image, with the weights of ``best.pt``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgeseg.charts import SMALL, Chart, line_chart
from edgeseg.dataset import DataSet, Sample, check_same_classes
from edgeseg.draw import color_from_classmap, error_picture
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import confusion_of
from edgeseg.files import write_text
from edgeseg.metrics import ConfusionMatrix, Scores
from edgeseg.pages import data_url, page_template
from edgeseg.segmenter import Segmenter
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.config import TrainConfig
from edgeseg_train.device import device_named
from edgeseg_train.evaluate import segmenter_for_network
from edgeseg_train.history import EpochRecord, read_history
from edgeseg_train.models.size import count_parameters

FILE_NAME = "report.html"
WORST_IMAGES = 8
FEW_IMAGES = 5
"""A class in fewer images than this has an IoU that the next few images could overturn."""

MOST_MATRIX_CLASSES = 40
"""Of more classes the confusion matrix cannot be read; the most frequent confusions are listed all the same."""

MOST_CONFUSIONS = 6


@dataclass(frozen=True)
class ImageScore:
    """How one image was segmented; ``scores`` is None where it has no labelled pixel."""

    sample: Sample
    scores: Scores | None


@dataclass(frozen=True)
class Measured:
    """A network on a split.

    Attributes:
        confusion: over all images.
        images: in the split's order.
        images_by_class: int64 [classes], images whose truth holds the class.
    """

    confusion: ConfusionMatrix
    images: list[ImageScore]
    images_by_class: NDArray[np.int64]


@dataclass(frozen=True)
class ClassRow:
    """A class in the table; shares are 0 to 1, None where nothing could be counted."""

    name: str
    color: str
    iou: float | None
    precision: float | None
    recall: float | None
    share: float
    images: int
    chart: Chart | None


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class by what they were taken for; ``share`` is of all pixels of the true class."""

    truth: str
    predicted: str
    pixels: int
    share: float


@dataclass(frozen=True)
class WorstImage:
    """A badly segmented image, its pictures as ``data:`` addresses."""

    name: str
    scores: Scores
    weakest: list[tuple[str, float]]
    pictures: dict[str, str]


def write_report(run: Path, *, data_yaml: str | None = None, device: str = "auto") -> Path:
    """Write ``report.html`` into a run's folder, whether the run has ended or not, and return its path.

    Args:
        run: folder with a ``best.pt``, and where there is one its ``history.jsonl``.
        data_yaml: the data set; None takes the path that the run was given.
        device: where the validation split is measured, see ``device_named``.

    Raises:
        ModelError: there is no ``best.pt`` yet, or it cannot be read.
        DataError: the data set or the history cannot be read, or it is another data set.
        UsageError: there is no such device.
        BackendError: the network failed, such as for want of memory.
        SinkError: the report cannot be written; an older one stays.
    """
    best = run / "best.pt"
    checkpoint = checkpoints.load(best)
    config = checkpoint["config"]
    data = DataSet.from_yaml(data_yaml or config["data"])
    check_same_classes(data.classes, checkpoint["classes"], str(data.path), str(best))
    history = read_history(run)
    network = checkpoints.network_from_checkpoint(checkpoint)
    imgsz = (int(checkpoint["imgsz"][0]), int(checkpoint["imgsz"][1]))
    with segmenter_for_network(network, data, imgsz, device_named(device)) as segmenter:
        measured = measure(segmenter, data, config["val_split"])
        worst = worst_images(segmenter, data, measured)
    scores = measured.confusion.scores()
    cells = confusion_rows(measured.confusion)
    wrong = [cell for row in cells for cell in row if cell.pixels and cell.truth != cell.predicted]
    page = page_template("edgeseg_train", "report.html.jinja").render(
        run=run.absolute().name,
        checkpoint=checkpoint,
        config=config_rows(config),
        config_split=config["val_split"],
        epochs=config["epochs"],
        data=data,
        parameters=count_parameters(network),
        scores=scores,
        images=len(measured.images),
        record=next((record for record in history if record.epoch == checkpoint["epoch"]), None),
        last_epoch=max([record.epoch for record in history] + [checkpoint["epoch"]]),
        commands=next_commands(best, data, config),
        charts=history_charts(history, checkpoint["epoch"]),
        rows=class_rows(measured, data, history),
        confusions=cells,
        largest_confusions=sorted(wrong, key=lambda cell: -cell.share)[:MOST_CONFUSIONS],
        show_matrix=len(data.classes) <= MOST_MATRIX_CLASSES,
        worst=worst,
        notices=notices(checkpoint, measured, history),
    )
    write_text(run / FILE_NAME, page)
    return run / FILE_NAME


def measure(segmenter: Segmenter, data: DataSet, split: str) -> Measured:
    """Score every image of a split alone and all together, with the counts of ``edgeseg eval``.

    Raises:
        DataError: the split is missing, or a file in it is not what it should be.
    """
    total = ConfusionMatrix(data.classes, data.ignore_id)
    images = []
    images_by_class = np.zeros(len(data.classes), np.int64)
    for sample in tqdm(data.samples(split), "report", unit="image", leave=False, disable=None):
        one = confusion_of(segmenter, [data.read(sample)], data.ignore_id)
        total.matrix += one.matrix
        images_by_class += one.matrix.any(axis=1)
        images.append(ImageScore(sample, one.scores() if one.matrix.any() else None))
    return Measured(total, images, images_by_class)


def worst_images(segmenter: Segmenter, data: DataSet, measured: Measured) -> list[WorstImage]:
    """The images of the lowest mIoU, worst first, with their pictures."""
    scored = [(image.sample, image.scores) for image in measured.images if image.scores is not None]
    scored.sort(key=lambda pair: pair[1].miou)
    worst = []
    for sample, scores in scored[:WORST_IMAGES]:
        image, truth = data.read(sample)
        predicted = segmenter(image).mask
        by_iou = sorted(((name, iou) for name, iou in scores.iou.items() if iou is not None), key=lambda pair: pair[1])
        pictures = {
            "image": data_url(image, ".jpg"),
            "truth": data_url(color_from_classmap(truth, data.palette), ".png"),
            "prediction": data_url(color_from_classmap(predicted, data.palette), ".png"),
            "errors": data_url(error_picture(image, truth, predicted, data.ignore_id), ".jpg"),
        }
        name = os.path.relpath(sample.image_path, data.path.parent)
        worst.append(WorstImage(name, scores, by_iou[:3], pictures))
    return worst


def class_rows(measured: Measured, data: DataSet, history: Sequence[EpochRecord]) -> list[ClassRow]:
    """The classes, weakest first; those that are in neither truth nor prediction last."""
    matrix = measured.confusion.matrix
    truth, predicted, hit = matrix.sum(1), matrix[:, :-1].sum(0), np.diagonal(matrix)
    iou = measured.confusion.scores().iou
    rows = [
        ClassRow(
            name, "rgb({}, {}, {})".format(*data.palette[i]), iou[name],
            precision=float(hit[i] / predicted[i]) if predicted[i] else None,
            recall=float(hit[i] / truth[i]) if truth[i] else None,
            share=float(truth[i] / truth.sum()),
            images=int(measured.images_by_class[i]),
            chart=_class_chart(name, history),
        )
        for i, name in enumerate(data.classes)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: 2.0 if row.iou is None else row.iou)


def confusion_rows(confusion: ConfusionMatrix) -> list[list[Confusion]]:
    """A row for each true class, a cell for each predicted one and, where there are any, for invalid results."""
    columns = (*confusion.classes, *(["no valid result"] if confusion.matrix[:, -1].any() else []))
    return [
        [
            Confusion(truth, predicted, int(pixels), float(pixels / max(1, row.sum())))
            for predicted, pixels in zip(columns, row)
        ]
        for truth, row in zip(confusion.classes, confusion.matrix)
    ]


def history_charts(history: Sequence[EpochRecord], best_epoch: int) -> list[Chart]:
    """The curves of a run; none where it has no history."""
    if not history:
        return []
    charts = [line_chart("training loss", {"": [(r.epoch, r.loss) for r in history]})]
    accuracy = {
        "mIoU": [(r.epoch, 100 * r.miou) for r in history if r.miou is not None],
        "pixel accuracy": [(r.epoch, 100 * r.pixel_accuracy) for r in history if r.pixel_accuracy is not None],
    }
    if any(accuracy.values()):
        charts.append(line_chart("validation, %", accuracy, top=100, mark_epoch=best_epoch))
    charts.append(line_chart("learning rate", {"": [(r.epoch, r.lr) for r in history]}))
    charts.append(line_chart("training images a second", {"": [(r.epoch, r.images_per_s) for r in history]}))
    return charts


def _class_chart(name: str, history: Sequence[EpochRecord]) -> Chart | None:
    points = [(record.epoch, 100 * iou) for record in history if (iou := record.iou.get(name)) is not None]
    return line_chart(name, {"": points}, top=100, area=SMALL) if len(points) > 1 else None


def notices(checkpoint: checkpoints.Checkpoint, measured: Measured, history: Sequence[EpochRecord]) -> list[str]:
    """What a reader should know before trusting the figures, one sentence each."""
    config, classes = checkpoint["config"], measured.confusion.classes
    val = config["val_split"]
    matrix, images = measured.confusion.matrix, measured.images_by_class
    absent = [name for name, count in zip(classes, images) if count == 0]
    few = [f"{name} ({count})" for name, count in zip(classes, images) if 0 < count < FEW_IMAGES]
    missed = [name for i, name in enumerate(classes) if images[i] and not matrix[:, i].any()]
    unlabelled = sum(image.scores is None for image in measured.images)
    stored, miou = checkpoint["scores"]["miou"], measured.confusion.scores().miou
    invalid = int(matrix[:, -1].sum())
    gaps = checkpoint["epoch"] - sum(record.epoch <= checkpoint["epoch"] for record in history)
    found = [
        (val == config["train_split"], f"'{val}' was trained on as well: the figures say nothing about new images."),
        (absent, f"No validation image holds {_listed(absent)}: nothing here says how well it is found."),
        (few, f"In fewer than {FEW_IMAGES} validation images, so that the IoU is a guess: {_listed(few)}."),
        (missed, f"Never predicted, though it is there: {_listed(missed)}."),
        (unlabelled, f"Left out because no pixel has a class: {unlabelled} of {len(measured.images)} images."),
        (invalid, f"The network gave no valid result for {invalid:,} pixels; they count as wrong."),
        (abs(miou - stored) > 1e-4, f"When training, it was {100 * stored:.2f} % mIoU: the data or code has changed."),
        (gaps, f"The history lacks {gaps} of the first {checkpoint['epoch']} epochs."),
    ]  # fmt: skip
    return [text for holds, text in found if holds]


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def next_commands(best: Path, data: DataSet, config: dict[str, Any]) -> list[tuple[str, str]]:
    """Purpose and command line of what usually follows training."""
    val = config["val_split"]
    scored = "test" if "test" in data.splits else val
    checkpoint, onnx, yaml = str(best), str(best.with_name("model.onnx")), str(data.path)
    commands = [
        (f"Score it on '{scored}'", ["eval", "--model", checkpoint, "--data", yaml, "--split", scored]),
        ("Export it", ["export", "--checkpoint", checkpoint, "--data", yaml, "--split", val, "--out", onnx]),
        ("Run it on a camera", ["run", "--camera", "0", "--model", onnx]),
    ]
    return [(purpose, shlex.join(["edgeseg", *words])) for purpose, words in commands]


def config_rows(config: dict[str, Any]) -> list[tuple[str, Any, bool]]:
    """Name, value, and whether the value differs from the default."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    rows = []
    for name, value in config.items():
        value = tuple(value) if isinstance(value, list) else value
        rows.append(
            (name, " x ".join(map(str, value)) if isinstance(value, tuple) else value, value != defaults.get(name))
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of a run's folder; 0 when it is there."""
    parser = argparse.ArgumentParser(prog="python -m edgeseg_train.report", description="A run as one HTML page.")
    parser.add_argument("run", type=Path, help="folder of the run, with its best.pt")
    parser.add_argument("--data", metavar="DATA.yaml", help="the data set, where it is no longer at the run's own path")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    args = parser.parse_args(argv)
    try:
        print(write_report(args.run, data_yaml=args.data, device=args.device))
    except EdgesegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
