r"""Put the Biodiversity train tiles and the relabelled OpenEarthMap tiles into one set for pretraining.

python -m data_prep.combine_biodiversity_oem
"""

from tqdm import tqdm

from common.cli import Parser, command_for, run
from common.taxonomy import load_taxonomy
from common.text import table
from common.tiles import TileSet
from data_prep.tile_sets.writer import new_tile_set

OEM_PREFIX = "oem_"  # Biodiversity and OpenEarthMap may use one name


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--train-dir", "data/biodiversity_split/train", "Biodiversity train tiles")
    parser.add_path("--oem-dir", "data/openearthmap_relabelled", "OpenEarthMap tiles in Biodiversity classes")
    parser.add_path("--out-dir", "data/biodiversity_oem_combined/train", "tile set to write")
    parser.add_argument("--mode", choices=["link", "copy"], default="link", help="how files are taken over")
    parser.add_overwrite()
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    train = TileSet.open(args.train_dir, command_for("data_prep.split_biodiversity", args))
    train.require_split("train", "--train-dir").require_taxonomy(taxonomy)
    oem = TileSet.open(args.oem_dir, command_for("data_prep.relabel_oem", args))
    oem.require_split("pool", "--oem-dir").require_taxonomy(taxonomy)
    facts = {"stretch": train.stretch}
    with new_tile_set(args.out_dir, args, taxonomy=taxonomy, split="train", made_from=[train, oem], **facts) as out:
        for tile in tqdm(train, desc="Biodiversity", unit="tile"):
            out.add(tile)
        for tile in tqdm(oem, desc="OpenEarthMap", unit="tile"):
            out.add(tile, tile_id=OEM_PREFIX + tile.id)

    rows = []
    for name, count, pixels in (
        ("Biodiversity", len(train), train.pixels),
        ("OpenEarthMap", len(oem), oem.pixels),
        ("combined", len(out), out.pixels),
    ):
        rows.append([name, count, *(f"{share:.1%}" for share in pixels[1:] / max(pixels[1:].sum(), 1))])
    print(table(["source", "tiles", *taxonomy.foreground], rows))
    print(out.summary())


if __name__ == "__main__":
    run(main)
