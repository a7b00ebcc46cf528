"""Folders of results as evaluation.compute_metrics leaves them, and findings, without models or tiles."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from common.files import write_json
from common.folds import fold_root
from common.metrics import CALIBRATION_BINS, mean_iou_of, score
from common.stages import ARM_OF
from common.taxonomy import BIODIVERSITY, Taxonomy
from evaluation.scoring.results import CONFUSIONS, METRICS, RUN_RECORD, TileCounts, results_folder
from evaluation.simulate_coverage import World
from evaluation.study.comparisons import DESCRIPTIVE, FAMILIES, PLANNED
from evaluation.study.evidence import KEYS, ArmScores, Finding
from evaluation.study.intervals import FEWEST_TESTED, Estimate, Statistic, on_one_split
from evaluation.study.pooling import Scored, Trainings

VAL = Path("evaluation/evaluation_results/val")
STEPS = 20
SETTINGS = {"arch": "unet", "crop_size": 64, "batch_size": 8, "iterations": STEPS, "lr": 1e-3}
MINORITY = list(BIODIVERSITY.foreground[3:])
# Trainings that differ more, and blocks less, than in what evaluation.simulate_coverage draws.
WORLD = World(
    of_training=0.25,
    of_training_on_class=0.25,
    of_block=0.6,
    of_arm_on_block=0.2,
    of_run_on_block=0.15,
    alike=2.0,
)
KNOWN = {(c.arm.name, c.other.name): c for c in (*PLANNED, *DESCRIPTIVE)}


def checkpoint_digest(arm: str, seed: int, which: str = "last") -> str:
    return f"checkpoint of {arm} seed {seed} {which}"


def recipe_of(arm: str, seed: int, fold: str = "") -> dict:
    """A recipe that differs from that of the arm it is compared with in its one component alone."""
    known = ARM_OF[arm]
    recipe = {
        "tiles": {"folder": "biodiversity_split/train", "digest": f"tiles of train{fold}"},
        "sampler": {"kind": "uniform"},
        "cropper": {"kind": "random"},
        "init": {"kind": "encoder", "weights": "none"},
        "loss": {"hard": {"cross_entropy": 1, "dice": 1}},
    }
    if known.compared_with:
        recipe = recipe_of(known.compared_with, seed, fold)
    match known.component:
        case "tiles":
            recipe["tiles"] = {"folder": f"of {arm}", "digest": f"tiles of {arm}{fold}"}
        case "sampler":
            recipe["sampler"] = {"kind": "weighted", "sha256": f"weights of seed {seed}"}
        case "cropper":
            recipe["cropper"] = {"kind": "minority", "p": 0.5}
        case "init":
            start = known.starts_from
            recipe["init"] = {"kind": "stage", "stage": start, "digest": checkpoint_digest(start, seed)}
        case "loss" if known.question:
            recipe["loss"]["kd"]["remap"] = arm
        case "loss":
            recipe["loss"]["kd"] = {"alpha": 0.3, "temperature": 2.0, "teacher_digest": f"teacher of seed {seed}"}
    return recipe


def drawn_of(taxonomy: Taxonomy) -> dict:
    shares = np.arange(1, taxonomy.num_classes) / sum(range(taxonomy.num_classes))
    named = dict(zip(taxonomy.foreground, map(float, shares), strict=True))
    return {"pixel_share": named, "crops_with_class": dict.fromkeys(named, 0.5)}


def write_result(
    root: Path,
    arm: str,
    seed: int,
    counts: np.ndarray,
    *,
    which: str = "last",
    taxonomy: Taxonomy = BIODIVERSITY,
    tiles_a_block: int = 1,
    steps: int | None = None,
    settings: dict | None = None,
    recipe: dict | None = None,
    crops: int | None = None,
    device: str = "CPU, 1 threads",
    numbers: Sequence[int] | None = None,
    facts: dict | None = None,
    **changes,
) -> Path:
    """Results of one checkpoint from (B, C, C) counts of its blocks, void first.

    ``numbers`` are those of the blocks, 0 to B - 1 by default; ``facts`` are of the split, ``changes`` of metrics.json.
    """
    counts = np.asarray(counts).round().astype(np.int64)
    share, rest = np.divmod(counts, tiles_a_block)
    by_tile = np.repeat(share, tiles_a_block, axis=0)
    by_tile[::tiles_a_block] += rest
    numbers = range(len(counts)) if numbers is None else numbers
    tiles = [f"tile{number:03d}_{n}" for number in numbers for n in range(tiles_a_block)]
    blocks = [f"block{number:03d}" for number in numbers for _ in range(tiles_a_block)]
    scores = score(counts.sum(axis=0), taxonomy)
    minority = [taxonomy.foreground[i] for i in (3, 4)]
    metrics = {
        "stage": arm,
        "seed": seed,
        "which": which,
        "step": STEPS,
        "cumulative_steps": STEPS * ARM_OF[arm].trainings if steps is None else steps,
        "split": "val",
        "split_digest": "the same tiles",
        "checkpoint_digest": checkpoint_digest(arm, seed, which),
        **scores,
        "minority_mIoU": mean_iou_of(scores, minority),
        "minority_classes": minority,
        "split_facts": {
            "tiles": len(by_tile),
            "blocks": len(counts),
            "strategy": "blocks",
            "block_size": 512,
            "blocks_shared_with_train": 0,
            **(facts or {}),
        },
        "taxonomy": taxonomy.to_json(),
        **changes,
    }
    folder = results_folder(root / VAL / arm / f"seed{seed}", which)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / METRICS, metrics)
    run = {"settings": settings or SETTINGS, "recipe": recipe or recipe_of(arm, seed), "drawn": drawn_of(taxonomy)}
    run |= {"cumulative_crops": 8 * metrics["cumulative_steps"] if crops is None else crops, "device": device}
    write_json(folder / RUN_RECORD, run)
    TileCounts(
        tiles,
        blocks,
        by_tile,
        list(taxonomy.classes),
        metrics["split_digest"],
        metrics["checkpoint_digest"],
        np.ones((len(by_tile), taxonomy.num_classes, 2), np.int64),
        np.ones((len(by_tile), CALIBRATION_BINS, 3)),
    ).save(folder / CONFUSIONS)
    return folder


def write_study(root: Path, gains: dict[str, float], seeds, blocks: int, *, world=None, rng_seed=0, **each) -> None:
    """Results of last.pt and best.pt of arms whose recalls differ by ``gains``, in logits."""
    rng = np.random.default_rng(rng_seed)
    counts = (world or WORLD).draw(rng, list(gains.values()), len(seeds), blocks)
    for arm, of_arm in zip(gains, counts, strict=True):
        for seed, of_seed in zip(seeds, of_arm, strict=True):
            for which in ("last", "best"):
                write_result(root, arm, seed, of_seed, which=which, **each)


def write_folds(
    root: Path, gains: dict[str, float], folds: int, blocks: int, *, repeats=1, world=None, rng_seed=0, **each
) -> None:
    """Results of last.pt of a study whose blocks are dealt into folds, below ``root``/folds."""
    rng = np.random.default_rng(rng_seed)
    counts = (world or WORLD).draw(rng, list(gains.values()), folds * repeats, blocks)
    dealt = [rng.permutation(blocks).tolist() for _ in range(repeats)]
    for arm, of_arm in zip(gains, counts, strict=True):
        for number, of_training in enumerate(of_arm, 1):
            write_fold(root, arm, number, folds, of_training, dealt[(number - 1) // folds], **each)


def write_fold(root: Path, arm: str, number: int, folds: int, counts: np.ndarray, order=None, **more) -> Path:
    """Results of one training of a study by folds, from (B, C, C) counts of all blocks, dealt in their ``order``."""
    order, seed = range(len(counts)) if order is None else order, 41 + number
    mine = sorted(order[(number - 1) % folds :: folds])
    fold = {"fold": number, "folds": folds, "repeat": (number - 1) // folds + 1, "seed": 42}
    known = {
        "numbers": mine,
        "facts": {"fold": fold},
        "split_digest": f"val of fold {number}",
        "recipe": recipe_of(arm, seed, f" of fold {number}"),
    }
    return write_result(fold_root(root, number), arm, seed, np.asarray(counts)[mine], **known | more)


def finding_of(arm, other, value, half_width=0.012, p=0.001, p_holm=None, seeds=(1, 2, 3, 4, 5), **more) -> Finding:
    """What came of a comparison, with the estimate of mIoU that is given; ``more`` is of that estimate."""
    known = KNOWN[arm, other]
    family = next((family for family in FAMILIES if known in family.comparisons), None)
    tested = half_width is not None and family is not None and len(seeds) >= FEWEST_TESTED
    found = Estimate(value, half_width, p if tested else None, len(seeds), 12, **more)
    corrected = {"mIoU": p_holm if tested else None} if family else {}
    return Finding(known, list(seeds), {"mIoU": found}, family=family, corrected=corrected)


class KnownTrainings(Trainings):
    """Trainings whose scores are given, not counted."""

    def only(self, positions):
        rows = list(positions)
        known = {
            metric: Statistic(of.by_repeat[rows], of.without_block[rows], on_one_split(len(rows), of.blocks))
            for metric, of in self._known.items()
        }
        return KnownTrainings(self.counts[rows], self.scored[rows], self.repeats[rows], 1, self.of, known)

    def by_training(self):
        return {metric: of.by_repeat for metric, of in self._known.items()}


def arm_of(name, values, seeds=(1, 2, 3), blocks=12, metrics=KEYS, scores=()):
    """An arm whose metrics have these values for its seeds, all alike on each block."""
    values = {metric: np.array(of, dtype=float) for metric, of in zip(metrics, values, strict=True)}
    known = {
        metric: Statistic(of, of[:, None] + np.zeros(blocks), on_one_split(len(seeds), blocks))
        for metric, of in values.items()
    }
    shape, size = (len(seeds), blocks), BIODIVERSITY.num_classes
    counts, present = np.ones((*shape, size, size), np.int64), list(range(1, size))
    scored = Scored(BIODIVERSITY, present, [], dict.fromkeys(present, blocks))
    trainings = KnownTrainings(counts, np.ones(shape, bool), np.array(seeds), 1, scored, known)
    of_run = {"cumulative_steps": 20, "split_facts": {"tiles": 30, "blocks": 12, "strategy": "blocks"}}
    last = {seed: SimpleNamespace(metrics=of_run, scores=dict(scores), run={}) for seed in seeds}
    return ArmScores(ARM_OF[name], last, {}, trainings)


def distribution_of(minority, taxonomy: Taxonomy = BIODIVERSITY) -> dict:
    """class_distribution.json of a train split whose classes have equal shares, with these minority classes."""
    share = 1 / len(taxonomy.foreground)
    of_class = {"pixels": 10, "share": share, "tiles": 1, "tile_presence": 1.0}
    return {
        "train_digest": "of train",
        "classes": dict.fromkeys(taxonomy.foreground, of_class),
        "minority_classes": list(minority),
        "minority_share": 0.1,
        "tile_share": 0.05,
        "tiles_to_replicate": {},
    }
