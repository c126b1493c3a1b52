"""Engines of the bundled models on a real GPU, by the whole way from the ONNX file. pytest -m gpu."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from frame_checks import resized

from edgeseg import bundled, load
from edgeseg.backends.tensorrt import TensorRtBackend
from edgeseg.card import ModelCard
from edgeseg.decode import classmap_from_logits
from edgeseg.errors import BackendError
from edgeseg.golden import Golden, golden_of
from edgeseg.preprocess import Preprocessor
from edgeseg.segmenter import Segmenter
from edgeseg.trt.engine import build_engine
from edgeseg.trt.library import load_tensorrt
from edgeseg.trt.options import BuildOptions

pytestmark = pytest.mark.gpu

# TensorRT's FP32 is TF32 on recent GPUs; INT8 kernels round in other places.
AGREEMENT = {"fp32": 0.995, "int8": 0.985}


@pytest.fixture(scope="module")
def tensorrt() -> None:
    try:
        load_tensorrt()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=("ddrnet-c16-camvid", "ddrnet-c32-camvid"))
def engine(request, tensorrt: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Golden]:
    onnx = bundled.resolve(request.param)
    path = tmp_path_factory.mktemp("engine") / f"{request.param}.engine"
    build_engine(onnx, path, BuildOptions(), timing_cache=path.with_suffix(".timing"))
    return path, golden_of(onnx)


@pytest.fixture
def segmenter(engine: tuple[Path, Golden]) -> Iterator[Segmenter]:
    with load(engine[0]) as opened:
        yield opened


def test_class_maps_agree_with_those_of_onnx_runtime(segmenter: Segmenter, engine: tuple[Path, Golden]) -> None:
    golden = engine[1]
    for frame, expected in zip(golden.frames, golden.masks):
        for _ in range(3):
            result = segmenter(frame)
            assert result.valid
            assert (result.mask == expected).mean() >= AGREEMENT[segmenter.card.precision]


def test_the_way_on_the_gpu_is_the_way_on_the_cpu(segmenter: Segmenter, engine: tuple[Path, Golden]) -> None:
    # Around the same engine, byte for byte.
    backend, preprocess = segmenter.backend, Preprocessor(segmenter.card)
    name, output = backend.inputs[0].name, backend.outputs[0].name
    for frame in engine[1].frames:
        tensor = preprocess(resized(frame, segmenter.card.input_size_hw))
        expected, _ = classmap_from_logits(backend.infer({name: tensor})[output][0], frame.shape[:2])
        for _ in range(3):
            np.testing.assert_array_equal(segmenter(frame).mask, expected)


def test_a_graph_is_used(segmenter: Segmenter, engine: tuple[Path, Golden]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timings = [segmenter(engine[1].frames[0]).timing for _ in range(5)]
    assert all(stage > 0 for timing in timings for stage in timing.values())


def test_two_engines_and_the_end(engine: tuple[Path, Golden]) -> None:
    frame = engine[1].frames[0]
    first, second = load(engine[0]), load(engine[0])
    masks = [first(frame).mask, second(frame).mask]
    first.close()
    masks.append(second(frame).mask)
    second.close()
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    for closed in (first, second):
        with pytest.raises(BackendError, match="closed"):
            closed(frame)


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_truncated_plan_is_refused(engine: tuple[Path, Golden], share: float) -> None:
    with load(engine[0]) as segmenter:
        card: ModelCard = segmenter.card
    plan = engine[0].read_bytes()
    with pytest.raises(BackendError, match=r"refuses .*edgeseg build"):
        TensorRtBackend(plan[: int(share * len(plan))], card, engine[0])
