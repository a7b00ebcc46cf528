r"""Find the minority classes of train, and the tiles that replication will repeat.

python -m data_prep.analyze_class_distribution
"""

import numpy as np

from common.cli import Parser, command_for, fraction, run
from common.figures import new_figure, png_bytes
from common.files import json_text, write_files
from common.taxonomy import Taxonomy, load_taxonomy
from common.text import table, warn
from common.tiles import TileSet


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--train-dir", "data/biodiversity_split/train", "tile set whose classes are counted")
    parser.add_path("--out", "artifacts/class_distribution.json", "file to write; the figure goes beside it as .png")
    parser.add_argument(
        "--minority-share", type=fraction, default=0.10, help="classes under this share of labelled pixels are minority"
    )
    parser.add_argument(
        "--tile-share",
        type=fraction,
        default=0.05,
        help="a tile is replicated where a minority class covers at least this share of its labelled pixels",
    )
    return parser.parse_args(argv)


def class_distribution(
    ids: list[str], pixels: np.ndarray, taxonomy: Taxonomy, minority_share: float, tile_share: float
) -> dict:
    """Shares and presence of each class, the minority classes, and the tiles in which they matter.

    Args:
        ids: N tile ids.
        pixels: (N, C) int64 pixels of each class, void first.
    """
    labelled = pixels[:, 1:]
    total = labelled.sum(axis=0)
    shares = total / max(total.sum(), 1)
    tiles = (labelled > 0).sum(axis=0)
    minority = [k for k in range(len(shares)) if 0 < shares[k] < minority_share]
    in_tile = labelled / np.maximum(labelled.sum(axis=1, keepdims=True), 1)
    replicate = {}
    for tile_id, row in zip(ids, in_tile, strict=True):
        held = {
            taxonomy.foreground[k]: round(float(row[k]), 6) for k in minority if row[k] > 0 and row[k] >= tile_share
        }
        if held:
            replicate[tile_id] = held
    return {
        "classes": {
            name: {
                "pixels": int(total[k]),
                "share": float(shares[k]),
                "tiles": int(tiles[k]),
                "tile_presence": float(tiles[k] / len(ids)),
            }
            for k, name in enumerate(taxonomy.foreground)
        },
        "minority_share": minority_share,
        "tile_share": tile_share,
        "minority_classes": [taxonomy.foreground[k] for k in minority],
        "tiles_to_replicate": replicate,
    }


def draw(distribution: dict, taxonomy: Taxonomy, tile_count: int):
    """Figure of the pixel share of each class (log scale, with the threshold) beside its tile presence."""
    names = list(distribution["classes"])
    colors = taxonomy.colors[1:]
    shares = [100 * distribution["classes"][name]["share"] for name in names]
    presence = [100 * distribution["classes"][name]["tile_presence"] for name in names]
    labels = [f"{name} *" if name in distribution["minority_classes"] else name for name in names]
    figure = new_figure(10, 0.45 * len(names) + 1.6)
    left, right = figure.subplots(1, 2, sharey=True)
    known = [share for share in shares if share > 0]
    floor = 10.0 ** np.floor(np.log10(min(known)))
    left.barh(
        labels,
        [max(share - floor, 0) for share in shares],
        left=floor,
        color=colors,
        edgecolor="#444444",
        linewidth=0.5,
    )
    left.set_xscale("log")
    left.set_xlim(floor, 180)
    threshold = 100 * distribution["minority_share"]
    if threshold >= floor:
        left.axvline(threshold, color="#444444", linestyle="--", linewidth=1)
        where = {"transform": left.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 8}
        left.text(threshold, 1.01, f"minority under {threshold:g}%", **where)
    left.set_xlabel("share of labelled pixels, % (log scale)")
    left.xaxis.set_major_formatter("{x:g}")
    right.barh(labels, presence, color=colors, edgecolor="#444444", linewidth=0.5)
    right.set_xlim(0, 115)
    right.set_xlabel(f"tiles that contain the class, % of {tile_count}")
    style = {"va": "center", "fontsize": 9}
    halo = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for row, (share, present) in enumerate(zip(shares, presence, strict=True)):
        percent = f"{share:.2g}" if share < 1 else f"{share:.1f}"
        left.text(max(share, floor) * 1.08, row, percent, bbox=halo, **style)
        right.text(present + 1, row, f"{present:.1f}", **style)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    return figure


def main(argv=None):
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    train = TileSet.open(args.train_dir, command_for("data_prep.split_biodiversity", args))
    train.require_split("train", "--train-dir").require_taxonomy(taxonomy)
    pixels = np.array([tile.pixels for tile in train])
    distribution = class_distribution(train.ids, pixels, taxonomy, args.minority_share, args.tile_share)
    figure = png_bytes(draw(distribution, taxonomy, len(train)))
    text = json_text({"train_digest": train.digest, **distribution})
    write_files({args.out.with_suffix(".png"): figure, args.out: text})

    minority = distribution["minority_classes"]
    rows = [
        [
            name,
            f"{c['pixels']:,}",
            f"{c['share']:.2%}",
            f"{c['tiles']} of {len(train)}",
            "minority" if name in minority else "",
        ]
        for name, c in distribution["classes"].items()
    ]
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
