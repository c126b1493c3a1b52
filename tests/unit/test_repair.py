"""The search of repair on networks of made-up costs: no engine, no graph."""

from __future__ import annotations

import pytest

pytest.importorskip("edgeseg_export")

from edgeseg_export.repair import Candidate, Measured, repair

FP32 = 0.60
METHODS = ("minmax", "entropy")
BASE = {"minmax": 0.004, "entropy": 0.002}


class Network:
    """Loses ``BASE`` by its method and ``costs`` by every group in INT8; remembers what was asked."""

    def __init__(self, costs, *, subset_loss=0.0):
        self.costs, self.subset_loss = costs, subset_loss
        self.measured, self.confirmed, self.compared = [], [], []

    def drop(self, candidate):
        return BASE[candidate.method] + sum(cost for group, cost in self.costs.items() if group not in candidate.kept)

    def _figures(self, drop, images):
        return Measured(FP32 - drop, drop, 1 - drop, latency_ms=5.0, speedup=2.0, images=images)

    def measure(self, candidate):
        self.measured.append(candidate)
        return self._figures(self.drop(candidate) - self.subset_loss, 10)

    def confirm(self, candidate):
        self.confirmed.append(candidate)
        return self._figures(self.drop(candidate), 100)

    def distance(self, candidate):
        self.compared.append(candidate)
        return self.drop(candidate) ** 2

    def repair(self, max_drop, *, max_steps=16, confirm=False):
        return repair(
            METHODS, list(self.costs), max_drop=max_drop, max_steps=max_steps, distance=self.distance,
            measure=self.measure, confirm=self.confirm if confirm else None,
        )  # fmt: skip


def groups(*costly, count=20, cost=0.01):
    return {f"g{i}": cost if i in costly else 0.0 for i in range(count)}


def test_better_calibration_is_all_it_takes():
    network = Network(groups())
    found = network.repair(0.003)
    assert found.best == Candidate("entropy")
    assert found.costs == {}
    assert network.compared == []
    assert [step.purpose for step in found.trail] == ["calibration", "calibration"]


@pytest.mark.parametrize("costly", [(7,), (3, 19), (0, 1, 2, 3, 4), tuple(range(0, 18, 2)), tuple(range(19))])
def test_fewest_groups_are_kept(costly):
    found = Network(groups(*costly)).repair(0.003)
    assert found.best.method == "entropy"
    assert set(found.best.kept) == {f"g{i}" for i in costly}


def test_ranking_is_by_what_a_group_costs():
    costs = {"cheap": 0.001, "dear": 0.02, "free": 0.0, "middling": 0.01}
    network = Network(costs)
    found = network.repair(0.004)
    assert list(found.costs) == ["dear", "middling", "cheap", "free"]
    assert list(found.costs.values()) == sorted(found.costs.values(), reverse=True)
    assert found.best.kept == ("dear", "middling")
    assert network.compared[0] == Candidate("entropy")
    assert Candidate("entropy", ("cheap", "free", "middling")) in network.compared


def test_groups_that_share_a_tensor_are_found_together():
    class Sharing(Network):
        def drop(self, candidate):
            return BASE[candidate.method] + (0 if {"g3", "g8"} <= set(candidate.kept) else 0.4)

    found = Sharing(groups()).repair(0.003)
    assert set(found.best.kept) == {"g3", "g8"}


def test_order_at_the_head_is_by_miou_where_the_cheap_ranking_errs():
    class Misjudged(Network):
        def distance(self, candidate):
            return super().distance(candidate) + (0.1 if "g5" not in candidate.kept else 0)

    network = Misjudged(groups(2, cost=0.0001))
    found = network.repair(0.00205)
    assert next(iter(found.costs)) == "g2"
    assert found.best.kept == ("g2",)


def test_too_costly_a_network_is_given_up_with_its_trail():
    found = Network({f"g{i}": 0.0 for i in range(5)}).repair(0.001)
    assert not found.enough
    assert found.best == Candidate("entropy")  # leaving groups out gained nothing
    kept = [len(step.candidate.kept) for step in found.trail if step.purpose == "kept"]
    assert kept == [1, 2, 3, 4]  # of five: all of them would be float32


def test_steps_are_counted():
    network = Network(groups(*range(10)))
    found = network.repair(0.003, max_steps=3)
    assert not found.enough
    # The most accurate of what was on the way: not one of those with a single group in INT8.
    assert len(found.best.kept) == 3
    assert [len(step.candidate.kept) for step in found.trail if step.purpose == "kept"] == [1, 2, 3]


def test_search_ends_with_what_it_has_when_the_steps_run_out():
    # 1, 2, 3, 4, 6, 9, 13 and no step left to find that 11 are enough.
    found = Network(groups(*range(11))).repair(0.003, max_steps=7)
    assert len(found.best.kept) == 13


def test_what_passes_on_the_subset_must_pass_on_all_images():
    network = Network(groups(1, 2, 3), subset_loss=0.01)
    found = network.repair(0.003, confirm=True)
    assert set(found.best.kept) == {"g1", "g2", "g3"}
    assert Candidate("entropy") not in network.confirmed  # it failed on the subset already
    assert network.confirmed[-1] != network.confirmed[0]
    confirmed = [step for step in found.trail if step.purpose == "all images"]
    assert [step.candidate for step in confirmed] == network.confirmed
    assert {step.measured.images for step in confirmed} == {100}


def test_network_of_one_group_has_nothing_to_keep():
    found = Network({"only": 0.05}).repair(0.003)
    assert not found.enough
    assert [step.purpose for step in found.trail] == ["calibration", "calibration", "only only in int8"]


def test_a_step_is_plain_data():
    step = Network(groups()).repair(0.003).trail[0]
    assert step.to_dict() == {
        "purpose": "calibration", "method": "minmax", "kept": [], "miou": FP32 - 0.004, "drop": 0.004,
        "agreement": 0.996, "latency_ms": 5.0, "speedup": 2.0, "images": 10,
    }  # fmt: skip
