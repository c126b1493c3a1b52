"""Benchmarks: statistics, streaming, workers, whole runs, and what is read from their results."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.backends.fake import FakeBackend
from edgeseg.bench import measure as measuring
from edgeseg.bench.child import Child, WorkerError
from edgeseg.bench.compare import compare, unlike_conditions
from edgeseg.bench.labels import Box, label_boxes
from edgeseg.bench.measure import FRAMES_HELD, Combination, Plan, combinations_of, images_for
from edgeseg.bench.page import draw
from edgeseg.bench.pick import pick_accurate, pick_within
from edgeseg.bench.results import pareto_front, read_results, short_names, streaming_verdicts, table
from edgeseg.bench.stats import bounds_ms, rank_sum_p, summary_ms, upper_bound
from edgeseg.bench.streaming import newest_results, streaming_scores
from edgeseg.bench.worker import Worker, serve
from edgeseg.card import ModelCard
from edgeseg.cli import main
from edgeseg.cli.bench import complete
from edgeseg.errors import UsageError
from edgeseg.segmenter import Segmenter
from edgeseg.telemetry import Reading

# Statistics


@pytest.mark.parametrize(("percentile", "fewest"), [(90, 64), (95, 130), (99, 662)])
def test_a_bound_takes_as_many_samples_as_in_mlperf(percentile: int, fewest: int) -> None:
    samples = list(range(fewest))
    assert upper_bound(samples[:-1], percentile) is None
    assert upper_bound(samples, percentile) == fewest - 1


def test_a_bound_is_exceeded_as_seldom_as_it_promises() -> None:
    rng = np.random.default_rng(0)
    true_p90 = -np.log(0.1)
    runs = [upper_bound(list(rng.exponential(size=300)), 90) for _ in range(400)]
    assert sum(bound < true_p90 for bound in runs if bound is not None) <= 0.03 * len(runs)
    # A bound that is always the slowest sample would keep that promise too.
    assert np.median([bound for bound in runs if bound is not None]) < 1.4 * true_p90


def test_no_sample_is_left_out() -> None:
    samples = [10.0] * 99 + [500.0]
    row = summary_ms(samples)
    assert row["max"] == 500.0
    assert row["mean"] == pytest.approx(14.9)
    assert row["p99"] == pytest.approx(10 + 0.01 * 490)
    assert bounds_ms(samples) == {"p90": 10.0, "p95": None, "p99": None}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),
        ([1, 2, 3.5, 4], [3, 5, 6, 7, 8], 8 / 126),
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([5, 5, 5, 5], [5, 5, 5, 5], 1.0),
    ],
)
def test_rank_sum_test_counts_all_orders(a: list[float], b: list[float], expected: float) -> None:
    assert rank_sum_p(a, b) == pytest.approx(expected)
    assert rank_sum_p(b, a) == pytest.approx(expected)


# Streaming


@pytest.mark.parametrize(
    ("latency_periods", "expected"),
    [
        (0.4, [None, 0, 1, 2, 3, 4]),  # in time for the next frame, always
        (1.0, [None, 0, 1, 2, 3, 4]),  # finished exactly when it arrives
        (1.5, [None, None, 0, 1, 1, 3]),
        (2.5, [None, None, None, 0, 0, 2]),
        (9.0, [None] * 6),
    ],
)
def test_newest_result_at_each_arrival(latency_periods: float, expected: list[int | None]) -> None:
    rate_hz = 15.0
    assert newest_results([latency_periods / rate_hz] * 6, rate_hz) == expected


def test_one_slow_frame_is_felt_by_those_after_it_alone() -> None:
    assert newest_results([0.06, 0.25, 0.06, 0.06, 0.06, 0.06], 10.0) == [None, 0, 0, 0, 1, 4]


def clip(frames: int = 12) -> list[np.ndarray[Any, Any]]:
    """A bar of class 1 that moves two columns a frame."""
    masks = []
    for index in range(frames):
        mask = np.zeros((8, 32), np.uint8)
        mask[:, 2 * index : 2 * index + 6] = 1
        masks.append(mask)
    return masks


def test_streaming_score_of_a_faultless_network_is_that_of_its_delay() -> None:
    truth = clip()
    fast = streaming_scores([0.01] * 12, truth, truth, ("none", "bar"), None, 30.0)
    assert fast["offline_miou"] == 1.0
    assert fast["miou"] == fast["one_frame_late_miou"] < 1.0
    assert fast["frames"] == 11
    assert fast["delay_frames"] == 1.0
    assert fast["processed"] == 1.0
    slow = streaming_scores([0.09] * 12, truth, truth, ("none", "bar"), None, 30.0)
    assert slow["miou"] < fast["miou"]
    foretold = streaming_scores([0.02] * 12, truth, truth, ("none", "bar"), None, 30.0)["slower_miou"]
    for factor in (2, 4, 8):
        measured = streaming_scores([0.02 * factor] * 12, truth, truth, ("none", "bar"), None, 30.0)
        assert foretold[str(factor)] == measured["miou"]
    assert slow["processed"] < 0.4


def test_a_faster_network_wins_though_it_is_less_accurate() -> None:
    truth = clip()
    rough = [np.where(np.arange(32) % 16 == 0, 1 - mask, mask).astype(np.uint8) for mask in truth]
    small = streaming_scores([0.01] * 12, rough, truth, ("none", "bar"), None, 30.0)
    large = streaming_scores([0.07] * 12, truth, truth, ("none", "bar"), None, 30.0)
    assert small["offline_miou"] < large["offline_miou"]
    assert small["miou"] > large["miou"]


def test_frames_before_the_first_result_count_as_wrong() -> None:
    truth = clip(4)
    nothing = streaming_scores([1.0] * 4, truth, truth, ("none", "bar"), None, 30.0)
    assert nothing["miou"] == 0.0
    assert nothing["delay_frames"] is None


# Workers


def worker_of(card: ModelCard, latency_s: float = 0.0, nan: bool = False) -> Worker:
    logits = np.full((1, 3, 4, 6), np.nan, np.float32) if nan else None
    worker = Worker()
    worker._segmenter = Segmenter(FakeBackend(card, latency_s=latency_s, logits_nchw=logits), card)
    worker._images = [np.full((32, 48, 3), 80 * i, np.uint8) for i in range(3)]
    return worker


def test_closed_loop_counts_every_frame_of_the_turn(card: ModelCard) -> None:
    turn = worker_of(card, latency_s=0.002).closed(7)
    assert {stage: len(values) for stage, values in turn["timing_ms"].items()} == {
        "preprocess": 7, "infer": 7, "decode": 7, "end_to_end": 7,
    }  # fmt: skip
    assert min(turn["timing_ms"]["infer"]) >= 2
    assert turn["wall_s"] >= sum(turn["timing_ms"]["end_to_end"]) / 1000
    assert (turn["invalid"], turn["dropped"]) == (0, 0)


def test_invalid_results_are_counted(card: ModelCard) -> None:
    assert worker_of(card, nan=True).closed(3)["invalid"] == 3


def test_paced_frames_that_nobody_had_time_for_are_dropped(card: ModelCard) -> None:
    turn = worker_of(card, latency_s=0.025).paced(10, rate_hz=100.0)
    done = len(turn["timing_ms"]["age"])
    assert turn["dropped"] + done == 10
    assert turn["dropped"] >= 5
    # The first frame waits for nobody, and no result is older than the inference and the wait for it.
    assert min(turn["timing_ms"]["age"]) >= 25
    assert np.median(turn["timing_ms"]["age"]) < 200


def test_paced_frames_are_waited_for(card: ModelCard) -> None:
    turn = worker_of(card).paced(5, rate_hz=50.0)
    assert turn["wall_s"] >= 4 / 50
    assert turn["dropped"] + len(turn["timing_ms"]["age"]) == 5


def test_engine_and_pipeline_take_turns_of_the_length_asked_for(card: ModelCard) -> None:
    worker = worker_of(card, latency_s=0.004)
    assert len(worker.engine(6)) == 6
    assert min(worker.engine(6)) >= 4
    assert 0 < worker.pipeline(10) < 300


def test_images_come_spread_over_a_split_or_from_the_start_of_a_source(tiny_dataset: Path) -> None:
    assert len(images_for(Plan([], data=str(tiny_dataset)))) == 4
    street = images_for(Plan([], source="synthetic://street?size=64x48"))
    assert [image.shape for image in street] == [(48, 64, 3)] * FRAMES_HELD


def test_serving_answers_line_by_line_and_survives_errors(tmp_path: Path, tiny_model: Path, tiny_backend: str) -> None:
    def request(call: str, **arguments: Any) -> str:
        return json.dumps({"call": call, "arguments": arguments}) + "\n"

    np.save(tmp_path / "frames.npy", np.zeros((2, 48, 64, 3), np.uint8))
    opened = {"imgsz": None, "threads": 1, "facts": {}, "card": None, "data": None,
              "frames": str(tmp_path / "frames.npy")}  # fmt: skip
    requests = (
        request("open", model=str(tmp_path / "none.onnx"), backend="auto", **opened)
        + request("open", model=str(tiny_model), backend=tiny_backend, **opened)
        + request("peak_rss_mib")
    )
    answers = io.StringIO()
    serve(io.StringIO(requests), answers)
    missing, found, memory = (json.loads(line) for line in answers.getvalue().splitlines())
    assert "none.onnx" in missing["error"]
    assert found["answer"]["imgsz"] == [32, 48]
    assert found["answer"]["frame_hw"] == [48, 64]
    assert re.fullmatch("[0-9a-f]{64}", found["answer"]["sha256"])
    assert memory["answer"] is None or memory["answer"] > 10


def test_a_worker_that_dies_or_hangs_says_so(bounded: Any) -> None:
    with Child() as child:
        with pytest.raises(WorkerError, match=r"(?s)exit code 1 during 'no_such_call'.*AttributeError"):
            bounded(lambda: child.ask("no_such_call"))
        with pytest.raises(WorkerError, match="ended"):
            child.ask("peak_rss_mib")
    with Child() as child:
        child.ask("peak_rss_mib")
        os.kill(child._process.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="killed by SIGKILL during 'peak_rss_mib'"):
            bounded(lambda: child.ask("peak_rss_mib", limit_s=0.2))


def test_energy_is_power_times_time_over_results(monkeypatch: pytest.MonkeyPatch) -> None:
    class Steady:
        def read(self) -> Reading:
            return Reading(power_w=7.5)

    class Answers:
        def ask(self, call: str, **_: Any) -> Any:
            # Long enough for the power to be sampled.
            time.sleep(0.05)
            turn = {"timing_ms": {"age": [20.0] * 4, "end_to_end": [19.0] * 4}, "wall_s": 2.0}
            return {**turn, "invalid": 0, "dropped": 1} if call == "paced" else 100.0

    monkeypatch.setattr(measuring, "Telemetry", Steady)
    monkeypatch.setattr(measuring, "POWER_PERIOD_S", 0.005)
    child: Any = Answers()
    one = Combination("m", "m.onnx", "auto", None, child)
    plan = Plan(models=["m.onnx"], mode="paced", rate_hz=30.0)
    measuring._round(one, plan, 4)
    measuring._summarise(one, plan)
    assert one.row["energy_mj_per_frame"] == pytest.approx(1000 * 7.5 * 2.0 / 4)
    assert one.row["dropped"] == 1
    assert one.row["engine_ms"] is None


# Whole runs


def test_only_onnx_files_run_in_several_engines(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/best.onnx", "b/best.onnx", "c.pt")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    plan = Plan(models=list(map(str, paths)), backends=("openvino", "onnxruntime"), sizes=((32, 48), (64, 96)))
    found = [(label, backend, size) for label, _, backend, size in combinations_of(plan)]
    assert len(found) == len(set(found)) == 4 + 4 + 2
    assert {label for label, *_ in found} == {"a/best", "b/best", "c"}
    assert {backend for label, backend, _ in found if label == "c"} == {"auto"}


def test_bench_from_models_to_pictures(
    tmp_path: Path, tiny_model: Path, tiny_backend: str, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    text = tiny_dataset.read_text(encoding="utf-8").replace("[red, green, blue]", "[dark, bright, never]")
    tiny_dataset.write_text(text, encoding="utf-8")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(tiny_model.read_bytes()[:100])
    code = main([
        "bench", str(tiny_model), str(broken), "--backend", tiny_backend, "--threads", "1", "--data", str(tiny_dataset),
        "--streaming", "--rate", "15", "--frames", "12", "--rounds", "3", "--json", str(tmp_path / "r.json"),
        "--plot", str(tmp_path / "p.png"), "--html", str(tmp_path / "p.html"),
    ])  # fmt: skip
    assert code == 1
    results = read_results(str(tmp_path / "r.json"))
    good, bad = results["rows"]
    assert "broken.onnx" in bad["error"]
    assert str(tmp_path) not in (tmp_path / "r.json").read_text(encoding="utf-8")
    assert good["frames"] == 12
    assert [len(one) for one in good["rounds"]] == [3, 3, 3]
    assert good["imgsz"] == [32, 48]
    assert good["accuracy"]["images"] == 4
    assert good["peak_rss_mib"] is None or good["peak_rss_mib"] > 10
    # The tiny model's classes are not the street's.
    assert [(one["clip"], one["rate_hz"]) for one in good["streaming"]] == [("tiny/data.yaml val", 15.0)]
    assert results["conditions"]["end"].keys() >= {"load_average_1min", "temperature_c"}
    out = capsys.readouterr().out
    assert "Not measured: broken" in out
    for name in ("p.png", "p-dark.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 3 * 4
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert main(["bench", "compare", str(tmp_path / "r.json"), str(tmp_path / "r.json")]) == 0


def test_nothing_is_written_when_nothing_could_be_measured(
    tmp_path: Path, make_model: Any, card: ModelCard, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(tmp_path / "fixed.onnx", card)
    code = main(["bench", str(tmp_path / "fixed.onnx"), "--imgsz", "64", "96", "--json", str(tmp_path / "r.json"),
                 "--source", "synthetic://street?size=64x48"])  # fmt: skip
    assert code == 2
    error = capsys.readouterr().err
    assert "fixed.onnx takes 32x48" in error
    assert "export the checkpoint at that size" in error
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mode", "paced"], "needs the rate"),
        (["--rate", "30"], "--rate says nothing"),
        (["--plot", "p.png"], "--plot draws accuracy"),
        (["--frames", "5"], "cannot be divided"),
        (["none.onnx"], "no model file none.onnx"),
        (["--rate", "0"], "above 0"),
        (["pick", "none.json", "--max-ms", "20"], "Cannot read none.json"),
        (["pick", "none.json"], "required"),
    ],
)
def test_bad_requests_are_refused_before_any_work(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_action_measure_need_not_be_named() -> None:
    assert complete(["model.onnx", "--threads", "2"])[0] == "measure"
    assert complete([])[0] == "measure"
    assert complete(["compare", "a", "b"]) == ["compare", "a", "b"]
    assert complete(["--help"]) == ["--help"]


# What is read from results


def row_of(model: str, precision: str, backend: str, p50_ms: float, miou: float, noise: float = 0.01) -> dict[str, Any]:
    rng = np.random.default_rng(len(model) + int(100 * p50_ms))
    latency = {"p50": p50_ms, "p90": 1.1 * p50_ms, "p95": 1.2 * p50_ms, "p99": 1.3 * p50_ms, "max": 2 * p50_ms}
    return {
        "model": model, "precision": precision, "backend": backend, "imgsz": [360, 480], "error": None,
        "file": f"{model}.onnx", "sha256": "0" * 64, "bytes": 1000, "backend_version": "1", "device": "CPU",
        "frame_hw": [720, 1280], "frames": 1000, "dropped": 0, "invalid": 0, "results_per_s": 1000 / p50_ms,
        "warm_up": {"frames": 110, "steady": True},
        "latency_ms": dict.fromkeys(("preprocess", "infer", "decode", "end_to_end"), latency),
        "bounds_ms": {"p90": 1.12 * p50_ms, "p95": None, "p99": None},
        "engine_ms": latency, "overhead": {"median": 1.1, "min": 1.0, "max": 1.2},
        "pipeline_fps": {"median": 1000 / p50_ms, "min": 1.0, "max": 2.0}, "peak_rss_mib": 150.0,
        "rounds": [{"latency_ms": p50_ms * (1 + noise * x), "engine_ms": 0.9 * p50_ms, "pipeline_fps": 1000 / p50_ms}
                   for x in rng.standard_normal(10)],
        "energy_mj_per_frame": None, "accuracy": {"miou": miou / 100, "iou": {"road": 0.9, "car": None}, "images": 3},
        "streaming": [{"clip": "synthetic://street?size=1x1", "rate_hz": 60.0, "miou": (miou - p50_ms) / 100,
                       "offline_miou": miou / 100, "slower_miou": {"8": (miou - 6 * p50_ms) / 100},
                       "one_frame_late_miou": 0.9, "delay_frames": 1.0, "processed": 1.0}],
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    """Ten rows as of a real run, with an eleventh that failed."""
    rows = [
        row_of("ddrnet-c32-camvid", "fp32", "openvino", 14.5, 74.81),
        row_of("ddrnet-c32-camvid", "fp32", "onnxruntime", 15.2, 74.81),
        row_of("ddrnet-c32-int8-camvid", "int8", "openvino", 4.3, 74.5),
        row_of("ddrnet-c16-camvid", "fp32", "openvino", 5.1, 65.65),
        row_of("ddrnet-c16-int8-camvid", "int8", "openvino", 2.2, 65.1),
    ]
    failed = {"model": "broken", "backend": "openvino", "imgsz": None, "error": "It is broken. Mend: no"}
    settings = {"mode": "closed", "rate_hz": None, "frames": 1000, "rounds": 10, "threads": 2,
                "timed_on": "a", "scored_on": "camvid val", "streaming": True}  # fmt: skip
    conditions = {
        "cpu": "Example 9000", "cpu_features": "avx2", "cores": 2, "cores_usable": "2 of 2", "virtual_machine": False,
        "gpu": None, "jetson": None, "governor": "performance", "power_mode": None, "thread_variables": {},
        "load_average_1min": 0.1, "throttle_events": None, "versions": {"openvino": "1"},
        "end": {"throttle_events": None},
    }  # fmt: skip
    return {
        "schema": 1, "what": "edgeseg bench", "settings": settings, "conditions": conditions, "rows": [*rows, failed],
    }  # fmt: skip


def test_front_and_names(results: dict[str, Any]) -> None:
    rows = results["rows"][:-1]
    assert pareto_front(rows) == [4, 2, 0]
    assert short_names(rows) == [
        "c32 fp32 openvino", "c32 fp32 onnxruntime", "c32 int8 openvino", "c16 fp32 openvino", "c16 int8 openvino",
    ]  # fmt: skip
    assert short_names(rows[:1]) == ["ddrnet-c32-camvid"]
    bfloat16 = row_of("ddrnet-c32-camvid", "fp32", "openvino-bf16", 7.4, 74.7)
    assert short_names([*rows, bfloat16])[-1] == "c32 openvino-bf16"
    assert short_names([rows[2], row_of("ddrnet-c32-camvid", "fp32", "openvino", 14.5, 74.8)]) == ["int8", "fp32"]
    twins = [row_of(name, "fp32", "openvino", 3.0, 50.0) for name in ("net", "net-fp32")]
    assert short_names(twins) == ["net", "net-fp32"]


def test_table_leaves_out_columns_without_figures_and_names_what_failed(results: dict[str, Any]) -> None:
    lines = table(results).splitlines()
    assert "mJ/frame" not in lines[0]
    assert "street, 60 Hz" in lines[0]
    assert lines[2].startswith("| ddrnet-c16-int8-camvid | int8      | 360x480 | openvino    | 65.10 ")
    assert len({len(line) for line in lines[:7]}) == 1
    assert lines[-1] == "Not measured: broken, openvino: It is broken. Mend: no"
    results["rows"][0]["energy_mj_per_frame"] = 120.0
    assert "mJ/frame" in table(results)


def test_streaming_verdict_says_where_a_smaller_network_wins(results: dict[str, Any]) -> None:
    line, slower = streaming_verdicts(results)
    assert line.startswith("street, 60 Hz: ddrnet-c32-int8-camvid, int8")
    assert "the more accurate ddrnet-c32-camvid, fp32" in line
    results["rows"][0]["streaming"][0]["delay_frames"] = None
    assert "without latency), no result in time" in streaming_verdicts(results)[0]
    assert slower.startswith("street, 60 Hz, on a machine 8 times slower: ddrnet-c16-int8")


def test_pick_names_the_model_and_why(results: dict[str, Any]) -> None:
    within = pick_within(results, 10.0)
    assert within.startswith("ddrnet-c32-int8-camvid, int8, 360x480, openvino: 74.50 % mIoU, p90 at most 4.82 ms")
    assert "most accurate of 3 of 5 that stay within 10 ms" in within
    assert "0.31 points more would need ddrnet-c32-camvid, fp32, 360x480, openvino" in within
    accurate = pick_accurate(results, 65.0)
    assert accurate.startswith("ddrnet-c16-int8-camvid")
    assert "fastest of 5 of 5 that reach 65 %" in accurate
    # Of two with the accuracy shown, the faster one.
    assert pick_within(results, 100.0).startswith("ddrnet-c32-camvid, fp32, 360x480, openvino")


def test_pick_refuses_with_the_nearest(results: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="nearest is ddrnet-c16-int8-camvid"):
        pick_within(results, 1.0)
    with pytest.raises(UsageError, match="nearest is ddrnet-c32-camvid"):
        pick_accurate(results, 90.0)
    for row in results["rows"][:-1]:
        row["accuracy"] = None
    with pytest.raises(UsageError, match="no accuracy"):
        pick_within(results, 100.0)


def changed(results: dict[str, Any], factor: float, points: float = 0.0) -> dict[str, Any]:
    """The same with the first row's times multiplied and its mIoU moved."""
    after = copy.deepcopy(results)
    row = after["rows"][0]
    for one in row["rounds"]:
        one["latency_ms"] *= factor
    row["accuracy"]["miou"] += points / 100
    return after


@pytest.mark.parametrize(
    ("factor", "points", "verdict", "worse"),
    [
        (1.0, 0.0, "same", False),
        (1.004, 0.0, "same", False),
        (1.3, 0.0, "slower", True),
        (0.7, 0.0, "faster", False),
        (1.0, -0.5, "same", True),
        (1.0, -0.05, "same", False),
    ],
)
def test_compare_believes_only_what_is_beyond_noise(
    results: dict[str, Any], factor: float, points: float, verdict: str, worse: bool
) -> None:
    changes = compare(results, changed(results, factor, points))
    assert len(changes) == 5
    assert (changes[0].verdict, changes[0].worse) == (verdict, worse)
    assert {change.verdict for change in changes[1:]} == {"same"}


def test_compare_does_not_believe_a_tiny_difference_however_sure(results: dict[str, Any]) -> None:
    for row in results["rows"][:-1]:
        for n, one in enumerate(row["rounds"]):
            one["latency_ms"] = 10 + 1e-4 * n
    change = compare(results, changed(results, 1.01))[0]
    assert change.chance is not None
    assert change.chance < 0.001
    assert change.verdict == "same"


def test_compare_of_few_rounds_does_not_judge(results: dict[str, Any]) -> None:
    for row in results["rows"][:-1]:
        row["rounds"] = row["rounds"][:3]
    change = compare(results, changed(results, 2.0))[0]
    assert change.verdict == "unknown"
    assert "too few rounds" in change.text()


@pytest.mark.parametrize(
    ("place", "key", "value", "named"),
    [
        ("conditions", "cpu", "Other 1", "cpu: Example 9000, Other 1"),
        ("conditions", "governor", "powersave", "governor: performance, powersave"),
        ("conditions", "load_average_1min", 1.9, "load before the run: 0.10, 1.90"),
        ("conditions", "end", {"throttle_events": 4}, "throttled during the run: False, True"),
        ("settings", "threads", 1, "threads: 2, 1"),
        ("settings", "mode", "paced", "mode: closed, paced"),
    ],
)
def test_compare_refuses_unlike_conditions_by_name(
    results: dict[str, Any], place: str, key: str, value: object, named: str
) -> None:
    other = copy.deepcopy(results)
    other[place][key] = value
    assert unlike_conditions(results, other) == [named]
    with pytest.raises(UsageError, match=re.escape(named)):
        compare(results, other)


def test_compare_tells_versions_and_ends_with_1_where_something_is_worse(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = changed(results, 1.5)
    after["conditions"]["versions"] = {"openvino": "2"}
    for name, content in (("a.json", results), ("b.json", after)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    assert main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    out = capsys.readouterr().out
    assert "50.0 % more time" in out
    assert "openvino: 1, 2" in out


@pytest.mark.parametrize("text", ["{", "[]", '{"what": "other"}', '{"what": "edgeseg bench", "schema": 99}'])
def test_other_files_are_no_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError):
        read_results(str(tmp_path / "r.json"))


# Pictures


def test_labels_cover_neither_each_other_nor_points() -> None:
    rng = np.random.default_rng(1)
    area = Box(0, 0, 1000, 600)
    points = [(float(x), float(y)) for x, y in rng.uniform((50, 50), (950, 550), (14, 2))]
    # Several on nearly the same place, as engines that agree are.
    points += [(points[0][0] + 3 * k, points[0][1] + 2 * k) for k in range(1, 5)]
    boxes = label_boxes(points, [(150.0, 18.0)] * len(points), area, 8.0, [Box(0, 295, 1000, 305)])
    placed = [box for box in boxes if box is not None]
    assert len(placed) >= 16
    for i, box in enumerate(placed):
        assert area.holds(box)
        assert not any(box.overlaps(other) for other in placed[:i])
        assert not any(box.left < x < box.right and box.low < y < box.high for x, y in points)
        assert not box.overlaps(Box(0, 295, 1000, 305))


def test_a_label_without_room_is_left_out() -> None:
    assert label_boxes([(5.0, 5.0)], [(100.0, 10.0)], Box(0, 0, 20, 20), 2.0) == [None]


def test_drawing_puts_faster_left_and_better_up(results: dict[str, Any]) -> None:
    drawing = draw(results["rows"][:-1])
    assert drawing is not None
    by_number = {point.number: point for point in drawing.points}
    assert by_number[4].x < by_number[2].x < by_number[0].x < by_number[1].x
    assert by_number[4].y > by_number[2].y > by_number[0].y  # an SVG counts downwards
    assert [point.number for point in drawing.points if point.ahead] == [0, 2, 4]
    assert all(point.low <= point.x <= point.high for point in drawing.points)
    assert drawing.front.startswith(f"M{by_number[4].x} {by_number[4].y} H{by_number[2].x}")


def test_a_picture_of_one_point_and_of_far_apart_ones_can_be_drawn(results: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "r.json"
    for rows in ([results["rows"][0]], [results["rows"][0], row_of("ddrnet-c16-camvid", "fp32", "tensorrt", 0.4, 60)]):
        path.write_text(json.dumps({**results, "rows": rows}), encoding="utf-8")
        assert main(["bench", "show", str(path), "--plot", str(tmp_path / "p.png")]) == 0
        light, dark = (cv2.imread(str(tmp_path / name)) for name in ("p.png", "p-dark.png"))
        assert light.shape == dark.shape
        assert light[2, 2].mean() > 200 > 60 > dark[2, 2].mean()


def test_nothing_is_drawn_without_accuracy(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    for row in results["rows"][:-1]:
        row["accuracy"] = None
    (tmp_path / "r.json").write_text(json.dumps(results), encoding="utf-8")
    assert main(["bench", "show", str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.png")]) == 2
    assert "no accuracy to draw" in capsys.readouterr().err
    assert main(["bench", "show", str(tmp_path / "r.json"), "--html", str(tmp_path / "p.html")]) == 0
    assert "ddrnet-c16" in (tmp_path / "p.html").read_text(encoding="utf-8")


README = Path(__file__).parents[2] / "benchmarks" / "README.md"


@pytest.mark.skipif(not README.is_file(), reason="the tests run outside a checkout")
def test_tables_in_the_readme_are_those_of_the_committed_results() -> None:
    text = README.read_text(encoding="utf-8")
    for path in sorted((README.parent / "results").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("what") == "edgeseg bench":
            assert path.name in text
            assert table(content) in text, f"paste what 'edgeseg bench show {path.name}' prints"
