import math

import pytest
import torch

from common.losses import HardAndKDLoss, HardLoss, hard_loss, hard_loss_by_crop, kd_loss, kd_targets
from common.models import build_model
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX, OPENEARTHMAP

FOREST, GRASSLAND = BIODIVERSITY.index("Forest"), BIODIVERSITY.index("Grassland")
NUM_CLASSES = BIODIVERSITY.num_classes
CLASS_MATRIX = torch.from_numpy(BIODIVERSITY.class_matrix())
SILENT = [name for name in OPENEARTHMAP.classes if BIODIVERSITY.from_openearthmap[name] == {"Background": 1.0}]
TEACHING = [name for name in OPENEARTHMAP.classes if name not in SILENT]


def teacher_sure_of(name, size=1):
    logits = torch.zeros(1, OPENEARTHMAP.num_classes, size, size)
    logits[:, OPENEARTHMAP.index(name)] = 20.0
    return logits


def kd_gradient(teacher, mask=None, temperature=2.0):
    student = torch.zeros(1, NUM_CLASSES, *teacher.shape[-2:], requires_grad=True)
    mask = torch.full((1, *teacher.shape[-2:]), FOREST) if mask is None else mask
    kd_loss(student, teacher, CLASS_MATRIX, mask, temperature=temperature).backward()
    return student.grad


@pytest.mark.parametrize("name", TEACHING)
def test_a_teacher_sure_of_a_class_pulls_the_student_to_the_class_it_maps_to(name):
    shares = BIODIVERSITY.from_openearthmap[name]
    largest = max(shares, key=shares.get)
    assert BIODIVERSITY.classes[kd_gradient(teacher_sure_of(name)).flatten().argmin()] == largest


def test_the_mapping_sends_each_openearthmap_class_where_the_method_says():
    assert SILENT == ["Unknown", "Bareland", "Water"]
    largest = {name: BIODIVERSITY.classes[BIODIVERSITY.hard_lookup()[OPENEARTHMAP.index(name)]] for name in TEACHING}
    assert largest == {
        "Rangeland": "Grassland",
        "Developed space": "Settlement",
        "Road": "Settlement",
        "Tree": "Forest",
        "Agriculture land": "Cropland",
        "Building": "Settlement",
    }


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
    teacher = build_model("unet", "mobilenet_v2", OPENEARTHMAP.num_classes)
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
