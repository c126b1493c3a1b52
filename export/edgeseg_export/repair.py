"""Which parts of a network to leave in higher precision so that INT8 keeps its accuracy: the search alone.

It knows a network only as names of groups of nodes, and learns about it through three functions it is given; so
it can be tested on costs that were made up, and used on any engine. The order of the search is that of
accuracy-aware quantisation in NNCF (Kozlov et al., "Neural Network Compression Framework for fast model
inference", 2020): the groups whose quantisation costs most go back first, until the drop is small enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

VERIFIED = 6
"""Groups at the head of the cheap ranking whose mIoU is measured before the order is final."""


@dataclass(frozen=True)
class Candidate:
    """An INT8 form of a network.

    Attributes:
        method: how its ranges were calibrated.
        kept: names of the groups in higher precision, the most sensitive first.
    """

    method: str
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A candidate beside the float32 network on the same images.

    Attributes:
        miou: 0 to 1.
        drop: by how much the float32 network's mIoU is higher, 0 to 1; below 0 where it is lower.
        agreement: share of pixels with float32's class, 0 to 1.
        latency_ms: median of the candidate; None where it cannot be measured on this machine.
        speedup: time of float32 over time of the candidate; None likewise.
        images: how many it was measured on.
    """

    miou: float
    drop: float
    agreement: float
    latency_ms: float | None
    speedup: float | None
    images: int


@dataclass(frozen=True)
class Step:
    """A candidate that was measured, and why."""

    purpose: str
    candidate: Candidate
    measured: Measured

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {"purpose": self.purpose, "method": self.candidate.method, "kept": list(self.candidate.kept),
                **vars(self.measured)}  # fmt: skip


@dataclass(frozen=True)
class Repair:
    """What the search found.

    Attributes:
        best: the candidate that is accurate enough, or the most accurate one on the way to it.
        enough: whether it is.
        trail: every measurement, in order.
        costs: by group, the most sensitive first: how far from float32 it takes the network alone in INT8, as a share
            of how far all of them take it. Empty where no group had to be ranked.
    """

    best: Candidate
    enough: bool
    trail: tuple[Step, ...]
    costs: dict[str, float]


def repair(
    methods: Sequence[str],
    groups: Sequence[str],
    *,
    max_drop: float,
    max_steps: int,
    distance: Callable[[Candidate], float],
    measure: Callable[[Candidate], Measured],
    confirm: Callable[[Candidate], Measured] | None = None,
) -> Repair:
    """Search for the INT8 form with the fewest groups in higher precision that loses at most ``max_drop``.

    First every calibration method is measured. Where none is enough, the groups are ranked under the best one, by
    ``distance`` with each of them alone in INT8: leaving each out alone would show nothing where two groups share a
    tensor that eight bits cannot hold. The first ``VERIFIED`` are then ordered by mIoU. They are kept in that order,
    one more, then half as many more at each step; between the last number that was too few and the first that is
    enough, the number is halved down.

    Args:
        methods: calibration methods, at least one.
        groups: names of all groups that can be kept.
        max_drop: largest loss of mIoU, 0 to 1.
        max_steps: numbers of kept groups that are measured.
        distance: how far a candidate's logits are from float32's on a few images, 0 or more: cheap.
        measure: a candidate on a subset of the labelled images.
        confirm: the same on all of them; None where the subset is all of them.
    """
    trail: list[Step] = []

    def measured(purpose: str, candidate: Candidate) -> Measured:
        trail.append(Step(purpose, candidate, measure(candidate)))
        return trail[-1].measured

    def is_enough(candidate: Candidate, found: Measured) -> bool:
        if found.drop > max_drop or confirm is None:
            return found.drop <= max_drop
        trail.append(Step("all images", candidate, confirm(candidate)))
        return trail[-1].measured.drop <= max_drop

    def most_accurate() -> Candidate:
        return max(tried, key=lambda candidate: (tried[candidate].miou, tried[candidate].agreement))

    tried = {candidate: measured("calibration", candidate) for candidate in map(Candidate, methods)}
    best = most_accurate()
    if is_enough(best, tried[best]):
        return Repair(best, True, tuple(trail), {})

    alone = {group: Candidate(best.method, tuple(g for g in groups if g != group)) for group in groups}
    whole = max(distance(best), 1e-12)
    costs = {group: distance(candidate) / whole for group, candidate in alone.items()}
    order = sorted(groups, key=lambda group: -costs[group])
    drops = {group: measured(f"only {group} in int8", alone[group]).drop for group in order[:VERIFIED]}
    order[:VERIFIED] = sorted(drops, key=lambda group: -drops[group])
    costs = {group: costs[group] for group in order}

    def keeps_enough(count: int) -> bool:
        candidate = Candidate(best.method, tuple(order[:count]))
        tried[candidate] = measured("kept", candidate)
        return is_enough(candidate, tried[candidate])

    count = _fewest(len(order) - 1, max_steps, keeps_enough)
    if count is None:
        return Repair(most_accurate(), False, tuple(trail), costs)
    return Repair(Candidate(best.method, tuple(order[:count])), True, tuple(trail), costs)


def _fewest(most: int, max_steps: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number up to ``most`` that is enough, as far as ``max_steps`` trials can tell; None without one."""
    steps_left = max_steps
    too_few, found = 0, None
    for count in _growing(most):
        if steps_left == 0:
            return None
        steps_left -= 1
        if enough(count):
            found = count
            break
        too_few = count
    while found is not None and found - too_few > 1 and steps_left > 0:
        steps_left -= 1
        middle = (too_few + found) // 2
        if enough(middle):
            found = middle
        else:
            too_few = middle
    return found


def _growing(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 9, 13, ... and at the end ``most``: a network that needs half its groups takes a dozen steps."""
    count = 1
    while count < most:
        yield count
        count += max(1, count // 2)
    if most > 0:
        yield most
