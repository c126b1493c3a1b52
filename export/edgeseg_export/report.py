"""A conversion as text, as JSON, and as one HTML page beside the model: what was measured, and what was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeseg.card import ModelCard
from edgeseg.charts import Chart, scatter_chart
from edgeseg.pages import page_template
from edgeseg_export.convert import Conversion
from edgeseg_export.gate import EngineResult, ratio_text, table, worst_drop, worth
from edgeseg_export.repair import Step

MOST_RANKED = 12
"""Groups of the sensitivity ranking on the page; the JSON holds all."""


@dataclass(frozen=True)
class Report:
    """A measured conversion.

    Attributes:
        card: of the converted file.
        done: the conversion, with the results of at least one engine.
        split: that was scored.
        target: "cpu" or "tensorrt".
        max_drop: largest loss of mIoU that is allowed, 0 to 1.
        same_images: whether the ranges were measured on the images that are scored.
    """

    card: ModelCard
    done: Conversion
    split: str
    target: str
    max_drop: float
    same_images: bool

    @property
    def precision(self) -> str:
        """Of the converted file."""
        return self.card.precision

    @property
    def accepted(self) -> bool:
        """Whether it loses no more than is allowed, in any engine."""
        return worst_drop(self.done.results, self.precision).drop(self.precision) <= self.max_drop

    def sentences(self) -> list[str]:
        """What the figures come to, the accuracy first."""
        worst = worst_drop(self.done.results, self.precision)
        drop = worst.drop(self.precision)
        change = f"loses {100 * drop:.2f}" if drop >= 0 else f"gains {-100 * drop:.2f}"
        said = [
            f"{self.precision} {change} points of mIoU in {worst.engine}; at most {100 * self.max_drop:g} may be lost."
        ]
        if self.done.candidate is not None and self.done.candidate.kept:
            said.append(
                f"{len(self.done.candidate.kept)} of {len(self._ranking)} groups of layers are left out of int8, "
                f"with ranges by {self.done.candidate.method}."
            )
        if self.target == "tensorrt":
            said.append("How fast TensorRT runs it can only be measured where TensorRT runs, and was not here.")
        if self.precision == "fp16":
            said.append(
                "These engines compute in fp32 with fp16 weights: where every layer rounds, it may lose a bit more."
            )
        if self.same_images:
            said.append("The ranges were measured on the split that is scored: on other images it may lose more.")
        return [*said, *worth(self.done.results, self.precision)]

    @property
    def _ranking(self) -> dict[str, float]:
        return self.done.found.costs if self.done.found else {}

    def text(self) -> str:
        """For a terminal: the figures, the steps of repair, the sentences."""
        parts = [table(self.done.results, self.done.sizes)]
        if self.done.found is not None:
            parts.append(trail_table(self.done.found.trail))
        return "\n\n".join([*parts, "\n".join(self.sentences())])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        candidate, found = self.done.candidate, self.done.found
        return {
            "model": self.card.name,
            "precision": self.precision,
            "target": self.target,
            "accepted": self.accepted,
            "max_miou_drop": self.max_drop,
            "split": self.split,
            "images": self.done.results[0].images,
            "size_bytes": self.done.sizes,
            "engines": {result.engine: result.to_dict() for result in self.done.results},
            "method": None if candidate is None else candidate.method,
            "kept": [] if candidate is None else list(candidate.kept),
            "costs": self._ranking,
            "trail": [step.to_dict() for step in found.trail] if found else [],
            "sentences": self.sentences(),
        }

    def html(self) -> str:
        """The page."""
        found = self.done.found
        return page_template("edgeseg_export", "report.html.jinja").render(
            card=self.card,
            report=self,
            results=self.done.results,
            precisions=list(self.done.sizes),
            sizes=self.done.sizes,
            swatches={name: "rgb({}, {}, {})".format(*rgb) for name, rgb in zip(self.card.classes, self.card.palette)},
            ratio_text=ratio_text,
            chart=front_chart(self.done.results, found.trail if found else (), self.precision),
            steps=list(enumerate(found.trail, 1)) if found else [],
            ranking=list(self._ranking.items())[:MOST_RANKED],
        )


def trail_table(trail: Sequence[Step]) -> str:
    """The steps of a search as aligned text."""
    lines = ["step  ranges      groups left out  mIoU    drop  same pixels  times fp32's speed  images  measured"]
    for number, step in enumerate(trail, 1):
        measured = step.measured
        speed = "-" if measured.speedup is None else f"{measured.speedup:.2f}"
        lines.append(
            f"{number:>4}  {step.candidate.method:<10}  {len(step.candidate.kept):>14}  "
            f"{100 * measured.miou:5.2f}  {100 * measured.drop:+6.2f}  {100 * measured.agreement:9.3f} %  "
            f"{speed:>18}  {measured.images:>6}  {step.purpose}"
        )
    return "\n".join(lines)


def front_chart(results: Sequence[EngineResult], trail: Sequence[Step], precision: str) -> Chart | None:
    """Change of mIoU over time, both against fp32, of every form that was timed; None where none was.

    The accuracy is that of the engine in which a form loses most, the time that of the preferred engine: relative,
    because steps are minutes apart and machines change their pace. Steps on fewer images than the results are left out.
    """
    first = results[0]
    if not first.rounds_ms:
        return None

    def point(what: str, speedup: float, drop: float) -> tuple[float, float, str]:
        return 1 / speedup, 0 - 100 * drop, f"{what}: {1 / speedup:.2f} of fp32's time, {0 - 100 * drop:+.2f} points"

    def of_precision(name: str) -> tuple[float, float, str]:
        speedup = first.speedup(name)
        assert speedup is not None
        return point(name, speedup.median, worst_drop(results, name).drop(name))

    tried = [
        point(f"step {number}, {step.candidate.method}, {len(step.candidate.kept)} groups out of int8",
              step.measured.speedup, step.measured.drop)
        for number, step in enumerate(trail, 1)
        if step.measured.speedup is not None and step.measured.images == first.images
    ]  # fmt: skip
    clouds = {
        "higher precision": [of_precision(name) for name in first.accuracy if name != precision],
        "tried": tried,
        f"this {precision} file": [of_precision(precision)],
    }
    return scatter_chart("change of mIoU in points, over time in times fp32's", clouds)
