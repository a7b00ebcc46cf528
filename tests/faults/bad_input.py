"""Bad input: a copy of a good root is spoilt in one way, and the real command refuses it or handles it as documented.

One table of cases serves the test suite (tests/faults/test_bad_input.py) and ``inject``.
"""

import json
import os
import pickle
import shlex
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.rasters import open_raster
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from evaluation import aggregate_metrics, compute_metrics, plot_predictions
from tests.conftest import ARCH, ENCODER
from tests.faults.harness import Ended, Family, Scripts, refusal_problem, scripts
from tests.helpers import (
    GSD,
    OEM_RAW,
    THREE_CLASSES,
    made,
    make_biodiversity,
    make_oem,
    quiet,
    run_data_steps,
    write_png,
    write_taxonomy,
    write_tif,
)
from training import score_difficulty, train_stage2_replication, train_stage5a_pretrain, train_teacher

RAW = Path("data/biodiversity_raw")
SPLIT = Path("data/biodiversity_split")
TRAIN, VAL, TRAIN_REP = SPLIT / "train", SPLIT / "val", SPLIT / "train_rep"
FILTERED = Path("data/openearthmap_filtered")
DISTRIBUTION = Path("artifacts/class_distribution.json")
DIFFICULTY = Path("artifacts/seed42/tile_difficulty.tsv")
LEAKAGE = Path("artifacts/leakage.json")
WEIGHTS = Path("model_weights/biodiversity")
STAGE2, STAGE5A = (WEIGHTS / stage / "seed42" for stage in ("stage2_replication", "stage5a_pretrain"))
TEACHER = Path("model_weights/openearthmap/teacher/seed42")
RESULTS = Path("evaluation/evaluation_results/val")
SCORED = RESULTS / "stage2_replication/seed42"
SIDE = 32  # pixels of a raw tile
SMALL = (
    *("--preset", "demo", "--arch", ARCH, "--encoder", ENCODER, "--crop-size", "32", "--batch-size", "2"),
    *("--iterations", "1", "--val-every", "1", "--warmup", "1", "--workers", "0", "--device", "cpu"),
)
SPLITTING = "data_prep.split_biodiversity"
AUDIT = "data_prep.check_biodiversity"
FILTER = "data_prep.filter_oem_rural"
ANALYZE = "data_prep.analyze_class_distribution"
REPLICATE = "data_prep.replicate_minority"
RELABEL = "data_prep.relabel_oem"
PREPARE_TEACHER = "data_prep.prepare_oem_teacher"
COMBINE = "data_prep.combine_biodiversity_oem"
LEAK = "data_prep.check_leakage"
SCORE = "training.score_difficulty"
TRAIN1, TRAIN2, TRAIN3, TRAIN4 = (
    f"training.train_{stage}"
    for stage in ("stage1_baseline", "stage2_replication", "stage3_difficulty", "stage4_minority_crop")
)
TRAIN5B, TRAIN6 = "training.train_stage5b_finetune", "training.train_stage6_distill"
METRICS, AGGREGATE, REPORT, PREDICT = (
    f"evaluation.{module}" for module in ("compute_metrics", "aggregate_metrics", "build_report", "plot_predictions")
)
CPU = ("--device", "cpu")


def make_roots(folder: Path) -> dict[str, Path]:
    """Good roots by name, which cases copy: ``raw`` tiles, ``oem`` raw, all ``data`` sets, ``trained`` networks too."""
    roots = {name: folder / name for name in ("raw", "oem", "data", "trained")}
    make_biodiversity(roots["raw"], rows=4, columns=4, size=SIDE)
    make_oem(roots["oem"], size=SIDE * 2)
    trained = roots["trained"]
    make_biodiversity(trained, rows=6, columns=6, size=SIDE * 3 // 2)
    make_oem(trained, size=SIDE * 2)
    run_data_steps(trained)
    for raw in (RAW, OEM_RAW):
        shutil.rmtree(trained / raw)
    shutil.copytree(trained, roots["data"])
    for stage in (train_teacher, train_stage2_replication, train_stage5a_pretrain):
        quiet(stage.main, "--root", trained, *SMALL)
    quiet(score_difficulty.main, "--root", trained, *CPU)
    quiet(compute_metrics.main, "--root", trained, "--stages", "stage2_replication", *CPU)
    quiet(plot_predictions.main, "--root", trained, "--tiles", "1", *CPU)
    quiet(aggregate_metrics.main, "--root", trained)
    return roots


def copy_root(source: Path, target: Path) -> None:
    """A copy in which everything may be spoilt; checkpoints are linked, so they are replaced and never written to."""

    def copy(one: str, other: str) -> None:
        (os.link if one.endswith(".pt") else shutil.copyfile)(one, other)

    shutil.copytree(source, target, copy_function=copy)


def contents(root: Path) -> dict[str, tuple]:
    """Every file below a root by its relative path: kind, size and time of change; a link counts as a file."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in [*files, *(n for n in folders if Path(folder, n).is_symlink())]):
            status = path.lstat()
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@dataclass(frozen=True)
class Case:
    """One fault and what the command must do.

    ``spoil`` changes a copy of the root ``base``. The command ``module`` with ``flags`` (in which {root} is the copy)
    must end with ``status`` and its message must hold ``said``; where it is refused nothing may be written but what
    lies below ``writes``. ``holds`` says what is wrong with the root after a command that must succeed. ``first`` are
    commands that run before it and must succeed. {root} in ``said`` is the root as a shell needs it. Cases that are
    ``quick`` run in the test suite, all in ``inject``.
    """

    name: str
    base: str
    spoil: Callable[[Path], object]
    module: str
    said: tuple[str, ...]
    flags: tuple[str, ...] = ()
    status: int = 2
    writes: tuple[str, ...] = ()
    holds: Callable[[Path, Ended], str | None] | None = None
    first: tuple[tuple[str, ...], ...] = ()
    root_name: str = "root"
    quick: bool = True

    def problem(self, roots: dict[str, Path], script: Scripts, folder: Path) -> str | None:
        """What went wrong with this case, None where all is as promised; ``folder`` is a new one to work in."""
        root = folder / self.root_name
        copy_root(roots[self.base], root)
        self.spoil(root)
        for module, *flags in self.first:
            ended = script(module, "--root", root, *flags)
            if ended.status:
                return f"{module} ended with {ended.status}: {ended.err[-500:]}"
        before = contents(root)
        flags = [flag.replace("{root}", str(root)) for flag in self.flags]
        ended = script(self.module, "--root", root, *flags)
        said = [words.replace("{root}", shlex.quote(str(root))) for words in self.said]
        if self.status == 0:
            return self._not_handled(root, ended, said)
        after = contents(root)
        changed = sorted(
            path
            for path in before.keys() | after.keys()
            if before.get(path) != after.get(path) and not path.startswith(self.writes or ("\0",))
        )
        wrote = f"it wrote or removed {changed[:5]}" if changed else None
        return refusal_problem(ended, *said) or wrote

    def _not_handled(self, root: Path, ended: Ended, said: list[str]) -> str | None:
        if ended.status or "Traceback" in ended.err:
            return f"exit status {ended.status}, expected 0: {ended.err[-500:]}"
        lacking = [words for words in said if words not in ended.out + ended.err]
        if lacking:
            return f"its words lack {lacking}: {ended.out[-500:]} {ended.err[-500:]}"
        left = [path for path in contents(root) if path.endswith((".partial", ".replaced"))]
        return f"it left {left}" if left else self.holds(root, ended) if self.holds else None


def image(root: Path, name: str = "tile_1_1") -> Path:
    return root / RAW / "images" / f"{name}.tif"


def mask(root: Path, name: str = "tile_1_1") -> Path:
    return root / RAW / "masks" / f"{name}.png"


def read(path: Path) -> np.ndarray:
    with open_raster(path) as src:
        return src.read()


def ids(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def repaint(path: Path, pixels: np.ndarray, **profile) -> None:
    """Write other pixels in the place of a GeoTIFF."""
    with open_raster(path) as src:
        origin = (src.bounds.left, src.bounds.top)
    path.unlink()
    write_tif(path, pixels, **{"origin": origin, **profile})


def repaint_all(root: Path, change: Callable[[np.ndarray], np.ndarray], **profile) -> None:
    for path in (root / RAW / "images").iterdir():
        repaint(path, change(read(path)), **profile)


def relabel_all(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (root / RAW / "masks").iterdir():
        write_png(path, change(ids(path)))


def cut(path: Path, share: float = 0.5) -> None:
    """Keep the first part of a file, in a file of its own."""
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: int(len(whole) * share)])


def add_raw(root: Path, name: str, pixels: np.ndarray, column: int = 20, **profile) -> None:
    """Another raw tile, labelled Forest, in a column of its own."""
    write_tif(image(root, name), pixels, origin=(500_000 + column * SIDE * GSD, 5_000_000), **profile)
    write_png(mask(root, name), np.full(pixels.shape[1:], 1, np.uint8))


def link(path: Path, target: Path | str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def as_float(root: Path, change: Callable[[np.ndarray], object] = lambda pixels: None, **profile) -> None:
    """Make all raw tiles float32 reflectances; ``change`` spoils the pixels of each in place."""

    def reflectance(pixels):
        pixels = pixels.astype(np.float32) / 500
        change(pixels)
        return pixels

    repaint_all(root, reflectance, **profile)


def split_tiles(root: Path) -> dict:
    """The tiles of train, val and test by id."""
    sets = [TileSet.open(made(root / SPLIT / name, "python")) for name in ("train", "val", "test")]
    return {tile.id: tile for tiles in sets for tile in tiles}


def void_where(rows: slice) -> Callable[[Path, Ended], str | None]:
    """Checks that exactly these rows of tile_1_1 became Background, and that other tiles were scaled as always."""

    def check(root: Path, _) -> str | None:
        expected = ids(mask(root))
        expected[rows] = 0
        tiles = split_tiles(root)
        if not np.array_equal(tiles["tile_1_1"].read_mask(), expected):
            return "the mask is not Background in those pixels alone"
        spread = np.mean([np.ptp(tile.read_image()) for tile in tiles.values()])
        return None if spread > 150 else f"images span {spread:.0f} levels on average"

    return check


def flat(root: Path, _) -> str | None:
    tiles = split_tiles(root)
    worst = max(int(np.ptp(tile.read_image()[1])) for tile in tiles.values())
    return None if worst <= 8 else f"a constant band spans {worst} levels in the split"


def kept(*names: str) -> Callable[[Path, Ended], str | None]:
    def check(root: Path, _) -> str | None:
        lacking = set(names) - split_tiles(root).keys()
        return f"the split lacks {lacking}" if lacking else None

    return check


def one_class_in_one_tile(root: Path) -> None:
    def without(pixels):
        pixels[pixels == 5] = 1
        return pixels

    relabel_all(root, without)
    some = ids(mask(root))
    some[8:16, 8:16] = 5
    write_png(mask(root), some)


def keep_tiles(root: Path, count: int) -> None:
    for path in sorted((root / RAW / "images").iterdir())[count:]:
        path.unlink()
        mask(root, path.stem).unlink()


def empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def big_mask(path: Path, side: int) -> None:
    """A PNG that says it has side x side pixels; nobody need read them to know."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def big_tile(root: Path) -> None:
    with open_raster(
        image(root, "big"),
        "w",
        driver="GTiff",
        count=3,
        height=20_000,
        width=20_000,
        dtype="uint8",
        tiled=True,
        compress="deflate",
        sparse_ok=True,
    ):
        pass
    big_mask(mask(root, "big"), 20_000)


ODD_NAMES = ("a b", "été_Ωλ_日本", 'it\'s "odd"', "-rf", "--out-dir", "$HOME;x", "100%", "{seed}", "a.b.c")


def odd_names(root: Path) -> None:
    for path, name in zip(sorted((root / RAW / "images").iterdir()), ODD_NAMES, strict=False):
        mask(root, path.stem).rename(mask(root, name))
        path.rename(image(root, name))


def nothing(root: Path) -> None:
    pass


MESSAGE_OF_AUDIT = ("cannot be used", "--exclude", "data_prep.check_biodiversity")


def raw_case(name, spoil, *said, **more) -> Case:
    """A raw tile that split_biodiversity refuses, pointing at the audit and --exclude."""
    return Case(name, "raw", spoil, SPLITTING, (*said, *MESSAGE_OF_AUDIT), **more)


def handled(name, spoil, *said, base="raw", module=SPLITTING, **more) -> Case:
    return Case(name, base, spoil, module, said, status=0, **more)


RAW_CASES = [
    raw_case("truncated TIFF", lambda r: cut(image(r)), "images/tile_1_1.tif: cannot be read as TIFF"),
    raw_case("TIFF of zero bytes", lambda r: image(r).write_bytes(b""), "images/tile_1_1.tif: cannot be read as TIFF"),
    raw_case("TIFF that is a text file", lambda r: image(r).write_text("no image"), "tile_1_1.tif: cannot be read"),
    raw_case("TIFF that is a folder", lambda r: (image(r).unlink(), image(r).mkdir()), "images/tile_1_1.tif"),
    raw_case("truncated mask", lambda r: cut(mask(r)), "masks/tile_1_1.png: cannot be read as PNG"),
    raw_case("mask of zero bytes", lambda r: mask(r).write_bytes(b""), "masks/tile_1_1.png: cannot be read as PNG"),
    raw_case(
        "mask with a palette",
        lambda r: Image.fromarray(ids(mask(r))).convert("P").save(mask(r)),
        "masks/tile_1_1.png: is a PNG of mode P",
        "without the palette",
    ),
    raw_case("mask in RGB", lambda r: Image.open(mask(r)).convert("RGB").save(mask(r)), "mode RGB", "8-bit grey"),
    raw_case("mask with alpha", lambda r: Image.open(mask(r)).convert("LA").save(mask(r)), "mode LA", "8-bit grey"),
    raw_case("mask in RGBA", lambda r: Image.open(mask(r)).convert("RGBA").save(mask(r)), "mode RGBA", "8-bit grey"),
    raw_case("mask of 16 bits", lambda r: write_png(mask(r), ids(mask(r)).astype(np.uint16)), "mode I;16"),
    raw_case("mask of 1 bit", lambda r: Image.fromarray(ids(mask(r)) > 0).save(mask(r)), "mode 1", "8-bit grey"),
    raw_case(
        "label 6", lambda r: write_png(mask(r), ids(mask(r)) + np.uint8(6)), "tile_1_1.png: ids [", "expected 0-5"
    ),
    raw_case("label 255 for void", lambda r: write_png(mask(r), np.full((SIDE, SIDE), 255, np.uint8)), "write 0"),
    raw_case(
        "mask of another size",
        lambda r: write_png(mask(r), ids(mask(r))[:-1]),
        "masks/tile_1_1.png: is 32 x 31 pixels, its image 32 x 32",
    ),
    raw_case("image without mask", lambda r: mask(r).unlink(), "tile_1_1.tif: has no mask", "masks/tile_1_1.png"),
    raw_case("mask without image", lambda r: image(r).unlink(), "tile_1_1.png: has no image", "images/tile_1_1.tif"),
    raw_case(
        "two images of one stem",
        lambda r: shutil.copy(image(r), image(r).with_suffix(".TIFF")),
        "tile_1_1.TIFF",
        "several files have this name",
    ),
    raw_case(
        "two masks of one stem",
        lambda r: shutil.copy(mask(r), mask(r).with_suffix(".PNG")),
        "tile_1_1.PNG",
        "several files have this name",
    ),
    raw_case("two bands", lambda r: repaint(image(r), read(image(r))[:2]), "tile_1_1.tif: has 2 bands", "--bands"),
    raw_case("one band", lambda r: repaint(image(r), read(image(r))[:1]), "tile_1_1.tif: has 1 band", "--bands 1"),
    raw_case(
        "complex pixels",
        lambda r: repaint(image(r), read(image(r)).astype(np.complex64)),
        "tile_1_1.tif: holds complex",
    ),
    handled(
        "five bands, of which three are taken",
        lambda r: repaint_all(r, lambda pixels: np.concatenate([pixels, pixels[:2]])),
        "16 tiles",
    ),
    raw_case("link that leads nowhere", lambda r: link(image(r), "gone.tif"), "tile_1_1.tif: is a link", "gone.tif"),
    raw_case("link in a circle", lambda r: link(image(r), image(r).name), "tile_1_1.tif: is a link"),
    raw_case("mask that is a link in a circle", lambda r: link(mask(r), mask(r).name), "tile_1_1.png: is a link"),
    handled(
        "links that work",
        lambda r: (image(r).rename(r / "kept.tif"), image(r).symlink_to(r / "kept.tif")),
        "16 tiles",
        holds=kept("tile_1_1"),
    ),
    raw_case("tab in a name", lambda r: image(r).rename(image(r, "a\tb")), "a\\tb", "Rename"),
    raw_case("newline in a name", lambda r: mask(r).rename(mask(r, "a\nb")), "a\\nb", "Rename"),
    raw_case(
        "name that is no UTF-8", lambda r: image(r).rename(os.fsdecode(bytes(image(r, "a")) + b"\xff.tif")), "Rename"
    ),
    raw_case("tile of 20 000 x 20 000 pixels", big_tile, "images/big.tif", "20000 x 20000", "smaller tiles"),
    raw_case("mask of 20 000 x 20 000 pixels", lambda r: big_mask(mask(r), 20_000), "masks/tile_1_1.png: is 20000"),
    raw_case("mask of 10 000 x 10 000 pixels", lambda r: big_mask(mask(r), 10_000), "masks/tile_1_1.png: is 10000"),
    handled(
        "tile of 64 x 20 000 pixels",
        lambda r: add_raw(r, "long", np.zeros((3, 64, 20_000), np.uint8), compress="deflate"),
        holds=kept("long"),
    ),
    handled("tile of one pixel", lambda r: add_raw(r, "dot", np.full((3, 1, 1), 9, np.uint8)), holds=kept("dot")),
    handled(
        "a tile that is all background", lambda r: write_png(mask(r), np.zeros((SIDE, SIDE), np.uint8)), "16 tiles"
    ),
    Case(
        "every tile is all background",
        "raw",
        lambda r: relabel_all(r, np.zeros_like),
        SPLITTING,
        ("biodiversity_raw: no tile of train would have a labelled pixel", "Label more tiles"),
    ),
    handled(
        "a class in one tile alone", one_class_in_one_tile, "warning: Seminatural does not occur in", "1 blocks only"
    ),
    Case(
        "one tile in all",
        "raw",
        lambda r: keep_tiles(r, 1),
        SPLITTING,
        ("biodiversity_raw: 1 tiles make 1 blocks", "add tiles"),
    ),
    Case("two tiles in all", "raw", lambda r: keep_tiles(r, 2), SPLITTING, ("2 tiles make 1 blocks", "add tiles")),
    Case(
        "empty images folder",
        "raw",
        lambda r: empty_folder(r / RAW / "images"),
        SPLITTING,
        ("biodiversity_raw/images holds no .tif", "Put the raw images there"),
    ),
    raw_case("empty masks folder", lambda r: empty_folder(r / RAW / "masks"), "16 tiles", "has no mask"),
    Case(
        "no masks folder",
        "raw",
        lambda r: shutil.rmtree(r / RAW / "masks"),
        SPLITTING,
        ("biodiversity_raw/masks does not exist", "--in-dir"),
    ),
    Case(
        "images folder is a link in a circle",
        "raw",
        lambda r: (shutil.rmtree(r / RAW / "images"), (r / RAW / "images").symlink_to("images")),
        SPLITTING,
        ("biodiversity_raw/images", "--in-dir"),
    ),
    handled(
        "NaN pixels",
        lambda r: (as_float(r), repaint(image(r), np.where(np.arange(SIDE)[:, None] < 5, np.nan, read(image(r))))),
        holds=void_where(slice(0, 5)),
    ),
    handled(
        "infinite pixels",
        lambda r: (as_float(r), repaint(image(r), np.where(np.arange(SIDE)[:, None] < 5, -np.inf, read(image(r))))),
        holds=void_where(slice(0, 5)),
    ),
    handled(
        "huge values that nobody declared as nodata",
        lambda r: (
            as_float(r),
            repaint(image(r), np.where(np.arange(SIDE)[:, None] < 5, np.float32(-3.4028235e38), read(image(r)))),
        ),
        holds=void_where(slice(0, 5)),
    ),
    raw_case(
        "-9999 that nobody declared as nodata",
        lambda r: (as_float(r), repaint(image(r), np.where(np.arange(SIDE) < 3, np.float32(-9999), read(image(r))))),
        "tile_1_1.tif",
        "-9999",
        "gdal_edit",
    ),
    handled(
        "a constant band", lambda r: as_float(r, lambda pixels: pixels[1].fill(0.3)), "scaled to 8 bit", holds=flat
    ),
    handled(
        "a constant band but for rounding",
        lambda r: as_float(
            r, lambda pixels: np.copyto(pixels[1], 0.3 + 1e-8 * np.random.default_rng(0).normal(size=(SIDE, SIDE)))
        ),
        "scaled to 8 bit",
        holds=flat,
    ),
    handled(
        "a constant band, each tile scaled by itself",
        lambda r: as_float(r, lambda pixels: pixels[1].fill(0.3)),
        flags=("--stretch", "tile"),
        holds=flat,
    ),
    Case(
        "every image is the same",
        "raw",
        lambda r: as_float(r, lambda pixels: pixels.fill(7)),
        SPLITTING,
        ("15 repeat another image", "make 1 blocks", "add tiles"),
    ),
    handled(
        "a tile in another system",
        lambda r: repaint(image(r), read(image(r)), crs="EPSG:32601"),
        "warning: tiles are in 2 coordinate systems, 15 in EPSG:32633, 1 in EPSG:32601 (tile_1_1)",
        "-a_srs",
        holds=kept("tile_1_1"),
    ),
    raw_case(
        "metres called degrees",
        lambda r: repaint(image(r), read(image(r)), crs="EPSG:4326"),
        "tile_1_1.tif",
        "EPSG:4326",
    ),
    Case(
        "--exclude of other tiles",
        "raw",
        lambda r: (r / "out.txt").write_text("elsewhere\n"),
        SPLITTING,
        ("--exclude", "out.txt names 1 tiles that are not in", AUDIT),
        ("--exclude", "{root}/out.txt"),
    ),
    Case(
        "--exclude that is no text",
        "raw",
        lambda r: (r / "out.txt").write_bytes(b"\xff\xfe\0"),
        SPLITTING,
        ("--exclude", "out.txt", AUDIT),
        ("--exclude", "{root}/out.txt"),
    ),
    Case(
        "--exclude of every tile",
        "raw",
        lambda r: (r / "out.txt").write_text("".join(f"{p.stem}\n" for p in (r / RAW / "images").iterdir())),
        SPLITTING,
        ("0 tiles (16 excluded", "Add tiles"),
        ("--exclude", "{root}/out.txt"),
    ),
    Case(
        "the audit of bad tiles",
        "raw",
        lambda r: (cut(image(r)), mask(r, "tile_2_2").unlink()),
        AUDIT,
        ("2 tiles cannot be used", "split_biodiversity", "--exclude"),
        writes=("artifacts",),
    ),
]


def oem(root: Path, name: str = "hills_1", kind: str = "images") -> Path:
    return root / OEM_RAW / name.split("_")[0] / kind / f"{name}.tif"


def oem_case(name, spoil, *said, **more) -> Case:
    return Case(name, "oem", spoil, FILTER, said, **more)


AGAIN = "Unpack the archive again"
OEM_CASES = [
    handled(
        "OEM region without labels folder",
        lambda r: shutil.rmtree(r / OEM_RAW / "hills" / "labels"),
        "hills",
        base="oem",
        module=FILTER,
        holds=lambda r, ended: (
            None
            if "hills      0        0                    0                    6" in ended.out
            else f"its images are not counted as images without label: {ended.out}"
        ),
    ),
    oem_case("OEM region without any folder", lambda r: (r / OEM_RAW / "lake").mkdir(), "lake has neither", "--in-dir"),
    oem_case(
        "OEM without regions",
        lambda r: [shutil.rmtree(p) for p in (r / OEM_RAW).iterdir()],
        "holds no region",
        "--in-dir",
    ),
    oem_case(
        "OEM folder missing", lambda r: shutil.rmtree(r / OEM_RAW), "OpenEarthMap_wo_xBD does not exist", "--in-dir"
    ),
    oem_case(
        "OEM id 9",
        lambda r: repaint(oem(r, kind="labels"), np.full_like(read(oem(r, kind="labels")), 9)),
        "labels/hills_1.tif: ids [9] are not OpenEarthMap classes 0-8",
        AGAIN,
    ),
    oem_case("OEM truncated image", lambda r: cut(oem(r), 0.3), "images/hills_1.tif", "cannot be read as TIFF", AGAIN),
    oem_case("OEM label of zero bytes", lambda r: oem(r, kind="labels").write_bytes(b""), "hills_1.tif", AGAIN),
    oem_case(
        "OEM label of another size",
        lambda r: repaint(oem(r, kind="labels"), read(oem(r, kind="labels"))[:, 1:]),
        "labels/hills_1.tif: is 64 x 63 pixels, its image 64 x 64",
        AGAIN,
    ),
    oem_case(
        "OEM label in colours",
        lambda r: repaint(oem(r, kind="labels"), read(oem(r))),
        "labels/hills_1.tif: has 3 bands of uint8, expected one",
        AGAIN,
    ),
    oem_case("OEM image of floats", lambda r: repaint(oem(r), read(oem(r)).astype(np.float32)), "holds float32", AGAIN),
    oem_case("OEM image of two bands", lambda r: repaint(oem(r), read(oem(r))[:2]), "hills_1.tif: has 2 bands", AGAIN),
    oem_case(
        "OEM link that leads nowhere", lambda r: link(oem(r), "gone.tif"), "images/hills_1.tif: is a link to gone.tif"
    ),
    oem_case(
        "OEM region that is a link in a circle", lambda r: (r / OEM_RAW / "lake").symlink_to("lake"), "lake: is a link"
    ),
    oem_case(
        "OEM labels folder that is a link to nowhere",
        lambda r: (shutil.rmtree(r / OEM_RAW / "hills/labels"), (r / OEM_RAW / "hills/labels").symlink_to("gone")),
        "hills/labels: is a link to gone",
    ),
    oem_case("OEM newline in a name", lambda r: oem(r).rename(oem(r).with_name("a\nb.tif")), "a\\nb.tif", "Rename"),
    oem_case(
        "OEM metres called degrees",
        lambda r: repaint(oem(r), read(oem(r)), crs="EPSG:4326"),
        "images/hills_1.tif",
        "EPSG:4326",
        "-a_srs",
    ),
    oem_case(
        "OEM two images of one stem",
        lambda r: shutil.copy(oem(r), oem(r).with_suffix(".TIF")),
        "hills_1.TIF",
        "several files are called hills_1",
    ),
]


def foreign(folder: Path) -> None:
    """A folder of somebody else, with a file of worth in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis.txt").write_text("years of work")


OF_DATA = (
    (SPLITTING, "raw", "--in-dir", RAW, SPLIT / "train"),
    (FILTER, "oem", "--in-dir", OEM_RAW, FILTERED),
    (REPLICATE, "data", "--train-dir", TRAIN, TRAIN_REP),
    (PREPARE_TEACHER, "data", "--in-dir", FILTERED, Path("data/openearthmap_teacher/train")),
    (RELABEL, "data", "--in-dir", FILTERED, Path("data/openearthmap_relabelled")),
    (COMBINE, "data", "--train-dir", TRAIN, Path("data/biodiversity_oem_combined/train")),
)


def bury(root: Path, folder: Path) -> None:
    """Move an input to where an output would lie above it."""
    (root / "new/train").mkdir(parents=True)
    (root / folder).rename(root / "new/train/old")


OUT_CASES = [
    case
    for module, base, in_flag, inside, out in OF_DATA
    for case in (
        Case(
            f"{module}: --out-dir inside its input",
            base,
            nothing,
            module,
            ("--out-dir", "lie in one another", "Choose another --out-dir"),
            ("--out-dir", f"{{root}}/{inside}/new"),
            quick=module == COMBINE,
        ),
        Case(
            f"{module}: --out-dir above its input",
            base,
            lambda r, inside=inside: bury(r, inside),
            module,
            ("--out-dir", "lie in one another", "Choose another --out-dir"),
            ("--overwrite", in_flag, "{root}/new/train/old", "--out-dir", "{root}/new"),
            quick=module == SPLITTING,
        ),
        Case(
            f"{module}: --overwrite of a folder of somebody else",
            base,
            lambda r, out=out: (shutil.rmtree(r / out, ignore_errors=True), foreign(r / out)),
            module,
            (str(out), "not deleted", "Move it away"),
            ("--overwrite",),
        ),
    )
]


def own_taxonomy(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Writes a taxonomy.json like the built-in one but for ``change``."""

    def spoil(root: Path) -> None:
        content = json.loads(json.dumps(BIODIVERSITY.to_json()))
        change(content)
        (root / "taxonomy.json").write_text(json.dumps(content))

    return spoil


def taxonomy_case(name, change, *said) -> Case:
    return Case(f"taxonomy.json {name}", "raw", own_taxonomy(change), SPLITTING, ("taxonomy.json", *said, "README"))


UNREADABLE = ("taxonomy.json: not valid JSON", "remove it")
TAXONOMY_CASES = [
    taxonomy_case("without a row", lambda c: c["from_openearthmap"].pop("Tree"), "lacks rows for ['Tree']"),
    taxonomy_case("with a row too many", lambda c: c["from_openearthmap"].update(Sea={"Forest": 1}), "['Sea']"),
    taxonomy_case("with a class twice", lambda c: c["classes"].__setitem__(2, "Forest"), "class Forest is listed more"),
    taxonomy_case(
        "whose row does not sum to one", lambda c: c["from_openearthmap"]["Tree"].update(Cropland=0.5), "sums to 1.5"
    ),
    taxonomy_case("with NaN", lambda c: c["from_openearthmap"]["Tree"].update(Forest=float("nan")), "row of Tree"),
    taxonomy_case(
        "with a negative share", lambda c: c["from_openearthmap"]["Tree"].update(Forest=2, Cropland=-1), "0 or more"
    ),
    taxonomy_case("with a text as share", lambda c: c["from_openearthmap"]["Tree"].update(Forest="1"), "row of Tree"),
    taxonomy_case("with a row of lists", lambda c: c["from_openearthmap"].update(Tree=["Forest"]), "row of Tree"),
    taxonomy_case("with two classes", lambda c: c.update(classes=["Void", "All"]), "'classes' has 2 names"),
    taxonomy_case("with a colour too few", lambda c: c["colors"].pop(), "'colors' must list 6"),
    taxonomy_case("with a line break in a class", lambda c: c["classes"].__setitem__(2, "a\nb"), "a\\nb"),
    *(
        Case(f"taxonomy.json {name}", "raw", lambda r, spoil=spoil: spoil(r / "taxonomy.json"), SPLITTING, said)
        for name, spoil, said in (
            ("that is cut off", lambda p: p.write_text('{"classes": ['), UNREADABLE),
            ("that is no text", lambda p: p.write_bytes(b"\xff\xfe\0"), UNREADABLE),
            ("that nests without end", lambda p: p.write_text("[" * 100_000), UNREADABLE),
            ("that is a folder", lambda p: p.mkdir(), ("taxonomy.json cannot be read", "remove it")),
            (
                "that is a link to nowhere",
                lambda p: p.symlink_to("gone"),
                ("taxonomy.json cannot be read", "remove it"),
            ),
        )
    ),
    Case(
        "another taxonomy.json than the sets were made with",
        "data",
        lambda r: write_taxonomy(r, THREE_CLASSES),
        ANALYZE,
        ("biodiversity_split/train was written for the classes", "Two taxonomies", "--overwrite"),
    ),
]
WRONG_FLAGS = [
    (SPLITTING, ("--fractions", "0.8", "0.1", "0.2"), "--fractions"),
    (SPLITTING, ("--fractions", "1", "0", "0"), "--fractions"),
    (SPLITTING, ("--fractions", "1.2", "-0.1", "-0.1"), "--fractions"),
    (SPLITTING, ("--fractions", "nan", "0.5", "0.5"), "--fractions"),
    (SPLITTING, ("--block-size", "-5"), "--block-size"),
    (SPLITTING, ("--block-size", "nan"), "--block-size"),
    (SPLITTING, ("--block-size", "1e-30"), "--block-size"),
    (SPLITTING, ("--block-size", "1e30"), "--block-size"),
    (SPLITTING, ("--bands", "0", "1", "2"), "--bands"),
    (SPLITTING, ("--bands", "1", "2"), "--bands"),
    (SPLITTING, ("--bands", "1", "2", "99999999999"), "--bands"),
    (SPLITTING, ("--seed", "-1"), "--seed"),
    (SPLITTING, ("--workers", "-1"), "--workers"),
    (FILTER, ("--max-built", "1.5"), "--max-built"),
    (FILTER, ("--max-built", "nan"), "--max-built"),
    (FILTER, ("--block-size", "0"), "--block-size"),
    (ANALYZE, ("--minority-share", "-0.1"), "--minority-share"),
    (ANALYZE, ("--tile-share", "inf"), "--tile-share"),
    (REPLICATE, ("--copies", "0"), "--copies"),
    (REPLICATE, ("--copies", "1000000000"), "--copies"),
    (PREPARE_TEACHER, ("--val-fraction", "0"), "--val-fraction"),
    (PREPARE_TEACHER, ("--val-fraction", "1"), "--val-fraction"),
    (RELABEL, ("--gsd", "0"), "--gsd"),
    (RELABEL, ("--gsd", "-1"), "--gsd"),
    (RELABEL, ("--gsd", "1e-9"), "--gsd"),
    (RELABEL, ("--gsd", "1e30"), "--gsd"),
    (PREPARE_TEACHER, ("--gsd", "1e-9"), "--gsd"),
    ("data_prep.make_demo_data", ("--tile-size", "0"), "--tile-size"),
    ("data_prep.make_demo_data", ("--tile-size", "1000000000"), "--tile-size"),
    ("data_prep.make_demo_data", ("--scenes", "1000000000"), "--scenes"),
    ("data_prep.make_demo_data", ("--oem-tiles", "1000000000"), "--oem-tiles"),
    (TRAIN1, ("--crop-size", "48"), "--crop-size 48"),
    (TRAIN1, ("--crop-size", "-32"), "--crop-size"),
    (TRAIN1, ("--crop-size", "64"), "--crop-size 64"),
    (TRAIN1, ("--batch-size", "0"), "--batch-size"),
    (TRAIN1, ("--batch-size", "1000000000"), "--batch-size"),
    (TRAIN1, ("--iterations", "0"), "--iterations"),
    (TRAIN1, ("--iterations", "2.5"), "--iterations"),
    (TRAIN1, ("--lr", "nan"), "--lr"),
    (TRAIN1, ("--lr", "1e30"), "--lr"),
    (TRAIN1, ("--lr", "-1"), "--lr"),
    (TRAIN1, ("--weight-decay", "inf"), "--weight-decay"),
    (TRAIN1, ("--clip-norm", "0"), "--clip-norm"),
    (TRAIN1, ("--val-every", "0"), "--val-every"),
    (TRAIN1, ("--seed", "99999999999999999999999"), "--seed"),
    (TRAIN1, ("--arch", "u_net_9"), "--arch"),
    (TRAIN1, ("--encoder", "resnet9000"), "--encoder"),
    (TRAIN1, ("--encoder-weights", "gone.pt"), "gone.pt"),
    (SCORE, ("--alpha", "-1"), "--alpha"),
    (SCORE, ("--alpha", "inf"), "--alpha"),
    (SCORE, ("--alpha", "1e308"), "--alpha"),
    (TRAIN6, ("--kd-alpha", "2"), "--kd-alpha"),
    (TRAIN6, ("--temperature", "0"), "--temperature"),
    (PREDICT, ("--tiles", "0"), "--tiles"),
    (METRICS, ("--seed", "-1", "--split", "test"), "--seed"),
    (METRICS, ("--reason", ""), "--reason"),
    ("evaluation.simulate_coverage", ("--trials", "0"), "--trials"),
    ("evaluation.simulate_coverage", ("--seeds", "0"), "--seeds"),
]
BASE_OF = {SPLITTING: "raw", FILTER: "oem"}


def flag_case(module: str, flags: tuple[str, ...], said: str, quick: bool) -> Case:
    training = SMALL if module.startswith("training.train") else ()
    over = ("--overwrite",) if module in (SCORE, REPLICATE, RELABEL, PREPARE_TEACHER) else ()
    base = BASE_OF.get(module, "trained" if module in (SCORE, TRAIN6, METRICS, PREDICT) else "data")
    return Case(f"{module} {' '.join(flags)}", base, nothing, module, (said,), (*training, *over, *flags), quick=quick)


FLAG_CASES = [
    flag_case(*wrong, quick=wrong[0] not in [earlier[0] for earlier in WRONG_FLAGS[:n]])  # the first of each script
    for n, wrong in enumerate(WRONG_FLAGS)
]


def edit_checkpoint(path: Path, change: Callable[[dict], object]) -> None:
    """Change the content of a checkpoint in place, into a file of its own."""
    content = torch.load(path, weights_only=True)
    change(content)
    path.unlink()
    torch.save(content, path)


def replace_file(path: Path, other: Path) -> None:
    path.unlink()
    shutil.copyfile(other, path)


def rewrite(path: Path, content: bytes) -> None:
    """Write a file anew; the one that was there may be shared with other roots."""
    path.unlink()
    path.write_bytes(content)


class Bomb:
    """Makes a file where it is loaded as plain pickle."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def bomb(path: Path, root: Path, *, bare: bool = False) -> None:
    """A checkpoint whose loading would make the file ``exploded`` in the root, as torch saves it or as bare pickle."""
    content = {"model": {}, "metadata": Bomb(root / "exploded"), "training": None}
    path.unlink()
    if bare:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)


def checkpoint_case(name, path: Path, spoil: Callable[[Path], object], module: str, *said, flags=(), **more) -> Case:
    """A checkpoint that is spoilt by ``spoil(path)``."""
    training = SMALL if module.startswith("training.train") else CPU
    flags = (*training, *flags, *(("--overwrite",) if module == SCORE else ()))
    return Case(name, "trained", lambda root: spoil(root / path), module, (path.as_posix(), *said), flags, **more)


def of_metadata(**changes) -> Callable[[Path], None]:
    """Changes entries of a checkpoint's metadata; an Ellipsis removes one."""

    def change(content: dict) -> None:
        for key, value in changes.items():
            content["metadata"][key] = value
            if value is ...:
                del content["metadata"][key]

    return lambda path: edit_checkpoint(path, change)


def root_of(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.name == "root")


LAST2, LAST5A, LAST_TEACHER = STAGE2 / "last.pt", STAGE5A / "last.pt", TEACHER / "last.pt"
TRAIN2_AGAIN, TRAIN5A_AGAIN = "training.train_stage2_replication", "training.train_stage5a_pretrain"
TEACHER_AGAIN = "training.train_teacher"
CHECKPOINT_CASES = [
    checkpoint_case("truncated checkpoint", LAST2, cut, SCORE, "cannot be read as a checkpoint", TRAIN2_AGAIN),
    checkpoint_case(
        "checkpoint of zero bytes", LAST2, lambda p: rewrite(p, b""), SCORE, "cannot be read", TRAIN2_AGAIN
    ),
    checkpoint_case(
        "checkpoint that is text", LAST2, lambda p: rewrite(p, b"no"), SCORE, "cannot be read", TRAIN2_AGAIN
    ),
    checkpoint_case("checkpoint that is missing", LAST2, Path.unlink, SCORE, "does not exist", TRAIN2_AGAIN),
    checkpoint_case(
        "pickle bomb to score with", LAST2, lambda p: bomb(p, root_of(p)), SCORE, "cannot be read", TRAIN2_AGAIN
    ),
    checkpoint_case(
        "bare pickle bomb to score with",
        LAST2,
        lambda p: bomb(p, root_of(p), bare=True),
        SCORE,
        "cannot be read",
        TRAIN2_AGAIN,
    ),
    checkpoint_case(
        "pickle bomb to start from", LAST5A, lambda p: bomb(p, root_of(p)), TRAIN5B, "cannot be read", TRAIN5A_AGAIN
    ),
    checkpoint_case(
        "pickle bomb as teacher", LAST_TEACHER, lambda p: bomb(p, root_of(p)), TRAIN6, "cannot be read", TEACHER_AGAIN
    ),
    checkpoint_case(
        "pickle bombs to evaluate",
        LAST2,
        lambda p: (bomb(p, root_of(p)), bomb(p.with_name("best.pt"), root_of(p))),
        METRICS,
        "best.pt cannot be read",
        "train_stage2_replication",
        flags=("--stages", "stage2_replication"),
    ),
    checkpoint_case(
        "pickle bomb to resume",
        LAST2,
        lambda p: bomb(p, root_of(p)),
        TRAIN2,
        "cannot be read",
        "--overwrite",
        flags=("--resume",),
    ),
    checkpoint_case(
        "pickle bomb as encoder weights",
        LAST2,
        lambda p: bomb(p, root_of(p)),
        TRAIN1,
        "cannot be read",
        "--encoder-weights",
        flags=("--encoder-weights", f"{{root}}/{LAST2}"),
    ),
    checkpoint_case(
        "checkpoint as encoder weights",
        LAST2,
        lambda p: None,
        TRAIN1,
        "does not fit",
        "--encoder-weights",
        flags=("--encoder-weights", f"{{root}}/{LAST2}"),
    ),
    checkpoint_case(
        "checkpoint of another stage",
        LAST2,
        lambda p: replace_file(p, root_of(p) / LAST5A),
        SCORE,
        "is of stage5a_pretrain with seed 42, expected stage2_replication with seed 42",
        TRAIN2_AGAIN,
    ),
    checkpoint_case(
        "checkpoint of another seed", LAST2, of_metadata(seed=7), SCORE, "with seed 7, expected", TRAIN2_AGAIN
    ),
    checkpoint_case(
        "checkpoint of another architecture",
        LAST2,
        of_metadata(encoder="resnet18"),
        SCORE,
        "does not fit this network",
        TRAIN2_AGAIN,
    ),
    checkpoint_case(
        "checkpoint of an unknown architecture", LAST2, of_metadata(arch="mynet"), SCORE, "mynet", TRAIN2_AGAIN
    ),
    checkpoint_case(
        "checkpoint to start from, of another encoder than asked for",
        LAST5A,
        lambda p: None,
        TRAIN5B,
        "does not fit this network",
        "--encoder",
        flags=("--encoder", "resnet18"),
    ),
    checkpoint_case(
        "checkpoint of another taxonomy",
        LAST5A,
        of_metadata(taxonomy=THREE_CLASSES.to_json()),
        TRAIN5B,
        "was trained for Nothing, Wet",
        TRAIN5A_AGAIN,
    ),
    checkpoint_case(
        "teacher in other classes",
        LAST_TEACHER,
        of_metadata(taxonomy=BIODIVERSITY.to_json()),
        TRAIN6,
        "not trained in the OpenEarthMap classes",
        TEACHER_AGAIN,
    ),
    checkpoint_case(
        "checkpoint with a broken taxonomy", LAST5A, of_metadata(taxonomy=[1]), TRAIN5B, "taxonomy", TRAIN5A_AGAIN
    ),
    checkpoint_case(
        "checkpoint of another split",
        LAST5A,
        of_metadata(val={"digest": "other"}),
        TRAIN5B,
        "another split",
        TRAIN5A_AGAIN,
    ),
    checkpoint_case(
        "checkpoint scored on other tiles than it saw",
        LAST2,
        of_metadata(train={"digest": "other"}),
        SCORE,
        "other tiles",
        TRAIN2_AGAIN,
    ),
    *(
        checkpoint_case(
            f"checkpoint that does not say its {key}",
            LAST5A,
            of_metadata(**{key: ...}),
            TRAIN5B,
            key,
            TRAIN5A_AGAIN,
            quick=key == "val",
        )
        for key in ("stage", "val", "taxonomy", "ancestors", "step", "stretch")
    ),
    *(
        checkpoint_case(
            f"checkpoint to score with that does not say its {key}",
            LAST2,
            of_metadata(**{key: ...}),
            SCORE,
            key,
            TRAIN2_AGAIN,
            quick=key == "train",
        )
        for key in ("train", "encoder")
    ),
    checkpoint_case("checkpoint with a list for its val", LAST5A, of_metadata(val=[1]), TRAIN5B, "val", TRAIN5A_AGAIN),
    checkpoint_case(
        "checkpoint that lacks a tensor",
        LAST2,
        lambda p: edit_checkpoint(p, lambda c: c["model"].popitem()),
        SCORE,
        "1 tensors are missing",
        TRAIN2_AGAIN,
    ),
    checkpoint_case(
        "checkpoint with a NaN tensor",
        LAST5A,
        lambda p: edit_checkpoint(p, lambda c: next(iter(c["model"].values())).fill_(float("nan"))),
        TRAIN5B,
        "not finite",
        TRAIN5A_AGAIN,
    ),
    checkpoint_case(
        "checkpoint with numbers for tensors",
        LAST2,
        lambda p: edit_checkpoint(p, lambda c: c["model"].update({k: 1 for k in c["model"]})),
        SCORE,
        "other things than tensors",
        TRAIN2_AGAIN,
    ),
    checkpoint_case(
        "checkpoint that is a list",
        LAST2,
        lambda p: (p.unlink(), torch.save([1], p)),
        SCORE,
        "not a checkpoint of this project",
        TRAIN2_AGAIN,
    ),
    checkpoint_case("checkpoint that is a folder", LAST2, lambda p: (p.unlink(), p.mkdir()), SCORE, TRAIN2_AGAIN),
    checkpoint_case(
        "checkpoint that is a link in a circle",
        LAST2,
        lambda p: (p.unlink(), p.symlink_to("last.pt")),
        SCORE,
        TRAIN2_AGAIN,
    ),
]


def difficulty_case(name, change: Callable[[list[str]], list[str]], *said) -> Case:
    """A tile_difficulty.tsv whose lines are changed."""

    def spoil(root: Path) -> None:
        lines = (root / DIFFICULTY).read_text().splitlines(keepends=True)
        (root / DIFFICULTY).write_text("".join(change(lines)))

    return Case(
        f"tile_difficulty.tsv {name}",
        "trained",
        spoil,
        TRAIN3,
        ("tile_difficulty.tsv", *said, "Write it again: python -m training.score_difficulty", "--overwrite"),
        SMALL,
    )


def with_weight(text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:-1], "\t".join([*lines[-1].split("\t")[:-1], text + "\n"])]


DIFFICULTY_CASES = [
    difficulty_case("without its last lines", lambda lines: lines[:-3], "no weight for 3 of", "another split"),
    difficulty_case("cut off in a line", lambda lines: [*lines[:-1], lines[-1][:12]], "line"),
    difficulty_case("cut off in its last number", lambda lines: [*lines[:-1], lines[-1][:-3]], "cut off"),
    difficulty_case(
        "of another split",
        lambda lines: [lines[0], *(line.replace("tile_", "tale_") for line in lines[1:])],
        "no weight for",
    ),
    difficulty_case(
        "with a tile too many", lambda lines: [*lines, lines[-1].replace("tile_", "tale_")], "weights for 1 tiles"
    ),
    difficulty_case("with NaN", with_weight("nan"), "weight nan"),
    difficulty_case("with an infinite weight", with_weight("inf"), "weight inf"),
    difficulty_case("with a huge weight", with_weight("1e308"), "weight 1e+308"),
    difficulty_case("with a negative weight", with_weight("-1"), "weight -1"),
    difficulty_case("with a weight of 0", with_weight("0"), "weight 0"),
    difficulty_case("with a word for a weight", with_weight("much"), "line"),
    difficulty_case("with a line twice", lambda lines: [*lines, lines[-1]], "has a weight already"),
    difficulty_case("with a column too few", lambda lines: [*lines[:-1], lines[-1].replace("\t", "", 1)], "5 values"),
    difficulty_case("with a column too many", lambda lines: [*lines[:-1], "\t" + lines[-1]], "5 values"),
    difficulty_case("without its header", lambda lines: lines[1:], "the first line must name tile_id"),
    difficulty_case("with commas", lambda lines: [line.replace("\t", ",") for line in lines], "the first line"),
    difficulty_case("that is empty", lambda lines: [], "the first line must name tile_id"),
    difficulty_case("with a NUL", lambda lines: [*lines, "\0\n"], "line"),
    difficulty_case("with an endless field", lambda lines: [*lines, '"' + "x" * 200_000 + "\n"], "field larger"),
    Case(
        "tile_difficulty.tsv that is no text",
        "trained",
        lambda r: (r / DIFFICULTY).write_bytes(b"\xff\xfe\0\n"),
        TRAIN3,
        ("tile_difficulty.tsv", "UTF-8", "Write it again: python -m training.score_difficulty"),
        SMALL,
    ),
    Case(
        "tile_difficulty.tsv that is a folder",
        "trained",
        lambda r: ((r / DIFFICULTY).unlink(), (r / DIFFICULTY).mkdir()),
        TRAIN3,
        ("tile_difficulty.tsv", "python -m training.score_difficulty"),
        SMALL,
    ),
]


NONSENSE = [
    ("cut off", '{"a": [1, '),
    ("empty", ""),
    ("a list for an object", "[1, 2]"),
    ("null", "null"),
    ("a number", "3"),
    ("an object without keys", "{}"),
    ("nested nonsense", "[" * 50_000),
]
ARTEFACTS = [  # of each the command that reads it, and what its remedy names
    (DISTRIBUTION, REPLICATE, ANALYZE, ("--overwrite",)),
    (DISTRIBUTION, TRAIN4, ANALYZE, SMALL),
    (DISTRIBUTION, METRICS, ANALYZE, ("--overwrite", *CPU)),
    (TRAIN / "manifest.json", ANALYZE, SPLITTING, ()),
    (VAL / "manifest.json", LEAK, SPLITTING, ()),
    (SCORED / "metrics.json", AGGREGATE, METRICS, ()),
    (SCORED / "run.json", AGGREGATE, METRICS, ()),
    (LEAKAGE, REPORT, LEAK, ()),
    (RESULTS / "predictions/predictions.json", REPORT, PREDICT, ()),
]
JSON_CASES = [
    Case(
        f"{path.name}, read by {module}: {name}",
        "trained",
        lambda root, path=path, text=text: (root / path).write_text(text),
        module,
        (path.name, maker),
        flags,
        quick=name == "a list for an object",
    )
    for path, module, maker, flags in ARTEFACTS
    for name, text in NONSENSE
]


def rare_class(root: Path) -> None:
    """A taxonomy with a class of which there is no pixel."""
    own_taxonomy(lambda content: (content["classes"].append("Wetland"), content["colors"].append("#00ffff")))(root)


def all_odd_names(root: Path, ended: Ended) -> str | None:
    return kept(*ODD_NAMES)(root, ended)


CHAIN_CASES = [
    handled(
        "names with spaces, quotes, dashes and other letters, through all steps",
        odd_names,
        "no leakage found",
        module=LEAK,
        first=((AUDIT,), (SPLITTING,), (ANALYZE, "--minority-share", "0.9"), (REPLICATE,)),
        root_name='it\'s a "root" of Ωλ',
        holds=all_odd_names,
    ),
    Case(
        "the audit of an odd name in an odd root",
        "raw",
        lambda r: (odd_names(r), cut(image(r, "-rf"))),
        AUDIT,
        ("1 tiles cannot be used (-rf)", "split_biodiversity --root {root} --exclude"),
        writes=("artifacts",),
        root_name="it's a root",
    ),
    handled(
        "an odd name is left out as the audit says",
        lambda r: (odd_names(r), cut(image(r, "-rf")), (r / "out.txt").write_text("-rf\n")),
        "15 tiles",
        "1 excluded",
        flags=("--exclude", "{root}/out.txt"),
        root_name="it's a root",
    ),
    handled(
        "a class missing from train",
        rare_class,
        "warning: Wetland does not occur in",
        "nothing can be learnt of it",
        module=ANALYZE,
        first=((SPLITTING,),),
    ),
    Case(
        "tiles of one pixel to train on",
        "trained",
        lambda r: None,
        TRAIN1,
        ("--crop-size 64", "are not larger", "Give a smaller --crop-size"),
        (*SMALL, "--crop-size", "64"),
    ),
]

CASES = [
    *RAW_CASES,
    *OEM_CASES,
    *OUT_CASES,
    *TAXONOMY_CASES,
    *FLAG_CASES,
    *CHECKPOINT_CASES,
    *DIFFICULTY_CASES,
    *JSON_CASES,
    *CHAIN_CASES,
]


def inject(folder: Path) -> list[Family]:
    """Every case in a folder of its own below ``folder``."""
    family = Family("bad input", "refused with file and remedy, or handled as documented; nothing executed or written")
    roots = make_roots(folder / "good")
    with scripts() as script:
        for number, case in enumerate(CASES):
            here = folder / f"case{number}"
            here.mkdir()
            family.record(case.name, case.problem(roots, script, here))
            shutil.rmtree(here)
    return [family]
