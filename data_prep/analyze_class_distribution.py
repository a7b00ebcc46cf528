r"""Find the minority classes of train, and the tiles that replication will repeat.

python -m data_prep.analyze_class_distribution
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

from common.cli import Parser, fraction, run
from common.figures import new_figure, png_bytes
from common.files import json_text, write_files
from common.taxonomy import Taxonomy, load_taxonomy
from common.text import starred, table, warn
from common.tiles import TileSet
from data_prep.tile_sets.class_shares import class_shares, plot_class_bars, share_rows


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    train = "data/biodiversity_split/train"
    parser.add_input("--train-dir", train, "tile set whose classes are counted", made_by="data_prep.split_biodiversity")
    parser.add_path("--out", "artifacts/class_distribution.json", "file to write; the figure goes beside it as .png")
    parser.add_argument(
        "--minority-share", type=fraction, default=0.10, help="classes under this share of labelled pixels are minority"
    )
    parser.add_argument(
        "--tile-share",
        type=fraction,
        default=0.05,
        help="a tile is replicated if a minority class covers at least this share of its labelled pixels",
    )
    return parser.parse_args(argv)


def class_distribution(
    ids: list[str], pixels: np.ndarray, taxonomy: Taxonomy, minority_share: float, tile_share: float
) -> dict:
    """Shares and presence of each class, the minority classes, and the tiles in which they matter.

    Args:
        ids: N tile ids.
        pixels: (N, C) int64 pixels of each class, void first.
        minority_share: classes under this share of the labelled pixels are minority.
        tile_share: of a minority class, from which on a tile is to be replicated.
    """
    classes = class_shares(pixels, taxonomy)
    minority = [name for name in taxonomy.foreground if 0 < classes[name]["share"] < minority_share]
    labelled = pixels[:, 1:]
    in_tile = labelled / np.maximum(labelled.sum(axis=1, keepdims=True), 1)
    replicate = {}
    for tile_id, row in zip(ids, in_tile, strict=True):
        share = dict(zip(taxonomy.foreground, row.tolist(), strict=True))
        held = {name: round(share[name], 6) for name in minority if share[name] > 0 and share[name] >= tile_share}
        if held:
            replicate[tile_id] = held
    return {
        "classes": classes,
        "minority_share": minority_share,
        "tile_share": tile_share,
        "minority_classes": minority,
        "tiles_to_replicate": replicate,
    }


def plot_distribution(distribution: dict, taxonomy: Taxonomy, tile_count: int) -> Figure:
    """Figure of the pixel share of each class (log scale, with the threshold) beside its tile presence."""
    names = list(distribution["classes"])
    shares = [100 * distribution["classes"][name]["share"] for name in names]
    presence = [100 * distribution["classes"][name]["tile_presence"] for name in names]
    labels = [starred(name, distribution["minority_classes"]) for name in names]
    figure = new_figure(10, 0.45 * len(names) + 1.6)
    left, right = figure.subplots(1, 2, sharey=True)
    floor = 10.0 ** np.floor(np.log10(min(share for share in shares if share > 0)))
    left.set_xscale("log")
    plot_class_bars(left, labels, shares, taxonomy, "share of labelled pixels, % (log scale)", start=floor)
    left.set_xlim(floor, 180)
    threshold = 100 * distribution["minority_share"]
    if threshold >= floor:
        left.axvline(threshold, color="#444444", linestyle="--", linewidth=1)
        above = {"transform": left.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 8}
        left.text(threshold, 1.01, f"minority under {threshold:g}%", **above)
    left.xaxis.set_major_formatter("{x:g}")
    plot_class_bars(right, labels, presence, taxonomy, f"tiles that contain the class, % of {tile_count}")
    right.set_xlim(0, 115)
    left.invert_yaxis()
    return figure


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    train = TileSet.open(args.train_dir).require_split("train").require_taxonomy(taxonomy)
    pixels = np.array([tile.pixels for tile in train])
    distribution = class_distribution(train.ids, pixels, taxonomy, args.minority_share, args.tile_share)
    figure = png_bytes(plot_distribution(distribution, taxonomy, len(train)))
    text = json_text({"train_digest": train.digest, **distribution})
    write_files({args.out.with_suffix(".png"): figure, args.out: text})

    minority = distribution["minority_classes"]
    rows = share_rows(distribution["classes"], len(train))
    rows = [[*row, "minority" if row[0] in minority else ""] for row in rows]
    print(table(["class", "pixels", "share of labelled", "tiles", ""], rows))
    chosen = distribution["tiles_to_replicate"]
    print(f"minority classes (under {100 * args.minority_share:g}%): {', '.join(minority) or 'none'}")
    print(f"tiles to replicate (at least {100 * args.tile_share:g}% minority): {len(chosen)} of {len(train)}")
    print(f"{args.out} and {args.out.with_suffix('.png').name} written")
    for name, c in distribution["classes"].items():
        if not c["pixels"]:
            warn(
                f"{name} does not occur in {args.train_dir}: nothing can be learnt of it, and it is no minority class."
            )
    if not minority:
        warn(f"no class is under {100 * args.minority_share:g}%; replication needs one. Raise --minority-share.")


if __name__ == "__main__":
    run(main)
