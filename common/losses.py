"""The hard loss, the distillation (KD) loss, and the objects that the training loop asks for loss terms.

A loss object answers ``terms(logits, batch)`` with LossTerms. A term is a sum and the number of things summed, so
that several processes can divide by the number of all of them; the loss is Σ weight · sum / count.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from common.device import autocast, place
from common.taxonomy import IGNORE_INDEX

LABEL_SMOOTHING = 0.05
KD_ALPHA = 0.3
KD_TEMPERATURE = 2.0
MAX_MAPPED_VOID = 0.5


class LossTerm(NamedTuple):
    """A part of the loss: () float sum over () float count things, and its weight in the total."""

    name: str
    total: torch.Tensor
    count: torch.Tensor
    weight: float


def hard_loss_by_crop(
    logits: torch.Tensor, mask: torch.Tensor, *, label_smoothing: float = LABEL_SMOOTHING
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy + Dice of each crop over its labelled pixels and the foreground outputs.

    Args:
        logits: (N, C, H, W) float; output 0 is ignored.
        mask: (N, H, W) int64 class ids; pixels equal to IGNORE_INDEX do not count.
        label_smoothing: share of the target spread over the foreground classes, in the cross-entropy.

    Returns:
        (N,) float loss, 0 for a crop without a labelled pixel, and (N,) bool whether it has one. Dice is averaged
        over the classes that occur in the crop, since an absent class has no overlap to reward.

    Source: Szegedy et al. 2016, arXiv:1512.00567 (label smoothing); Milletari et al. 2016, arXiv:1606.04797 (Dice).
    """
    logits = logits[:, 1:].float()
    labelled = mask != IGNORE_INDEX
    pixels = labelled.sum(dim=(1, 2))
    target = (mask - 1).clamp(min=0)
    entropy = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing) * labelled
    entropy = entropy.sum(dim=(1, 2)) / pixels.clamp(min=1)

    truth = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2) * labelled[:, None]
    probs = logits.softmax(dim=1) * labelled[:, None]
    overlap = (probs * truth).sum(dim=(2, 3))
    size = probs.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    present = truth.amax(dim=(2, 3)) > 0
    dice = (1 - 2 * overlap / size.clamp(min=1e-6)) * present
    dice = dice.sum(dim=1) / present.sum(dim=1).clamp(min=1)
    return entropy + dice, pixels > 0


def hard_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """() float: ``hard_loss_by_crop`` averaged over the crops that have a labelled pixel; 0 where none has."""
    losses, counted = hard_loss_by_crop(logits, mask)
    return losses.sum() / counted.sum().clamp(min=1)


def kd_targets(
    teacher_logits: torch.Tensor,
    class_matrix: torch.Tensor,
    *,
    temperature: float,
    max_mapped_void: float = MAX_MAPPED_VOID,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the teacher teaches: its probabilities in Biodiversity classes, tempered like the student's.

    Args:
        teacher_logits: (N, T, H, W) float.
        class_matrix: (T, S) float; row t shares teacher class t among the S classes and sums to 1.
        temperature: > 0.
        max_mapped_void: probability of the void class from which on a pixel teaches nothing.

    Returns:
        (N, S - 1, H, W) float distribution over the foreground, q^(1/T) renormalised, and (N, H, W) bool: where
        the teacher gives the void class less than ``max_mapped_void``.
    """
    probs = torch.einsum("nthw,ts->nshw", teacher_logits.float().softmax(dim=1), class_matrix)
    certain = probs[:, IGNORE_INDEX] < max_mapped_void
    # q^(1/T) / Σ q^(1/T) is the softmax of log q / T; the renormalisation of q itself cancels in it.
    targets = (probs[:, 1:].clamp(min=1e-12).log() / temperature).softmax(dim=1)
    return targets, certain


def kd_loss_sum(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    class_matrix: torch.Tensor,
    mask: torch.Tensor,
    *,
    temperature: float,
    max_mapped_void: float = MAX_MAPPED_VOID,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``kd_loss``, but () float sum over the counted pixels, and () float their number."""
    targets, certain = kd_targets(
        teacher_logits.detach(), class_matrix, temperature=temperature, max_mapped_void=max_mapped_void
    )
    counted = certain & (mask != IGNORE_INDEX)
    log_probs = (student_logits[:, 1:].float() / temperature).log_softmax(dim=1)
    divergence = F.kl_div(log_probs, targets, reduction="none").sum(dim=1)
    return (divergence * counted).sum() * temperature**2, counted.sum().float()


def kd_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    class_matrix: torch.Tensor,
    mask: torch.Tensor,
    *,
    temperature: float,
    max_mapped_void: float = MAX_MAPPED_VOID,
) -> torch.Tensor:
    """KL divergence of the student from the remapped teacher, averaged over the pixels that count.

    Args:
        student_logits: (N, S, H, W) float, S Biodiversity classes; output 0 is ignored.
        teacher_logits: (N, T, H, W) float, T OpenEarthMap classes; receives no gradient.
        class_matrix: (T, S) float; row t shares teacher class t among the S classes and sums to 1.
        mask: (N, H, W) int64 class ids; pixels equal to IGNORE_INDEX do not count, nor do pixels that the teacher
            maps to void with a probability of ``max_mapped_void`` or more.
        temperature: softmax temperature, > 0. The loss is multiplied by its square so that
            gradients keep their size when it changes.

    Returns:
        () float, nats per counted pixel; 0 where none counts.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2. The remapping is ours.
    """
    total, count = kd_loss_sum(
        student_logits, teacher_logits, class_matrix, mask, temperature=temperature, max_mapped_void=max_mapped_void
    )
    return total / count.clamp(min=1)


class HardLoss:
    """The loss of every stage without a teacher: cross-entropy with label smoothing, and Dice."""

    def __init__(self, label_smoothing: float = LABEL_SMOOTHING) -> None:
        self.label_smoothing = label_smoothing

    def to(self, device: torch.device) -> "HardLoss":
        return self

    def terms(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[LossTerm]:
        losses, counted = hard_loss_by_crop(logits, batch["mask"], label_smoothing=self.label_smoothing)
        return [LossTerm("hard", losses.sum(), counted.sum().float(), 1.0)]

    def describe(self) -> dict:
        return {"hard": {"cross_entropy": 1, "dice": 1, "label_smoothing": self.label_smoothing}}


class HardAndKDLoss:
    """(1 − alpha) · hard + alpha · KD from a frozen teacher.

    Args:
        teacher: network with OpenEarthMap outputs; kept in eval mode, never trained.
        class_matrix: (T, S) float OpenEarthMap classes → student classes.
        hard: the hard loss.
        alpha: weight of the KD loss; the hard loss has the rest.
        temperature, max_mapped_void: as in ``kd_loss``.
        origin: what ``describe`` says of the teacher and the class matrix.
    """

    def __init__(
        self,
        teacher: torch.nn.Module,
        class_matrix: torch.Tensor,
        *,
        hard: HardLoss | None = None,
        alpha: float = KD_ALPHA,
        temperature: float = KD_TEMPERATURE,
        max_mapped_void: float = MAX_MAPPED_VOID,
        origin: dict[str, str] | None = None,
    ) -> None:
        self.hard = hard or HardLoss()
        self.teacher = teacher.eval().requires_grad_(False)
        self.class_matrix = class_matrix
        self.alpha = alpha
        self.temperature = temperature
        self.max_mapped_void = max_mapped_void
        self.origin = origin or {}

    def to(self, device: torch.device) -> "HardAndKDLoss":
        place(self.teacher, device)
        self.class_matrix = self.class_matrix.to(device)
        return self

    def terms(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[LossTerm]:
        with torch.no_grad(), autocast(logits.device):
            teacher_logits = self.teacher(batch["image"])
        total, count = kd_loss_sum(
            logits,
            teacher_logits,
            self.class_matrix,
            batch["mask"],
            temperature=self.temperature,
            max_mapped_void=self.max_mapped_void,
        )
        (hard,) = self.hard.terms(logits, batch)
        return [hard._replace(weight=1 - self.alpha), LossTerm("kd", total, count, self.alpha)]

    def describe(self) -> dict:
        kd = {"alpha": self.alpha, "temperature": self.temperature, "max_mapped_void": self.max_mapped_void}
        return {**self.hard.describe(), "kd": {**kd, **self.origin}}
