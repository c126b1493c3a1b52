"""Time the parts of a frame's way that are not the engine: preprocess, decode, overlay, hand-over between threads.

For work on one of them: it takes seconds, needs no model and no engine, and checks nothing. Frames are noise over
drawn regions, different ones in turn, so that none stays in a cache by itself.

Example:
    python benchmarks/micro.py --threads 2
    python benchmarks/micro.py --json before.json
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from conditions import conditions
from decode import drawn_labels, logits_of
from numpy.typing import NDArray

from edgeseg import decode_compiled
from edgeseg.card import ModelCard
from edgeseg.decode import Decoder, classmap_resized
from edgeseg.draw import color_from_classmap, overlay
from edgeseg.handover import HandOver
from edgeseg.preprocess import Preprocessor

CLASSES, LOGITS_HW, INPUT_HW = 11, (90, 120), (360, 480)


def card(**facts: Any) -> ModelCard:
    """The card of a network for drawn classes."""
    names = tuple(f"class {index}" for index in range(CLASSES))
    palette = tuple((20 * index, 255 - 20 * index, 128) for index in range(CLASSES))
    return ModelCard(classes=names, palette=palette, input_size_hw=INPUT_HW, **facts)


def handed_over(count: int) -> Callable[[Any], None]:
    """Pass ``count`` items to another thread and back, one at a time: two hand-overs each."""

    def pass_items(_: Any) -> None:
        there: HandOver[int] = HandOver()
        back: HandOver[int] = HandOver()

        def answer() -> None:
            while (item := there.get()) is not None:
                back.put(item)

        thread = threading.Thread(target=answer)
        thread.start()
        for item in range(count):
            there.put(item)
            back.get()
        there.end()
        thread.join()

    return pass_items


def parts(frame_hw: tuple[int, int], items: int) -> dict[str, tuple[Callable[[Any], Any], Sequence[Any], int]]:
    """What is timed by name: the function, its inputs in turn, and how many times it does its work in one call."""
    rng = np.random.default_rng(0)
    frames: list[NDArray[np.uint8]] = [rng.integers(0, 256, (*frame_hw, 3), np.uint8) for _ in range(items)]
    logits = [logits_of(drawn_labels(rng, CLASSES), CLASSES, LOGITS_HW, rng) for _ in range(items)]
    decoders = {"numpy": Decoder(LOGITS_HW, frame_hw, CLASSES, compiled=False)}
    if decode_compiled.available():
        decoders["compiled"] = Decoder(LOGITS_HW, frame_hw, CLASSES)
    masks = [decoders["numpy"](item)[0] for item in logits]
    ids = [item.argmax(axis=0).astype(np.uint8) for item in logits]
    palette = card().palette
    return {
        "preprocess, bytes": (Preprocessor(card()), frames, 1),
        "preprocess, float nchw": (Preprocessor(card(input_dtype="float32", input_layout="nchw")), frames, 1),
        **{f"decode, {name}": (decoder, logits, 1) for name, decoder in decoders.items()},
        "class map resized": (lambda small: classmap_resized(small, frame_hw), ids, 1),
        "colours": (lambda mask: color_from_classmap(mask, palette), masks, 1),
        "overlay": (lambda pair: overlay(*pair, palette), list(zip(frames, masks, strict=True)), 1),
        "hand-over": (handed_over(100), [None], 200),
    }


def measure(call: Callable[[Any], Any], inputs: Sequence[Any], work: int, rounds: int) -> dict[str, float]:
    """Microseconds for one piece of work, percentiles over ``rounds`` passes through the inputs."""
    for item in inputs:
        call(item)
    times_us = []
    for _ in range(rounds):
        for item in inputs:
            start = time.perf_counter()
            call(item)
            times_us.append(1e6 * (time.perf_counter() - start) / work)
    return {f"p{p}": round(float(np.percentile(times_us, p)), 2) for p in (50, 90, 99)}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frame", type=int, nargs=2, default=[720, 1280], metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=8, help="different frames (8)")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, help="OpenCV threads (default: OpenCV's own choice)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    if args.threads is not None:
        cv2.setNumThreads(args.threads)
    start = conditions(cv2_threads=cv2.getNumThreads())
    rows = {}
    for name, part in parts(tuple(args.frame), args.frames).items():
        rows[name] = measure(*part, args.rounds)
        print(
            f"{name:<24} {rows[name]['p50']:10.1f} us   p90 {rows[name]['p90']:10.1f}   p99 {rows[name]['p99']:10.1f}"
        )
    if args.json:
        result = {"frame_hw": args.frame, "us": rows, "conditions": start}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
