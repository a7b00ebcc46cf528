import inspect
import math

import numpy as np
import pytest
import torch

from common import losses
from common.losses import HardAndKDLoss, HardLoss, hard_loss, hard_loss_by_crop, kd_loss, kd_loss_sum, kd_targets
from common.models import Architecture, build_model
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX, OPENEARTHMAP

FOREST, GRASSLAND = BIODIVERSITY.index("Forest"), BIODIVERSITY.index("Grassland")
NUM_CLASSES = BIODIVERSITY.num_classes
CLASS_MATRIX = torch.from_numpy(BIODIVERSITY.class_matrix())
SILENT = ["Unknown", "Bareland", "Water"]
TEACHING = {
    "Rangeland": "Grassland",
    "Developed space": "Settlement",
    "Road": "Settlement",
    "Tree": "Forest",
    "Agriculture land": "Cropland",
    "Building": "Settlement",
}


def teacher_sure_of(name, size=1):
    logits = torch.zeros(1, OPENEARTHMAP.num_classes, size, size)
    logits[:, OPENEARTHMAP.index(name)] = 20.0
    return logits


def kd_gradient(teacher, mask=None, temperature=2.0):
    student = torch.zeros(1, NUM_CLASSES, *teacher.shape[-2:], requires_grad=True)
    mask = torch.full((1, *teacher.shape[-2:]), FOREST) if mask is None else mask
    kd_loss(student, teacher, CLASS_MATRIX, mask, temperature=temperature).backward()
    return student.grad


@pytest.mark.parametrize(("name", "becomes"), TEACHING.items())
def test_a_teacher_sure_of_a_class_pulls_the_student_to_the_class_it_maps_to(name, becomes):
    assert BIODIVERSITY.classes[kd_gradient(teacher_sure_of(name)).flatten().argmin()] == becomes


def test_rangeland_pulls_to_grassland_and_less_to_seminatural():
    gradient = dict(zip(BIODIVERSITY.classes, kd_gradient(teacher_sure_of("Rangeland")).flatten(), strict=True))
    assert gradient["Grassland"] < gradient["Seminatural"] < 0
    assert min(gradient["Forest"], gradient["Cropland"], gradient["Settlement"]) > 0


@pytest.mark.parametrize("name", SILENT)
def test_a_teacher_that_sees_a_class_without_counterpart_gives_no_gradient(name):
    assert not kd_gradient(teacher_sure_of(name)).any()


def test_unlabelled_pixels_get_no_gradient_from_the_teacher():
    mask = torch.tensor([[[FOREST, IGNORE_INDEX], [IGNORE_INDEX, FOREST]]])
    gradient = kd_gradient(teacher_sure_of("Tree", 2), mask)
    assert torch.equal(gradient.abs().sum(dim=1)[0] > 0, mask[0] != IGNORE_INDEX)


def test_kd_is_zero_where_no_pixel_counts():
    none = torch.full((1, 1, 1), IGNORE_INDEX)
    assert kd_loss(torch.zeros(1, NUM_CLASSES, 1, 1), teacher_sure_of("Tree"), CLASS_MATRIX, none, temperature=2) == 0


def test_kd_is_zero_for_a_student_that_says_what_the_teacher_teaches():
    teacher = torch.randn(2, OPENEARTHMAP.num_classes, 4, 4, generator=torch.Generator().manual_seed(0))
    targets, _ = kd_targets(teacher, CLASS_MATRIX, temperature=2.0)
    student = torch.cat([torch.zeros(2, 1, 4, 4), targets.log() * 2.0], dim=1)
    mask = torch.full((2, 4, 4), FOREST)
    assert kd_loss(student, teacher, CLASS_MATRIX, mask, temperature=2.0).item() == pytest.approx(0, abs=1e-5)


def test_targets_are_the_foreground_sharpened_as_worked_by_hand():
    probs = torch.zeros(OPENEARTHMAP.num_classes)
    probs[OPENEARTHMAP.index("Tree")], probs[OPENEARTHMAP.index("Water")] = 0.64, 0.2
    probs[OPENEARTHMAP.index("Agriculture land")] = 0.16
    targets, certain = kd_targets(probs.log()[None, :, None, None], CLASS_MATRIX, temperature=2.0)
    named = dict(zip(BIODIVERSITY.foreground, targets.flatten().tolist(), strict=True))
    assert named["Forest"] == pytest.approx(0.8 / 1.2, abs=1e-4)  # √0.8 : √0.2 = 2 : 1
    assert named["Cropland"] == pytest.approx(0.4 / 1.2, abs=1e-4)
    assert certain.all()


def test_a_pixel_counts_only_where_the_mapped_background_is_under_one_half():
    for water, counts in ((0.49, True), (0.51, False)):
        probs = torch.zeros(OPENEARTHMAP.num_classes)
        probs[OPENEARTHMAP.index("Water")], probs[OPENEARTHMAP.index("Tree")] = water, 1 - water
        _, certain = kd_targets(probs.log()[None, :, None, None], CLASS_MATRIX, temperature=2.0)
        assert certain.item() is counts


def test_the_student_output_of_void_gets_no_gradient():
    assert not kd_gradient(teacher_sure_of("Tree"))[:, IGNORE_INDEX].any()
    logits = torch.randn(1, NUM_CLASSES, 4, 4, requires_grad=True)
    hard_loss(logits, torch.full((1, 4, 4), FOREST)).backward()
    assert not logits.grad[:, IGNORE_INDEX].any() and logits.grad[:, FOREST].any()


def test_hard_loss_of_a_uniform_student_is_as_worked_by_hand():
    mask = torch.tensor([[[FOREST, FOREST], [GRASSLAND, IGNORE_INDEX]]])
    loss = hard_loss(torch.zeros(1, NUM_CLASSES, 2, 2), mask)
    dice_forest = 1 - 2 * (2 / 5) / (3 / 5 + 2)
    dice_grassland = 1 - 2 * (1 / 5) / (3 / 5 + 1)
    assert loss.item() == pytest.approx(math.log(5) + (dice_forest + dice_grassland) / 2, abs=1e-5)


def test_unlabelled_pixels_do_not_change_the_hard_loss():
    mask = torch.randint(1, NUM_CLASSES, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    mask[:, :3] = IGNORE_INDEX
    logits = torch.randn(1, NUM_CLASSES, 8, 8, generator=torch.Generator().manual_seed(1))
    changed = torch.where((mask == IGNORE_INDEX)[:, None], torch.randn(1, NUM_CLASSES, 8, 8), logits)
    assert hard_loss(logits, mask).item() == pytest.approx(hard_loss(changed, mask).item(), abs=1e-6)


def test_the_hard_loss_is_the_mean_over_the_crops_that_have_a_label():
    logits = torch.randn(3, NUM_CLASSES, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.full((3, 4, 4), FOREST)
    mask[1] = IGNORE_INDEX
    each = [hard_loss(logits[i : i + 1], mask[i : i + 1]).item() for i in (0, 2)]
    assert hard_loss(logits, mask).item() == pytest.approx(sum(each) / 2, abs=1e-6)
    assert hard_loss_by_crop(logits, mask)[1].tolist() == [True, False, True]


def test_the_hard_loss_is_zero_with_a_zero_gradient_where_nothing_is_labelled():
    logits = torch.randn(2, NUM_CLASSES, 4, 4, requires_grad=True)
    loss = hard_loss(logits, torch.zeros(2, 4, 4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_the_hard_loss_falls_as_the_student_learns():
    mask = torch.randint(1, NUM_CLASSES, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(mask, NUM_CLASSES).permute(0, 3, 1, 2).float()
    losses = [hard_loss(right * sure, mask).item() for sure in (-4.0, 0.0, 4.0)]
    assert losses[0] > losses[1] > losses[2]


def test_the_teacher_stays_in_eval_mode_without_gradient_and_alpha_weighs_the_terms():
    teacher = build_model(Architecture("unet", "mobilenet_v2"), OPENEARTHMAP.num_classes)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loss = HardAndKDLoss(teacher, CLASS_MATRIX, alpha=0.3, temperature=2.0)
    batch = {"image": torch.randn(2, 3, 32, 32), "mask": torch.full((2, 32, 32), FOREST)}
    logits = torch.randn(2, NUM_CLASSES, 32, 32, requires_grad=True)
    terms = loss.terms(logits, batch)
    sum(term.weight * term.total / term.count for term in terms).backward()
    assert {term.name: term.weight for term in terms} == {"hard": 0.7, "kd": 0.3}
    assert not teacher.training and all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert terms[0].total == HardLoss().terms(logits, batch)[0].total


def test_the_size_of_kd_gradients_hardly_changes_with_the_temperature():
    teacher = torch.randn(1, OPENEARTHMAP.num_classes, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = [kd_gradient(teacher, temperature=t).norm().item() for t in (4.0, 8.0)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


def test_the_numbers_of_the_losses_are_those_that_the_method_fixes():
    assert (losses.LABEL_SMOOTHING, losses.KD_ALPHA, losses.KD_TEMPERATURE, losses.MAX_MAPPED_VOID) == (
        0.05,
        0.3,
        2,
        0.5,
    )
    defaults = {name: p.default for name, p in inspect.signature(HardAndKDLoss).parameters.items()}
    assert (defaults["alpha"], defaults["temperature"]) == (0.3, 2.0)


def hard_loss_in_plain_loops(logits, mask):
    """Cross-entropy, smoothed by 0.05, + Dice of one crop, pixel by pixel; None where nothing is labelled."""
    entropies, overlap, predicted, true = [], [0.0] * 6, [0.0] * 6, [0] * 6
    for row, column in np.ndindex(*mask.shape):
        label = int(mask[row, column])
        if label == 0:
            continue
        exponentials = [0.0, *(math.exp(logits[output, row, column]) for output in range(1, 6))]
        probs = [value / sum(exponentials) for value in exponentials]
        wanted = [0.0] + [0.96 if output == label else 0.01 for output in range(1, 6)]  # 0.95 + 0.05 / 5, and 0.05 / 5
        entropies.append(-sum(w * math.log(p) for w, p in zip(wanted[1:], probs[1:], strict=True)))
        true[label] += 1
        overlap[label] += probs[label]
        predicted = [a + b for a, b in zip(predicted, probs, strict=True)]
    if not entropies:
        return None
    dices = [1 - 2 * overlap[c] / (predicted[c] + true[c]) for c in range(1, 6) if true[c]]
    return sum(entropies) / len(entropies) + sum(dices) / len(dices)


@pytest.fixture
def four_crops():
    """(4, 6, 5, 3) logits and (4, 5, 3) mask: all labelled, two classes, one pixel, none."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(4, NUM_CLASSES, 5, 3, generator=generator)
    mask = torch.randint(0, NUM_CLASSES, (4, 5, 3), generator=generator)
    mask[0] = mask[0].clamp(min=1)
    mask[1] = torch.where(mask[1] > 3, FOREST, torch.where(mask[1] > 1, GRASSLAND, IGNORE_INDEX))
    mask[2:] = IGNORE_INDEX
    mask[2, 4, 1] = NUM_CLASSES - 1
    return logits, mask


def test_the_hard_loss_of_each_crop_is_that_of_plain_loops_over_its_pixels(four_crops):
    logits, mask = four_crops
    found, counted = hard_loss_by_crop(logits, mask)
    wanted = [hard_loss_in_plain_loops(*crop) for crop in zip(logits.numpy(), mask.numpy(), strict=True)]
    assert wanted[3] is None and counted.tolist() == [True, True, True, False]
    assert found.tolist() == pytest.approx([*wanted[:3], 0.0], abs=1e-5)
    assert hard_loss(logits, mask).item() == pytest.approx(sum(wanted[:3]) / 3, abs=1e-5)


def test_cross_entropy_is_smoothed_and_dice_is_added_as_worked_by_hand():
    logits = torch.zeros(1, NUM_CLASSES, 1, 1)
    logits[0, FOREST] = math.log(4)  # probability 1/2 against four of 1/8
    entropy = 0.96 * math.log(2) + 0.04 * math.log(8)
    assert hard_loss(logits, torch.full((1, 1, 1), FOREST)).item() == pytest.approx(entropy + 1 / 3, abs=1e-6)


def test_the_hard_term_is_a_sum_over_crops_and_the_number_of_those_with_a_label(four_crops):
    logits, mask = four_crops
    (term,) = HardLoss().terms(logits, {"mask": mask})
    wanted = [hard_loss_in_plain_loops(*crop) for crop in zip(logits[:3].numpy(), mask[:3].numpy(), strict=True)]
    assert (term.name, term.weight, term.count.item()) == ("hard", 1.0, 3.0)
    assert term.total.item() == pytest.approx(sum(wanted), abs=1e-5)
    assert term.count.is_floating_point()  # is divided by, and summed over processes with the total


def test_losses_of_half_precision_logits_are_computed_in_full_precision():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, NUM_CLASSES, 8, 8, generator=generator).bfloat16()
    mask = torch.randint(1, NUM_CLASSES, (2, 8, 8), generator=generator)
    assert torch.equal(hard_loss_by_crop(logits, mask)[0], hard_loss_by_crop(logits.float(), mask)[0])
    teacher = torch.randn(2, OPENEARTHMAP.num_classes, 8, 8, generator=generator).bfloat16()
    found = kd_loss(logits, teacher, CLASS_MATRIX, mask, temperature=2.0)
    assert found == kd_loss(logits.float(), teacher.float(), CLASS_MATRIX, mask, temperature=2.0)


# Tree 0.64, Agriculture land 0.16, Water 0.2 of a teacher: Forest and Cropland 4 : 1 among what is left without void.
TEACHER_OF_TWO = torch.full((OPENEARTHMAP.num_classes,), -1e4)
for _name, _probability in (("Tree", 0.64), ("Agriculture land", 0.16), ("Water", 0.2)):
    TEACHER_OF_TWO[OPENEARTHMAP.index(_name)] = math.log(_probability)
OF_UNIFORM_STUDENT = {  # KL divergence · T² of a student who gives each of five classes 1/5
    1.0: 0.8 * math.log(0.8 * 5) + 0.2 * math.log(0.2 * 5),
    2.0: 4 * (2 / 3 * math.log(2 / 3 * 5) + 1 / 3 * math.log(1 / 3 * 5)),  # the roots of 4 and 1 are 2 and 1
}


@pytest.mark.parametrize("temperature", OF_UNIFORM_STUDENT)
def test_kd_of_a_uniform_student_is_as_worked_by_hand(temperature):
    teacher = TEACHER_OF_TWO[None, :, None, None].expand(1, -1, 1, 3)
    mask = torch.tensor([[[FOREST, IGNORE_INDEX, GRASSLAND]]])
    student = torch.zeros(1, NUM_CLASSES, 1, 3)
    total, count = kd_loss_sum(student, teacher, CLASS_MATRIX, mask, temperature=temperature)
    assert count.item() == 2 and total.item() == pytest.approx(2 * OF_UNIFORM_STUDENT[temperature], abs=1e-3)
    found = kd_loss(student, teacher, CLASS_MATRIX, mask, temperature=temperature)
    assert found.item() == pytest.approx(OF_UNIFORM_STUDENT[temperature], abs=1e-3)


def test_the_student_is_tempered_by_a_softmax_of_its_logits_over_t():
    student = torch.zeros(1, NUM_CLASSES, 1, 1)
    student[0, FOREST] = 2 * math.log(4)  # over T = 2: 4 : 1 : 1 : 1 : 1
    teacher = TEACHER_OF_TWO[None, :, None, None]
    found = kd_loss(student, teacher, CLASS_MATRIX, torch.full((1, 1, 1), FOREST), temperature=2.0)
    wanted = 4 * (2 / 3 * math.log((2 / 3) / (1 / 2)) + 1 / 3 * math.log((1 / 3) / (1 / 8)))
    assert found.item() == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(("others", "counts"), [(1, False), (2, True)])
def test_a_pixel_whose_mapped_background_is_exactly_one_half_does_not_count(others, counts):
    logits = torch.full((1, OPENEARTHMAP.num_classes, 1, 1), -1e4)
    for name in ["Water", "Tree", "Road"][: 1 + others]:  # equal logits: Water has exactly 1/2, or 1/3
        logits[0, OPENEARTHMAP.index(name)] = 0.0
    assert kd_targets(logits, CLASS_MATRIX, temperature=2.0)[1].item() is counts


def test_what_a_teacher_gives_to_bareland_water_and_unknown_adds_up_to_background():
    probs = torch.zeros(OPENEARTHMAP.num_classes)
    for name in SILENT:
        probs[OPENEARTHMAP.index(name)] = 0.2
    probs[OPENEARTHMAP.index("Tree")] = 0.4  # the largest of the teacher's own classes
    assert not kd_targets(probs.log()[None, :, None, None], CLASS_MATRIX, temperature=2.0)[1]


def test_a_teacher_quite_sure_of_a_class_without_counterpart_leaves_a_finite_loss_and_gradient():
    teacher = torch.full((1, OPENEARTHMAP.num_classes, 1, 2), -1e4)
    teacher[0, OPENEARTHMAP.index("Water"), 0, 0] = 1e4  # nothing is left for the foreground
    teacher[0, OPENEARTHMAP.index("Tree"), 0, 1] = 1e4  # nothing is left for the other classes
    gradient = kd_gradient(teacher)
    assert gradient.isfinite().all() and not gradient[..., 0].any() and gradient[0, FOREST, 0, 1] < 0


def test_no_gradient_reaches_the_logits_of_the_teacher():
    teacher = torch.zeros(1, OPENEARTHMAP.num_classes, 2, 2, requires_grad=True)
    student = torch.randn(1, NUM_CLASSES, 2, 2, requires_grad=True)
    kd_loss(student, teacher, CLASS_MATRIX, torch.full((1, 2, 2), FOREST), temperature=2.0).backward()
    assert teacher.grad is None and student.grad.any()


class TeacherOfTwo(torch.nn.Module):
    """Answers TEACHER_OF_TWO where the image is 1, and is sure of Road elsewhere; notes how it was asked."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.asked = []

    def forward(self, images):
        self.asked.append((self.training, torch.is_grad_enabled()))
        road = torch.zeros(OPENEARTHMAP.num_classes)
        road[OPENEARTHMAP.index("Road")] = 50.0
        of_two = (images[:, :1] == 1).float() * self.weight
        return of_two * TEACHER_OF_TWO[:, None, None] + (1 - of_two) * road[:, None, None]


def terms_of_distillation(**settings):
    """The teacher and the two terms of a uniform student's loss on one pixel of two labelled ones."""
    teacher = TeacherOfTwo().train()
    loss = HardAndKDLoss(teacher, CLASS_MATRIX, **settings)
    batch = {"image": torch.ones(1, 3, 1, 2), "mask": torch.tensor([[[FOREST, IGNORE_INDEX]]])}
    batch["image"][..., 1] = 0.0
    return teacher, loss.terms(torch.zeros(1, NUM_CLASSES, 1, 2), batch)


@pytest.mark.parametrize("temperature", OF_UNIFORM_STUDENT)
def test_distillation_uses_its_temperature_and_alpha_and_asks_the_teacher_about_the_images(temperature):
    teacher, (hard, kd) = terms_of_distillation(temperature=temperature, alpha=0.4)
    assert kd.total.item() == pytest.approx(OF_UNIFORM_STUDENT[temperature], abs=1e-3)
    assert (hard.name, kd.name, hard.count.item(), kd.count.item()) == ("hard", "kd", 1, 1)
    assert (hard.weight, kd.weight) == pytest.approx((0.6, 0.4))
    assert teacher.asked == [(False, False)]  # in eval mode, without gradients
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_distillation_as_the_method_sets_it_has_alpha_0_3_and_temperature_2():
    _, (hard, kd) = terms_of_distillation()
    assert (hard.weight, kd.weight) == pytest.approx((0.7, 0.3))
    assert kd.total.item() == pytest.approx(OF_UNIFORM_STUDENT[2.0], abs=1e-3)


def test_distillation_maps_the_teacher_by_the_matrix_it_was_given():
    other = CLASS_MATRIX.roll(1, dims=1)  # what was Background is Forest, and so on
    loss = HardAndKDLoss(TeacherOfTwo(), other, temperature=1.0)
    student = torch.zeros(1, NUM_CLASSES, 1, 1, requires_grad=True)
    terms = loss.terms(student, {"image": torch.ones(1, 3, 1, 1), "mask": torch.full((1, 1, 1), FOREST)})
    terms[1].total.backward()
    assert student.grad.flatten().argmin() == GRASSLAND


def test_losses_record_what_they_were_set_to():
    hard = {"hard": {"cross_entropy": 1, "dice": 1, "label_smoothing": 0.05}}
    assert HardLoss().describe() == hard
    origin = {"teacher_digest": "d", "remap": "cycled"}
    settings = {"alpha": 0.4, "temperature": 3.0, "max_mapped_void": 0.7}
    loss = HardAndKDLoss(TeacherOfTwo(), CLASS_MATRIX, hard=HardLoss(0.2), origin=origin, **settings)
    hard["hard"]["label_smoothing"] = 0.2
    assert loss.describe() == {**hard, "kd": {**settings, **origin}}


def test_label_smoothing_is_that_which_was_asked_for():
    logits, mask = torch.randn(2, NUM_CLASSES, 4, 4), torch.full((2, 4, 4), FOREST)
    for smoothing in (0.0, 0.3):
        (term,) = HardLoss(smoothing).terms(logits, {"mask": mask})
        assert torch.equal(term.total, hard_loss_by_crop(logits, mask, label_smoothing=smoothing)[0].sum())


@pytest.mark.parametrize(("max_mapped_void", "counted"), [(0.0, 0), (0.5, 1), (1.0, 1)])
def test_pixels_count_up_to_the_mapped_void_that_was_asked_for(max_mapped_void, counted):
    loss = HardAndKDLoss(TeacherOfTwo(), CLASS_MATRIX, max_mapped_void=max_mapped_void)
    batch = {"image": torch.ones(1, 3, 1, 1), "mask": torch.full((1, 1, 1), FOREST)}
    assert loss.terms(torch.zeros(1, NUM_CLASSES, 1, 1), batch)[1].count.item() == counted


def test_a_loss_with_a_teacher_moves_to_the_device_as_a_whole():
    loss = HardAndKDLoss(TeacherOfTwo(), CLASS_MATRIX)
    assert loss.to(torch.device("meta")) is loss
    assert loss.teacher.weight.is_meta and loss.class_matrix.is_meta
    hard = HardLoss()
    assert hard.to(torch.device("meta")) is hard
