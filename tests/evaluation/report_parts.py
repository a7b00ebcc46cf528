"""Made-up arms and evidence for the parts of the report, and what those say."""

import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from common.metrics import CALIBRATION_BINS
from common.stages import ARM_OF, STAGE_NAMES
from common.taxonomy import BIODIVERSITY
from evaluation.report.render import render
from evaluation.study.comparisons import FAMILIES, MINORITY
from evaluation.study.evidence import Evidence
from evaluation.study.pooling import Scored
from tests.helpers import made
from tests.synthetic_results import arm_of

ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES[:7]
FOREGROUND = BIODIVERSITY.foreground
METRICS = ("mIoU", "mF1", "OA", MINORITY, *(f"IoU {name}" for name in FOREGROUND))
ARGS = SimpleNamespace(
    root=Path("."),
    home=Path("."),
    in_dir=made("results"),
    split_dir=made("split"),
    leakage=made("leakage.json", "python -m data_prep.check_leakage"),
    command="it",
)


def section(name, evidence=None, **values) -> str:
    """The HTML of a section of the report."""
    return render(f"{name}.html.j2", evidence=evidence, **{"args": ARGS, **values})


def plain(html) -> str:
    text = unescape(re.sub("<[^>]*>", " ", str(html))).replace("\u00a0", " ")
    return re.sub(" ([,;.])", r"\1", " ".join(text.split()))


def rows(html) -> list[list[str]]:
    """The cells of each row of a table, headings too."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", str(html), re.S)
    return [[plain(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)] for line in lines]


def scores_of(miou, iou=0.5, f1=0.6, pixels=10) -> dict:
    classes = {
        name: {"IoU": iou + n / 100, "F1": f1 + n / 100, "precision": 0.7 + n / 100, "recall": 0.8, "pixels": pixels}
        for n, name in enumerate(FOREGROUND)
    }
    return {"mIoU": miou, "mF1": miou + 0.1, "OA": miou + 0.2, "boundary mIoU": 0.33, "ECE": 0.044, "classes": classes}


def tiles_of(checkpoint_digest):
    """Counts of two tiles, on which 3 of 4 pixels of each class are right and the rest is taken for the first class."""
    size = BIODIVERSITY.num_classes
    confusions = np.zeros((2, size, size), np.int64)
    confusions[:, range(1, size), range(1, size)] = 3
    confusions[:, 1:, 1] += 1
    boundary, calibration = np.ones((2, size, 2), np.int64), np.ones((2, CALIBRATION_BINS, 3))
    counts = {"confusions": confusions, "boundary": boundary, "calibration": calibration}
    return SimpleNamespace(checkpoint_digest=checkpoint_digest, split_digest="of val", **counts)


def arm(name, mious, seeds=(1, 2, 3)):
    """An arm whose seeds have these mIoU and other metrics below them in steps of a point."""
    scores = arm_of(name, [[v - n / 100 for v in mious] for n in range(len(METRICS))], seeds, 12, METRICS)
    recipe = {
        "tiles": {"folder": "x"},
        "sampler": {"kind": "weighted"},
        "cropper": {"kind": "minority", "classes": [4]},
    }
    for place, (seed, miou) in enumerate(zip(seeds, mious, strict=True)):
        run = {
            "recipe": recipe,
            "settings": {"iterations": 20, "lr": 0.001},
            "crops": 160,
            "train": {"tiles": 40},
            "seconds": {"training": 60 * (place + 1)},
            "drawn": {
                "distinct_tiles": 30 + place,
                "replica_share": 0.25,
                "void_share": 0.125,
                "pixel_share": {name: 0.1 * (place + 1) for name in FOREGROUND},
                "crops_with_class": dict.fromkeys(FOREGROUND, 0.4),
            },
            "device": "CPU",
            "git_commit": "c" * 40,
        }
        scores.last[seed] = SimpleNamespace(
            arm=name,
            seed=seed,
            taxonomy=BIODIVERSITY,
            run_name=f"seed {seed}",
            fold=None,
            folder=Path("results"),
            metrics={"cumulative_steps": 20 * ARM_OF[name].trainings, "split_facts": FACTS, "step": 20},
            scores=scores_of(miou, 0.5 + place / 10),
            run=run,
            tiles=tiles_of(f"{name} {seed}"),
        )
    return scores


FACTS = {"tiles": 30, "blocks": 12, "strategy": "blocks", "blocks_shared_with_train": 0}


def evidence_of(*arms, planned=(), descriptive=(), minority=("Settlement", "Seminatural"), cautions=()):
    result = SimpleNamespace(metrics={"split_facts": FACTS}, fold=None, tiles=SimpleNamespace(split_digest="of val"))
    by_name = {scores.arm.name: scores for scores in arms}
    present = list(range(1, BIODIVERSITY.num_classes))
    scored = Scored(BIODIVERSITY, present, [BIODIVERSITY.index(name) for name in minority], dict.fromkeys(present, 12))
    families = {family: [f for f in planned if f.family is family] for family in FAMILIES}
    return Evidence([result], by_name, families, list(descriptive), scored, [], [], list(cautions))


ARMS = [arm(ONE, [0.3, 0.4, 0.5]), arm(THREE, [0.6, 0.7, 0.8]), arm(TWO, [0.1, 0.2, 0.3])]
