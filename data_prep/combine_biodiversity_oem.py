r"""Put the Biodiversity train tiles and the relabelled OpenEarthMap tiles into one set for pretraining.

Where the Biodiversity tiles have other bands than red, green and blue, those of OpenEarthMap get these when they are
read: a band that OpenEarthMap lacks is the mean of train everywhere.

    python -m data_prep.combine_biodiversity_oem
"""

import argparse

from tqdm import tqdm

from common.bands import RGB, add_oem_bands, chosen_oem_bands, filling_of, named
from common.cli import Parser, run
from common.taxonomy import load_taxonomy
from common.text import table, warn
from common.tiles import TileSet
from data_prep.tile_sets.class_shares import percentages
from data_prep.tile_sets.writer import add_mode, new_tile_set

OEM_PREFIX = "oem_"  # Biodiversity and OpenEarthMap may use one name


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    train, relabelled = "data/biodiversity_split/train", "data/openearthmap_relabelled"
    parser.add_input("--train-dir", train, "Biodiversity train tiles", made_by="data_prep.split_biodiversity")
    parser.add_input(
        "--oem-dir",
        relabelled,
        "OpenEarthMap tiles in Biodiversity classes",
        made_by="data_prep.relabel_oem",
        shared=True,
    )
    parser.add_path("--out-dir", "data/biodiversity_oem_combined/train", "tile set to write")
    add_oem_bands(parser)
    add_mode(parser)
    parser.add_overwrite()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    train = TileSet.open(args.train_dir).require_split("train").require_taxonomy(taxonomy)
    oem = TileSet.open(args.oem_dir).require_split("pool").require_taxonomy(taxonomy)
    oem_bands = chosen_oem_bands(train.bands, args.oem_bands)
    colors = train.manifest.get("colors") or []
    declared = tuple(train.bands[colors.index(color)] for color in ("red", "green", "blue") if color in colors)
    if args.oem_bands is None and len(train.bands) > len(RGB) == len(declared) and declared != oem_bands:
        warn(
            f"the raw images declare the bands {named(declared)} as red, green and blue, and {named(oem_bands)} are "
            f"taken for OpenEarthMap's. Give --oem-bands {named(declared)} here and to stage 6 (or to reproduce.py)."
        )
    filling = filling_of(train.bands, train.band_statistics, oem_bands)
    entries = train.scaling
    if filling:
        entries |= {"oem_bands": list(oem_bands), "oem_fill": list(filling.values)}
    with new_tile_set(args.out_dir, args, taxonomy=taxonomy, split="train", made_from=[train, oem], **entries) as out:
        for tile in tqdm(train, desc="Biodiversity", unit="tile"):
            out.add(tile)
        for tile in tqdm(oem, desc="OpenEarthMap", unit="tile"):
            out.add(tile, tile_id=OEM_PREFIX + tile.id)

    sources = {"Biodiversity": train, "OpenEarthMap": oem, "combined": out}
    rows = [[name, len(tiles), *percentages(tiles.pixels)] for name, tiles in sources.items()]
    print(table(["source", "tiles", *taxonomy.foreground], rows))
    if filling:
        filled = [f"band {number} is {value} everywhere" for number, value in filling.lacking(train.bands).items()]
        print(
            f"OpenEarthMap's red, green and blue are the bands {named(oem_bands)} of {named(train.bands)}"
            + (f"; it lacks the others, so that in its tiles {', '.join(filled)}, the mean of train" if filled else "")
        )
    print(out.summary())


if __name__ == "__main__":
    run(main)
