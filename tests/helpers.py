"""Small data sets that several tests share: raw tiles, an OpenEarthMap tree, and a root with all data steps done."""

import contextlib
import importlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from rasterio import Affine

from common.checkpoints import checkpoint_bytes
from common.inputs import Command, Input
from common.rasters import open_raster
from common.raw_images import chosen_reading, pixels_per_tile
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP, Taxonomy, load_taxonomy
from data_prep import (
    analyze_class_distribution,
    check_leakage,
    combine_biodiversity_oem,
    filter_oem_rural,
    prepare_oem_teacher,
    relabel_oem,
    replicate_minority,
    split_biodiversity,
)
from data_prep.audit.groups import find_groups
from data_prep.raw.inspect import inspect
from data_prep.raw.masks import MaskReading
from data_prep.raw.pairs import find_raw
from data_prep.tile_sets.groups import groups_text
from training.engine.flags import TrainParser, train_parser

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # for a process that is started
REPOSITORY = Path(__file__).resolve().parents[1]
CRS = "EPSG:32633"
GSD = 0.5
OEM_RAW = Path("data/openearthmap_raw/OpenEarthMap/OpenEarthMap_wo_xBD")
THREE_CLASSES = Taxonomy(
    classes=("Nothing", "Wet", "Dry", "Bright"),
    colors=("#000000", "#0000ff", "#ffaa00", "#ffffff"),
    from_openearthmap={
        name: {"Wet" if name == "Water" else "Nothing" if name in ("Unknown", "Bareland") else "Dry": 1.0}
        for name in OPENEARTHMAP.classes
    },
)


def doors() -> dict[str, ModuleType]:
    """The scripts that one can run, by their dotted names."""
    folders = [REPOSITORY / wing for wing in ("data_prep", "training", "evaluation")]
    names = [f"{path.parent.name}.{path.stem}" for folder in folders for path in sorted(folder.glob("[a-z]*.py"))]
    return {name: importlib.import_module(name) for name in names}


def parser_of_a_stage(stage: str = "stage") -> TrainParser:
    """The parser of a training script."""
    folder = "data/biodiversity_split/train"
    return train_parser(stage, "", train_dir=folder, train_made_by="data_prep.split_biodiversity")


def made(path: Path, command: str = "python -m some.step") -> Input:
    """What a script would have parsed of ``path``, with the command that makes it."""
    return Input(Path(path), Command.read(command))


def save_checkpoint(path: Path, state: dict, metadata: dict, training: dict | None = None) -> Path:
    """Write a checkpoint as the loop does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(checkpoint_bytes(state, metadata, training))
    return path


def write_tif(path: Path, pixels: np.ndarray, *, origin=None, gsd=GSD, crs=CRS, **profile) -> None:
    """Write (B, H, W) as GeoTIFF; ``origin`` is (left, top) in metres, None leaves the tile without a place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    place = {"crs": crs, "transform": Affine(gsd, 0, origin[0], 0, -gsd, origin[1])} if origin else {}
    with open_raster(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=pixels.dtype, **place, **profile
    ) as dst:
        dst.write(pixels)


def write_png(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def paint(mask: np.ndarray, num_classes: int, rng) -> np.ndarray:
    """(H, W) class ids → (3, H, W) uint8: a colour a class, with noise."""
    palette = np.random.default_rng(7).integers(40, 216, (num_classes, 3))
    noise = rng.normal(0, 18, (3, *mask.shape))
    return np.clip(np.moveaxis(palette[mask], -1, 0) + noise, 0, 255).astype(np.uint8)


def landscape(height: int, width: int, num_classes: int, rng) -> np.ndarray:
    """(H, W) uint8 ids: the first two classes in broad zones, the others in small rectangles, a strip of void."""
    rows = np.linspace(0, 3, height)[:, None] + 0.3 * np.sin(np.linspace(0, 9, width))[None]
    mask = np.where(rows % 1 < 0.65, 1, 2).astype(np.uint8)
    for label in range(3, num_classes):
        for top in range(8, height - 32, 96):
            left = int(rng.integers(0, width - 32))
            mask[top + int(rng.integers(0, 24)) :, left:][:28, :30] = label
    mask[:, : width // 40] = 0
    return mask


def write_taxonomy(root: Path, taxonomy: Taxonomy) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "taxonomy.json").write_text(json.dumps(taxonomy.to_json()))


def make_biodiversity(root: Path, *, rows=8, columns=8, size=64, taxonomy: Taxonomy = BIODIVERSITY, seed=0) -> None:
    """Touching 8-bit RGB tiles cut from one generated scene, under ROOT/data/biodiversity_raw."""
    rng = np.random.default_rng(seed)
    scene = landscape(rows * size, columns * size, taxonomy.num_classes, rng)
    image = paint(scene, taxonomy.num_classes, rng)
    raw = root / "data" / "biodiversity_raw"
    for r in range(rows):
        for c in range(columns):
            cut = (slice(r * size, (r + 1) * size), slice(c * size, (c + 1) * size))
            origin = (500_000 + c * size * GSD, 5_000_000 - r * size * GSD)
            write_tif(raw / "images" / f"tile_{r}_{c}.tif", image[:, *cut], origin=origin)
            write_png(raw / "masks" / f"tile_{r}_{c}.png", scene[cut])


def make_oem(root: Path, *, size=96, seed=1) -> None:
    """Three OpenEarthMap regions of six tiles, one built up; a label without image, an image without label."""
    rng = np.random.default_rng(seed)
    built, rural = OPENEARTHMAP.index("Building"), OPENEARTHMAP.num_classes
    for n, region in enumerate(("fields", "hills", "town")):
        for i in range(6):
            label = landscape(size, size, OPENEARTHMAP.num_classes, rng)
            for ids in range(1, rural):
                row, column = divmod(ids - 1, 4)
                label[row * 12 : row * 12 + 12, column * 12 + i : column * 12 + 12 + i] = ids
            if region == "town":
                label[30:] = built
            origin = (700_000 + n * 20_000 + (i % 3) * size * GSD, 5_000_000 - (i // 3) * size * GSD)
            folder = root / OEM_RAW / region
            image = paint(label, OPENEARTHMAP.num_classes, rng)
            if (region, i) != ("town", 5):
                write_tif(folder / "images" / f"{region}_{i}.tif", image, origin=origin)
            if (region, i) != ("hills", 5):
                write_tif(folder / "labels" / f"{region}_{i}.tif", label[None], origin=origin)


def make_raw(root: Path, *, taxonomy: Taxonomy = BIODIVERSITY, seed=0) -> None:
    """Raw Biodiversity tiles (64 of 64 px) and an OpenEarthMap tree; a taxonomy.json where it is not the built-in."""
    if taxonomy != BIODIVERSITY:
        write_taxonomy(root, taxonomy)
    make_biodiversity(root, taxonomy=taxonomy, seed=seed)
    make_oem(root, seed=seed + 1)


def quiet(main, *flags) -> str:
    """Run a script's main without its progress bars; returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        main([str(flag) for flag in flags])
    return out.getvalue()


def prepare_root(root: Path, *, taxonomy: Taxonomy = BIODIVERSITY, seed=0) -> Path:
    """Make raw data and run every data step on them through its main; returns the root."""
    make_raw(root, taxonomy=taxonomy, seed=seed)
    run_data_steps(root)
    return root


def write_groups(
    root: Path,
    *,
    bands: Sequence[int] = (1, 2, 3),
    alpha: str = "auto",
    void: Sequence[int] = (),
    by_place: bool = True,
) -> None:
    """ROOT/artifacts/audit/groups.tsv, as the audit writes it, without the rest of the audit but its empty marker."""
    tiles, _ = find_raw(root / "data/biodiversity_raw", MaskReading(tuple(void)))
    taxonomy = load_taxonomy(root)
    reading = chosen_reading(list(bands), alpha, [tile.image for tile in tiles])
    with contextlib.redirect_stderr(io.StringIO()):
        inspections = [
            inspect(tile, reading=reading, taxonomy=taxonomy, keep=pixels_per_tile(len(tiles))) for tile in tiles
        ]
        usable = [i for i in inspections if i.usable]
        groups = find_groups(usable, reading, 0, by_place=by_place)
    folder = root / "artifacts/audit"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").touch()
    contents = {i.tile.id: i.content for i in usable}
    (folder / "groups.tsv").write_text(groups_text([tile.id for tile in tiles], groups, contents), encoding="utf-8")


def ungroup(root: Path) -> None:
    """Have the table of the groups say that no tile shows the ground of another."""
    path = root / "artifacts/audit/groups.tsv"
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [header, *([tile, tile, image] for tile, _, image in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def audited_split(argv: list[str]) -> None:
    """``split_biodiversity.main`` after the groups of the raw tiles were found, as in the order of the steps."""
    args = split_biodiversity.parse_args(argv)
    write_groups(args.root, bands=args.bands, alpha=args.alpha, void=args.void)
    split_biodiversity.main(argv)


def run_data_steps(root: Path) -> None:
    """Every data step, in order; of the audit, the groups alone."""
    write_groups(root)
    for step in (
        split_biodiversity,
        analyze_class_distribution,
        replicate_minority,
        filter_oem_rural,
        prepare_oem_teacher,
        relabel_oem,
        combine_biodiversity_oem,
        check_leakage,
    ):
        quiet(step.main, "--root", root)
