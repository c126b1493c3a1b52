"""The whole way of a frame through the GPU, from host memory to host memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.decode import Decoder
from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.preprocess import check_picture
from edgeseg.tensors import TensorSpec, check_class_map, check_logits, foreign_class
from edgeseg.trt.device import Device, Launch, Memory
from edgeseg.trt.kernels import DECODED, STATUS, Kernels, resize_taps, value_table
from edgeseg.trt.library import EngineWarning
from edgeseg.trt.network import Network

STAGES = ("h2d", "compute", "d2h")


class GpuFrameSegmenter:
    """Class maps of frames of any size; see ``edgeseg.backends.FrameSegmenter``.

    Args:
        device: the GPU, whose context is current now.
        network: on that device.
        card: what its input and output mean.
        output: name of the output to decode.

    Raises:
        ModelError: the output is not what the card says.
        BackendError: NVRTC is missing or does not fit.
    """

    def __init__(self, device: Device, network: Network, card: ModelCard, output: str) -> None:
        self._output = next(spec for spec in network.outputs if spec.name == output)
        if card.head == "mask":
            check_class_map(self._output.dtype, self._output.shape)
        else:
            check_logits(self._output.shape, card)
        if self._output.dtype.name not in DECODED[card.head]:
            raise ModelError(
                f"'{output}' of the engine holds {self._output.dtype}, "
                f"on a GPU {card.head} are decoded from {', '.join(DECODED[card.head])}",
                "export the model with such an output",
            )
        self._device, self._network, self._card = device, network, card
        self._kernels = Kernels(device)
        self._plan: _Plan | None = None
        self._scope = ExitStack()
        device.scope.callback(self._scope.close)

    def __call__(self, image_hwc: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool, dict[str, float]]:
        """Segment one frame.

        Raises:
            UsageError: the image has another shape or dtype.
            BackendError: there is too little memory, or the GPU failed.
            ModelError: a class map has ids beyond the card's classes.
        """
        start = time.perf_counter()
        check_picture(image_hwc)
        size_hw = (image_hwc.shape[0], image_hwc.shape[1])
        with self._device.current():
            plan = self._plan
            if plan is None or plan.size_hw != size_hw:
                plan = self._replan(size_hw)
            mask, valid, timing = plan(image_hwc)
        timing["end_to_end"] = 1000 * (time.perf_counter() - start)
        return mask, valid, timing

    def _replan(self, size_hw: tuple[int, int]) -> _Plan:
        self._plan = None
        self._scope.close()
        try:
            self._plan = _Plan(
                self._device, self._kernels, self._network, self._card, size_hw, self._output, self._scope
            )
        except BaseException:
            self._scope.close()
            raise
        return self._plan

    def margin(self) -> NDArray[np.uint8]:
        """See ``TensorRtBackend.margin``."""
        with self._device.current():
            if self._plan is None:
                raise UsageError("No frame was segmented yet", "segment one before asking for its margins")
            return self._plan.margin()


class _Plan:
    """Memory, kernels and a CUDA graph for frames of one size, given back with ``scope``.

    The first frame is queued step by step, because TensorRT does some things only the first time. With the second
    all steps are captured as one graph, which is launched from then on. Nothing is allocated on the device between.
    """

    def __init__(
        self,
        device: Device,
        kernels: Kernels,
        network: Network,
        card: ModelCard,
        size_hw: tuple[int, int],
        output: TensorSpec,
        scope: ExitStack,
    ) -> None:
        self.size_hw, self._output = size_hw, output
        self._device, self._network, self._card, self._scope = device, network, card, scope
        self._graph: int | None = None
        self._warm = False
        self._margin: Launch | None = None
        height, width = size_hw
        what = f"a frame of {height} x {width}"

        def table(rows: NDArray[Any]) -> Memory:
            return device.uploaded(rows, what, scope)

        self._events = []
        for _ in range(len(STAGES) + 1):
            self._events.append(device.driver.create_event())
            scope.callback(device.driver.destroy_event, self._events[-1])
        # What the GPU touches once need not be copied where it can reach the host's memory.
        shared = device.integrated
        self._frame_host = device.staging(height * width * 3, what, scope, mapped=shared)
        self._mask_host = device.staging(height * width, what, scope, mapped=shared)
        self._status_host = device.staging(STATUS.itemsize, what, scope)
        self._frame = self._frame_host.mapped or device.memory(height * width * 3, what, scope)
        self._mask = self._mask_host.mapped or device.memory(height * width, what, scope)
        self._status = device.memory(STATUS.itemsize, what, scope)
        self._before = self._preparation(kernels, table)
        self._after = self._decoding(kernels, table)

    def _preparation(self, kernels: Kernels, table: Callable[[NDArray[Any]], Memory]) -> Launch:
        card, (height, width) = self._card, self._card.input_size_hw
        values = value_table(card)
        return kernels.prepare(
            values.dtype,
            (width, height),
            self._frame,
            self.size_hw[1],
            table(resize_taps(self.size_hw[0], height, columns=False)),
            table(resize_taps(self.size_hw[1], width, columns=True)),
            table(values),
            self._network.memory[self._network.inputs[0].name],
            height,
            width,
            int(card.color_order != "bgr"),
            int(card.input_layout == "nchw"),
        )

    def _decoding(self, kernels: Kernels, table: Callable[[NDArray[Any]], Memory]) -> list[Launch]:
        spec, classes, (height, width) = self._output, self._card.num_classes, self.size_hw
        source = self._network.memory[spec.name]
        samples_hw = (int(spec.shape[-2] or 0), int(spec.shape[-1] or 0))
        size_xy = (width, height)
        if self._card.head == "mask":
            where = (classes, *samples_hw, self._status, self._mask, height, width)
            return [kernels.decode("resize", spec.dtype, size_xy, source, *where)]
        decoder = Decoder(samples_hw, self.size_hw, classes)
        samples = samples_hw[0] * samples_hw[1]
        winners = self._device.memory(samples, "decoding", self._scope)
        rows, columns = table(decoder.rows), table(decoder.cols)
        logits, place = (source, classes, *samples_hw), (self._status, self._mask, height, width)
        self._margin = kernels.decode("margin", spec.dtype, size_xy, *logits, rows, columns, *place)
        return [
            kernels.decode("winners", spec.dtype, (samples, 1), source, classes, samples, winners, self._status),
            kernels.decode("decode", spec.dtype, size_xy, *logits, winners, rows, columns, int(decoder.prune), *place),
        ]

    def __call__(self, image_hwc: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool, dict[str, float]]:
        device = self._device
        self._frame_host.array.reshape(image_hwc.shape)[...] = image_hwc
        if self._graph is None and self._warm and self._network.capturable:
            self._capture()
        if self._graph is None:
            self._enqueue(capturing=False)
        else:
            device.driver.launch_graph(self._graph, device.stream)
        device.synchronize()
        self._warm = True
        status = self._status_host.array.view(STATUS)[0]
        if status["foreign"]:
            raise foreign_class(int(status["foreign_id"]), self._card)
        spans = zip(STAGES, self._events, self._events[1:])
        timing_ms = {stage: device.driver.elapsed_ms(start, end) for stage, start, end in spans}
        return self._mask_host.array.reshape(self.size_hw).copy(), not status["not_finite"], timing_ms

    def _capture(self) -> None:
        try:
            self._graph = self._device.capture(lambda: self._enqueue(capturing=True), self._scope)
        except BackendError as error:
            # A GPU that failed says so here; what merely cannot be captured has done no harm.
            self._device.synchronize()
            self._network.capturable = False
            warnings.warn(
                f"This engine runs without a CUDA graph, a little slower: {error.problem}",
                EngineWarning,
                stacklevel=4,
            )

    def _enqueue(self, *, capturing: bool) -> None:
        device, driver, stream = self._device, self._device.driver, self._device.stream
        started, uploaded, computed, downloaded = self._events
        driver.record(started, stream, capturing=capturing)
        if self._frame_host.mapped is None:
            device.upload(self._frame, self._frame_host.array)
        driver.record(uploaded, stream, capturing=capturing)
        driver.clear(self._status.address, self._status.nbytes, stream)
        self._before(stream)
        self._network.enqueue()
        for launch in self._after:
            launch(stream)
        driver.record(computed, stream, capturing=capturing)
        if self._mask_host.mapped is None:
            device.download(self._mask_host.array, self._mask)
        device.download(self._status_host.array, self._status)
        driver.record(downloaded, stream, capturing=capturing)

    def margin(self) -> NDArray[np.uint8]:
        if self._margin is None:
            raise ModelError("A graph that ends in class ids has no margins", "export the model with --head logits")
        # Into the place of the mask, which is the caller's by now.
        self._margin(self._device.stream)
        if self._mask_host.mapped is None:
            self._device.download(self._mask_host.array, self._mask)
        self._device.synchronize()
        return self._mask_host.array.reshape(self.size_hw).copy()
