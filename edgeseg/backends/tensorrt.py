"""TensorRT on NVIDIA GPUs, from 8.5 to 11: whole frames on the GPU, without torch."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import UsageError
from edgeseg.tensors import check_feed
from edgeseg.trt.device import Device
from edgeseg.trt.frame import GpuFrameSegmenter
from edgeseg.trt.network import Network


class TensorRtBackend:
    """An engine file in TensorRT. See ``edgeseg.backends.FrameBackend``.

    Any thread may use it, one at a time; several of them in a process do not disturb each other.

    Args:
        plan: the engine's bytes, from ``edgeseg.trt.plan.open_plan``. They become code on the GPU.
        card: what the model's input and output mean.
        path: of the engine, for messages.

    Raises:
        BackendError: there is no driver, no TensorRT or too little memory, or TensorRT refuses the plan.
        ModelError: the plan takes another input than the card says.
    """

    name = "tensorrt"

    def __init__(self, plan: bytes, card: ModelCard, path: Path) -> None:
        self._frames: GpuFrameSegmenter | None = None
        self._gpu = Device()
        self._finalizer = weakref.finalize(self, self._gpu.close)
        try:
            with self._gpu.current():
                self._network = Network(self._gpu, plan, card, path)
        except BaseException:
            self.close()
            raise
        self.device, self.version = self._gpu.name, self._network.version
        self.inputs, self.outputs = self._network.inputs, self._network.outputs
        self._results = {spec.name: np.empty(self._network.shapes[spec.name], spec.dtype) for spec in self.outputs}

    def frame_segmenter(self, card: ModelCard, output: str) -> GpuFrameSegmenter:
        """See ``FrameBackend.frame_segmenter``."""
        with self._gpu.current():
            self._frames = GpuFrameSegmenter(self._gpu, self._network, card, output)
        return self._frames

    def margin(self) -> NDArray[np.uint8]:
        """How clearly the best class led the second in the frame that was segmented last: uint8 [H, W], a new array.

        With the probabilities that a softmax over all classes gives the best two it is ``255 (p1 - p2) / (p1 + p2)``:
        0 where they were level, 255 where nothing else was possible, and 0 everywhere in an invalid result.

        Raises:
            UsageError: no frame was segmented.
            ModelError: the model gives class ids, not logits.
            BackendError: the GPU failed.
        """
        if self._frames is None:
            raise UsageError("No frame was segmented yet", "segment one before asking for its margins")
        return self._frames.margin()

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run the network alone; see ``Backend.infer``. All that goes in and out is copied: the slow way."""
        gpu, memory = self._gpu, self._network.memory
        with gpu.current():
            check_feed(feed, self.inputs)
            # Kept until the copies are done.
            sources = {name: np.ascontiguousarray(value) for name, value in feed.items()}
            for name, source in sources.items():
                gpu.upload(memory[name], source)
            self._network.enqueue()
            for name, result in self._results.items():
                gpu.download(result, memory[name])
            gpu.synchronize()
        return dict(self._results)

    def close(self) -> None:
        """Free the engine and everything on the GPU."""
        self._finalizer()
