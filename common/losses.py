"""The hard loss, those of two rivals, the distillation (KD) loss, and what the training loop asks for loss terms.

A loss object answers ``terms(logits, batch)`` with LossTerms. A term is a sum and the number of things summed, so
that several processes can divide by the number of all of them; the loss is Σ weight · sum / count.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from common.device import autocast, place
from common.taxonomy import IGNORE_INDEX

LABEL_SMOOTHING = 0.05
KD_ALPHA = 0.3
KD_TEMPERATURE = 2.0
MAX_MAPPED_VOID = 0.5
FOCAL_GAMMA = 2.0


class LossTerm(NamedTuple):
    """A part of the loss: () float sum over () float count things, and its weight in the total."""

    name: str
    total: torch.Tensor
    count: torch.Tensor
    weight: float


class Foreground(NamedTuple):
    """A batch without void.

    ``logits`` (N, K, H, W) float32 of the K foreground outputs; ``target`` (N, H, W) int64 the output that is right, 0
    where nothing is labelled; ``labelled`` (N, H, W) bool.
    """

    logits: torch.Tensor
    target: torch.Tensor
    labelled: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, mask: torch.Tensor) -> "Foreground":
        """That of (N, C, H, W) float logits and a (N, H, W) int64 mask of class ids."""
        return cls(logits[:, 1:].float(), (mask - 1).clamp(min=0), mask != IGNORE_INDEX)

    @property
    def pixels(self) -> torch.Tensor:
        """(N,) int64 labelled pixels of each crop."""
        return self.labelled.sum(dim=(1, 2))

    def mean_by_crop(self, values: torch.Tensor) -> torch.Tensor:
        """(N, H, W) values, 0 where nothing is labelled → (N,) their mean over the labelled pixels; 0 without any."""
        return values.sum(dim=(1, 2)) / self.pixels.clamp(min=1)


def cross_entropy_by_pixel(seen: Foreground, label_smoothing: float) -> torch.Tensor:
    """(N, H, W) float32 cross-entropy, 0 where nothing is labelled.

    Source: Szegedy et al. 2016, arXiv:1512.00567 (label smoothing).
    """
    return F.cross_entropy(seen.logits, seen.target, reduction="none", label_smoothing=label_smoothing) * seen.labelled


def focal_by_pixel(seen: Foreground, gamma: float) -> torch.Tensor:
    """(N, H, W) float32 focal loss −(1 − p)^gamma · log p of the class that is right, 0 where nothing is labelled.

    p is the softmax over the foreground outputs: with a ``gamma`` of 0 it is the cross-entropy.

    Source: Lin et al. 2017, arXiv:1708.02002, equation 4, for one class of several.
    """
    # Not segmentation_models_pytorch's FocalLoss: it is a mean of one-against-all sigmoids, not of one softmax.
    entropy = F.cross_entropy(seen.logits, seen.target, reduction="none")
    wrong = -torch.expm1(-entropy)  # 1 − p, exact where p is near 1
    smallest = torch.finfo(wrong.dtype).tiny  # below it the gradient of a root would not be finite
    return wrong.clamp(min=smallest) ** gamma * entropy * seen.labelled


def dice_by_crop(seen: Foreground) -> torch.Tensor:
    """(N,) float32 Dice loss of each crop; 0 for one without a labelled pixel.

    It is averaged over the classes that occur in the crop, since an absent class has no overlap to reward.

    Source: Milletari et al. 2016, arXiv:1606.04797.
    """
    labelled = seen.labelled[:, None]
    truth = F.one_hot(seen.target, seen.logits.shape[1]).permute(0, 3, 1, 2) * labelled
    probs = seen.logits.softmax(dim=1) * labelled
    overlap = (probs * truth).sum(dim=(2, 3))
    size = probs.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    present = truth.amax(dim=(2, 3)) > 0
    dice = (1 - 2 * overlap / size.clamp(min=1e-6)) * present
    return dice.sum(dim=1) / present.sum(dim=1).clamp(min=1)


def hard_loss_by_crop(
    logits: torch.Tensor, mask: torch.Tensor, *, label_smoothing: float = LABEL_SMOOTHING
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy + Dice of each crop over its labelled pixels and the foreground outputs.

    Args:
        logits: (N, C, H, W) float; output 0 is ignored.
        mask: (N, H, W) int64 class ids; pixels equal to IGNORE_INDEX do not count.
        label_smoothing: share of the target spread over the foreground classes, in the cross-entropy.

    Returns:
        (N,) float loss, 0 for a crop without a labelled pixel, and (N,) bool whether it has one.
    """
    seen = Foreground.of(logits, mask)
    entropy = seen.mean_by_crop(cross_entropy_by_pixel(seen, label_smoothing))
    return entropy + dice_by_crop(seen), seen.pixels > 0


def hard_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """() float: ``hard_loss_by_crop`` averaged over the crops that have a labelled pixel; 0 if none has."""
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
        () float, nats per counted pixel; 0 if none counts.

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


class ClassWeightedLoss:
    """The hard loss with a cross-entropy in which every pixel weighs as much as its class.

    The weighted mean runs over all labelled pixels of a batch, as that of torch.nn.CrossEntropyLoss with a ``weight``.
    Label smoothing is that of the hard loss: a pixel is weighed by its own class alone, while torch would weigh
    the smoothed part of its target by each class it is spread over.

    Args:
        weights: of each class id, 0 or more; only their ratios count.
        label_smoothing: as in ``hard_loss_by_crop``.
        origin: what ``describe`` says of the weights beside their values.
    """

    def __init__(
        self,
        weights: Sequence[float],
        label_smoothing: float = LABEL_SMOOTHING,
        origin: dict[str, str | float] | None = None,
    ) -> None:
        self.weights = list(weights)
        self.label_smoothing = label_smoothing
        self.origin = origin or {}
        # So that no pixel of train weighs under 1: training divides a sum by its count, but never by less than 1.
        smallest = min((weight for weight in self.weights if weight > 0), default=1.0)
        self._of_output = torch.tensor(self.weights[1:]) / smallest

    def to(self, device: torch.device) -> "ClassWeightedLoss":
        self._of_output = self._of_output.to(device)
        return self

    def terms(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[LossTerm]:
        seen = Foreground.of(logits, batch["mask"])
        weights = self._of_output[seen.target] * seen.labelled
        entropy = cross_entropy_by_pixel(seen, self.label_smoothing) * weights
        crops = (seen.pixels > 0).sum().float()
        return [
            LossTerm("cross_entropy", entropy.sum(), weights.sum(), 1.0),
            LossTerm("dice", dice_by_crop(seen).sum(), crops, 1.0),
        ]

    def describe(self) -> dict:
        weighted = {"label_smoothing": self.label_smoothing, "class_weights": {**self.origin, "weights": self.weights}}
        return {"hard": {"cross_entropy": 1, "dice": 1, **weighted}}


class FocalLoss:
    """The hard loss with the focal loss in place of the cross-entropy; no label is smoothed."""

    def __init__(self, gamma: float = FOCAL_GAMMA) -> None:
        self.gamma = gamma

    def to(self, device: torch.device) -> "FocalLoss":
        return self

    def terms(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[LossTerm]:
        seen = Foreground.of(logits, batch["mask"])
        losses = seen.mean_by_crop(focal_by_pixel(seen, self.gamma)) + dice_by_crop(seen)
        return [LossTerm("hard", losses.sum(), (seen.pixels > 0).sum().float(), 1.0)]

    def describe(self) -> dict:
        return {"hard": {"focal": 1, "dice": 1, "gamma": self.gamma}}


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
