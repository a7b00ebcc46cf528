r"""Measure on generated ground what the intervals of evaluation.estimate_areas cover.

Blocks are drawn with a known true class map and a known confusion. Blocks differ in size, in the classes they hold, in
the recall of each class (on the logit scale) and in the classes that its missed pixels go to. On uneven ground the
rarest class is in exactly five of the held-out blocks, and a block of the map holds it with the same probability. The
map is other ground of the same kind; --sizes are its pixels by those of the held-out ground. With several networks each
scores the held-out blocks of its fold, and the map has the mean of their recalls, in logits. The truth is the true area
on the map's own ground, so that the deviation of its own confusion from the expected one is part of the error.

Prints, for each setting, how often the 95 % intervals hold the truth: the lowest and the highest share among the
classes, and that of the rarest; the median error of the corrected and of the counted area of the rarest class, in % of
its true area; and how often a map of like ground, and one with three times the rarest class, is called unlike.
--candidates prints it for all rules that were tried, with the largest share of the map (90th percentile of a setting)
that the interval of the rarest class spans.

    python -m evaluation.simulate_area_coverage
    python -m evaluation.simulate_area_coverage --candidates
"""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

from common.cli import Parser, positive_float, positive_int, run
from common.text import percent, table
from evaluation.mapping.areas import TAIL, AreaSpread, area_spread, corrected, ends
from evaluation.mapping.likeness import like_shares
from evaluation.study.generated import CONFUSED_WITH, HELD_BY_FEW, RECALLS, SHARES
from evaluation.study.intervals import LEVEL, Statistic, spread

UNLIKE_SHARES = np.array([0.34, 0.29, 0.16, 0.09, 0.12])
CLASSES, RAREST = len(SHARES), len(SHARES) - 1
AT_ONCE = 60  # blocks of a map


@dataclass(frozen=True)
class Ground:
    """How blocks differ.

    ``alike`` and ``confused_alike`` are concentrations of the Dirichlet distributions of the classes that a block holds
    and of those that its missed pixels go to; ``of_block``, ``of_network`` standard deviations of recalls in logits;
    ``size`` that of the logarithm of a block's pixels. ``few`` held-out blocks hold the rarest class, 0 for all.
    """

    alike: float = 10.0
    confused_alike: float = 10.0
    of_block: float = 0.8
    of_network: float = 0.3
    size: float = 0.4
    few: int = 0

    def held(self, rng: np.random.Generator, shares: np.ndarray, holds: np.ndarray) -> np.ndarray:
        """(N, B, C) true pixels of each class; ``holds`` (N, B) says which blocks may hold the rarest one."""
        if self.few:
            rest = shares[:-1] / shares[:-1].sum()
            rest = rng.standard_gamma(self.alike * rest, size=(*holds.shape, CLASSES - 1))
            rare = HELD_BY_FEW * shares[-1] / SHARES[-1]
            rare = rng.beta(self.alike * rare, self.alike * (1 - rare), size=holds.shape)[..., None] * holds[..., None]
            drawn = np.concatenate([(1 - rare) * rest / rest.sum(axis=-1, keepdims=True), rare], axis=-1)
        else:
            drawn = rng.dirichlet(self.alike * shares, size=holds.shape)
        return drawn * rng.lognormal(10, self.size, size=(*holds.shape, 1))

    def confusions(self, rng: np.random.Generator, held: np.ndarray, network: np.ndarray) -> np.ndarray:
        """(N, B, C, C) confusions, rows truth; ``network`` (N, 1 or B, C) is added to the recalls, in logits."""
        logits = np.log(RECALLS / (1 - RECALLS)) + network + self.of_block * rng.normal(size=held.shape)
        recalls = 1 / (1 + np.exp(-logits))[..., None]
        others = rng.standard_gamma(self.confused_alike * CONFUSED_WITH, size=(*held.shape, CLASSES))
        others = others / np.maximum(others.sum(axis=-1, keepdims=True), 1e-300)
        return held[..., None] * (recalls * np.eye(CLASSES) + (1 - recalls) * others)


GROUNDS = {"alike": Ground(), "uneven": Ground(alike=2.0, of_block=1.2, few=5)}


class Setting(NamedTuple):
    blocks: int
    size: float
    ground: str
    networks: int


class Studies(NamedTuple):
    """N studies: (N, B, C, C) held-out confusions, (N, C) true and mapped pixels, and which network scored a block."""

    counts: np.ndarray
    truth: np.ndarray
    mapped: np.ndarray
    scored_by: np.ndarray


def draw(setting: Setting, rng: np.random.Generator, studies: int, shares: np.ndarray = SHARES) -> Studies:
    """Studies whose held-out ground has SHARES and whose map has ``shares``."""
    ground, blocks = GROUNDS[setting.ground], setting.blocks
    networks = ground.of_network * rng.normal(size=(studies, setting.networks, CLASSES))
    scored_by = np.arange(blocks) % setting.networks
    of_few = np.broadcast_to(np.arange(blocks) < (ground.few or blocks), (studies, blocks))
    counts = ground.confusions(rng, ground.held(rng, SHARES, of_few), networks[:, scored_by])
    truth, mapped = np.zeros((2, studies, CLASSES))
    left = max(1, round(setting.size * blocks))
    while left:
        of_few = rng.random((studies, min(left, AT_ONCE))) < (ground.few or blocks) / blocks
        held = ground.held(rng, shares, of_few)
        truth += held.sum(axis=1)
        mapped += ground.confusions(rng, held, networks.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
        left -= of_few.shape[1]
    return Studies(counts, truth, mapped, scored_by)


class Rule(NamedTuple):
    """What an interval takes for variance and degrees of freedom, (N, C) each, and on which scale it is symmetrical."""

    variance: Callable[[AreaSpread, Studies], np.ndarray]
    freedom: Callable[[AreaSpread, Studies], np.ndarray]
    scale: str = "linear"

    def ends(self, parts: AreaSpread, of: Studies) -> tuple[np.ndarray, np.ndarray]:
        value, variance, freedom = parts.value, self.variance(parts, of), self.freedom(parts, of)
        if self.scale == "square root":
            return ends(value, variance, freedom, TAIL)
        half = -stdtrit(freedom, TAIL) * np.sqrt(variance)
        if self.scale == "logarithm":
            return value / np.exp(half / value), value * np.exp(half / value)
        return value - half, value + half


def _single_pixels(parts: AreaSpread, of: Studies) -> np.ndarray:
    """Olofsson et al. 2014, equation 10: as if each pixel had been drawn by itself."""
    total = of.counts.sum(axis=1)
    predicted = total.sum(axis=1)[:, None]
    shares = total / predicted
    return (of.mapped[:, None] ** 2 * shares * (1 - shares) / (predicted - 1)).sum(axis=-1)


def _jackknife(parts: AreaSpread, of: Studies) -> np.ndarray:
    blocks = of.counts.shape[1]
    return parts.over_blocks * (blocks - 1) / blocks


def _by_size(parts: AreaSpread, of: Studies) -> np.ndarray:
    """That of the jackknife for the held-out ground, and for the map's by its size over all classes."""
    return _jackknife(parts, of) * (1 + of.counts.sum(axis=(1, 2, 3)) / of.mapped.sum(axis=1))[:, None]


def _by_class(parts: AreaSpread, of: Studies) -> np.ndarray:
    """That of the jackknife for the held-out ground, and for the map's by the size of each class."""
    return _jackknife(parts, of) + parts.of_map


def _both(parts: AreaSpread, of: Studies) -> np.ndarray:
    return parts.variance


def _and_networks(parts: AreaSpread, of: Studies) -> np.ndarray:
    """With by how much folds vary beyond the blocks in them, as in the ablation."""
    networks, total = int(of.scored_by.max()) + 1, of.counts.sum(axis=1)
    if networks == 1:
        return parts.variance
    without = np.moveaxis(corrected(of.mapped[:, None], total[:, None] - of.counts), 1, -1)
    scored_by = np.broadcast_to(of.scored_by, (*parts.value.shape, 1, len(of.scored_by)))
    found = spread(Statistic(parts.value[..., None], without[:, :, None], scored_by, networks))
    return parts.variance + found.over_trainings


def _normal(parts: AreaSpread, of: Studies) -> np.ndarray:
    return np.full(parts.value.shape, np.inf)


def _less_one(parts: AreaSpread, of: Studies) -> np.ndarray:
    return np.full(parts.value.shape, of.counts.shape[1] - 1.0)


def _of_holders(parts: AreaSpread, of: Studies) -> np.ndarray:
    return np.maximum(parts.holders - 1.0, 1)


def _kurtosis(parts: AreaSpread, of: Studies) -> np.ndarray:
    return parts.of_blocks


def _and_holders(parts: AreaSpread, of: Studies) -> np.ndarray:
    return np.minimum(parts.of_blocks, _of_holders(parts, of))


def _half(parts: AreaSpread, of: Studies) -> np.ndarray:
    return np.maximum(_and_holders(parts, of) / 2, 1)


def _three(parts: AreaSpread, of: Studies) -> np.ndarray:
    return parts.freedom


def _effective(parts: AreaSpread, of: Studies) -> np.ndarray:
    """At most those of as many equal blocks as the pixels of the class are spread over."""
    truth = of.counts.sum(axis=-1)
    spread_over = truth.sum(axis=1) ** 2 / np.maximum((truth**2).sum(axis=1), 1e-9)
    return np.clip(spread_over - 1, 1, _and_holders(parts, of))


CHOSEN = "chosen: blocks and map by class; kurtosis and holders, at least 3; square root"
CANDIDATES = {
    CHOSEN: Rule(_both, _three, "square root"),
    "single pixels (Olofsson et al. 2014)": Rule(_single_pixels, _normal),
    "blocks alone; kurtosis and holders": Rule(_jackknife, _and_holders),
    "blocks and map by size; normal quantile": Rule(_by_size, _normal),
    "blocks and map by size; blocks - 1": Rule(_by_size, _less_one),
    "blocks and map by size; holders - 1": Rule(_by_size, _of_holders),
    "blocks and map by size; kurtosis": Rule(_by_size, _kurtosis),
    "blocks and map by size; kurtosis and holders": Rule(_by_size, _and_holders),
    "blocks and map by size; half of these": Rule(_by_size, _half),
    "blocks and map by size; effective holders": Rule(_by_size, _effective),
    "blocks and map by size; kurtosis and holders; square root": Rule(_by_size, _and_holders, "square root"),
    "blocks and map by size; effective holders; square root": Rule(_by_size, _effective, "square root"),
    "blocks and map by size; kurtosis and holders; logarithm": Rule(_by_size, _and_holders, "logarithm"),
    "blocks and map by class; kurtosis and holders": Rule(_both, _and_holders),
    "blocks and map by class; kurtosis and holders; square root": Rule(_both, _and_holders, "square root"),
    "chosen without B / (B - 1)": Rule(_by_class, _three, "square root"),
    "chosen and networks": Rule(_and_networks, _three, "square root"),
}


def simulate(setting: Setting, rng: np.random.Generator, studies: int) -> dict:
    """What each rule covers, and what else is measured, as shares.

    Returns:
        ``covered``: by rule (C,) of the intervals that hold the truth. ``wide``: by rule the 90th percentile of the
        width of the rarest class's interval, in shares of the map. ``corrected``, ``counted``: median error of the
        rarest class in shares of its true area. ``like``, ``unlike``: of maps that are called unlike.
    """
    of = draw(setting, rng, studies)
    parts = area_spread(of.mapped, of.mapped, of.counts)
    covered, wide, whole = {}, {}, of.mapped.sum(axis=1)
    for name, rule in CANDIDATES.items():
        low, high = rule.ends(parts, of)
        covered[name] = ((low <= of.truth) & (of.truth <= high)).mean(axis=0)
        width = (np.minimum(high[:, RAREST], whole) - np.maximum(low[:, RAREST], 0)) / whole
        wide[name] = float(np.quantile(width, 0.9))
    holds = of.truth[:, RAREST] > 0
    errors = {
        name: float(np.median(np.abs(values - of.truth)[holds, RAREST] / of.truth[holds, RAREST]))
        for name, values in (("corrected", parts.value), ("counted", of.mapped))
    }
    called = {"like": _called_unlike(of), "unlike": _called_unlike(draw(setting, rng, studies, UNLIKE_SHARES))}
    return {"covered": covered, "wide": wide, **errors, **called}


def _called_unlike(of: Studies) -> float:
    low, high = like_shares(*(np.insert(values, 0, 0, axis=-1) for values in (of.mapped, of.counts)))
    shares = of.mapped / of.mapped.sum(axis=-1, keepdims=True)
    return float(((shares < low[:, 1:]) | (shares > high[:, 1:])).any(axis=-1).mean())


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--trials", type=positive_int, default=1000, help="generated studies for each line")
    parser.add_argument("--blocks", type=positive_int, nargs="+", default=[20, 40, 60], help="held-out blocks")
    parser.add_argument(
        "--sizes",
        type=positive_float,
        nargs="+",
        default=[0.5, 1.0, 10.0],
        help="of the map, as multiples of the held-out tiles",
    )
    parser.add_argument("--ground", choices=GROUNDS, nargs="+", default=list(GROUNDS), help="kinds of landscape")
    parser.add_argument("--networks", type=positive_int, nargs="+", default=[1, 5], help="that made the map, by folds")
    parser.add_argument("--candidates", action="store_true", help="all rules that were tried, over all lines")
    parser.add_seed()
    args = parser.parse_args(argv)
    if min(args.blocks) < 5:
        parser.error("--blocks: expected 5 or more, as many as hold the rarest class on uneven ground")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cases = [Setting(*case) for case in itertools.product(args.blocks, args.sizes, args.ground, args.networks)]
    found = {}
    for number, setting in enumerate(tqdm(cases, desc="Simulating", unit="line")):
        found[setting] = simulate(setting, np.random.default_rng([args.seed, number]), args.trials)
    print(f"{args.trials} studies a line, intervals of {percent(LEVEL)}\n")
    if args.candidates:
        rows = []
        for name in CANDIDATES:
            shares = np.array([of["covered"][name] for of in found.values()])
            spans = [_span(of) for of in (shares, shares[:, :RAREST], shares[:, RAREST])]
            rows.append([name, *spans, percent(shares.mean()), percent(max(of["wide"][name] for of in found.values()))])
        print(table(["rule", "covered", "other classes", "rarest class", "mean", "widest"], rows))
        return
    rows = [
        [
            *setting,
            _span(of["covered"][CHOSEN]),
            percent(of["covered"][CHOSEN][RAREST]),
            *(percent(of[key], 0) for key in ("corrected", "counted")),
            *(percent(of[key]) for key in ("like", "unlike")),
        ]
        for setting, of in found.items()
    ]
    errors = ["error corrected", "counted", "like called unlike", "unlike"]
    print(table(["blocks", "size of map", "ground", "networks", "covered", "rarest class", *errors], rows))


def _span(shares: np.ndarray) -> str:
    return f"{percent(shares.min())} to {percent(shares.max())}"


if __name__ == "__main__":
    run(main)
