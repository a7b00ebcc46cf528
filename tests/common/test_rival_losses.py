"""The losses of the rivals: class weights and the focal loss."""

import math

import pytest
import torch

from common.losses import ClassWeightedLoss, FocalLoss, Foreground, HardLoss, focal_by_pixel
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX

FOREST, GRASSLAND, SETTLEMENT = (BIODIVERSITY.index(name) for name in ("Forest", "Grassland", "Settlement"))
NUM_CLASSES = BIODIVERSITY.num_classes
WEIGHTS = [0.0, 0.25, 1.0, 2.0, 20.0, 0.0]  # of the ids; no pixel is Seminatural


def batch_of(seed, crops=4, side=8):
    """Logits and masks with void and every class but the last; the second crop has no label."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, NUM_CLASSES - 1, (crops, side, side), generator=generator)
    mask[1] = IGNORE_INDEX
    return torch.randn(crops, NUM_CLASSES, side, side, generator=generator), mask


def value_of(terms):
    return sum(term.weight * term.total / term.count.clamp(min=1) for term in terms)


def test_the_weighted_cross_entropy_of_a_batch_is_that_of_torch():
    logits, mask = batch_of(0)
    entropy, dice = ClassWeightedLoss(WEIGHTS, 0.0).terms(logits, {"mask": mask})
    reference = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS[1:]), ignore_index=-1)
    assert (entropy.total / entropy.count).item() == pytest.approx(reference(logits[:, 1:], mask - 1).item(), rel=1e-5)
    assert [(term.name, term.weight) for term in (entropy, dice)] == [("cross_entropy", 1.0), ("dice", 1.0)]


def test_the_weighted_cross_entropy_is_as_worked_by_hand():
    """Weights 3 and 1; p of the right class 1/2 and 1/8, the smoothed part of the first spread over four times 1/8."""
    logits = torch.zeros(1, NUM_CLASSES, 1, 2)
    logits[0, FOREST] = math.log(4)
    mask = torch.tensor([[[FOREST, GRASSLAND]]])
    half, eighth = math.log(2), math.log(8)
    for smoothing in (0.0, 0.1):
        (entropy, _) = ClassWeightedLoss([0.0, 3.0, 1.0, 1.0, 1.0, 1.0], smoothing).terms(logits, {"mask": mask})
        smooth = smoothing * (half + 4 * eighth) / 5
        right = 3 * ((1 - smoothing) * half + smooth) + ((1 - smoothing) * eighth + smooth)
        assert (entropy.total / entropy.count).item() == pytest.approx(right / 4, abs=1e-5)


def test_equal_class_weights_leave_the_mean_over_all_labelled_pixels_and_dice_as_it_is():
    logits, mask = batch_of(1)
    labelled = mask != IGNORE_INDEX
    entropy, dice = ClassWeightedLoss([0.0] + [1.0] * 5, 0.2).terms(logits, {"mask": mask})
    each = torch.nn.functional.cross_entropy(
        logits[:, 1:], (mask - 1).clamp(min=0), reduction="none", label_smoothing=0.2
    )[labelled]
    assert entropy.count == labelled.sum() and entropy.total.item() == pytest.approx(each.sum().item(), rel=1e-5)
    (hard,) = HardLoss(0.2).terms(logits, {"mask": mask})
    by_crop = [each_crop.mean() for each_crop in each.split(labelled.sum(dim=(1, 2)).tolist()) if len(each_crop)]
    assert dice.count == hard.count == 3
    assert dice.total.item() == pytest.approx((hard.total - sum(by_crop)).item(), abs=1e-4)


def test_the_weighted_mean_over_several_processes_is_that_over_the_whole_batch():
    logits, mask = batch_of(2)
    loss = ClassWeightedLoss(WEIGHTS)
    whole = loss.terms(logits, {"mask": mask})
    parts = [loss.terms(logits[part], {"mask": mask[part]}) for part in (slice(0, 2), slice(2, 4))]
    for n, term in enumerate(whole):
        assert sum(part[n].total for part in parts).item() == pytest.approx(term.total.item(), rel=1e-5)
        assert sum(part[n].count for part in parts).item() == pytest.approx(term.count.item(), rel=1e-5)


def test_only_the_ratios_of_class_weights_count_and_one_light_pixel_counts_in_full():
    """Training divides by no count under 1."""
    logits = torch.zeros(1, NUM_CLASSES, 2, 2)
    mask = torch.tensor([[[FOREST, IGNORE_INDEX], [IGNORE_INDEX, IGNORE_INDEX]]])
    for scale in (1.0, 1e-3):
        (entropy, _) = ClassWeightedLoss([scale * weight for weight in WEIGHTS]).terms(logits, {"mask": mask})
        assert (entropy.total / entropy.count.clamp(min=1)).item() == pytest.approx(math.log(5), abs=1e-5)


def test_class_weights_pull_more_at_a_rare_class_and_less_at_a_common_one():
    """Equal logits, nine pixels of Forest and one of Settlement: what the bias of each output feels."""
    mask = torch.full((1, 1, 10), FOREST)
    mask[0, 0, 0] = SETTLEMENT

    def pull(loss, term):
        logits = torch.zeros(1, NUM_CLASSES, 1, 10, requires_grad=True)
        terms = loss.terms(logits, {"mask": mask})[term : term + 1]
        value_of(terms).backward()
        return -logits.grad.sum(dim=(0, 2, 3))

    plain, weighted = (pull(ClassWeightedLoss(weights, 0.0), 0) for weights in ([1.0] * 6, WEIGHTS))
    assert plain[SETTLEMENT].item() == pytest.approx(1 / 10 - 1 / 5)  # share minus predicted share: pushed down
    share = 20 / (20 + 9 * 0.25)
    assert weighted[SETTLEMENT].item() == pytest.approx(share - 1 / 5, abs=1e-5)
    assert weighted[FOREST].item() == pytest.approx(1 - share - 1 / 5, abs=1e-5)


def test_rival_losses_are_zero_with_a_zero_gradient_where_nothing_is_labelled():
    for loss in (ClassWeightedLoss(WEIGHTS), ClassWeightedLoss([0.0] * 6), FocalLoss(0.5)):
        logits = torch.randn(2, NUM_CLASSES, 4, 4, requires_grad=True)
        value = value_of(loss.terms(logits, {"mask": torch.zeros(2, 4, 4, dtype=torch.long)}))
        value.backward()
        assert value.item() == 0 and not logits.grad.any()


def test_unlabelled_pixels_and_the_output_of_void_do_not_change_the_losses_of_rivals():
    logits, mask = batch_of(3)
    changed = torch.where((mask == IGNORE_INDEX)[:, None], 3 * torch.randn_like(logits), logits)
    changed[:, IGNORE_INDEX] = 5.0
    for loss in (ClassWeightedLoss(WEIGHTS), FocalLoss()):
        values = [value_of(loss.terms(of, {"mask": mask})).item() for of in (logits, changed)]
        assert values[0] == pytest.approx(values[1], rel=1e-5)


def dice_of(logits, mask):
    return ClassWeightedLoss([1.0] * 6).terms(logits, {"mask": mask})[1].total.item()


def test_the_focal_loss_is_as_worked_by_hand():
    """p of the right class is 1/2 and 1/8 of two pixels: −(1 − p)² log p, their mean."""
    logits = torch.zeros(1, NUM_CLASSES, 1, 3)
    logits[0, FOREST] = math.log(4)
    mask = torch.tensor([[[FOREST, GRASSLAND, IGNORE_INDEX]]])
    (term,) = FocalLoss().terms(logits, {"mask": mask})
    focal = (0.5**2 * math.log(2) + 0.875**2 * math.log(8)) / 2
    assert (term.name, term.weight, term.count.item()) == ("hard", 1.0, 1.0)
    assert term.total.item() - dice_of(logits, mask) == pytest.approx(focal, abs=1e-5)
    (term,) = FocalLoss(1.0).terms(logits, {"mask": mask})
    focal = (0.5 * math.log(2) + 0.875 * math.log(8)) / 2
    assert term.total.item() - dice_of(logits, mask) == pytest.approx(focal, abs=1e-5)


def test_the_focal_loss_is_a_mean_by_crop_and_with_gamma_0_the_hard_loss_without_smoothing():
    logits, mask = batch_of(4)
    mask[2, 1:] = IGNORE_INDEX  # few labels, as much weight
    (focal,) = FocalLoss(0.0).terms(logits, {"mask": mask})
    (hard,) = HardLoss(0.0).terms(logits, {"mask": mask})
    assert focal.count == hard.count == 3 and focal.total.item() == pytest.approx(hard.total.item(), rel=1e-5)
    (focused,) = FocalLoss(2.0).terms(logits, {"mask": mask})
    assert focused.total < focal.total


def test_the_focal_loss_hears_pixels_that_are_predicted_well_less_than_the_cross_entropy_does():
    """What the logit of the right class feels where p is 0.9 and 0.1: (1 − p)² (1 − p − 2 p log p)."""
    logits = torch.zeros(1, NUM_CLASSES, 1, 2)
    logits[0, FOREST, 0] = torch.tensor([math.log(36), -math.log(9 / 4)])
    logits.requires_grad_()
    focal_by_pixel(Foreground.of(logits, torch.full((1, 1, 2), FOREST)), 2.0).sum().backward()
    wanted = [-0.01 * (0.1 - 1.8 * math.log(0.9)), -0.81 * (0.9 - 0.2 * math.log(0.1))]
    assert logits.grad[0, FOREST, 0].tolist() == pytest.approx(wanted, abs=1e-5)  # the cross-entropy: -0.1 and -0.9


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_pixel_that_is_predicted_beyond_doubt_leaves_a_finite_gradient(gamma):
    logits = torch.zeros(1, NUM_CLASSES, 1, 2)
    logits[0, FOREST, 0] = torch.tensor([200.0, -200.0])
    logits.requires_grad_()
    value_of(FocalLoss(gamma).terms(logits, {"mask": torch.full((1, 1, 2), FOREST)})).backward()
    assert logits.grad.isfinite().all() and logits.grad[0, FOREST, 0, 1] < 0


def test_rival_losses_record_what_they_were_set_to_and_move_to_the_device():
    origin = {"kind": "median_frequency", "largest": 20.0}
    weighted = ClassWeightedLoss(WEIGHTS, 0.2, origin)
    hard = {"cross_entropy": 1, "dice": 1, "label_smoothing": 0.2, "class_weights": {**origin, "weights": WEIGHTS}}
    assert weighted.describe() == {"hard": hard} and ClassWeightedLoss(WEIGHTS).label_smoothing == 0.05
    assert FocalLoss().describe() == {"hard": {"focal": 1, "dice": 1, "gamma": 2.0}}
    for loss in (weighted, FocalLoss()):
        assert loss.to(torch.device("meta")) is loss
    logits, mask = torch.zeros(1, 6, 2, 2, device="meta"), torch.zeros(1, 2, 2, dtype=torch.long, device="meta")
    assert weighted.terms(logits, {"mask": mask})[0].total.is_meta
