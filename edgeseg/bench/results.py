"""The results file of ``edgeseg bench``: reading it, naming its rows, its Pareto front, and its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgeseg.errors import UsageError

SCHEMA = 1

HEADLINE_STAGE = {"closed": "end_to_end", "paced": "age"}
"""What a user waits for, by mode: the class map of a frame in memory, or of a frame that arrived from a camera."""

_PARTS = ("preprocess", "infer", "decode", "h2d", "compute", "d2h")

_SAME_MIOU = 5e-4
"""Engines that round differently differ by less."""

Row = Mapping[str, Any]

_MEND = "give a file that 'edgeseg bench --json' wrote"


def read_results(path: str) -> dict[str, Any]:
    """A results file.

    Raises:
        UsageError: it cannot be read, or is of another kind or version.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {path} ({getattr(error, 'strerror', None) or error})", _MEND) from error
    if not isinstance(results, dict) or results.get("what") != "edgeseg bench":
        raise UsageError(f"{path} holds no results of 'edgeseg bench'", _MEND)
    if results.get("schema") != SCHEMA:
        raise UsageError(f"{path} has schema {results.get('schema')}, this edgeseg reads {SCHEMA}", "measure again")
    return results


def measured_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows without an error, in order."""
    return [row for row in results["rows"] if row["error"] is None]


def name_of(row: Row) -> str:
    """Model, precision, size and engine: what makes a row comparable with one of another file."""
    height, width = row["imgsz"]
    return f"{row['model']}, {row['precision']}, {height}x{width}, {row['backend']}"


def asked_of(row: Row) -> str:
    """Model, size and engine as they were asked for: all that is known of a row before its model is open."""
    size = [] if row["imgsz"] is None else ["{}x{}".format(*row["imgsz"])]
    return ", ".join([row["model"], *size, row["backend"]])


def headline_ms(row: Row) -> dict[str, float]:
    """Percentiles of what a user waits for, in milliseconds."""
    latency: dict[str, dict[str, float]] = row["latency_ms"]
    return latency.get("age") or latency["end_to_end"]


def miou_of(row: Row) -> float | None:
    """mIoU in per cent, or None; to a hundredth, because engines that round differently differ beyond that."""
    accuracy = row["accuracy"]
    return None if accuracy is None else round(100 * float(accuracy["miou"]), 2)


def pareto_front(rows: Sequence[Row]) -> list[int]:
    """Numbers of the rows that no other beats in both median latency and mIoU, the fastest first.

    Rows without a mIoU have no place in it.
    """
    points = [(headline_ms(row)["p50"], -miou, i) for i, row in enumerate(rows) if (miou := miou_of(row)) is not None]
    front: list[int] = []
    best = float("inf")
    for _, negative_miou, number in sorted(points):
        if negative_miou < best:
            best = negative_miou
            front.append(number)
    return front


def short_names(rows: Sequence[Row]) -> list[str]:
    """Names for a picture: only what tells the rows apart."""
    words = [row["model"].split("-") for row in rows]
    common = set(words[0]).intersection(*words[1:])
    told = [[word for word in own if word not in common and word != row["precision"]] for row, own in zip(rows, words)]
    names = [_short_name(row, "-".join(own), rows) for row, own in zip(rows, told)]
    if len(set(names)) == len(names) and all(names):
        return names
    return [_short_name(row, row["model"], rows) for row in rows]


def _short_name(row: Row, model: str, rows: Sequence[Row]) -> str:
    parts = {
        "model": model,
        # openvino-bf16 says by itself what it makes of an fp32 file.
        "precision": "" if row["precision"] == "fp32" and "-" in row["backend"] else row["precision"],
        "imgsz": "x".join(map(str, row["imgsz"])),
        "backend": row["backend"],
    }
    kept = [part for key, part in parts.items() if part and any(other[key] != row[key] for other in rows)]
    return " ".join(kept or [model])


def machine_of(results: Mapping[str, Any]) -> str:
    """The machine in a few words."""
    found = results["conditions"]
    gpus = found["gpu"] or []
    jetson = (found["jetson"] or {}).get("model")
    return ", ".join([jetson or found["cpu"], f"{found['cores']} cores", *gpus])


def method_of(results: Mapping[str, Any]) -> str:
    """What was timed, in a few words."""
    settings, row = results["settings"], measured_rows(results)[0]
    height, width = row["frame_hw"]
    pace = "one frame at a time" if settings["mode"] == "closed" else f"a camera at {settings['rate_hz']:g} Hz"
    count = settings["threads"]
    threads = f"{count} thread{'s' if count > 1 else ''}" if count else "the engine's own threads"
    return f"{pace}, {settings['frames']} frames of {width}x{height} in {settings['rounds']} rounds, {threads}"


Column = tuple[str, Callable[[Row], str]]


def _columns(rows: Sequence[Row]) -> list[Column]:
    def number(get: Callable[[Row], Any], digits: int) -> Callable[[Row], str]:
        def text(row: Row) -> str:
            value = get(row)
            return "" if value is None else f"{value:.{digits}f}"

        return text

    def nested(*keys: str) -> Callable[[Row], Any]:
        def get(row: Row) -> Any:
            value: Any = row
            for key in keys:
                value = None if value is None else value.get(key)
            return value

        return get

    def stages(row: Row) -> str:
        found = [row["latency_ms"][stage]["p50"] for stage in _PARTS if stage in row["latency_ms"]]
        return " / ".join(f"{value:.2f}" for value in found)

    return [
        ("model", lambda row: str(row["model"])),
        ("precision", lambda row: str(row["precision"])),
        ("input", lambda row: "{}x{}".format(*row["imgsz"])),
        ("engine", lambda row: str(row["backend"])),
        ("mIoU, %", number(miou_of, 2)),
        ("p50, ms", lambda row: f"{headline_ms(row)['p50']:.2f}"),
        ("p90", lambda row: f"{headline_ms(row)['p90']:.2f}"),
        ("p90 at most", number(nested("bounds_ms", "p90"), 2)),
        ("p95", lambda row: f"{headline_ms(row)['p95']:.2f}"),
        ("p99", lambda row: f"{headline_ms(row)['p99']:.2f}"),
        ("max", lambda row: f"{headline_ms(row)['max']:.1f}"),
        ("stages", stages),
        ("engine alone", number(nested("engine_ms", "p50"), 2)),
        ("times engine", number(nested("overhead", "median"), 3)),
        ("frames/s", number(nested("pipeline_fps", "median"), 1)),
        ("dropped", lambda row: str(row["dropped"] or "")),
        ("MiB", number(nested("peak_rss_mib"), 0)),
        ("mJ/frame", number(nested("energy_mj_per_frame"), 1)),
        *((clip, number(partial(_streaming_miou, clip=clip), 2)) for clip in _clips(rows)),
    ]


def _clip_of(stream: Mapping[str, Any]) -> str:
    clip = "street" if stream["clip"].startswith("synthetic:") else stream["clip"]
    return f"{clip}, {stream['rate_hz']:g} Hz"


def _clips(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(_clip_of(stream) for row in rows for stream in row["streaming"]))


def _streaming_miou(row: Row, clip: str) -> float | None:
    return next((100 * one["miou"] for one in row["streaming"] if _clip_of(one) == clip), None)


def table(results: Mapping[str, Any]) -> str:
    """The rows as a Markdown table, the fastest first; columns in which nothing was measured are left out."""
    rows = sorted(measured_rows(results), key=lambda row: headline_ms(row)["p50"])
    columns = [(title, [cell(row) for row in rows]) for title, cell in _columns(rows)]
    columns = [(title, cells) for title, cells in columns if any(cells)]
    widths = [max(map(len, [title, *cells])) for title, cells in columns]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)) + " |"

    text_columns = 4
    rule = [("-" * width if i < text_columns else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    lines = [line([title for title, _ in columns]), line(rule), *map(line, zip(*(cells for _, cells in columns)))]
    failed = [f"Not measured: {asked_of(row)}: {row['error']}" for row in results["rows"] if row["error"] is not None]
    return "\n".join([*lines, *(["", *failed] if failed else [])])


def streaming_verdicts(results: Mapping[str, Any]) -> list[str]:
    """For every clip and rate, which combination serves a robot best, and where that is not the most accurate one.

    Also which one would on slower machines, where it is another.
    """
    rows = measured_rows(results)
    said = []
    for clip in _clips(rows):
        scored = [(row, one) for row in rows for one in row["streaming"] if _clip_of(one) == clip]
        best, served = max(scored, key=lambda pair: pair[1]["miou"])
        finest, late = max(scored, key=lambda pair: pair[1]["offline_miou"])
        text = (
            f"{clip}: {name_of(best)}, streaming mIoU {100 * served['miou']:.2f} "
            f"({100 * served['offline_miou']:.2f} without latency)"
        )
        if late["offline_miou"] - served["offline_miou"] > _SAME_MIOU:
            delay = late["delay_frames"]
            text += (
                f"; the more accurate {name_of(finest)} comes to {100 * late['miou']:.2f} "
                f"({100 * late['offline_miou']:.2f} without latency), "
                + ("no result in time" if delay is None else f"{delay:.1f} frames late")
            )
        said.append(text)
        for factor in served["slower_miou"]:
            before, (best, slower) = best, max(scored, key=lambda pair: pair[1]["slower_miou"][factor])
            if best is not before:
                said.append(
                    f"{clip}, on a machine {factor} times slower: {name_of(best)}, "
                    f"streaming mIoU {100 * slower['slower_miou'][factor]:.2f}"
                )
    return said
