"""The losses against their definitions, the expressions that combine them, and what a step minimises."""

from __future__ import annotations

import math

import pytest

from edgeseg.errors import UsageError

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from torch.nn import functional  # noqa: E402

from edgeseg_train import losses  # noqa: E402
from edgeseg_train.losses import (  # noqa: E402
    BOUNDARY_PROBABILITY,
    BOUNDARY_WEIGHT,
    CrossEntropy,
    OhemCrossEntropy,
    TrainingLoss,
    boundary_from_labels,
    boundary_loss,
    class_weights,
    logits_at,
    weights_from_expression,
)
from edgeseg_train.models.outputs import TrainingOutputs  # noqa: E402

IGNORE = 255
COUNTS = torch.tensor([50, 30, 15, 5])


def random_case(size=(12, 16), classes=4, ignored=0.2, dtype=torch.float32):
    torch.manual_seed(0)
    logits = (torch.randn(2, classes, *size, dtype=dtype) * 3).requires_grad_()
    labels = torch.randint(0, classes, (2, *size))
    labels[torch.rand(labels.shape) < ignored] = IGNORE
    return logits, labels


def criterion(expression):
    return losses.build(expression, IGNORE, COUNTS, aux_weight=0.4).criterion


def labelled(logits, labels):
    """Probabilities [P, C] and classes [P] of the labelled pixels."""
    kept = labels != IGNORE
    return logits.detach().softmax(1).movedim(1, -1)[kept], labels[kept]


def test_class_weights_lift_rare_classes():
    weights = class_weights(torch.tensor([900, 100]))
    raw = [1 / math.log(1.02 + 0.9), 1 / math.log(1.02 + 0.1)]
    mean = 0.9 * raw[0] + 0.1 * raw[1]
    assert weights.tolist() == pytest.approx([r / mean for r in raw])
    assert class_weights(torch.zeros(3, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_ignored_pixels_have_no_gradient(name):
    logits, labels = random_case()
    criterion(name)(logits, labels).backward()
    gradient = logits.grad.abs().sum(1)
    assert (gradient[labels == IGNORE] == 0).all()
    assert (gradient[labels != IGNORE] > 0).any()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_logits_of_ignored_pixels_do_not_matter(name):
    logits, labels = random_case()
    other = torch.where((labels == IGNORE)[:, None], torch.randn_like(logits), logits)
    torch.testing.assert_close(criterion(name)(other, labels), criterion(name)(logits, labels))


@pytest.mark.parametrize("name", losses.LOSSES)
def test_nothing_labelled_is_a_loss_of_zero_that_can_be_differentiated(name):
    logits, labels = random_case(ignored=2)
    boundary = torch.randn(2, 1, 6, 8, requires_grad=True)
    assert (labels == IGNORE).all()
    outputs = TrainingOutputs(logits, (logits,), boundary)
    loss = losses.build(name, IGNORE, COUNTS, aux_weight=0.4)(outputs, labels)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
    assert (boundary.grad == 0).all()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_gradient_is_that_of_the_loss(name):
    logits, labels = random_case((3, 4), dtype=torch.float64)
    loss = criterion(name).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("size", [1e4, 1e-4])
def test_extreme_logits_are_finite(name, size):
    logits, labels = random_case()
    loss = criterion(name)(logits * size, labels)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def by_pixel(logits, labels):
    """Cross-entropy of the labelled pixels, [P]."""
    probabilities, classes = labelled(logits, labels)
    return -probabilities.gather(1, classes[:, None])[:, 0].log()


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits, labels = random_case()
    assert criterion("ce")(logits, labels).item() == pytest.approx(by_pixel(logits, labels).mean().item(), rel=1e-5)


def test_weighted_cross_entropy_is_the_weighted_mean_over_labelled_pixels():
    logits, labels = random_case()
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    expected = (by_pixel(logits, labels) * weights[labels[labels != IGNORE]]).mean()
    assert CrossEntropy(IGNORE, weights)(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    by_counts = CrossEntropy(IGNORE, class_weights(COUNTS))(logits, labels)
    assert criterion("weighted-ce")(logits, labels) == by_counts


def test_focal_loss_counts_a_pixel_by_what_its_probability_lacks():
    logits, labels = random_case()
    plain = by_pixel(logits, labels)
    expected = ((1 - plain.neg().exp()) ** 2 * plain).mean()
    assert criterion("focal")(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    # Probabilities 0.9 and 0.5 of the true class.
    two = torch.tensor([[0.9, 0.5], [0.1, 0.5]]).log().view(1, 2, 1, 2)
    expected = (0.01 * -math.log(0.9) + 0.25 * math.log(2)) / 2
    assert criterion("focal")(two, torch.zeros(1, 1, 2).long()).item() == pytest.approx(expected, rel=1e-5)


def test_ohem_is_the_mean_of_the_hard_pixels():
    logits, labels = random_case()
    plain = by_pixel(logits, labels)
    expected = plain[plain.neg().exp() < 0.7].mean().item()
    assert OhemCrossEntropy(IGNORE)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


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


def test_dice_by_hand():
    # Class 0 is true of the first pixel alone, class 2 of none.
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    logits = probabilities.log().T.reshape(1, 3, 1, 3)
    first, second = 2 * 0.7 / (1.1 + 1), 2 * (0.8 + 0.3) / (1.3 + 2)
    loss = criterion("dice")(logits, torch.tensor([[[0, 1, 1]]]))
    assert loss.item() == pytest.approx(1 - (first + second) / 2, rel=1e-6)


def test_dice_is_the_mean_over_the_present_classes():
    logits, labels = random_case()
    labels[labels == 3] = IGNORE
    probabilities, classes = labelled(logits, labels)
    expected = 0.0
    for class_id in range(3):
        true, p = (classes == class_id).float(), probabilities[:, class_id]
        expected += float(1 - 2 * (true * p).sum() / (true.sum() + p.sum())) / 3
    assert criterion("dice")(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def lovasz_of_class(errors, foreground):
    """The Lovász extension by its definition: each further error of the sorted ones adds to the Jaccard loss."""
    order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel])
    foreground = {pixel for pixel, true in enumerate(foreground) if true}
    wrong, before, total = set(), 0.0, 0.0
    for pixel in order:
        wrong.add(pixel)
        now = len(wrong) / len(foreground | wrong)
        total += errors[pixel] * (now - before)
        before = now
    return total


def test_lovasz_is_the_extension_of_the_jaccard_loss():
    logits, labels = random_case((5, 6))
    labels[labels == 3] = IGNORE
    probabilities, classes = labelled(logits, labels)
    expected = 0.0
    for class_id in range(3):
        foreground = classes == class_id
        errors = (foreground.float() - probabilities[:, class_id]).abs()
        expected += lovasz_of_class(errors.tolist(), foreground.tolist()) / 3
    assert criterion("lovasz")(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_lovasz_of_certain_predictions_is_one_minus_iou():
    _, labels = random_case()
    predicted = torch.randint(0, 4, labels.shape)
    logits = 1e3 * functional.one_hot(predicted, 4).movedim(-1, 1).float()
    kept, ious = labels != IGNORE, []
    for class_id in range(4):
        true, found = (labels == class_id)[kept], (predicted == class_id)[kept]
        ious.append(float((true & found).sum() / (true | found).sum()))
    assert criterion("lovasz")(logits, labels).item() == pytest.approx(1 - sum(ious) / 4, rel=1e-5)


def test_a_sum_weighs_its_losses():
    logits, labels = random_case()
    expected = 2 * criterion("ohem")(logits, labels) + 0.5 * criterion("dice")(logits, labels)
    assert criterion("2*ohem+0.5 * dice")(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_expressions():
    assert weights_from_expression("weighted-ce") == {"weighted-ce": 1}
    assert weights_from_expression(" ohem + .5*dice+1e-2 * lovasz ") == {"ohem": 1, "dice": 0.5, "lovasz": 0.01}


@pytest.mark.parametrize(
    ("expression", "problem", "mend"),
    [
        ("ohm", "no loss 'ohm'", "did you mean 'ohem'?"),
        ("ohem + 0.5*dise", "no loss 'dise'", "did you mean 'dice'?"),
        ("boundary", "no loss 'boundary'", "use one of ce, dice, focal, lovasz, ohem, weighted-ce"),
        ("", "The loss '' lacks a term", "use one of"),
        ("ohem +", "The loss 'ohem +' lacks a term", "use one of"),
        ("ohem + 0.5*", "The loss 'ohem + 0.5*' lacks a term", "use one of"),
        ("dice*0.5", "no loss '0.5'", "use one of"),
        ("half*dice", "The weight 'half' of 'dice' is no number above 0", "write it as 0.5*dice"),
        ("*dice", "The weight '' of 'dice'", "0.5*dice"),
        ("0*dice", "The weight '0' of 'dice'", "0.5*dice"),
        ("-1*dice", "The weight '-1' of 'dice'", "0.5*dice"),
        ("nan*dice", "The weight 'nan' of 'dice'", "0.5*dice"),
        ("inf*dice", "The weight 'inf' of 'dice'", "0.5*dice"),
        ("ce + 0.5*ce", "has 'ce' twice", "add up its weights"),
    ],
)
def test_an_expression_that_is_none_says_why(expression, problem, mend):
    with pytest.raises(UsageError) as caught:
        weights_from_expression(expression)
    assert problem in caught.value.problem
    assert mend in caught.value.mend


def plain_boundary(labels):
    """Pixels next to one of another class, each with its eight neighbours, one by one."""
    height, width = labels.shape
    at = [[False] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if not (0 <= y + dy < height and 0 <= x + dx < width):
                    continue
                here, there = int(labels[y, x]), int(labels[y + dy, x + dx])
                if here != there and IGNORE not in (here, there):
                    for yy in range(max(0, y - 1), min(height, y + 2)):
                        for xx in range(max(0, x - 1), min(width, x + 2)):
                            at[yy][xx] = True
    return torch.tensor(at)


def test_boundary_is_four_pixels_wide():
    labels = torch.zeros(1, 2, 10, dtype=torch.int64)
    labels[..., 5:] = 1
    assert boundary_from_labels(labels, IGNORE)[0].int().tolist() == [[0, 0, 0, 1, 1, 1, 1, 0, 0, 0]] * 2


def test_border_of_an_ignored_region_is_no_boundary():
    labels = torch.zeros(1, 8, 10, dtype=torch.int64)
    labels[:, :3] = IGNORE
    assert not boundary_from_labels(labels, IGNORE).any()
    _, labels = random_case((14, 17), classes=2, ignored=0.3)
    labels[:, ::2] = labels[:, 1::2]
    expected = torch.stack([plain_boundary(image) for image in labels])
    assert torch.equal(boundary_from_labels(labels, IGNORE), expected)


def test_boundary_loss_weighs_both_kinds_alike():
    logits = torch.tensor([[[1.0, -2.0, 0.5, 3.0, -1.0]]], dtype=torch.float64, requires_grad=True)
    truth = torch.tensor([[[True, False, False, False, True]]])
    labelled = torch.tensor([[[True, True, True, True, False]]])
    # One of four labelled pixels is boundary.
    on, off = math.log(1 + math.exp(-1)), sum(math.log(1 + math.exp(x)) for x in (-2, 0.5, 3))
    assert boundary_loss(logits, truth, labelled).item() == pytest.approx((0.75 * on + 0.25 * off) / 4)
    assert torch.autograd.gradcheck(lambda x: boundary_loss(x, truth, labelled), logits)
    nowhere = torch.zeros_like(truth)
    assert boundary_loss(logits, nowhere, labelled).item() == 0
    assert boundary_loss(logits, truth, nowhere).item() == 0


@pytest.mark.parametrize("labels_hw", [(64, 96), (90, 122), (31, 45)])
def test_at_every_pixel_the_loss_is_interpolation_and_criterion(labels_hw):
    logits, _ = random_case((8, 12))
    _, labels = random_case(labels_hw)
    expected = criterion("weighted-ce")(
        functional.interpolate(logits, size=labels_hw, mode="bilinear", align_corners=False), labels
    )
    expected.backward()
    gradient, logits.grad = logits.grad, None
    loss = TrainingLoss(criterion("weighted-ce"), IGNORE, 0.4, step=1)(logits, labels)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits.grad, gradient)


def test_the_phases_average_to_every_pixel(monkeypatch):
    logits, _ = random_case((8, 12))
    _, labels = random_case((64, 96), ignored=0)  # so that each phase has as many labelled pixels
    whole = TrainingLoss(criterion("ce"), IGNORE, 0.4, step=1)(logits, labels)
    by_phase = []
    for phase in ((0, 0), (0, 1), (1, 0), (1, 1)):
        monkeypatch.setattr(torch, "randint", lambda *_, phase=phase: torch.tensor(phase))
        by_phase.append(TrainingLoss(criterion("ce"), IGNORE, 0.4)(logits, labels))
    assert len({float(x.detach()) for x in by_phase}) == 4
    torch.testing.assert_close(torch.stack(by_phase).mean(), whole)


class Recorder(torch.nn.Module):
    """A criterion that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, logits, labels):
        self.seen.append((logits.detach(), labels))
        return logits.sum() * 0


def test_each_phase_is_drawn_and_follows_from_the_seed():
    labels = torch.arange(16).view(1, 4, 4)

    def firsts():
        recorder = Recorder()
        loss = TrainingLoss(recorder, IGNORE, 0.4)
        torch.manual_seed(0)
        for _ in range(40):
            loss(torch.zeros(1, 2, 1, 1), labels)
        return [int(picked[0, 0, 0]) for _, picked in recorder.seen]

    assert set(firsts()) == {0, 1, 4, 5}
    assert firsts() == firsts()


def test_a_step_samples_every_head_at_the_same_pixels():
    recorder = Recorder()
    main, coarse = torch.arange(24.0).view(1, 1, 4, 6), torch.arange(6.0).view(1, 1, 2, 3)
    TrainingLoss(recorder, IGNORE, 0.4)(TrainingOutputs(main, (coarse, main)), torch.arange(24).view(1, 4, 6))
    (at_main, first), (at_coarse, second), (again, third) = recorder.seen
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert torch.equal(at_main[0].long(), first)
    assert torch.equal(at_main, again)
    whole = functional.interpolate(coarse, size=(4, 6), mode="bilinear", align_corners=False).flatten()
    torch.testing.assert_close(at_coarse.flatten(), whole[first.flatten()])


def test_auxiliary_logits_have_their_weight():
    logits, labels = random_case()
    auxiliary = torch.randn_like(logits)
    loss = TrainingLoss(criterion("ohem"), IGNORE, 0.3, step=1)
    expected = criterion("ohem")(logits, labels) + 0.3 * 2 * criterion("ohem")(auxiliary, labels)
    torch.testing.assert_close(loss(TrainingOutputs(logits, (auxiliary, auxiliary)), labels), expected)
    torch.testing.assert_close(loss(logits, labels), criterion("ohem")(logits, labels))


@pytest.mark.parametrize("name", ["ohem", "weighted-ce", "lovasz"])
def test_a_boundary_head_brings_the_losses_of_pidnet(name):
    logits, labels = random_case((16, 24))
    labels = labels.clone()
    labels[:, :9], labels[:, 9:] = 1, 2
    labels[:, :, :4] = IGNORE
    auxiliary, boundary = torch.randn_like(logits), torch.randn(2, 1, 16, 24) * 3
    outputs = TrainingOutputs(logits, (auxiliary,), boundary)
    loss = TrainingLoss(criterion(name), IGNORE, 0.4, step=1)(outputs, labels)

    plain = functional.cross_entropy(auxiliary, labels, ignore_index=IGNORE)
    truth = boundary_from_labels(labels, IGNORE)
    bce = boundary_loss(boundary[:, 0], truth, labels != IGNORE)
    near = torch.where(boundary[:, 0] > math.log(BOUNDARY_PROBABILITY / (1 - BOUNDARY_PROBABILITY)), labels, IGNORE)
    assert 0 < (near != IGNORE).sum() < (labels != IGNORE).sum()
    expected = criterion(name)(logits, labels) + 0.4 * plain + BOUNDARY_WEIGHT * bce + criterion(name)(logits, near)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_bfloat16_logits_lose_nothing_in_the_loss(name):
    logits, labels = random_case()
    boundary = torch.randn(2, 1, 6, 8).bfloat16()
    rounded = logits.detach().bfloat16()
    loss = TrainingLoss(criterion(name), IGNORE, 0.4, step=1)
    exact = loss(TrainingOutputs(rounded.float(), (rounded.float(),), boundary.float()), labels)
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(TrainingOutputs(rounded, (rounded,), boundary), labels)
    assert half.dtype == torch.float32
    assert torch.equal(half, exact)


def test_logits_at_is_interpolation_at_some_pixels():
    logits, _ = random_case((5, 7))
    whole = functional.interpolate(logits, size=(33, 20), mode="bilinear", align_corners=False)
    picked = logits_at(logits, (33, 20), slice(1, None, 2), slice(0, None, 3))
    torch.testing.assert_close(picked, whole[:, :, 1::2, ::3])
