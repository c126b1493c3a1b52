"""What the gate measures is what the runtime's own evaluation and clock say; the report says it all."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from edgeseg import load
from edgeseg.dataset import DataSet
from edgeseg.evaluate import evaluate
from edgeseg.metrics import ConfusionMatrix

pytest.importorskip("torch", reason="needs the extra 'export'")
pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from edgeseg.charts import scatter_chart
from edgeseg_export import gate, parity
from edgeseg_export.convert import Conversion, Labelled
from edgeseg_export.gate import Accuracy, EngineResult
from edgeseg_export.repair import Candidate, Measured, Repair, Step
from edgeseg_export.report import Report, front_chart

ENGINES = parity.installed_cpu_engines()


@pytest.fixture
def files(save_colour_model, tmp_path):
    """The model, and one that mistakes every green for a blue, as if a conversion had broken it."""
    import onnx

    good = save_colour_model(tmp_path / "good.onnx")
    model = onnx.load(good)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[1] = -100
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "head.bias"))
    onnx.save(model, tmp_path / "broken.onnx")
    return {"fp32": good, "int8": tmp_path / "broken.onnx"}


def result(miou, rounds_ms, engine="openvino"):
    """An engine's result with an mIoU by precision."""
    confusion = ConfusionMatrix(("road", "sky", "never"), None)
    confusion.update(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    scores = confusion.scores()
    accuracy = {name: Accuracy(type(scores)(**{**vars(scores), "miou": value}), 0.99) for name, value in miou.items()}
    return EngineResult(engine, accuracy, rounds_ms, 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_are_those_of_eval_and_agreement_is_counted_in_pixels(files, tiny_dataset, engine):
    data = DataSet.from_yaml(tiny_dataset)
    labelled = Labelled(data, "val", data.samples("val"))
    with load(files["fp32"], engine) as good, load(files["int8"], engine) as broken:
        found = gate.measure(engine, files, good.card, labelled.pairs(""), data.ignore_id, rounds=2)
        images = [data.read(sample) for sample in labelled.samples]
        for precision, segmenter in (("fp32", good), ("int8", broken)):
            assert found.accuracy[precision].scores == evaluate(segmenter, images, data.ignore_id)
        same = np.mean([good(image).mask == broken(image).mask for image, _ in images])
    assert found.accuracy["fp32"].agreement == 1
    assert found.accuracy["int8"].agreement == pytest.approx(same)
    assert found.images == 4
    assert found.drop("int8") > 0.2
    assert found.accuracy["int8"].scores.iou["green"] == 0
    assert {name: len(rounds) for name, rounds in found.rounds_ms.items()} == {"fp32": 2, "int8": 2}
    assert min(map(min, found.rounds_ms.values())) > 0


def test_nothing_is_timed_without_rounds(files, tiny_dataset):
    data = DataSet.from_yaml(tiny_dataset)
    with load(files["fp32"]) as segmenter:
        card = segmenter.card
    found = gate.measure(ENGINES[0], files, card, Labelled(data, "val", data.samples("val")).pairs(""), 255, rounds=0)
    assert found.rounds_ms == {}
    assert found.latency_ms("int8") is None
    assert found.speedup("int8") is None
    assert gate.worth([found], "int8") == []
    assert "latency" not in gate.table([found], {"fp32": 1, "int8": 1})


def test_models_take_turns():
    class Recorder:
        def __init__(self, name):
            self.name, self.inputs = name, [type("Spec", (), {"name": "image"})]

        def infer(self, feed):
            assert list(feed) == ["image"]
            calls.append(self.name)

    calls = []
    rounds_ms = gate.timed({name: Recorder(name) for name in "ab"}, np.zeros(1), 3)
    assert [calls[i] for i in range(0, len(calls), gate.RUNS)] == ["a", "b"] * 4  # the first turn warms up
    assert len(calls) == 8 * gate.RUNS
    assert [len(rounds) for rounds in rounds_ms.values()] == [3, 3]


def test_ratios_are_taken_round_by_round():
    # The machine halves its speed in the last round: the ratio stays.
    found = result({"fp32": 0.6, "int8": 0.5}, {"fp32": [8.0, 12.0, 20.0], "int8": [4.0, 4.0, 10.0]})
    assert found.speedup("int8") == gate.Ratio(2.0, 2.0, 3.0)
    assert found.latency_ms("int8") == 4.0


@pytest.mark.parametrize(
    ("int8_ms", "sentence"),
    [
        (4.0, "int8 is 2.00 times as fast as fp16 (2.00 to 2.00) in openvino."),
        (7.9, "int8 is not worth it here: in openvino it is 1.01 times as fast as fp16 (1.01 to 1.01)."),
        (16.0, "int8 is not worth it here: in openvino it is 0.50 times as fast as fp16 (0.50 to 0.50)."),
    ],
)
def test_int8_must_beat_the_fastest_of_the_others(int8_ms, sentence):
    found = result(dict.fromkeys(["fp32", "fp16", "int8"], 0.6), {"fp32": [14.0], "fp16": [8.0], "int8": [int8_ms]})
    assert gate.worth([found], "int8") == [sentence]


def test_worst_engine_decides():
    results = (result({"fp32": 0.6, "int8": 0.599}, {}), result({"fp32": 0.6, "int8": 0.58}, {}, "onnxruntime"))
    assert gate.worst_drop(results, "int8").engine == "onnxruntime"
    assert not report_of(results, max_drop=0.005).accepted
    assert report_of(results, max_drop=0.021).accepted
    assert "int8 loses 2.00 points of mIoU in onnxruntime" in report_of(results).sentences()[0]


def test_table_has_a_block_for_each_engine_and_differences_behind_the_figures():
    results = [
        result({"fp32": 0.6, "int8": 0.595}, {"fp32": [8.0], "int8": [4.0]}),
        result({"fp32": 0.6, "int8": 0.601}, {}, "onnxruntime"),
    ]
    lines = [line.split() for line in gate.table(results, {"fp32": 20_000_000, "int8": 5_500_000}).splitlines()]
    assert lines[0] == ["fp32", "int8"]
    assert lines[1] == ["file,", "MB", "20.0", "5.5"]
    assert ["mIoU", "60.00", "59.50", "(-0.50)"] in lines
    assert ["mIoU", "60.00", "60.10", "(+0.10)"] in lines
    assert ["latency,", "ms", "8.00", "4.00"] in lines
    assert ["times", "fp32's", "speed", "1.00x", "(1.00", "to", "1.00)", "2.00x", "(2.00", "to", "2.00)"] in lines
    assert lines.count(["never", "absent", "absent"]) == 2


def report_of(results, max_drop=0.005, found=None, target="cpu", precision="int8"):
    from edgeseg.card import ModelCard

    card = ModelCard(("road", "sky", "never"), (64, 96), name="a<b", precision=precision)
    sizes = dict.fromkeys(results[0].accuracy, 1000000)
    candidate = Candidate("mse", ("one",)) if found else Candidate("minmax")
    return Report(card, Conversion(None, results, sizes, candidate, found), "val", target, max_drop, False)


def repaired():
    figures = Measured(0.59, 0.01, 0.98, 4.5, 1.8, 4)
    steps = (Step("calibration", Candidate("mse"), figures), Step("kept", Candidate("mse", ("one",)), figures))
    return Repair(Candidate("mse", ("one",)), True, steps, {"one": 0.7, "<two>": 0.1})


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_page_is_whole_fetches_nothing_and_holds_every_step():
    rounds_ms = {"fp32": [8.0], "int8": [4.0]}
    report = report_of((result({"fp32": 0.6, "int8": 0.595}, rounds_ms),), max_drop=0.001, found=repaired())
    page = Page(report.html())
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "img"})
    assert not any("://" in str(value) for _, attrs in page.tags for value in attrs.values())
    assert "a<b in int8" in page.text
    assert "refused" in page.text
    assert "<two>" in page.text
    for sentence in report.sentences():
        assert sentence in page.text
    assert len([attrs for tag, attrs in page.tags if tag == "circle" and attrs.get("class") == "lone"]) == 4


def test_json_and_text_hold_the_same_steps():
    report = report_of((result({"fp32": 0.6, "int8": 0.595}, {}),), max_drop=0.006, found=repaired())
    facts = json.loads(json.dumps(report.to_dict()))
    assert facts["accepted"]
    assert facts["kept"] == ["one"]
    assert [step["purpose"] for step in facts["trail"]] == ["calibration", "kept"]
    assert facts["engines"]["openvino"]["int8"]["miou_drop"] == pytest.approx(0.005)
    assert "1 of 2 groups of layers are left out of int8, with ranges by mse." in report.text()
    assert [line.split()[-1] for line in report.text().splitlines() if " mse " in line and "%" in line] == [
        "calibration",
        "kept",
    ]


def test_nothing_is_said_about_the_speed_of_tensorrt():
    report = report_of((result({"fp32": 0.6, "int8": 0.6}, {}),), target="tensorrt")
    assert "was not here" in " ".join(report.sentences())
    assert front_chart(report.done.results, (), "int8") is None
    assert "as fast as fp32" not in report.html()


def test_front_is_relative_to_fp32_in_the_worst_engine():
    results = (
        result({"fp32": 0.6, "int8": 0.599}, {"fp32": [8.0], "int8": [4.0]}),
        result({"fp32": 0.6, "int8": 0.59}, {"fp32": [8.0], "int8": [8.0]}, "onnxruntime"),
    )
    chart = front_chart(results, repaired().trail, "int8")
    texts = {curve.name: [dot.text for dot in curve.dots] for curve in chart.curves}
    assert texts["higher precision"] == ["fp32: 1.00 of fp32's time, +0.00 points"]
    assert texts["this int8 file"] == ["int8: 0.50 of fp32's time, -1.00 points"]
    assert texts["tried"][1] == "step 2, mse, 1 groups out of int8: 0.56 of fp32's time, -1.00 points"


def test_points_of_a_front_are_laid_out_by_their_values():
    chart = scatter_chart("t", {"a": [(10.0, 61.2, "x"), (5.0, 61.0, "y")], "none": [], "b": [(2.5, 60.9, "z")]})
    (x, y), z = chart.curves[0].dots, chart.curves[2].dots[0]
    assert z.x < y.x < x.x
    assert z.y > y.y > x.y  # an SVG counts downwards
    assert y.x - z.x == pytest.approx((x.x - y.x) / 2, abs=0.2)
    labels = [float(tick.label) for tick in chart.y_ticks]
    assert labels[0] <= 60.9
    assert labels[-1] >= 61.2
    assert len(labels) <= 8


def test_a_front_of_equal_points_can_be_drawn():
    chart = scatter_chart("t", {"a": [(3.0, 50.0, "x"), (3.0, 50.0, "y")]})
    assert all(0 <= dot.x <= chart.area.width and 0 <= dot.y <= chart.area.height for dot in chart.curves[0].dots)
