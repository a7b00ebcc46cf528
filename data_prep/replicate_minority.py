r"""Repeat the train tiles that hold minority classes: train → train_rep.

python -m data_prep.replicate_minority --copies 2
"""

import argparse
from typing import Any

from tqdm import tqdm

from common.artifacts import read_distribution
from common.cli import Parser, positive_int, run
from common.inputs import Input
from common.taxonomy import load_taxonomy
from common.text import some, table
from common.tiles import TileSet
from data_prep.tile_sets.class_shares import percentages
from data_prep.tile_sets.writer import add_mode, new_tile_set

MOST_COPIES = 1000  # more only fill the disk: draws with replacement repeat tiles anyway


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    train, distribution = "data/biodiversity_split/train", "artifacts/class_distribution.json"
    parser.add_input("--train-dir", train, "tile set to replicate from", made_by="data_prep.split_biodiversity")
    maker = "data_prep.analyze_class_distribution"
    parser.add_input("--distribution", distribution, "which tiles hold minority classes", made_by=maker)
    parser.add_path("--out-dir", "data/biodiversity_split/train_rep", "tile set to write")
    parser.add_argument("--copies", type=positive_int, default=2, help="how often more each listed tile occurs")
    add_mode(parser)
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.copies > MOST_COPIES:
        parser.error(f"--copies {args.copies}: expected at most {MOST_COPIES}")
    return args


def replica_ids(tile_id: str, copies: int) -> list[str]:
    """Ids of so many replicas of a tile."""
    return [f"{tile_id}__rep{n}" for n in range(1, copies + 1)]


def tiles_to_replicate(distribution: dict, train: TileSet, source: Input) -> list[str]:
    """The tiles that a class distribution lists; ``source`` is the file that ``read_distribution`` read it from.

    Raises:
        UserError: it was made for another train, or lists no tile.
    """
    if distribution["train_digest"] != train.digest:
        raise source.unusable(f"{source} was written for another version of {train.path}")
    chosen = sorted(distribution["tiles_to_replicate"])
    if not chosen:
        minority_share, tile_share = distribution["minority_share"], distribution["tile_share"]
        names = ", ".join(distribution["minority_classes"])
        flag, value = ("--tile-share", tile_share / 2) if names else ("--minority-share", min(1, 2 * minority_share))
        raise source.unusable(
            f"{source} lists no tile to replicate (minority classes: {names or 'none'}). Choose a higher "
            f"--minority-share than {minority_share:g} or a lower --tile-share than {tile_share:g}, as here",
            *(flag, f"{value:g}"),
        )
    unknown = [tile_id for tile_id in chosen if tile_id not in train]
    if unknown:
        raise source.unusable(f"{source} lists tiles that are not in {train.path}: {some(unknown)}")
    return chosen


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    train = TileSet.open(args.train_dir).require_split("train").require_taxonomy(taxonomy)
    distribution = read_distribution(args.distribution, taxonomy)
    chosen = set(tiles_to_replicate(distribution, train, args.distribution))
    entries: dict[str, Any] = {**train.scaling, "copies": args.copies, "replicated_tiles": len(chosen)}
    with new_tile_set(args.out_dir, args, taxonomy=taxonomy, split="train", made_from=[train], **entries) as out:
        for tile in tqdm(train, desc="Replicating", unit="tile"):
            out.add(tile)
            for replica in replica_ids(tile.id, args.copies) if tile.id in chosen else ():
                out.add(tile, tile_id=replica, base=tile.base)

    marks = ["minority" if name in distribution["minority_classes"] else "" for name in taxonomy.foreground]
    columns = taxonomy.foreground, percentages(train.pixels, 2), percentages(out.pixels, 2), marks
    rows = [list(row) for row in zip(*columns, strict=True)]
    print(table(["class", "share of train", "share of train_rep", ""], rows))
    print(f"{args.out_dir}: {len(train)} tiles, {len(chosen)} of them {args.copies} times more, {len(out)} in all")


if __name__ == "__main__":
    run(main)
