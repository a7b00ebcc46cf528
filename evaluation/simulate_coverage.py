r"""Measure on generated studies what the intervals of evaluation.aggregate_metrics cover.

Confusion matrices are drawn with a known truth: each class has a recall that varies with the seed, with the block, with
the arm on a block, and with all of them, on the logit scale; blocks differ in size and in the classes they hold. The
truth is the mean over seeds of the mIoU on all ground. Prints, for each number of seeds and blocks, how often the 95 %
interval of mIoU and of a paired difference holds the truth, and how often any planned comparison is significant after
correction where all arms are alike. Once more for blocks that differ much in what they hold and in how hard they are.

    python -m evaluation.simulate_coverage
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from common.cli import Parser, positive_int, run
from common.taxonomy import BIODIVERSITY
from common.text import percent, table
from evaluation.study.comparisons import PLANNED
from evaluation.study.evidence import SIGNIFICANT, crossed_scores
from evaluation.study.intervals import Estimate, estimate, holm

FOREGROUND = list(range(1, BIODIVERSITY.num_classes))
GAIN = 0.25  # of the second arm's recall over the first's, in logits: five points of mIoU
# Like the scores of small networks on real tiles: a frequent class that is found, a rare one that is not.
SHARES = np.array([0.38, 0.32, 0.17, 0.09, 0.04])
RECALLS = np.array([0.80, 0.75, 0.65, 0.60, 0.40])
# Where the missed pixels of a class go; rows sum to 1.
CONFUSED_WITH = np.array(
    [
        [0.0, 0.6, 0.2, 0.1, 0.1],
        [0.5, 0.0, 0.3, 0.1, 0.1],
        [0.2, 0.6, 0.0, 0.1, 0.1],
        [0.3, 0.3, 0.3, 0.0, 0.1],
        [0.1, 0.5, 0.2, 0.2, 0.0],
    ]
)


@dataclass(frozen=True)
class World:
    """Standard deviations in logits, and how much the blocks are alike (Dirichlet concentration) and vary in size."""

    of_seed: float = 0.25
    of_block: float = 0.6
    of_arm_on_block: float = 0.2
    of_run_on_block: float = 0.15
    alike: float = 2.0
    size: float = 0.4

    def draw(self, rng: np.random.Generator, gains: Sequence[float], seeds: int, blocks: int) -> np.ndarray:
        """(A, S, B, C, C) confusion matrices, void first; ``gains`` (A,) are added to all recalls, in logits."""
        arms, classes = len(gains), len(SHARES)
        held = rng.dirichlet(self.alike * SHARES, size=blocks) * rng.lognormal(10, self.size, size=(blocks, 1))
        logits = (
            np.log(RECALLS / (1 - RECALLS))
            + np.reshape(gains, (arms, 1, 1, 1))
            + self.of_seed * (rng.normal(size=(arms, seeds, 1, 1)) + rng.normal(size=(arms, seeds, 1, classes)))
            + self.of_block * rng.normal(size=(blocks, classes))
            + self.of_arm_on_block * rng.normal(size=(arms, 1, blocks, classes))
            + self.of_run_on_block * rng.normal(size=(arms, seeds, blocks, classes))
        )
        recalls = 1 / (1 + np.exp(-logits))
        shares = (1 - recalls)[..., None] * CONFUSED_WITH + recalls[..., None] * np.eye(classes)
        counts = np.zeros((arms, seeds, blocks, classes + 1, classes + 1))
        counts[..., 1:, 1:] = shares * held[:, :, None]
        return counts

    def truth(self, rng: np.random.Generator, gains: Sequence[float], repeats: int = 100) -> np.ndarray:
        """(A,) mIoU that many seeds have on all ground."""
        counts = np.stack([self.draw(rng, gains, 8, 1500).sum(axis=2) for _ in range(repeats)])
        by_seed, _ = crossed_scores(counts.reshape(-1, 1, *counts.shape[-2:]), BIODIVERSITY, FOREGROUND, [])
        return by_seed["mIoU"].reshape(repeats, len(gains), 8).mean(axis=(0, 2))


WORLDS = {"usual": World(), "uneven": World(of_seed=0.05, of_block=1.0, alike=0.7)}


def arm_scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, B, C, C) → (S,) mIoU and (S, B) mIoU with a block left out."""
    by_seed, without_block = crossed_scores(counts, BIODIVERSITY, FOREGROUND, [])
    return by_seed["mIoU"], without_block["mIoU"]


def paired(mine: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> Estimate:
    """The difference of two arms, of each of which ``arm_scores`` returned the scores."""
    return estimate(mine[0] - theirs[0], mine[1] - theirs[1])


def simulate(
    world: World, rng: np.random.Generator, truth: np.ndarray, seeds: int, blocks: int, trials: int
) -> dict[str, float]:
    """Shares of trials: ``mIoU`` and ``difference`` hold the truth; ``family`` has a significant comparison."""
    names = sorted({arm.name for comparison in PLANNED for arm in comparison[:2]})
    hits = dict.fromkeys(("mIoU", "difference", "family"), 0)
    for _ in range(trials):
        first, second = (arm_scores(counts) for counts in world.draw(rng, (0, GAIN), seeds, blocks))
        alone, difference = estimate(*first), paired(second, first)
        hits["mIoU"] += alone.low <= truth[0] <= alone.high
        hits["difference"] += difference.low <= truth[1] - truth[0] <= difference.high
        alike = [arm_scores(counts) for counts in world.draw(rng, [0] * len(names), seeds, blocks)]
        scores = dict(zip(names, alike, strict=True))
        corrected = holm([paired(scores[c.arm.name], scores[c.other.name]).p for c in PLANNED])
        hits["family"] += any(p is not None and p < SIGNIFICANT for p in corrected)
    return {name: number / trials for name, number in hits.items()}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--trials", type=positive_int, default=500, help="generated studies for each line")
    parser.add_argument("--seeds", type=positive_int, nargs="+", default=[3, 5], help="numbers of seeds")
    parser.add_argument("--blocks", type=positive_int, nargs="+", default=[10, 30], help="numbers of spatial blocks")
    parser.add_seed()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cases = [(name, seeds, blocks) for name in WORLDS for seeds in args.seeds for blocks in args.blocks]
    rows, truths = [], {}
    for name, seeds, blocks in tqdm(cases, desc="Simulating", unit="line"):
        rng = np.random.default_rng([args.seed, list(WORLDS).index(name), seeds, blocks])
        if name not in truths:
            truths[name] = WORLDS[name].truth(rng, (0, GAIN))
        shares = simulate(WORLDS[name], rng, truths[name], seeds, blocks, args.trials)
        rows.append([name, seeds, blocks, *(percent(shares[key]) for key in ("mIoU", "difference", "family"))])
    for name, (first, second) in truths.items():
        print(f"{name} blocks: true mIoU {percent(first)}, true difference {percent(second - first)}")
    print(f"{args.trials} studies a line\n")
    header = ["blocks", "seeds", "number", "mIoU covered", "difference covered", "significant where all are alike"]
    print(table(header, rows))


if __name__ == "__main__":
    run(main)
