"""How the builder is told what to do, on TensorRT 8.5 to 11. The tensorrt here is a stand-in that notes its calls:
it shows what edgeseg asks of a version, not that the version does it."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.onnx_reader import read_graph, read_onnx
from edgeseg.precision import precision_of
from edgeseg.trt import builder
from edgeseg.trt.builder import StillBuildingError, Typing, build_plan, refuse_cpu_graph, typing_for
from edgeseg.trt.library import log_of
from edgeseg.trt.options import BuildOptions, check_profile, profile_from_text, profile_text

VERSIONS = ("8.5.2", "8.6.2", "10.3.0", "11.4.0")
WEAK = VERSIONS[:2]
STRONG = VERSIONS[2:]


class Severity:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = (SimpleNamespace(name=n) for n in ("I", "E", "W", "N", "V"))


class ILogger:
    Severity = Severity


class Config:
    """A builder configuration. ``told`` holds what it was told."""

    def __init__(self, version: tuple[int, int]) -> None:
        self.told: dict[str, Any] = {"flags": []}
        self.profiling_verbosity = None
        if version >= (8, 6):
            self.builder_optimization_level = 3
        if version >= (9, 0):
            self.progress_monitor = None

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.told[pool] = size

    def set_flag(self, flag: str) -> None:
        self.told["flags"].append(flag)

    def add_optimization_profile(self, profile: SimpleNamespace) -> None:
        self.told["profile"] = profile.shapes

    def create_timing_cache(self, content: bytes) -> Any:
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache == b"of another device":
            return False
        self.told["cache"] = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.told["cache"] + b" and more")


def tensorrt(version: str, *, build: Any = None, errors: tuple[Any, ...] = ()) -> Any:
    """A stand-in for TensorRT's module.

    Args:
        version: what it says it is, and whose attributes it has.
        build: called with the configuration in the place of the build.
        errors: of its ONNX parser.
    """
    number = tuple(int(part) for part in version.split(".")[:2])
    flags = ("FP16", "INT8", "TF32", "OBEY_PRECISION_CONSTRAINTS") if number < (11, 0) else ("TF32",)
    creation = {"EXPLICIT_BATCH": 0} if number < (11, 0) else {}
    if number >= (9, 0):
        creation["STRONGLY_TYPED"] = 1 if number < (11, 0) else 0
    layers = [SimpleNamespace(name=name, precision=None) for name in ("narrow", "wide", "other")]
    module: Any = ModuleType("tensorrt")
    module.__version__, module.ILogger, module.layers, module.float32 = version, ILogger, layers, "float32"
    module.BuilderFlag = SimpleNamespace(**{flag: flag for flag in flags})
    module.NetworkDefinitionCreationFlag = SimpleNamespace(**creation)
    module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    module.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    if number >= (9, 0):
        module.IProgressMonitor = type("IProgressMonitor", (), {})

    class Network:
        num_layers = len(layers)

        def get_layer(self, index: int) -> Any:
            return layers[index]

        def get_input(self, index: int) -> Any:
            return SimpleNamespace(name=f"input{index}")

    class Profile:
        def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
            self.shapes = {name: shapes}

    class Builder:
        def __init__(self, log: Any) -> None:
            module.log = log

        def create_network(self, flags: int) -> Network:
            module.network_flags = flags
            return Network()

        def create_builder_config(self) -> Config:
            module.config = Config(number)
            return module.config

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> Any:
            return build(config) if build else b"plan"

    class OnnxParser:
        num_errors = len(errors)

        def __init__(self, network: Network, log: Any) -> None: ...

        def parse_from_file(self, path: str) -> bool:
            return not errors

        def get_error(self, index: int) -> Any:
            return errors[index]

    module.Builder, module.OnnxParser = Builder, OnnxParser
    return module


ONNX = Path("model.onnx")
NO_TYPING = Typing(strong=False)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[str, Path]:
    """Files of two convolutions each, by what they state."""
    onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
    import numpy as np

    helper, numpy_helper, types = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    folder = tmp_path_factory.mktemp("graphs")

    def save(name: str, nodes: list[Any], weights: dict[str, Any], shape: list[Any]) -> Path:
        graph = helper.make_graph(
            nodes, name,
            [helper.make_tensor_value_info("image", types.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", types.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()],
        )  # fmt: skip
        path = folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    def conv(name: str, source: str, weight: str, result: str) -> Any:
        return helper.make_node("Conv", [source, weight], [result], name)

    def cast(source: str, result: str, kind: int) -> Any:
        return helper.make_node("Cast", [source], [result], f"{result}_cast", to=kind)

    def pair(source: str, zero: str) -> list[Any]:
        return [
            helper.make_node("QuantizeLinear", [source, "scale", zero], [f"{source}_q"], f"{source}_quantize"),
            helper.make_node(
                "DequantizeLinear", [f"{source}_q", "scale", zero], [f"{source}_dq"], f"{source}_dequantize"
            ),
        ]

    weight = np.ones((3, 3, 1, 1), np.float32)
    zeros = {"signed": np.int8(0), "unsigned": np.uint8(0), "scale": np.float32(0.1)}
    shape = [1, 3, 8, 8]
    fixed = [conv("narrow", "image", "w", "x"), conv("wide", "x", "w", "logits")]
    fp16 = [
        cast("image", "half", types.FLOAT16), conv("narrow", "half", "w16", "x"), cast("x", "float", types.FLOAT),
        conv("wide", "float", "w", "logits"),
    ]  # fmt: skip

    def int8(zero: str) -> list[Any]:
        return [*pair("image", zero), *pair("w", "signed"), conv("narrow", "image_dq", "w_dq", "x"), fixed[1]]

    bias = helper.make_node("DequantizeLinear", ["codes", "scale"], ["bias"], "bias_dequantize")
    with_bias = helper.make_node("Conv", ["image_dq", "w_dq", "bias"], ["logits"], "narrow")
    return {
        "fp32": save("fp32", fixed, {"w": weight}, shape),
        "open": save("open", fixed, {"w": weight}, ["N", 3, "H", "W"]),
        "fp16": save("fp16", fp16, {"w": weight, "w16": weight.astype(np.float16)}, shape),
        "int8": save("int8", int8("signed"), {"w": weight, **zeros}, shape),
        "int8 for CPUs": save("cpu", int8("unsigned"), {"w": weight, **zeros}, shape),
        "integer bias": save(
            "bias", [*pair("image", "signed"), *pair("w", "signed"), bias, with_bias],
            {"w": weight, **zeros, "codes": np.zeros(3, np.int32)}, shape,
        ),
    }  # fmt: skip


def typing_of(version: str, path: Path) -> Typing:
    graph = read_graph(path)
    return typing_for(tensorrt(version), graph, precision_of(graph))


@pytest.mark.parametrize("version", STRONG)
def test_from_10_on_the_graph_alone_decides(graphs, version):
    for name in ("fp32", "fp16", "int8"):
        assert typing_of(version, graphs[name]) == Typing(strong=True)
    trt = tensorrt(version)
    build_plan(trt, ONNX, Typing(strong=True), BuildOptions())
    assert trt.network_flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.config.told["flags"] == []


@pytest.mark.parametrize("version", WEAK)
def test_before_10_flags_follow_from_the_graph(graphs, version):
    assert typing_of(version, graphs["fp32"]) == Typing(False)
    assert typing_of(version, graphs["int8"]) == Typing(False, ("INT8", "FP16"))
    assert typing_of(version, graphs["int8"]).may_be_half
    fp16 = typing_of(version, graphs["fp16"])
    assert (fp16.flags, set(fp16.wide)) == (("FP16",), {"float_cast", "wide"})
    assert not fp16.may_be_half


@pytest.mark.parametrize("version", WEAK)
def test_before_10_layers_are_held_in_fp32_beside_fp16(version):
    trt = tensorrt(version)
    build_plan(trt, ONNX, Typing(False, ("FP16",), frozenset({"wide"})), BuildOptions())
    assert trt.network_flags == 1 << trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    assert trt.config.told["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert [layer.precision for layer in trt.layers] == [None, "float32", None]


def test_a_type_that_tensorrt_has_no_flag_for(graphs):
    trt = tensorrt("8.5.2")
    del trt.BuilderFlag.INT8
    graph = read_graph(graphs["int8"])
    with pytest.raises(BackendError, match=r"8\.5\.2 cannot compute in INT8"):
        typing_for(trt, graph, precision_of(graph))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_every_build_is_told(version):
    trt = tensorrt(version)
    shapes = ((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32))
    options = BuildOptions(workspace_mb=256, profile=shapes)
    plan, timings = build_plan(trt, ONNX, NO_TYPING if version in WEAK else Typing(True), options, timing_cache=b"old")
    assert plan == b"plan"
    assert timings == b"old and more"
    assert trt.config.told["workspace"] == 256 * 2**20
    assert trt.config.told["profile"] == {"input0": shapes}
    assert trt.config.profiling_verbosity == "detailed"


@pytest.mark.parametrize("content", [b"of another device", b"damaged"])
def test_a_timing_cache_that_does_not_fit_is_begun_anew(content):
    assert build_plan(tensorrt("10.3.0"), ONNX, Typing(True), BuildOptions(), timing_cache=content)[1] == b" and more"


def test_optimisation_levels_where_there_are_some():
    trt = tensorrt("8.6.2")
    build_plan(trt, ONNX, NO_TYPING, BuildOptions(opt_level=5))
    assert trt.config.builder_optimization_level == 5
    with pytest.raises(UsageError, match=r"8\.5\.2 has no optimisation levels"):
        build_plan(tensorrt("8.5.2"), ONNX, NO_TYPING, BuildOptions(opt_level=5))


def parser_error(**more: Any) -> SimpleNamespace:
    return SimpleNamespace(desc=lambda: "Assertion failed:\n no kernel", node=lambda: 1, **more)


def test_a_refused_operator_is_named_from_the_graph_where_tensorrt_gives_a_number(graphs):
    trt = tensorrt("8.5.2", errors=(parser_error(),))
    with pytest.raises(ModelError, match=r"the operator Conv \('wide'\) of .*fp32.onnx: Assertion failed: no kernel"):
        build_plan(trt, graphs["fp32"], NO_TYPING, BuildOptions())


def test_a_refused_operator_is_named_as_tensorrt_names_it():
    error = parser_error(node_operator=lambda: "Erf", node_name=lambda: "/gelu/Erf")
    with pytest.raises(ModelError, match=r"the operator Erf \('/gelu/Erf'\) of model.onnx"):
        build_plan(tensorrt("11.4.0", errors=(error,)), ONNX, Typing(True), BuildOptions())


def test_a_failed_build_says_what_tensorrt_logged():
    def fail(config: Config) -> None:
        trt.log.log(Severity.WARNING, "never mind")
        trt.log.log(Severity.ERROR, "could not find\nany implementation")

    trt = tensorrt("10.3.0", build=fail)
    with pytest.raises(BackendError, match=r"could not build the engine \(could not find any implementation\)"):
        build_plan(trt, ONNX, Typing(True), BuildOptions())


def test_out_of_memory_says_how_much_was_asked_for_and_is_free(monkeypatch):
    def fail(config: Config) -> None:
        trt.log.log(Severity.ERROR, "Requested amount of GPU memory (68719476736 bytes) could not be allocated.")

    monkeypatch.setattr(builder, "_free_mib", lambda: "512 MiB")
    trt = tensorrt("10.3.0", build=fail)
    with pytest.raises(BackendError, match=r"65536 MiB were asked for, 512 MiB are free") as raised:
        build_plan(trt, ONNX, Typing(True), BuildOptions(workspace_mb=1000))
    assert "--workspace-mb 500" in raised.value.mend


def test_free_memory_is_asked_of_the_driver(monkeypatch):
    from fake_cuda import FakeCuda

    from edgeseg.trt import cuda

    fake = FakeCuda(memory=512 * 2**20)
    monkeypatch.setattr(cuda, "driver", lambda: cuda.Driver(fake))
    assert builder._free_mib() == "512 MiB"
    assert (fake.contexts, fake.retained) == ([], 0)


def test_too_little_workspace_is_not_out_of_memory():
    def fail(config: Config) -> None:
        trt.log.log(Severity.ERROR, "Could not find any implementation for node x due to insufficient workspace.")

    trt = tensorrt("8.6.2", build=fail)
    with pytest.raises(BackendError, match="insufficient workspace") as raised:
        build_plan(trt, ONNX, NO_TYPING, BuildOptions(workspace_mb=64))
    assert raised.value.mend == "give --workspace-mb 128"


def test_tensorrt_without_a_parser():
    trt = tensorrt("10.3.0")
    del trt.OnnxParser
    with pytest.raises(BackendError, match="runs engines but builds none"):
        build_plan(trt, ONNX, Typing(True), BuildOptions())


def test_a_builder_that_tensorrt_does_not_make(monkeypatch):
    trt = tensorrt("10.3.0")

    def null(log: Any) -> None:
        log.log(Severity.ERROR, "CUDA initialization failure")
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", null)
    with pytest.raises(BackendError, match=r"does not start \(CUDA initialization failure\)"):
        build_plan(trt, ONNX, Typing(True), BuildOptions())


def test_progress_never_goes_back_and_names_the_phase():
    def build(config: Config) -> bytes:
        monitor = config.progress_monitor
        monitor.phase_start("all", None, 4)
        for step in range(4):
            monitor.phase_start("part", "all", 2)
            assert monitor.step_complete("part", 0)
            time.sleep(0.15)
            monitor.phase_finish("part")
            monitor.step_complete("all", step)
        monitor.phase_finish("all")
        return b"plan"

    seen: list[tuple[float | None, str]] = []
    trt = tensorrt("10.3.0", build=build)
    build_plan(trt, ONNX, Typing(True), BuildOptions(), progress=lambda share, phase: seen.append((share, phase)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert {0.125, 0.375, 0.625, 0.875} & set(shares)
    assert "part" in {phase for _, phase in seen}


def test_without_a_monitor_there_is_only_a_clock():
    seen = []
    trt = tensorrt("8.6.2", build=lambda config: time.sleep(0.15) or b"plan")
    build_plan(trt, ONNX, NO_TYPING, BuildOptions(), progress=lambda *told: seen.append(told))
    assert set(seen) == {(None, "")}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_ends_the_build():
    ended = threading.Event()

    def build(config: Config) -> None:
        config.progress_monitor.phase_start("all", None, 10**6)
        while config.progress_monitor.step_complete("all", 0):
            time.sleep(0.01)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        build_plan(tensorrt("10.3.0", build=build), ONNX, Typing(True), BuildOptions(), progress=interrupt)
    assert ended.is_set()


def test_an_interrupt_that_tensorrt_8_cannot_be_told_of():
    go_on = threading.Event()
    trt = tensorrt("8.6.2", build=lambda config: go_on.wait(20))
    with pytest.raises(StillBuildingError):
        build_plan(trt, ONNX, NO_TYPING, BuildOptions(), progress=interrupt)
    go_on.set()


def test_a_second_interrupt_does_not_wait():
    go_on = threading.Event()
    trt = tensorrt("10.3.0", build=lambda config: go_on.wait(20))
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)
    try:
        with pytest.raises(StillBuildingError):
            build_plan(trt, ONNX, Typing(True), BuildOptions())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        go_on.set()


def test_an_error_on_the_thread_of_the_build_reaches_the_caller():
    def build(config: Config) -> None:
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        build_plan(tensorrt("10.3.0", build=build), ONNX, Typing(True), BuildOptions())


@pytest.mark.parametrize(("name", "said"), [("int8 for CPUs", "unsigned codes at 'image_quantize'"),
                                            ("integer bias", "integer bias at 'bias_dequantize'")])  # fmt: skip
def test_int8_for_cpus_is_refused(graphs, name, said):
    with pytest.raises(ModelError, match=said) as raised:
        refuse_cpu_graph(read_graph(graphs[name]), graphs[name])
    assert "--target tensorrt" in raised.value.mend


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8"])
def test_other_graphs_are_not(graphs, name):
    refuse_cpu_graph(read_graph(graphs[name]), graphs[name])


def test_profiles_as_text():
    profile = profile_from_text("1x3x8x8,1X3x16x8,2x3x16x16")
    assert profile == ((1, 3, 8, 8), (1, 3, 16, 8), (2, 3, 16, 16))
    assert profile_text(profile) == "1x3x8x8,1x3x16x8,2x3x16x16"


@pytest.mark.parametrize("text", ["1x3x8x8", "1,2,3,4", "1x3,1x3,1xa", "1x0,1x1,1x1", "", "1x3,,1x3"])
def test_profiles_that_are_none(text):
    with pytest.raises(ValueError):  # noqa: PT011  argparse gives its own words
        profile_from_text(text)


def test_a_profile_has_to_fit_the_input(graphs):
    info = read_onnx(graphs["open"])
    check_profile(BuildOptions(profile=profile_from_text("1x3x8x8,1x3x16x16,1x3x32x32")), info)
    for text in ("3x8x8,3x16x16,3x32x32", "1x4x8x8,1x4x8x8,1x4x8x8", "1x3x8x8,1x3x64x64,1x3x32x32"):
        with pytest.raises(UsageError, match=r"does not fit the input 'image' of .*\(Nx3xHxW\)"):
            check_profile(BuildOptions(profile=profile_from_text(text)), info)
    with pytest.raises(UsageError, match=r"leaves its shape open \(Nx3xHxW\).*--profile"):
        check_profile(BuildOptions(), info)
    check_profile(BuildOptions(), read_onnx(graphs["fp32"]))


def test_the_log_keeps_errors_and_echoes_all():
    trt = tensorrt("10.3.0")
    log, lines = log_of(trt), []
    log.log(Severity.ERROR, "wrong")
    log.echo = lines.append
    log.log(Severity.INFO, "fine")
    assert log.take_errors() == ["wrong"]
    assert log.take_errors() == []
    assert lines == ["[N] fine"]
    assert log_of(trt) is log
