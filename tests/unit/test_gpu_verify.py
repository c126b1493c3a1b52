"""What benchmarks/gpu_verify.py decides without a GPU: what passes, which models it takes, how it ends."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda

from edgeseg import doctor
from edgeseg.errors import UsageError
from edgeseg.trt.cuda import Driver
from edgeseg.trt.device import Device

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_verify.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the tests run outside a checkout")


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_verify", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_verify"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("precision", "shares", "passed"),
    [
        ("fp32", [1.0, 0.9991], True),
        ("fp32", [1.0, 0.9989], False),
        ("fp16", [0.9951, 1.0], True),
        ("fp16", [1.0, 1.0, 0.9949], False),
        ("int8", [0.9851], True),
        ("int8", [0.9849], False),
    ],
)
def test_the_worst_picture_decides(script: Any, precision: str, shares: list[float], passed: bool) -> None:
    assert script.agreement_check("x", precision, shares).passed is passed


@pytest.mark.parametrize(("found", "passed"), [(0.748, True), (0.760, True), (0.7461, True), (0.7459, False)])
def test_miou_may_lose_little(script: Any, found: float, passed: bool) -> None:
    assert script.miou_check("x", "fp16", found, 0.748).passed is passed


def test_times_are_targets(script: Any) -> None:
    copies = {"h2d": {"p50": 0.5}, "d2h": {"p50": 0.5}, "network": {"p50": 9.0}}
    good = script.timing_checks("x", {**copies, "end_to_end": {"p50": 11.0, "p99": 13.0}})
    assert [check.passed for check in good] == [True, True]
    poor = script.timing_checks("x", {**copies, "end_to_end": {"p50": 12.0, "p99": 15.0}})
    assert [check.passed for check in poor] == [False, False]
    assert not any(check.must for check in poor)
    found = script.speedup_checks("x", {"fp32": 10.0, "fp16": 4.0, "int8": 3.9})
    assert [check.passed for check in found] == [True, False]
    assert script.speedup_checks("x", {"fp32": 10.0, "int8": 3.9}) == []


@pytest.mark.parametrize(
    ("code", "said", "passed", "found"),
    [
        (2, "it was built for Another GPU. Mend: build it here", True, "Another GPU"),
        (2, "No module named 'yaml'", False, "yaml"),
        (0, "ran", False, "exit code 0"),
        (1, "Traceback", False, "exit code 1"),
        (-signal.SIGSEGV, "", False, "crashed with SIGSEGV"),
    ],
)
def test_only_a_plain_error_is_right(script: Any, code: int, said: str, passed: bool, found: str) -> None:
    check = script.fault_check("x", code, said, "Another GPU")
    assert check.passed is passed
    assert found in check.found


def test_memory_that_grows_is_a_leak(script: Any) -> None:
    assert script.leak_check("device", -500.0, -499.0).passed
    assert not script.leak_check("device", -500.0, -400.0).passed
    assert not script.leak_check("host", 200.0, 217.0).passed


def test_lines_tell_faults_from_missed_targets(script: Any) -> None:
    checks = [script.Check(name, passed, "this", "that", must) for name, passed, must in
              [("a", True, True), ("b", False, True), ("c", True, False), ("d", False, False)]]  # fmt: skip
    told = script.lines(checks)
    assert [line.split()[:2] for line in told[:4]] == [["ok", "a:"], ["FAILED", "b:"], ["met", "c:"], ["missed", "d:"]]
    assert told[4] == "4 checks, 1 failed; of the targets of speed 1 missed"


def test_the_models_that_a_tensorrt_takes(script: Any, make_model: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    for name, opset in [
        ("a.fp32", 17), ("a.int8.17", 17), ("a.int8.19", 19), ("a.fp16", 17), ("b.fp16", 20), ("a.bf16", 17),
    ]:  # fmt: skip
        path = make_model(tmp_path / f"{name}.onnx", None)
        model = onnx.load(path)
        model.opset_import[0].version = opset
        onnx.save(model, path)
    old, new = ([(m.name, m.precision, m.opset) for m in script.models_of(tmp_path, major)] for major in (8, 10))
    assert old == [("a", "fp32", 17), ("a", "fp16", 17), ("a", "int8", 17)]
    assert new == [("a", "fp32", 17), ("a", "fp16", 17), ("a", "int8", 19), ("b", "fp16", 20)]
    with pytest.raises(UsageError, match="has no models"):
        script.models_of(tmp_path / "none", 8)


def test_a_plan_is_damaged_where_its_length_does_not_show_it(script: Any) -> None:
    plan = bytes(range(256)) * 40
    broken = script.damaged(plan)
    assert len(broken) == len(plan)
    assert broken[:16] == plan[:16]
    assert broken[16:4096] != plan[16:4096]
    assert broken[4096:] == plan[4096:]


def test_a_small_data_set_is_one(script: Any, tiny_dataset: Path, tmp_path: Path) -> None:
    from edgeseg.dataset import DataSet

    whole = DataSet.from_yaml(tiny_dataset)
    small = DataSet.from_yaml(script.miniature(whole, tmp_path))
    assert (small.classes, small.palette, small.ignore_id) == (whole.classes, whole.palette, whole.ignore_id)
    assert len(small.samples("train")) == 8
    assert len(small.samples("val")) == 4
    image, mask = small.read(small.samples("val")[0])
    assert image.shape == (64, 96, 3)
    assert set(mask.flat) <= {0, 1, 2, 255}


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if doctor._load_cuda_driver() is not None:
        pytest.skip("this machine has a driver")
    results = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--json", str(results)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: TensorRT needs an NVIDIA GPU")
    assert len(run.stderr.splitlines()) == 1
    assert not results.exists()


def test_a_child_that_crashes_or_hangs_is_seen(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "script.py"
    crashing.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", encoding="utf-8")
    monkeypatch.setattr(script, "__file__", str(crashing))
    code, said = script.child(script.load_and_run, tmp_path / "x.engine")
    assert code == -signal.SIGSEGV
    assert not script.fault_check("x", code, said, "").passed
    crashing.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    monkeypatch.setattr(script, "CHILD_TIMEOUT_S", 0.3)
    assert script.child(script.load_and_run, tmp_path / "x.engine") == (124, "no answer within 0.3 s")


def test_a_child_tells_our_errors(script: Any, tmp_path: Path) -> None:
    code, said = script.child(script.load_and_run, tmp_path / "none.engine")
    assert code == 2
    assert "none.engine" in said
    assert script.fault_check("x", code, said, "none.engine").passed


def test_results_are_plain_json(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "CAMERA_HW", (36, 64))
    np.savez(tmp_path / script.LABELLED, images=np.zeros((1, 4, 4, 3), np.uint8), masks=np.zeros((1, 4, 4), np.uint8),
             ignore_id=-1)  # fmt: skip
    verification = script.Verification(tmp_path, frames=10)
    assert verification.ignore_id is None
    assert verification.results()["passed"]
    verification.checks.append(script.Check("slow", False, "this", "that", must=False))
    assert verification.results()["passed"]
    verification.checks.append(script.Check("wrong", False, "this", "that"))
    assert json.loads(json.dumps(verification.results()))["passed"] is False


@pytest.fixture
def on_fake_gpu() -> Any:
    """A segmenter as far as the counters look into it, on the fake of the driver."""
    device = Device(Driver(FakeCuda()))
    network = types.SimpleNamespace(enqueue=lambda: None)
    yield types.SimpleNamespace(backend=types.SimpleNamespace(_gpu=device, _network=network))
    device.close()


def test_every_allocation_is_counted(script: Any, on_fake_gpu: Any) -> None:
    device = on_fake_gpu.backend._gpu
    before_mib = script.device_mib(on_fake_gpu)
    with device.current():
        with script.counted_allocations(on_fake_gpu) as calls:
            device.memory(2**20, "a test")
            device.staging(10, "a test")
            device.synchronize()
        device.memory(2**20, "a test")
    assert calls == ["allocate", "allocate_host"]
    assert script.device_mib(on_fake_gpu) - before_mib == pytest.approx(2.0)


def test_the_network_alone_is_timed_by_events(script: Any, on_fake_gpu: Any) -> None:
    elapsed_ms = script.network_ms(on_fake_gpu, 5)
    assert len(elapsed_ms) == 5
    assert min(elapsed_ms) > 0
