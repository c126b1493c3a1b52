"""The losses against their definitions."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from torch.nn import functional  # noqa: E402

from edgeseg_train import losses  # noqa: E402
from edgeseg_train.losses import OhemCrossEntropy, WeightedCrossEntropy, class_weights, dense_loss  # noqa: E402

IGNORE = 255


def random_case(size_hw=(12, 20), classes=4, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *size_hw, generator=generator)
    labels = torch.randint(classes, (2, *size_hw), generator=generator)
    labels[torch.rand(2, *size_hw, generator=generator) < ignored] = IGNORE
    return logits.requires_grad_(), labels


def test_rarer_classes_weigh_more_within_bounds():
    counts = torch.tensor([10**9, 10**6, 10**3, 1, 0])
    weights = class_weights(counts)
    assert weights.dtype == torch.float32
    assert (weights[1:] >= weights[:-1]).all()
    assert weights[-1] / weights[0] < 40
    share = counts.double() / counts.sum()
    assert float((weights * share).sum()) == pytest.approx(1)
    assert class_weights(torch.zeros(3, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_ignored_pixels_have_no_gradient(name):
    logits, labels = random_case()
    losses.build(name, IGNORE, torch.tensor([50, 30, 15, 5]), aux_weight=0.4).criterion(logits, labels).backward()
    gradient = logits.grad.abs().sum(1)
    assert (gradient[labels == IGNORE] == 0).all()
    assert (gradient[labels != IGNORE] > 0).any()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_nothing_labelled_is_a_loss_of_zero_that_can_be_differentiated(name):
    logits, labels = random_case(ignored=2)
    assert (labels == IGNORE).all()
    loss = losses.build(name, IGNORE, torch.tensor([5, 5, 5, 5]), aux_weight=0.4)(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_weighted_cross_entropy_is_the_weighted_mean_over_labelled_pixels():
    logits, labels = random_case()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    loss = WeightedCrossEntropy(IGNORE, weights)(logits, labels)
    kept = labels != IGNORE
    by_pixel = -logits.log_softmax(1).gather(1, labels.where(kept, 0)[:, None])[:, 0] * weights[labels.where(kept, 0)]
    assert loss.item() == pytest.approx(by_pixel[kept].mean().item(), rel=1e-5)


def test_ohem_is_the_mean_of_the_hard_pixels():
    logits, labels = random_case()
    by_pixel = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")[labels != IGNORE]
    hard = by_pixel[by_pixel.neg().exp() < 0.7]
    assert OhemCrossEntropy(IGNORE)(logits, labels).item() == pytest.approx(hard.mean().item(), rel=1e-5)


def test_ohem_keeps_a_share_where_all_is_easy():
    _, labels = random_case(ignored=0)
    # Probabilities of the true class well above the threshold, each different.
    logits = functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    logits = (logits * torch.linspace(5, 9, labels.numel()).view(2, 1, *labels.shape[1:])).requires_grad_()
    loss = OhemCrossEntropy(IGNORE, keep_share=1 / 16)(logits, labels)
    loss.backward()
    chosen = logits.grad.abs().sum(1) > 0
    assert int(chosen.sum()) == labels.numel() // 16
    # The hardest are those with the smallest logits: the first.
    assert chosen.view(-1)[: labels.numel() // 16].all()


@pytest.mark.parametrize("labels_hw", [(64, 96), (90, 122), (31, 45)])
def test_dense_loss_at_every_pixel_is_interpolation_and_cross_entropy(labels_hw):
    logits, _ = random_case((8, 12))
    _, labels = random_case(labels_hw)
    criterion = WeightedCrossEntropy(IGNORE, torch.tensor([0.5, 1.0, 2.0, 4.0]))
    expected = criterion(functional.interpolate(logits, size=labels_hw, mode="bilinear", align_corners=False), labels)
    expected.backward()
    gradient, logits.grad = logits.grad, None
    loss = dense_loss(criterion, logits, labels, step=1)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits.grad, gradient)


def test_the_phases_of_dense_loss_average_to_every_pixel(monkeypatch):
    logits, _ = random_case((8, 12))
    _, labels = random_case((64, 96), ignored=0)  # so that each phase has as many labelled pixels
    criterion = WeightedCrossEntropy(IGNORE, torch.tensor([0.5, 1.0, 2.0, 4.0]))
    whole = dense_loss(criterion, logits, labels, step=1)
    by_phase = []
    for phase in ((0, 0), (0, 1), (1, 0), (1, 1)):
        monkeypatch.setattr(torch, "randint", lambda *_, phase=phase: torch.tensor(phase))
        by_phase.append(dense_loss(criterion, logits, labels, step=2))
    assert len({float(x.detach()) for x in by_phase}) == 4
    torch.testing.assert_close(torch.stack(by_phase).mean(), whole)


def test_each_phase_is_drawn():
    labels = torch.arange(16).view(1, 4, 4)
    firsts = []
    torch.manual_seed(0)
    for _ in range(40):
        dense_loss(lambda _, picked: firsts.append(int(picked[0, 0, 0])), torch.zeros(1, 2, 1, 1), labels)
    assert set(firsts) == {0, 1, 4, 5}


def test_half_precision_logits_lose_nothing_in_the_loss():
    logits, labels = random_case()
    criterion = WeightedCrossEntropy(IGNORE, torch.ones(4))
    rounded = logits.detach().bfloat16()
    assert torch.equal(dense_loss(criterion, rounded, labels, 1), dense_loss(criterion, rounded.float(), labels, 1))
