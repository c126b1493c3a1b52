"""A run's report and history: true to the checkpoint, whole in one file, never in the way of the run."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from edgeseg.charts import WIDE, line_chart, ticks  # noqa: E402
from edgeseg.dataset import DataSet  # noqa: E402
from edgeseg.evaluate import evaluate  # noqa: E402
from edgeseg.metrics import ConfusionMatrix  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train import report  # noqa: E402
from edgeseg_train.board import Board  # noqa: E402
from edgeseg_train.evaluate import segmenter_for_network  # noqa: E402
from edgeseg_train.history import EpochRecord, read_history  # noqa: E402


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


class Page(HTMLParser):
    """A report as a browser takes it apart: tags with their attributes, and rows of cells by the table's class."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.text = [], {}, ""
        self._table = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._table = self.rows.setdefault(dict(attrs)["class"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        self.text += data
        if self._table and self._table[-1]:
            self._table[-1][-1] += data.strip()

    def attributes(self, tag, name):
        return [attributes[name] for found, attributes in self.tags if found == tag]


def page_of(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


def assert_one_line(stderr, start, *parts):
    line = stderr[stderr.index(start) :]
    assert line.count("\n") == 1
    assert "Traceback" not in stderr
    for part in (*parts, "Mend: "):
        assert part in line


def renamed(tiny_dataset, *names):
    """The data set with other class names; more than three of them are in no mask."""
    text = re.sub(r"names:.*\npalette:.*\n", f"names: {json.dumps(names)}\n", tiny_dataset.read_text())
    tiny_dataset.write_text(text)


def test_figures_are_those_of_the_checkpoint(train, out, tiny_dataset, capsys):
    assert train("--epochs", 3, "--lr", 0.01) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    page, checkpoint = page_of(out), checkpoints.load(out / "best.pt")
    scores = checkpoint["scores"]
    assert f"{100 * scores['miou']:.1f} %" in page.text
    assert f"{100 * scores['pixel_accuracy']:.1f} %" in page.text
    assert f"{checkpoint['epoch']} of 3" in page.text
    rows = {row[0]: row[1] for row in page.rows["classes"][1:]}
    assert rows == {name: f"{100 * iou:.1f}" for name, iou in scores["iou"].items()}
    assert [float(iou) for iou in rows.values()] == sorted(float(iou) for iou in rows.values())
    assert "When training" not in page.text
    assert f"edgeseg export --checkpoint {out / 'best.pt'} --data {tiny_dataset}" in page.text

    data = DataSet.from_yaml(tiny_dataset)
    network = checkpoints.network_from_checkpoint(checkpoint)
    with segmenter_for_network(network, data, (64, 96), torch.device("cpu")) as segmenter:
        measured = report.measure(segmenter, data, "val")
    assert measured.confusion.scores().to_dict() == scores
    assert measured.images_by_class.tolist() == [4, 4, 4]


def test_page_is_whole_in_one_file(train, out):
    assert train("--epochs", 1) == 0
    text, page = (out / "report.html").read_text(encoding="utf-8"), page_of(out)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not any({"href", "srcset", "onload", "onerror"} & attributes.keys() for _, attributes in page.tags)
    pictures = page.attributes("img", "src")
    assert len(pictures) == 4 * 4
    for picture in pictures:
        head, _, encoded = picture.partition(",")
        assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
        assert cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), -1).shape == (64, 96, 3)


def test_worst_images_come_first(train, out, tiny_dataset, monkeypatch):
    monkeypatch.setattr(report, "WORST_IMAGES", 3)
    assert train("--epochs", 1) == 0
    data, checkpoint = DataSet.from_yaml(tiny_dataset), checkpoints.load(out / "best.pt")
    network = checkpoints.network_from_checkpoint(checkpoint)
    with segmenter_for_network(network, data, (64, 96), torch.device("cpu")) as segmenter:
        mious = {
            f"val/images/{sample.image_path.name}": evaluate(segmenter, [(image, mask)], data.ignore_id).miou
            for sample, image, mask in data.pairs("val")
        }
    worst = sorted(mious, key=mious.get)[:3]
    assert len(set(mious.values())) == 4
    found = re.findall(r"(val/images/\d.png)\s+mIoU ([\d.]+) %", page_of(out).text)
    assert found == [(name, f"{100 * mious[name]:.1f}") for name in worst]


def test_names_are_text_never_markup(train, out, tiny_dataset):
    renamed(tiny_dataset, "<blink>", "&amp;", '"><s>')
    out = out.with_name("a <u> run")
    assert train("--epochs", 2, "--eval-every", 1, out=out) == 0
    page = page_of(out)
    assert not {"blink", "s", "u"} & {tag for tag, _ in page.tags}
    assert {row[0] for row in page.rows["classes"][1:]} == {"<blink>", "&amp;", '"><s>'}
    assert page.rows["matrix"][0] == ["", "<blink>", "&amp;", '"><s>']
    assert "a <u> run" in page.text


def test_says_what_to_know_before_trusting_the_figures(train, out, tiny_dataset):
    renamed(tiny_dataset, "red", "green", "blue", "ghost")
    for index in (0, 1):
        path = tiny_dataset.parent / "val" / "masks" / f"{index}.png"
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask[:] = 255 if index == 0 else np.where(mask == 1, 0, mask)
        cv2.imwrite(str(path), mask)
    assert train("--epochs", 1, "--train-split", "val") == 0
    text = page_of(out).text
    assert "'val' was trained on as well" in text
    assert "No validation image holds ghost:" in text
    assert "red (3), green (2), blue (3)" in text
    assert "no pixel has a class: 1 of 4 images" in text
    assert "The history lacks" not in text


def test_report_that_cannot_be_written_is_a_warning(train, out, capsys):
    (out / "report.html").mkdir(parents=True)
    assert train("--epochs", 1) == 0
    captured = capsys.readouterr()
    assert_one_line(captured.err, "warning: ", f"Cannot write {out / 'report.html'}", "edgeseg_train.report")
    assert checkpoints.load(out / "best.pt")["epoch"] == 1
    assert checkpoints.load(out / "last.pt")["epoch"] == 1


def test_broken_image_is_named_and_the_older_report_stays(train, out, tiny_dataset, capsys):
    assert train("--epochs", 1) == 0
    before = (out / "report.html").read_bytes()
    (tiny_dataset.parent / "val" / "images" / "2.png").write_bytes(b"no image")
    capsys.readouterr()
    assert report.main([str(out), "--device", "cpu"]) == 2
    assert_one_line(capsys.readouterr().err, "error: ", "2.png")
    assert (out / "report.html").read_bytes() == before


def test_command_takes_the_data_set_from_elsewhere(train, out, tiny_dataset, tmp_path, capsys):
    assert train("--epochs", 1) == 0
    moved = tmp_path / "moved"
    shutil.move(tiny_dataset.parent, moved)
    (out / "report.html").unlink()
    capsys.readouterr()
    assert report.main([str(out)]) == 2
    assert_one_line(capsys.readouterr().err, "error: ", str(tiny_dataset))
    assert report.main([str(out), "--data", str(moved / "data.yaml"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert f"--data {moved / 'data.yaml'}" in page_of(out).text

    renamed(moved / "data.yaml", "blue", "red", "green")
    assert report.main([str(out), "--data", str(moved / "data.yaml")]) == 2
    assert_one_line(capsys.readouterr().err, "error: ", "Class 0 is 'blue'")


def test_command_before_the_first_evaluation_says_so(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert_one_line(capsys.readouterr().err, "error: ", "best.pt")
    assert not (tmp_path / "report.html").exists()


def test_history_holds_every_epoch_once_after_a_run_is_cut_off(train, out, monkeypatch):
    original = torch.save

    def interrupted(checkpoint, path):
        if checkpoint["epoch"] == 2 and "state" in checkpoint:  # last.pt, when the epoch's record is written already
            raise KeyboardInterrupt
        original(checkpoint, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        assert train("--epochs", 4, "--eval-every", 1) == 130
    assert [record.epoch for record in read_history(out)] == [1, 2]
    with open(out / "history.jsonl", "a") as file:
        file.write('{"epoch": 3, "loss": 0.')
    assert train("--epochs", 4, "--eval-every", 1, "--resume") == 0

    records = read_history(out)
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert len((out / "history.jsonl").read_text().splitlines()) == 4
    best = checkpoints.load(out / "best.pt")
    assert max(record.miou for record in records) == best["scores"]["miou"]
    assert records[best["epoch"] - 1].iou == best["scores"]["iou"]
    assert records[-1].lr == 0 < records[0].lr
    assert all(record.images_per_s > 0 and record.machine for record in records)


def test_tensorboard_gets_every_number_and_the_picture(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    confusion = ConfusionMatrix(("red", "ghost"), 255)
    confusion.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    record = EpochRecord.now(
        epoch=3, loss=0.5, lr=0.25, images_per_s=8, device=torch.device("cpu"), scores=confusion.scores()
    )
    with Board(tmp_path, 2) as board:
        board.add(record, np.full((4, 6, 3), 7, np.uint8))
    assert read_history(tmp_path) == [record]

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {
        "train/loss": [(3, 0.5)], "train/lr": [(3, 0.25)], "train/images_per_s": [(3, 8)],
        "val/miou": [(3, 1)], "val/pixel_accuracy": [(3, 1)], "val_iou/red": [(3, 1)],
    }  # fmt: skip
    (picture,) = events.Images("val/image, truth, prediction, errors")
    assert (picture.step, picture.width, picture.height) == (3, 6, 4)


def test_report_draws_what_is_left_of_a_broken_history(train, out):
    assert train("--epochs", 3) == 0
    path = out / "history.jsonl"
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, second[:40], "7", third]))
    best = checkpoints.load(out / "best.pt")
    assert report.main([str(out), "--device", "cpu"]) == 0
    page = page_of(out)
    assert ("The history lacks" in page.text) == (best["epoch"] > 1)
    assert sum(tag == "path" for tag, _ in page.tags) == 5 + 3

    path.unlink()
    assert report.main([str(out), "--device", "cpu"]) == 0
    assert "no history.jsonl" in page_of(out).text


def test_table_and_confusions_of_a_matrix_done_by_hand(tiny_dataset):
    data = DataSet.from_yaml(tiny_dataset)
    confusion = ConfusionMatrix(data.classes, 255)
    confusion.matrix[:] = [[6, 2, 0, 2], [1, 3, 0, 0], [0, 0, 0, 0]]
    measured = report.Measured(confusion, [], np.array([3, 1, 0]))
    rows = report.class_rows(measured, data, [])
    assert [row.name for row in rows] == ["green", "red", "blue"]
    green, red, blue = rows
    assert (green.iou, green.precision, green.recall, green.images) == (3 / 6, 3 / 5, 3 / 4, 1)
    assert (red.iou, red.precision, red.recall) == (6 / 11, 6 / 7, 6 / 10)
    assert red.share == 10 / 14
    assert (blue.iou, blue.precision, blue.recall, blue.share) == (None, None, None, 0)

    cells = report.confusion_rows(confusion)
    assert [cell.predicted for cell in cells[0]] == ["red", "green", "blue", "no valid result"]
    assert [[cell.pixels for cell in row] for row in cells] == confusion.matrix.tolist()
    assert [cell.share for cell in cells[0]] == [0.6, 0.2, 0, 0.2]
    confusion.matrix[0, 3] = 0
    assert len(report.confusion_rows(confusion)[0]) == 3


@pytest.mark.parametrize("high", [0, 1e-9, 3e-4, 0.95, 1, 7, 240, 1e6])
def test_ticks_are_round_and_reach_the_top(high):
    values = ticks(high)
    assert values[0] == 0
    assert 3 <= len(values) <= 7
    step = values[1]
    assert values[-2] < (high or 1) <= values[-1] * (1 + 1e-9)
    assert f"{step:e}"[0] in "125"
    np.testing.assert_allclose(np.diff(values), step)


def test_chart_puts_values_where_the_axes_say():
    chart = line_chart("loss", {"a": [(1, 5.0), (10, 0.0)]}, mark_epoch=10)
    (curve,) = chart.curves
    first, last = curve.dots
    assert (first.text, last.text) == ("epoch 1: 5", "epoch 10: 0")
    assert first.y == WIDE.edge == chart.y_ticks[-1].at
    assert last.y == WIDE.height - WIDE.bottom == chart.y_ticks[0].at
    assert last.x == WIDE.width - WIDE.edge == chart.mark.at
    assert curve.path == f"M{first.x} {first.y} L{last.x} {last.y}"
    long = line_chart("loss", {"a": [(epoch, 1.0) for epoch in range(1, 1001)]})
    assert len(long.curves[0].dots) <= 120
    assert long.curves[0].path.count("L") == 999
