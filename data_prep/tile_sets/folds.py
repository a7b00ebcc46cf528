"""The folds of a study: dealing what is not test, saying what came of it, and the record that keeps them together."""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import Parser, positive_int
from common.errors import UserError
from common.files import digest_json, locked, read_json, write_json
from common.folds import FOLDS, FOLDS_MODULE, RECORD, fold_number, fold_root, repeat_of, study_root
from common.inputs import Command, Input
from common.taxonomy import Taxonomy
from common.text import table, warn
from data_prep.tile_sets.class_shares import percentages
from data_prep.tile_sets.dealing import deal, lacking_classes, require_whole

TRAIN, VAL, TEST = range(3)


def add_folds(parser: Parser) -> None:
    """Add --folds and --fold, which are None if one split is made."""
    parser.add_argument(
        "--folds",
        type=positive_int,
        metavar="K",
        help="deal what is not test into K folds; --fold says which of them is val",
    )
    parser.add_argument(
        "--fold",
        type=positive_int,
        metavar="k",
        help="the fold to make, below ROOT/folds; above K of a further dealing: K + 1 to 2 K of the second, and so on",
    )


def check_folds(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse flags that make no fold, and a --root that is itself that of a fold."""
    if (args.folds is None) != (args.fold is None):
        parser.error("--folds K and --fold k belong together: K folds, of which the k-th is made")
    if args.folds == 1:
        parser.error("--folds 1: expected at least 2, one for val and the others for train")
    if fold_number(args.root) is not None:
        command = Command.of(FOLDS_MODULE, args.root)
        parser.error(f"--root {args.root} is a fold of {study_root(args.root)}. Make it there: {command}")


@dataclass(frozen=True)
class Dealing:
    """Tiles dealt into folds.

    ``number`` is the fold that is made; ``fold_of`` (N,) int64 the fold of each tile within its dealing, from 0, -1 in
    test; ``lacking`` the classes that each fold lacks, as positions among the foreground; ``digest`` stands for what
    was dealt and how, and is the same for all folds of a study.
    """

    number: int
    folds: int
    seed: int
    fold_of: np.ndarray
    lacking: list[list[int]]
    digest: str

    @property
    def first(self) -> int:
        """The number of the first fold of this dealing."""
        return (repeat_of(self.number, self.folds) - 1) * self.folds + 1

    @property
    def sides(self) -> np.ndarray:
        """(N,) 0, 1 or 2 of each tile: train, val or test."""
        val = self.fold_of == self.number - self.first
        return np.where(self.fold_of < 0, TEST, np.where(val, VAL, TRAIN))

    def entries(self, taxonomy: Taxonomy) -> dict:
        """What the manifests of this fold's train, val and test say of it."""
        repeat = repeat_of(self.number, self.folds)
        lacking = {
            str(self.first + n): [taxonomy.foreground[k] for k in classes]
            for n, classes in enumerate(self.lacking)
            if classes
        }
        return {
            "fold": {"fold": self.number, "folds": self.folds, "repeat": repeat, "seed": self.seed},
            "folds_lacking_classes": lacking,
            "dealing": self.digest,
        }


def deal_folds(
    args: argparse.Namespace, ids: list[str], units: np.ndarray, pixels: np.ndarray, in_test: np.ndarray, unit: str
) -> Dealing:
    """Deal all tiles but those of test into --folds; ``args`` are those of split_biodiversity.

    Args:
        ids: of N tiles.
        units, pixels: as for ``deal``, of all tiles.
        in_test: (N,) bool.
        unit: what is dealt, blocks or tiles, for messages.

    Raises:
        UserError: there are too few units for so many folds, or for another dealing.
    """
    rest = np.flatnonzero(~in_test)
    of_rest = np.unique(units[rest], return_inverse=True)[1]
    count = int(of_rest.max()) + 1
    if count < args.folds:
        raise UserError(
            f"--folds {args.folds}: {count} {unit} are left beside test, which make {count} folds at most. "
            f"Use fewer --folds{', or a smaller --block-size' if unit == 'blocks' else ''}, or add tiles."
        )
    fold_of = np.full(len(units), -1, np.int64)
    fold_of[rest] = deal(of_rest, pixels[rest], args.folds, args.seed, repeat_of(args.fold, args.folds))
    require_whole(units, fold_of)
    digest = digest_json(
        {
            "folds": args.folds,
            "seed": args.seed,
            "tiles": dict(zip(ids, np.column_stack([units, in_test, pixels]).tolist(), strict=True)),
        }
    )
    lacking = lacking_classes(pixels[rest], fold_of[rest], args.folds)
    return Dealing(args.fold, args.folds, args.seed, fold_of, lacking, digest)


def tell_folds(
    dealing: Dealing, taxonomy: Taxonomy, pixels: np.ndarray, areas: np.ndarray, units: np.ndarray, unit: str
) -> None:
    """Print the folds of a dealing, and warn of the classes that some lack.

    ``pixels``: (N, C) int64 labelled ones of each foreground class; ``areas`` and ``units``: (N,) spatial block, and
    unit that was dealt, of each tile.
    """
    rows = []
    for n in range(-1, dealing.folds):
        of_fold = dealing.fold_of == n
        name = "test" if n < 0 else f"fold {dealing.first + n}{' *' if dealing.first + n == dealing.number else ''}"
        shares = percentages(np.array([0, *pixels[of_fold].sum(axis=0)]))
        rows.append([name, int(of_fold.sum()), len(set(areas[of_fold])), *shares])
    print(table(["", "tiles", "blocks", *taxonomy.foreground], [*rows[1:], rows[0]]))
    print(f"* val of fold {dealing.number}; the other folds are its train")
    folds_without = defaultdict(list)
    for n, classes in enumerate(dealing.lacking):
        for k in classes:
            folds_without[k].append(str(dealing.first + n))
    for k, folds in sorted(folds_without.items()):
        holders = np.unique(units[(pixels[:, k] > 0) & (dealing.fold_of >= 0)])
        named = f"fold {folds[0]} lacks" if len(folds) == 1 else f"folds {', '.join(folds[:-1])} and {folds[-1]} lack"
        warn(
            f"{named} {taxonomy.foreground[k]}: outside test it is in {len(holders)} {unit}, for {dealing.folds} folds."
        )


def record_folds(study: Path, dealing: Dealing, command: Command, overwrite: bool) -> None:
    """Note how the tiles of a study were dealt, for the folds that follow.

    Args:
        study: the study's root.
        command: the one that makes this fold.
        overwrite: whether another record may be replaced.

    Raises:
        UserError: the folds that are there were dealt otherwise.
    """
    path = study / FOLDS / RECORD
    count = {"folds": dealing.folds, "seed": dealing.seed, "tiles": len(dealing.fold_of)}
    with locked(path):
        earlier = read_json(Input(path, command)) if path.exists() else None
        if isinstance(earlier, dict) and earlier.get("dealing") == dealing.digest:
            return
        if earlier is not None and not overwrite:
            was = ", ".join(f"{key} {earlier.get(key)}" for key in count) if isinstance(earlier, dict) else "no record"
            now = ", ".join(f"{key} {value}" for key, value in count.items())
            raise UserError(
                f"{path}: the folds beside it were dealt from other tiles or masks, or by other flags ({was}; now "
                f"{now}). Make this fold and all others again with --overwrite, or move {path.parent} away."
            )
        write_json(path, {**count, "dealing": dealing.digest})


def split_home(args: argparse.Namespace) -> Path:
    """The root below which split_biodiversity writes."""
    return args.root if args.fold is None else fold_root(args.root, args.fold)
