"""One contestant of the comparison in a process of its own: times every frame on demand.

Started by ``run.py`` with a JSON object as its argument. It prints one line when it is ready, then for every line on
standard input runs all frames once and prints their times as JSON: milliseconds from the frame in memory to the class
map, and to the overlay where the contestant draws one. The class maps of a last, untimed run are written at the end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Times = tuple[float, "float | None"]
Step = Callable[[NDArray[np.uint8]], tuple[Any, Times]]

OPENVINO = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision of float layers by what is compared; a model with Q/DQ pairs computes the others in INT8 by itself."""


def openvino_config(args: dict[str, Any]) -> dict[str, Any]:
    """What OpenVINO's guide to low latency advises, and the same threads and precision for everybody."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": args["threads"],
        "INFERENCE_PRECISION_HINT": OPENVINO[args["precision"]],
    }


def onnxruntime_session(args: dict[str, Any]) -> Any:
    """A session with all of ONNX Runtime's optimisations, which is its default, and its own way to wait."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = args["threads"]
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(args["model"], options, providers=["CPUExecutionProvider"])


def bare(args: dict[str, Any]) -> Step:
    """The floor: the engine alone on a prepared tensor, input and output in place."""
    tensor = np.zeros((1, 3, *args["input"]["size_hw"]), np.float32)
    tensor += np.random.default_rng(0).standard_normal(tensor.shape, np.float32)
    if args["engine"] == "openvino":
        import openvino as ov

        compiled = ov.Core().compile_model(args["model"], "CPU", openvino_config(args))

        def infer() -> None:
            compiled([tensor], share_inputs=True, share_outputs=True)
    else:
        import onnxruntime as ort

        session = onnxruntime_session(args)
        binding = session.io_binding()
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        binding.bind_ortvalue_input(taken.name, ort.OrtValue.ortvalue_from_numpy(tensor))
        binding.bind_ortvalue_output(given.name, ort.OrtValue.ortvalue_from_shape_and_type(given.shape, np.float32))

        def infer() -> None:
            session.run_with_iobinding(binding)

    def step(frame: NDArray[np.uint8]) -> tuple[Any, Times]:
        start = time.perf_counter()
        infer()
        return None, (1000 * (time.perf_counter() - start), None)

    return step


def plain(args: dict[str, Any]) -> Step:
    """The loop most projects have: resize, normalise, infer, full-size logits, arg-max, colours, blend."""
    told = args["input"]
    height, width = told["size_hw"]
    mean, std = np.float32(told["mean"]), np.float32(told["std"])
    palette = np.uint8(told["palette"])[:, ::-1]
    infer = _plain_inference(args)

    def step(frame: NDArray[np.uint8]) -> tuple[Any, Times]:
        start = time.perf_counter()
        small = cv2.resize(frame, (width, height))
        if told["order"] == "rgb":
            small = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        tensor = ((small.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]
        logits = infer(np.ascontiguousarray(tensor))[0]
        size = (frame.shape[1], frame.shape[0])
        full = np.stack([cv2.resize(channel, size) for channel in logits])
        mask = full.argmax(axis=0).astype(np.uint8)
        mapped = time.perf_counter()
        cv2.addWeighted(frame, 0.5, palette[mask], 0.5, 0)
        end = time.perf_counter()
        return mask, (1000 * (mapped - start), 1000 * (end - start))

    return step


def _plain_inference(args: dict[str, Any]) -> Callable[[Any], Any]:
    if args["engine"] == "openvino":
        import openvino as ov

        compiled = ov.Core().compile_model(args["model"], "CPU", openvino_config(args))
        return lambda tensor: compiled(tensor)[0]
    session = onnxruntime_session(args)
    name = session.get_inputs()[0].name
    return lambda tensor: session.run(None, {name: tensor})[0]


def model_api(args: dict[str, Any]) -> Step:
    """OpenVINO Model API: resize and normalisation in the graph, for frames of a known size; class map alone."""
    import openvino as ov
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import SegmentationModel

    told = args["input"]
    adapter = OpenvinoAdapter(ov.Core(), args["model"], device="CPU", plugin_config=openvino_config(args))
    configuration = {
        "resize_type": "standard",
        "input_frame_height": args["frame_hw"][0],
        "input_frame_width": args["frame_hw"][1],
        "reverse_input_channels": told["order"] == "rgb",
        "mean_values": [255 * value for value in told["mean"]],
        "scale_values": [255 * value for value in told["std"]],
        # No blur, no threshold, no upsampled scores: the least work for a class map.
        "blur_strength": -1,
        "return_soft_prediction": False,
    }
    model = SegmentationModel(adapter, configuration, preload=True)

    def step(frame: NDArray[np.uint8]) -> tuple[Any, Times]:
        start = time.perf_counter()
        mask = model(frame)
        return mask, (1000 * (time.perf_counter() - start), None)

    return step


def edgeseg(args: dict[str, Any]) -> Step:
    """This project: the class map alone."""
    return _edgeseg(args, overlay=False)


def edgeseg_overlay(args: dict[str, Any]) -> Step:
    """This project: the class map, and what a window shows."""
    return _edgeseg(args, overlay=True)


def _edgeseg(args: dict[str, Any], overlay: bool) -> Step:
    from edgeseg import load

    segmenter = load(args["model"], args["backend"], threads=args["threads"])

    def step(frame: NDArray[np.uint8]) -> tuple[Any, Times]:
        start = time.perf_counter()
        result = segmenter(frame)
        mapped = time.perf_counter()
        if not overlay:
            return result.mask, (1000 * (mapped - start), None)
        result.overlay()
        return result.mask, (1000 * (mapped - start), 1000 * (time.perf_counter() - start))

    return step


CONTESTANTS = {function.__name__: function for function in (bare, plain, model_api, edgeseg, edgeseg_overlay)}


def main() -> None:
    """Serve rounds until standard input ends."""
    args = json.loads(sys.argv[1])
    cv2.setNumThreads(args["threads"])
    frames = np.load(args["frames"])
    step = CONTESTANTS[args["contestant"]](args)
    for frame in frames:
        step(frame)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps([step(frame)[1] for frame in frames]), flush=True)
    if args["contestant"] != "bare":
        np.save(args["masks"], np.stack([np.asarray(step(frame)[0], np.uint8) for frame in frames]))


if __name__ == "__main__":
    main()
