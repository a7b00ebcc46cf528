"""Masks made wrong in copies of good tiles: how many the audit finds of each kind, and how many good tiles it accuses.

The real tiles are measured where they lie beside the repository, generated ones otherwise.

    python -m tests.faults.label_noise
"""

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.rasters import open_raster, read_mask
from common.taxonomy import OPENEARTHMAP, Taxonomy, load_taxonomy
from common.text import table
from data_prep import check_biodiversity, make_demo_data
from data_prep.audit.cells import mask_key
from data_prep.audit.faults import KINDS, MOVED, ONE, REPEATED, SWAPPED
from tests.faults.harness import REAL_DATA, Family
from tests.helpers import OEM_RAW, quiet, write_png, write_taxonomy

SEEDS = 5
SIDES = {"1/12": 1 / 12, "1/8": 1 / 8, "1/6": 1 / 6, "1/4": 1 / 4}  # moves, in tile sides
EACH = {"moved": 3, "other": 4}  # injected in one run for 216 tiles, of each size and of each other kind
ENOUGH = 0.05  # share of the pixels that a wrong mask must have wrong

# Promised before these draws were measured, with margin over what other draws had shown.
FOUND = {MOVED: 0.4, SWAPPED: 0.5, ONE: 0.4}
PROMISED_SIDES = ("1/6", "1/4")
ACCUSED = 0.10


@dataclass(frozen=True)
class Case:
    """A mask that was made wrong.

    kind: as the audit should name it. detail: which sort of it. twin: the tile whose mask it got, if it did.
    """

    tile_id: str
    kind: str
    detail: str
    twin: str | None = None


@dataclass
class Rates:
    """What the audit said of one set of tiles, over several runs."""

    name: str
    tiles: int
    found: dict[tuple[str, str], list[str | None]] = field(default_factory=lambda: defaultdict(list))  # kinds named
    accused_clean: list[str] = field(default_factory=list)
    accused_beside: int = 0
    good_beside: int = 0
    wrong_twins: int = 0  # of two tiles with one mask, the good one was accused

    def share(self, kind: str, details: tuple[str, ...] | None = None) -> tuple[int, int]:
        """Found and injected of a kind."""
        rows = [
            n for (k, d), names in self.found.items() if k == kind and (details is None or d in details) for n in names
        ]
        return sum(name is not None for name in rows), len(rows)


def moved(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """A mask moved by some pixels; its border goes on outside."""
    height, width = mask.shape
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    return mask[rows[:, None], np.clip(np.arange(width) - right, 0, width - 1)]


def replaced(mask: np.ndarray, changes: dict[int, int]) -> np.ndarray:
    """A mask with some ids changed to others, all at once."""
    lookup = np.arange(256, dtype=np.uint8)
    lookup[list(changes)] = list(changes.values())
    return lookup[mask]


def shares_of(mask: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(mask.ravel(), minlength=num_classes) / mask.size


def move(mask, others, rng, side: float) -> np.ndarray | None:
    if np.sort(shares_of(mask, 2))[-2] < 0.1:
        return None
    angle, length = rng.uniform(0, 2 * np.pi), side * min(mask.shape)
    return moved(mask, round(length * np.sin(angle)), round(length * np.cos(angle)))


def exchange(mask, others, rng) -> np.ndarray | None:
    large = 1 + np.flatnonzero(shares_of(mask, 2)[1:] >= 0.1)
    if len(large) < 2:
        return None
    a, b = rng.choice(large, 2, replace=False).tolist()
    return replaced(mask, {a: b, b: a})


def read_as_another(mask, others, rng) -> np.ndarray | None:
    large = 1 + np.flatnonzero(shares_of(mask, 2)[1:] >= 0.25)
    present = np.unique(np.concatenate([np.unique(other) for other in others]))
    if not len(large):
        return None
    given = int(rng.choice(large))
    return replaced(mask, {given: int(rng.choice(present[(present > 0) & (present != given)]))})


def fill(mask, others, rng) -> np.ndarray | None:
    large = 1 + np.flatnonzero(shares_of(mask, 2)[1:] >= 0.2)
    return np.full_like(mask, rng.choice(large)) if len(large) > 1 else None


def copy_another(mask, others, rng) -> np.ndarray | None:
    fitting = [other for other in others if other.shape == mask.shape and mask_key(other) and (other != mask).any()]
    return fitting[rng.integers(len(fitting))] if fitting else None


# Kind and sort → what makes a mask wrong; None where the mask gives no occasion for it.
FAULTS: dict[tuple[str, str], Callable] = {
    **{
        (MOVED, name): lambda mask, others, rng, side=side: move(mask, others, rng, side)
        for name, side in SIDES.items()
    },
    (SWAPPED, "two classes exchanged, 10 % each or more"): exchange,
    (SWAPPED, "a class of 25 % or more read as another"): read_as_another,
    (ONE, "filled with one of several classes of 20 % or more"): fill,
    (REPEATED, "another tile's mask"): copy_another,
}


def make_wrong(raw: Path, seed: int, num_classes: int) -> list[Case]:
    """Make some masks of a raw folder wrong, in each way; returns what was done."""
    rng = np.random.default_rng([1, seed])
    masks = {path.stem: read_mask(path) for path in sorted((raw / "masks").glob("*.png"))}
    free = rng.permutation(sorted(masks)).tolist()
    cases = []
    for (kind, detail), fault in FAULTS.items():
        wanted = max(1, round(EACH["moved" if kind == MOVED else "other"] * len(masks) / 216))
        for tile_id in list(free):
            if not wanted:
                break
            others = [masks[other] for other in free if other != tile_id]
            wrong = fault(masks[tile_id], others, rng)
            if wrong is not None and (wrong != masks[tile_id]).mean() >= ENOUGH:
                write_png(raw / "masks" / f"{tile_id}.png", wrong)
                free.remove(tile_id)
                twins = [other for other in masks if kind == REPEATED and np.array_equal(masks[other], wrong)]
                cases.append(Case(tile_id, kind, detail, *twins[:1]))
                wanted -= 1
    return cases


def audit(root: Path) -> dict[str, str]:
    """{tile id: kind} of the masks that the audit calls likely wrong."""
    quiet(check_biodiversity.main, "--root", root)
    problems = json.loads((root / "artifacts/audit/audit.json").read_text())["problems"]
    return {problem["tile_id"]: problem["kind"] for problem in problems if problem["kind"] in KINDS}


def real_biodiversity(root: Path) -> None:
    write_taxonomy(root, load_taxonomy(REAL_DATA))
    raw = root / "data/biodiversity_raw"
    raw.mkdir(parents=True)
    (raw / "images").symlink_to(REAL_DATA / "biodiversity_raw/images")
    shutil.copytree(REAL_DATA / "biodiversity_raw/masks", raw / "masks")


def real_openearthmap(root: Path) -> None:
    """The OpenEarthMap tiles as if they were Biodiversity tiles of their own classes."""
    themselves = {name: {name: 1.0} for name in OPENEARTHMAP.classes}
    write_taxonomy(root, Taxonomy(OPENEARTHMAP.classes, OPENEARTHMAP.colors, themselves))
    raw = root / "data/biodiversity_raw"
    for name in ("images", "masks"):
        (raw / name).mkdir(parents=True)
    for path in sorted((REAL_DATA / OEM_RAW.relative_to("data")).glob("*/labels/*.tif")):
        image = path.parents[1] / "images" / path.name
        if image.is_file():
            (raw / "images" / path.name).symlink_to(image)
            with open_raster(path) as src:
                write_png(raw / "masks" / f"{path.stem}.png", src.read(1))


def generated(root: Path) -> None:
    quiet(make_demo_data.main, "--root", root, "--seed", 1, "--oem-tiles", 1)


def measure(name: str, make: Callable[[Path], None], folder: Path, seeds: int) -> Rates:
    """Audit a set of tiles as it is, then with faults of each kind, once a seed."""
    root = folder / name.replace(" ", "_")
    make(root)
    masks = root / "data/biodiversity_raw/masks"
    num_classes = load_taxonomy(root).num_classes
    kept = shutil.copytree(masks, root / "masks")
    rates = Rates(name, len(list(masks.iterdir())), accused_clean=sorted(audit(root)))
    for seed in range(seeds):
        shutil.rmtree(masks)
        shutil.copytree(kept, masks)
        cases = make_wrong(masks.parent, seed, num_classes)
        said = audit(root)
        for case in cases:
            named = said.pop(case.tile_id, None)
            if case.kind == REPEATED and named != REPEATED and said.get(case.twin) == REPEATED:
                named, rates.wrong_twins = REPEATED, rates.wrong_twins + 1
            rates.found[case.kind, case.detail].append(named)
        rates.accused_beside += len(said)
        rates.good_beside += rates.tiles - len(cases)
    return rates


def measure_all(folder: Path, seeds: int) -> list[Rates]:
    if REAL_DATA.is_dir():
        sets = {"real Biodiversity tiles": real_biodiversity, "real OpenEarthMap tiles": real_openearthmap}
    else:
        sets = {"generated tiles": generated}
    return [measure(name, make, folder, seeds) for name, make in sets.items()]


def rates_table(rates: Rates) -> str:
    rows = [
        [f"{kind}, {detail}", f"{sum(n is not None for n in names)} of {len(names)}", sum(n == kind for n in names)]
        for (kind, detail), names in rates.found.items()
    ]
    rows.append(["good tiles accused, no fault among the others", f"{len(rates.accused_clean)} of {rates.tiles}", ""])
    rows.append(["good tiles accused beside the faults", f"{rates.accused_beside} of {rates.good_beside}", ""])
    return table([f"{rates.tiles} {rates.name}", "found", "by its kind"], rows)


def families(measured: list[Rates]) -> list[Family]:
    found = []
    for kind, least in FOUND.items():
        details = PROMISED_SIDES if kind == MOVED else None
        which = f" by {' or '.join(PROMISED_SIDES)} of a side" if details else ""
        family = Family(f"labels: {kind}", f"at least {least:.0%} are found{which}")
        for rates in measured:
            count, of = rates.share(kind, details)
            family.record(rates.name, None if count >= least * of else f"{count} of {of} found")
        sorts = dict.fromkeys(detail for rates in measured for k, detail in rates.found if k == kind)
        said = [
            f"{detail}: " + ", ".join("{} of {}".format(*rates.share(kind, (detail,))) for rates in measured)
            for detail in sorts
        ]
        family.remark = f"{' / '.join(rates.name for rates in measured)}: {'; '.join(said)}"
        found.append(family)
    family = Family(f"labels: {REPEATED}", "each pair is found")
    for rates in measured:
        names = [name for (kind, _), names in rates.found.items() if kind == REPEATED for name in names]
        for number, name in enumerate(names):
            family.record(f"{rates.name}, {number}", None if name else "not found")
    wrong_twins = sum(rates.wrong_twins for rates in measured)
    family.remark = f"the good one of the two is accused in {wrong_twins}"
    found.append(family)
    family = Family("labels: good tiles", f"at most {ACCUSED:.0%} are accused")
    for rates in measured:
        share = rates.accused_beside / rates.good_beside
        family.record(rates.name, None if share <= ACCUSED else f"{share:.1%} accused")
    family.remark = "; ".join(
        f"{rates.name}: {len(rates.accused_clean)} of {rates.tiles}, beside faults {rates.accused_beside} of "
        f"{rates.good_beside}"
        for rates in measured
    )
    return [*found, family]


def inject(folder: Path) -> list[Family]:
    """Make masks wrong in every way, a few a run, and audit them."""
    return families(measure_all(folder, SEEDS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs with other faults, for each set of tiles")
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure_all(Path(scratch), seeds)
    print(*map(rates_table, measured), sep="\n\n")
    print()
    print(*families(measured), sep="\n")
