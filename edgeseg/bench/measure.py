"""Measure every combination of model, size and engine, so that the noise of a machine falls on all alike.

All processes are alive from the beginning, each with its model open and warm; they take their turns in rounds, and
every round begins with another one. A combination that fails becomes a row that says why.
"""

from __future__ import annotations

import itertools
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import bundled
from edgeseg.bench.child import Child
from edgeseg.bench.results import HEADLINE_STAGE, SCHEMA, asked_of
from edgeseg.bench.stats import bounds_ms, summary_ms
from edgeseg.conditions import conditions, state
from edgeseg.dataset import DataSet
from edgeseg.errors import BackendError, EdgesegError
from edgeseg.io import open_source
from edgeseg.telemetry import Telemetry

STREET_CLIP, STREET_RATES_HZ = "synthetic://street?size=640x480&rate=60&frames=360", (60.0, 30.0)
"""Six seconds of the synthetic street; at 30 Hz every other frame of it."""

FRAMES_HELD = 8
"""Different frames in memory that are taken in turns: what decoding costs depends on what a frame shows."""

POWER_PERIOD_S = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        models: model files or bundled names.
        backends: engines for ONNX files; other files choose theirs by themselves.
        sizes: input heights and widths in pixels; (None,) takes the models' own.
        source: what the timed frames come from, see ``edgeseg.open_source``; None takes the images of ``data``.
        data: a ``data.yaml`` to score on, or None.
        split: its split.
        mode: "closed" (a frame as soon as the one before is done) or "paced" (frames arrive ``rate_hz`` a second).
        rate_hz: of the camera in paced mode, and of ``data`` as a clip where ``streaming`` is set; or None.
        frames: frames timed in each combination, over all rounds.
        rounds: turns that each combination has.
        threads: threads for one inference; None leaves it to the engine.
        streaming: also score what would have been there at each frame's time.
        facts: facts of models without a card, the arguments of ``ModelFacts``.
        card: path of a card, or None.
        worst: images with the lowest mIoU to return pictures of.
    """

    models: Sequence[str]
    backends: Sequence[str] = ("auto",)
    sizes: Sequence[tuple[int, int] | None] = (None,)
    source: str | None = None
    data: str | None = None
    split: str = "val"
    mode: str = "closed"
    rate_hz: float | None = None
    frames: int = 1000
    rounds: int = 10
    threads: int | None = None
    streaming: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    card: str | None = None
    worst: int = 0


@dataclass
class Combination:
    """A model at a size in an engine, and what was measured of it so far."""

    label: str
    model: str
    backend: str
    imgsz: tuple[int, int] | None
    child: Child
    row: dict[str, Any] = field(default_factory=dict)
    timing_ms: dict[str, list[float]] = field(default_factory=dict)
    engine_ms: list[float] = field(default_factory=list)
    rounds: list[dict[str, float]] = field(default_factory=list)
    dropped: int = 0
    invalid: int = 0
    wall_s: float = 0.0
    energy_j: float | None = None
    worst: list[dict[str, Any]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether nothing of it has failed."""
        return self.row.get("error") is None


def measure(plan: Plan, say: Say = lambda text: None) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Run a plan.

    Args:
        plan: what to measure.
        say: called with a line of progress now and then.

    Returns:
        The results as plain JSON types, see docs/guides/benchmark.md; and for each of its rows the worst images, with
        their names, mIoU and pictures as ``data:`` addresses.

    Raises:
        ModelError: a model is neither a file nor a bundled name.
        SourceError, DataError: there are no frames to time.
        BackendError: not one combination could be measured.
    """
    before = conditions()
    wanted = list(combinations_of(plan))
    with ExitStack() as running:
        # Read here: drawing or decoding frames would count as memory of the models.
        frames = Path(running.enter_context(TemporaryDirectory())) / "frames.npy"
        np.save(frames, images_for(plan))
        combinations = []
        for what in wanted:
            one = running.enter_context(_opened(*what, plan, frames))
            combinations.append(one)
            say(f"{asked_of(one.row)}: {one.row['error'] or 'open'}")
        _each(combinations, lambda one: one.row.update(warm_up=one.child.ask("warm_up")))
        say("warm")
        for number in range(plan.rounds):
            turn = number % len(combinations)
            first, last = (plan.frames * (number + k) // plan.rounds for k in (0, 1))
            rotated = [*combinations[turn:], *combinations[:turn]]
            _each(rotated, partial(_round, plan=plan, frames=last - first))
            say(f"round {number + 1} of {plan.rounds}")
        _each(combinations, partial(_summarise, plan=plan))
        if plan.data is not None or plan.streaming:
            _each(combinations, partial(_score, plan=plan))
            say("scored")
    failed = [one for one in combinations if not one.alive]
    if len(failed) == len(combinations):
        raise BackendError(
            f"Nothing could be measured; {asked_of(failed[0].row)}: {failed[0].row['error']}",
            "measure one model alone first",
        )
    results = {
        "schema": SCHEMA,
        "what": "edgeseg bench",
        "settings": _settings(plan),
        "conditions": {**before, "end": state()},
        "rows": [one.row for one in combinations],
    }
    return results, [one.worst for one in combinations]


def combinations_of(plan: Plan) -> Iterator[tuple[str, str, str, tuple[int, int] | None]]:
    """Label, model, backend and size of every combination. Only ONNX files run in more than one engine."""
    paths = [bundled.resolve(model) for model in plan.models]
    for path, model in zip(paths, plan.models):
        twins = sum(other.stem == path.stem for other in paths) > 1
        label = f"{path.parent.name}/{path.stem}" if twins else path.stem
        for size in plan.sizes:
            for backend in plan.backends if path.suffix == ".onnx" else ("auto",):
                yield label, model, backend, size


@contextmanager
def _opened(
    label: str, model: str, backend: str, size: tuple[int, int] | None, plan: Plan, frames: Path
) -> Iterator[Combination]:
    with Child() as child:
        one = Combination(label, model, backend, size, child)
        one.row = {"model": label, "backend": backend, "imgsz": size and list(size), "error": None}
        _each([one], partial(_open, plan=plan, frames=frames))
        yield one


def _open(one: Combination, plan: Plan, frames: Path) -> None:
    one.row |= one.child.ask(
        "open", model=one.model, backend=one.backend, imgsz=one.imgsz, threads=plan.threads, facts=dict(plan.facts),
        card=plan.card, frames=str(frames), data=plan.data,
    )  # fmt: skip


def images_for(plan: Plan) -> list[NDArray[np.uint8]]:
    """The frames to time on, uint8 [H, W, 3] in BGR: ``FRAMES_HELD`` at most, all of one size.

    The first of the source, or images spread evenly over the split.

    Raises:
        SourceError, DataError: they cannot be read.
    """
    if plan.source is not None:
        with open_source(plan.source) as source:
            images = [frame.image for frame in itertools.islice(source, FRAMES_HELD)]
    else:
        data = DataSet.from_yaml(plan.data or "")
        samples = data.samples(plan.split)
        images = [data.read(sample)[0] for sample in samples[:: -(-len(samples) // FRAMES_HELD)]]
    return [image for image in images if image.shape == images[0].shape]


def _each(combinations: Sequence[Combination], work: Callable[[Combination], None]) -> None:
    """Do something with every combination that has not failed yet; those that fail at it say so in their row."""
    for one in combinations:
        if one.alive:
            try:
                work(one)
            except EdgesegError as error:
                # Results files say nothing about where things lay.
                path = bundled.resolve(one.model)
                one.row["error"] = str(error).replace(str(path), path.name)


def _round(one: Combination, plan: Plan, frames: int) -> None:
    with _power_w() as samples_w:
        if plan.mode == "paced":
            turn = one.child.ask("paced", frames=frames, rate_hz=plan.rate_hz, limit_s=None)
        else:
            turn = one.child.ask("closed", frames=frames)
    for stage, values in turn["timing_ms"].items():
        one.timing_ms.setdefault(stage, []).extend(values)
    one.dropped += turn["dropped"]
    one.invalid += turn["invalid"]
    one.wall_s += turn["wall_s"]
    if samples_w:
        one.energy_j = (one.energy_j or 0.0) + statistics.fmean(samples_w) * turn["wall_s"]
    medians = {"latency_ms": statistics.median(turn["timing_ms"][HEADLINE_STAGE[plan.mode]])}
    if plan.mode == "closed":
        engine_ms = one.child.ask("engine", frames=frames)
        one.engine_ms += engine_ms
        medians["engine_ms"] = statistics.median(engine_ms)
        medians["pipeline_fps"] = one.child.ask("pipeline", frames=frames)
    one.rounds.append(medians)


def _summarise(one: Combination, plan: Plan) -> None:
    headline_ms = one.timing_ms[HEADLINE_STAGE[plan.mode]]
    one.row |= {
        "frames": len(headline_ms),
        "dropped": one.dropped,
        "invalid": one.invalid,
        "latency_ms": {stage: summary_ms(values) for stage, values in one.timing_ms.items()},
        "bounds_ms": bounds_ms(headline_ms),
        "results_per_s": len(headline_ms) / one.wall_s,
        "rounds": one.rounds,
        "peak_rss_mib": one.child.ask("peak_rss_mib"),
        "energy_mj_per_frame": None if one.energy_j is None else 1000 * one.energy_j / len(headline_ms),
        "engine_ms": None,
        "overhead": None,
        "pipeline_fps": None,
        "accuracy": None,
        "streaming": [],
    }
    if plan.mode == "closed":
        one.row["engine_ms"] = summary_ms(one.engine_ms)
        one.row["overhead"] = spread([r["latency_ms"] / r["engine_ms"] for r in one.rounds])
        one.row["pipeline_fps"] = spread([r["pipeline_fps"] for r in one.rounds])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of one figure over the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _score(one: Combination, plan: Plan) -> None:
    if plan.data is not None:
        found = one.child.ask("score", data=plan.data, split=plan.split, worst=plan.worst, limit_s=None)
        one.row["accuracy"], one.worst = found["accuracy"], found["worst"]
    if plan.streaming:
        one.row["streaming"] = [
            {"clip": name, **scores}
            for name, clip, split, rates_hz in _clips(plan)
            for scores in one.child.ask("stream", clip=clip, split=split, rates_hz=rates_hz, limit_s=None)
        ]
    # The last thing it is asked for: a clip's masks take memory that the next one needs.
    one.child.close()


def _clips(plan: Plan) -> Iterator[tuple[str, str, str | None, list[float]]]:
    if plan.data is not None and plan.rate_hz is not None:
        yield _data_name(plan), plan.data, plan.split, [plan.rate_hz]
    yield STREET_CLIP, STREET_CLIP, None, list(STREET_RATES_HZ)


def _data_name(plan: Plan) -> str:
    return f"{'/'.join(Path(plan.data or '').absolute().parts[-2:])} {plan.split}"


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "mode": plan.mode,
        "rate_hz": plan.rate_hz,
        "frames": plan.frames,
        "rounds": plan.rounds,
        "threads": plan.threads,
        "timed_on": _data_name(plan) if plan.source is None else "/".join(Path(plan.source).parts[-2:]),
        "scored_on": None if plan.data is None else _data_name(plan),
        "streaming": plan.streaming,
    }


@contextmanager
def _power_w() -> Iterator[list[float]]:
    """Watts that the machine draws while the block runs, sampled; stays empty where it does not tell."""
    samples: list[float] = []
    telemetry, stop = Telemetry(), threading.Event()

    def watch() -> None:
        while not stop.wait(POWER_PERIOD_S):
            power_w = telemetry.read().power_w
            if power_w is not None:
                samples.append(power_w)

    # Reading costs a little time: not where there is nothing to read.
    watcher = threading.Thread(target=watch, daemon=True) if telemetry.read().power_w is not None else None
    if watcher:
        watcher.start()
    try:
        yield samples
    finally:
        stop.set()
        if watcher:
            watcher.join()
