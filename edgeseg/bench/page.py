"""The results as one HTML page: the picture, and for every point its details and its worst images.

A single file that fetches nothing and runs no script: a point is a link to its details, and the style shows the
details that were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeseg.bench.labels import Box, label_boxes, stair_boxes
from edgeseg.bench.results import (
    Row,
    asked_of,
    headline_ms,
    machine_of,
    measured_rows,
    method_of,
    miou_of,
    name_of,
    pareto_front,
    short_names,
    streaming_verdicts,
)
from edgeseg.charts import Area, Chart, Tick, line_chart, scatter_axes
from edgeseg.errors import MissingDependencyError

_AREA = Area(width=900, height=430, left=44, bottom=24, edge=14)
_LETTER, _LINE = 6.1, 13.0
"""About the size of the page's small letters, in units of the drawing: a template cannot measure text."""

_GAP = 9.0
_ROOM = 0.25
"""Points of mIoU above and below: differences smaller than that should look small."""


@dataclass(frozen=True)
class Point:
    """A row in the drawing: its place, the ends of its bar, its label's place and the row's number."""

    number: int
    name: str
    ahead: bool
    x: float
    y: float
    low: float
    high: float
    label: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Drawing:
    """Points, the front as the ``d`` of an SVG path, and the axes."""

    area: Area
    points: tuple[Point, ...]
    front: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def check_page() -> None:
    """Refuse to begin work whose page could not be written.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("jinja2", "bench", "Writing a page") from error


def html(results: Mapping[str, Any], worst: Sequence[Sequence[Mapping[str, Any]]] = ()) -> str:
    """The page.

    Args:
        results: see ``edgeseg.bench.measure.measure``.
        worst: for each of its rows the images with the lowest mIoU; none where they are not known.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    check_page()
    from edgeseg.pages import page_template

    rows = measured_rows(results)
    pictures = [images for row, images in zip(results["rows"], worst) if row["error"] is None] or [[] for _ in rows]
    names = short_names(rows)
    return page_template("edgeseg.bench", "bench.html.jinja").render(
        results=results,
        machine=machine_of(results),
        method=method_of(results),
        rows=list(zip(range(len(rows)), rows, names, [name_of(row) for row in rows], pictures)),
        order=sorted(range(len(rows)), key=lambda number: headline_ms(rows[number])["p50"]),
        front=pareto_front(rows),
        failed=[row for row in results["rows"] if row["error"] is not None],
        asked_of=asked_of,
        headline=headline_ms,
        miou=miou_of,
        drawing=draw(rows),
        rounds=[rounds_chart(row) for row in rows],
        streaming=streaming_verdicts(results),
    )


def draw(rows: Sequence[Row]) -> Drawing | None:
    """The rows that have a mIoU, accuracy over latency; None where none has."""
    scored = [(number, row, miou) for number, row in enumerate(rows) if (miou := miou_of(row)) is not None]
    if not scored:
        return None
    spans = [[headline_ms(row)["p50"], *(one["latency_ms"] for one in row["rounds"])] for _, row, _ in scored]
    mious = [miou for *_, miou in scored]
    axes = scatter_axes([max(span) for span in spans], [min(mious) - _ROOM, *mious, max(mious) + _ROOM], _AREA)
    at = {number: (axes.x_at(span[0]), axes.y_at(miou)) for (number, _, miou), span in zip(scored, spans)}
    front = pareto_front(rows)
    ends = {n: (axes.x_at(min(span)), axes.x_at(max(span))) for (n, *_), span in zip(scored, spans)}
    labels = _labels(at, ends, front, short_names(rows))
    points = tuple(
        Point(
            number, short_names(rows)[number], number in front, *at[number], *ends[number],
            labels[number], f"{miou:.2f} % mIoU, {span[0]:.2f} ms",
        )
        for (number, _, miou), span in zip(scored, spans)
    )  # fmt: skip
    return Drawing(_AREA, points, _stairs([at[number] for number in front]), axes.x_ticks, axes.y_ticks)


def _stairs(points: Sequence[tuple[float, float]]) -> str:
    start = "M{} {}".format(*points[0])
    return start + "".join(f" H{x} V{y}" for x, y in points[1:])


def _labels(
    at: Mapping[int, tuple[float, float]],
    ends: Mapping[int, tuple[float, float]],
    front: Sequence[int],
    names: Sequence[str],
) -> dict[int, tuple[float, float] | None]:
    """Left end and base line of each label, or None where there is no room."""
    order = [*front, *(number for number in at if number not in front)]
    bars = [Box(low, at[number][1] - 2, high, at[number][1] + 2) for number, (low, high) in ends.items()]
    boxes = label_boxes(
        [at[number] for number in order], [(_LETTER * len(names[number]), _LINE) for number in order],
        Box(_AREA.left, 0, _AREA.width, _AREA.height - _AREA.bottom), _GAP,
        [*stair_boxes([at[number] for number in front], 1), *bars],
    )  # fmt: skip
    return {n: None if box is None else (round(box.left, 1), round(box.high - 3, 1)) for n, box in zip(order, boxes)}


def rounds_chart(row: Row) -> Chart:
    """The medians of a row, round by round."""
    waited = "age" if "age" in row["latency_ms"] else "end to end"
    curves = {waited: [(n, one["latency_ms"]) for n, one in enumerate(row["rounds"], 1)]}
    if row["engine_ms"] is not None:
        curves["engine alone"] = [(n, one["engine_ms"]) for n, one in enumerate(row["rounds"], 1)]
    return line_chart("median of every round, ms", curves, step="round")
