r"""Repeat the train tiles that hold minority classes: train → train_rep.

python -m data_prep.replicate_minority --copies 2
"""

from tqdm import tqdm

from common.artifacts import read_distribution
from common.cli import Parser, command_for, positive_int, run
from common.errors import UserError
from common.taxonomy import load_taxonomy
from common.text import some, table
from common.tiles import TileSet
from data_prep.tile_sets.writer import new_tile_set

MOST_COPIES = 1000  # more only fill the disk: draws with replacement repeat tiles anyway


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--train-dir", "data/biodiversity_split/train", "tile set to replicate from")
    parser.add_path("--distribution", "artifacts/class_distribution.json", "which tiles hold minority classes")
    parser.add_path("--out-dir", "data/biodiversity_split/train_rep", "tile set to write")
    parser.add_argument("--copies", type=positive_int, default=2, help="how often more each listed tile occurs")
    parser.add_argument("--mode", choices=["link", "copy"], default="link", help="how files are taken over")
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.copies > MOST_COPIES:
        parser.error(f"--copies {args.copies}: expected at most {MOST_COPIES}")
    return args


def replica_ids(tile_id: str, copies: int) -> list[str]:
    """Ids of the replicas of a tile."""
    return [f"{tile_id}__rep{n}" for n in range(1, copies + 1)]


def tiles_to_replicate(distribution: dict, train: TileSet, where, command: str) -> list[str]:
    """The tiles that a class distribution lists; UserError where it was made for another train or lists none.

    ``where`` is the file it comes from, ``command`` what writes it.
    """
    if distribution["train_digest"] != train.digest:
        raise UserError(f"{where} was written for another version of {train.path}. Write it again: {command}")
    chosen = sorted(distribution["tiles_to_replicate"])
    if not chosen:
        raise UserError(
            f"{where} lists no tile to replicate (minority classes: "
            f"{', '.join(distribution['minority_classes']) or 'none'}). Write it again with a higher --minority-share "
            f"than {distribution['minority_share']:g} or a lower --tile-share than {distribution['tile_share']:g}: "
            f"{command}"
        )
    unknown = [tile_id for tile_id in chosen if tile_id not in train]
    if unknown:
        raise UserError(f"{where} lists tiles that are not in {train.path}: {some(unknown)}. Write it again: {command}")
    return chosen


def main(argv=None):
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    train = TileSet.open(args.train_dir, command_for("data_prep.split_biodiversity", args))
    train.require_split("train", "--train-dir").require_taxonomy(taxonomy)
    command = command_for("data_prep.analyze_class_distribution", args)
    distribution = read_distribution(args.distribution, taxonomy, command)
    chosen = set(tiles_to_replicate(distribution, train, args.distribution, command))
    facts = {"stretch": train.stretch, "copies": args.copies, "replicated_tiles": len(chosen)}
    with new_tile_set(args.out_dir, args, taxonomy=taxonomy, split="train", made_from=[train], **facts) as out:
        for tile in tqdm(train, desc="Replicating", unit="tile"):
            out.add(tile)
            for replica in replica_ids(tile.id, args.copies) if tile.id in chosen else ():
                out.add(tile, tile_id=replica, base=tile.base)

    before, after = (pixels[1:] / pixels[1:].sum() for pixels in (train.pixels, out.pixels))
    minority = distribution["minority_classes"]
    rows = [
        [name, f"{before[k]:.2%}", f"{after[k]:.2%}", "minority" if name in minority else ""]
        for k, name in enumerate(taxonomy.foreground)
    ]
    print(table(["class", "share of train", "share of train_rep", ""], rows))
    print(f"{args.out_dir}: {len(train)} tiles, {len(chosen)} of them {args.copies} times more, {len(out)} in all")


if __name__ == "__main__":
    run(main)
