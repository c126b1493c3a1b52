"""Accuracy over latency as a picture for a README, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.bench.labels import Box, label_boxes, stair_boxes
from edgeseg.bench.results import (
    Row,
    headline_ms,
    machine_of,
    measured_rows,
    method_of,
    miou_of,
    pareto_front,
    short_names,
)
from edgeseg.errors import MissingDependencyError, UsageError
from edgeseg.files import replacing

SIZE_INCHES, DPI = (8.4, 5.0), 160
LOGARITHMIC_FROM = 12.0
"""Latencies further apart than this are drawn on a logarithmic axis."""

_LEFT = 0.085
"""Where axes and titles begin, as a share of the picture."""

_MARKERS = ("o", "s", "D", "^", "v", "P")
_LABEL_GAP_PX = 14.0
_ROOM = 0.5
"""Points of mIoU above and below: differences smaller than that should look small."""


@dataclass(frozen=True)
class Theme:
    """Colours of a picture; ``engines`` are for the engines in the order in which they appear."""

    page: str
    text: str
    faint: str
    grid: str
    beaten: str
    front: str
    engines: tuple[str, ...]


LIGHT = Theme(
    page="#ffffff", text="#1b2130", faint="#667085", grid="#e7eaf0", beaten="#b3bac6", front="#8fa3c8",
    engines=("#2563eb", "#d97706", "#15803d", "#9333ea"),
)  # fmt: skip
DARK = Theme(
    page="#0d1117", text="#e7eaf0", faint="#98a2b3", grid="#232a36", beaten="#566072", front="#4a6296",
    engines=("#6ea8fe", "#f5b041", "#4ade80", "#c084fc"),
)  # fmt: skip


def dark_path(path: Path) -> Path:
    """Where the dark picture goes: beside the light one, ``NAME-dark.png``."""
    return path.with_name(f"{path.stem}-dark{path.suffix}")


def check_drawable() -> None:
    """Refuse to begin work whose picture could not be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("matplotlib", "bench", "Drawing a picture") from error


def write_pictures(results: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw ``path`` (light) and ``dark_path(path)``; returns both.

    Raises:
        UsageError: no row has a mIoU, so that there is nothing to draw latency against.
        MissingDependencyError: matplotlib is not installed.
        SinkError: a file cannot be written.
    """
    check_drawable()
    rows = [row for row in measured_rows(results) if miou_of(row) is not None]
    if not rows:
        raise UsageError("There is no accuracy to draw", "measure with --data data.yaml")
    paths = [path, dark_path(path)]
    for target, theme in zip(paths, (LIGHT, DARK)):
        with replacing(target) as temporary:
            _figure(results, rows, theme).savefig(temporary, dpi=DPI, facecolor=theme.page)
    return paths


def _figure(results: Mapping[str, Any], rows: Sequence[Row], theme: Theme) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((_LEFT, 0.125, 0.98 - _LEFT, 0.705))
    _style(figure, axes, results, rows, theme)
    front = pareto_front(rows)
    at = [(headline_ms(row)["p50"], float(miou_of(row) or 0)) for row in rows]
    stairs = [at[number] for number in front]
    axes.plot(*zip(*stairs), drawstyle="steps-post", color=theme.front, linewidth=1.6, zorder=1)
    engines = list(dict.fromkeys(row["backend"] for row in rows))
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    for number, row in enumerate(rows):
        ahead = number in front
        color = theme.engines[engines.index(row["backend"]) % len(theme.engines)] if ahead else theme.beaten
        x, y = at[number]
        low, high = _range_ms(row)
        axes.errorbar(
            x, y, xerr=[[x - low], [high - x]], color=color, capsize=2.5,
            marker=_MARKERS[precisions.index(row["precision"]) % len(_MARKERS)], markersize=7 if ahead else 5.5,
            elinewidth=1.1, zorder=3 if ahead else 2,
        )  # fmt: skip
    _limits(axes, rows)
    _labels(figure, axes, rows, at, front, theme)
    return figure


def _range_ms(row: Row) -> tuple[float, float]:
    """Of the rounds, and the median of all frames, which is drawn between them."""
    medians = [headline_ms(row)["p50"], *(one["latency_ms"] for one in row["rounds"])]
    return min(medians), max(medians)


def _style(figure: Any, axes: Any, results: Mapping[str, Any], rows: Sequence[Row], theme: Theme) -> None:
    axes.set_facecolor(theme.page)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(colors=theme.faint, labelsize=9.5, length=0)
    waited = "frame in memory to class map in memory"
    if results["settings"]["mode"] == "paced":
        waited = "arrival of a frame to its class map"
    axes.set_xlabel(f"latency in ms: {waited}, median; bars: range of the rounds", color=theme.faint, fontsize=9.5)
    axes.set_ylabel(f"mIoU in %, {results['settings']['scored_on']}", color=theme.faint, fontsize=9.5)
    figure.text(_LEFT, 0.945, "Accuracy over latency", color=theme.text, fontsize=13.5, fontweight="bold")
    figure.text(_LEFT, 0.9, machine_of(results), color=theme.faint, fontsize=8.8)
    figure.text(_LEFT, 0.86, method_of(results), color=theme.faint, fontsize=8.8)
    figure.text(0.98, 0.945, "coloured: nothing is both faster and more accurate", color=theme.faint, fontsize=8.8,
                ha="right")  # fmt: skip


def _limits(axes: Any, rows: Sequence[Row]) -> None:
    latencies = [one["latency_ms"] for row in rows for one in row["rounds"]]
    if max(latencies) > LOGARITHMIC_FROM * min(latencies):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0.7 * min(latencies), 1.5 * max(latencies))
    else:
        axes.set_xlim(0, 1.12 * max(latencies))
    mious = [float(miou_of(row) or 0) for row in rows]
    room = max(_ROOM, 0.12 * (max(mious) - min(mious)))
    axes.set_ylim(min(mious) - room, max(mious) + room)


def _labels(
    figure: Any, axes: Any, rows: Sequence[Row], at: Sequence[tuple[float, float]], front: Sequence[int], theme: Theme
) -> None:
    """Labels of the front first: of the beaten points only those that fit."""
    order = [*front, *(number for number in range(len(rows)) if number not in front)]
    names = short_names(rows)
    texts = [
        axes.text(
            *at[number], names[number], ha="center", va="center", color=theme.text if number in front else theme.faint,
            fontsize=9.2 if number in front else 7.8, fontweight="bold" if number in front else "normal", zorder=4,
        )
        for number in order
    ]  # fmt: skip
    renderer = figure.canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in texts]
    window = axes.get_window_extent(renderer)
    pixel = {number: tuple(axes.transData.transform(at[number])) for number in order}
    boxes = label_boxes(
        list(pixel.values()), [(extent.width, extent.height) for extent in extents],
        Box(window.x0, window.y0, window.x1, window.y1), _LABEL_GAP_PX,
        [*stair_boxes([pixel[number] for number in front], 2), *_bar_boxes(axes, rows, at)],
    )  # fmt: skip
    to_data = axes.transData.inverted()
    for text, (x, y), box in zip(texts, pixel.values(), boxes):
        if box is None:
            text.remove()
            continue
        text.set_position(to_data.transform(((box.left + box.right) / 2, (box.low + box.high) / 2)))
        end = (min(max(x, box.left), box.right), min(max(y, box.low), box.high))
        if max(abs(end[0] - x), abs(end[1] - y)) > 1.5 * _LABEL_GAP_PX:
            axes.plot(*to_data.transform([(x, y), end]).T, color=theme.faint, linewidth=0.6, zorder=1)


def _bar_boxes(axes: Any, rows: Sequence[Row], at: Sequence[tuple[float, float]]) -> list[Box]:
    ends = [axes.transData.transform([(end, y) for end in _range_ms(row)]) for row, (_, y) in zip(rows, at)]
    return [Box(left - 3, y - 5, right + 3, y + 5) for (left, y), (right, _) in ends]
