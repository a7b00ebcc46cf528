"""Leaks that are put into a good split, openly and with manifests edited to hide them; check_leakage names each.

python -m tests.faults.leaks
"""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import link_or_copy, read_json, write_json
from common.rasters import open_raster, write_image, write_mask
from common.tiles import Tile, TileSet, manifest_digest
from data_prep.tile_sets.writer import describe_tile
from tests.faults.harness import REAL_DATA, Ended, Family, Scripts, copy_root, print_families, refusal_problem, scripts
from tests.helpers import OEM_RAW, made, prepare_root, run_data_steps
from training.engine.preflight import require_apart

CHECK = "data_prep.check_leakage"
FOLDERS = {
    "train": "biodiversity_split/train",
    "val": "biodiversity_split/val",
    "test": "biodiversity_split/test",
    "train_rep": "biodiversity_split/train_rep",
    "OEM filtered": "openearthmap_filtered",
    "OEM relabelled": "openearthmap_relabelled",
    "OEM teacher train": "openearthmap_teacher/train",
    "OEM teacher val": "openearthmap_teacher/val",
    "combined": "biodiversity_oem_combined/train",
}
NOWHERE = {"crs": None, "bounds": None, "gsd": None, "block": None}
GENERATED_TILES, REAL_TILES = 3, 2  # tiles that each leak is tried with
ANOTHER_HASH = "0" * 64


def folder_of(root: Path, name: str) -> Path:
    return root / "data" / FOLDERS[name]


def tiles_of(root: Path, name: str) -> TileSet:
    return TileSet.open(made(folder_of(root, name)))


def edit(path: Path, change: Callable[[dict], None]) -> None:
    """Change the manifest of a folder as if a step had written it so, digest included."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    manifest["digest"] = manifest_digest(manifest)
    write_json(path / "manifest.json", manifest)


def edit_entry(root: Path, name: str, tile_id: str, **changes) -> None:
    edit(folder_of(root, name), lambda manifest: manifest["tiles"][tile_id].update(changes))


def bring(root: Path, tile: Tile, name: str, tile_id: str, **changes) -> None:
    """Put a tile of another set into the set ``name``."""
    target = folder_of(root, name)
    link_or_copy(tile.image_path, target / "images" / f"{tile_id}.tif", "copy")
    link_or_copy(tile.mask_path, target / "masks" / f"{tile_id}.png", "copy")
    edit(target, lambda manifest: manifest["tiles"].update({tile_id: {**tile.entry, **changes}}))


def put(root: Path, name: str, tile_id: str, image: np.ndarray, mask: np.ndarray, **changes) -> None:
    """Write a new tile without a place into the set ``name``."""
    target = folder_of(root, name)
    paths = target / "images" / f"{tile_id}.tif", target / "masks" / f"{tile_id}.png"
    write_image(paths[0], image)
    write_mask(paths[1], mask)
    num_classes = class_count(target)
    entry = describe_tile(image, mask, *paths, NOWHERE, num_classes)
    edit(target, lambda manifest: manifest["tiles"].update({tile_id: {**entry, **changes}}))


def class_count(path: Path) -> int:
    return len(read_json(made(path / "manifest.json"))["taxonomy"]["classes"])


def move(root: Path, tile: Tile, source: str, name: str) -> None:
    """Move a tile from one set to another."""
    bring(root, tile, name, tile.id)
    edit(folder_of(root, source), lambda manifest: manifest["tiles"].pop(tile.id))
    tile.image_path.unlink()
    tile.mask_path.unlink()


def turned(pixels: np.ndarray, rng) -> np.ndarray:
    """Pixels of any leading shape flipped or turned in one of the seven ways that change them."""
    way = int(rng.integers(1, 8))
    pixels = np.rot90(pixels, way // 2, axes=(-2, -1))
    return np.ascontiguousarray(pixels[..., ::-1] if way % 2 else pixels)


def textured(tiles: TileSet, rng) -> Tile:
    """A tile drawn at random among those of more than one colour, which alone say where they are from."""
    for tile in rng.permutation(np.array(tiles.tiles, object)):
        image = tile.read_image()
        if (image != image[:, :1, :1]).any():
            return tile
    raise ValueError(f"{tiles.path} has blank tiles only")


@dataclasses.dataclass(frozen=True)
class Leak:
    """A leak, and what must be said of it.

    inject: puts it into a root by a random generator; returns the entries that lie about it: (set, tile id, changes).
    kind, sets: of the finding that must be there; kind None where the tile set itself is refused.
    trained_on: a set with which a training must not even start, where the leak lies in its tiles and those of val.
    """

    name: str
    inject: Callable[[Path, np.random.Generator], list[tuple[str, str, dict]]]
    kind: str | None
    sets: tuple[str, ...]
    trained_on: str | None = None


def copied(root, rng):
    bring(root, textured(tiles_of(root, "val"), rng), "train", "innocent")
    return [("train", "innocent", {**NOWHERE, "content_sha256": ANOTHER_HASH, "sha256": ANOTHER_HASH})]


def re_encoded(root, rng):
    tile = textured(tiles_of(root, "val"), rng)
    target = folder_of(root, "train") / "images/innocent.tif"
    image = tile.read_image()
    put(root, "train", "innocent", image, tile.read_mask())
    target.unlink()
    _, height, width = image.shape
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": height, "width": width}
    with open_raster(target, "w", **profile, compress="deflate") as dst:
        dst.write(image)
    entry = describe_tile(image, tile.read_mask(), target, tile.mask_path, NOWHERE, len(tile.pixels))
    edit_entry(root, "train", "innocent", **entry)
    return [("train", "innocent", {"content_sha256": ANOTHER_HASH})]


def shifted(root, rng, held="val", turn=False):
    tile, filling = textured(tiles_of(root, held), rng), textured(tiles_of(root, "train"), rng)
    image, mask = (read().copy() for read in (filling.read_image, filling.read_mask))
    height, width = mask.shape
    down, right = (int(rng.integers(1, side // 2)) for side in (height, width))
    image[:, down:, right:] = tile.read_image()[:, : height - down, : width - right]
    mask[down:, right:] = tile.read_mask()[: height - down, : width - right]
    if turn:
        image, mask = np.split(turned(np.concatenate([image, mask[None]]), rng), [3])
        mask = mask[0]
    put(root, "train", "innocent", image, mask)
    return [("train", "innocent", {"content_sha256": ANOTHER_HASH, "block": filling.entry["block"]})]


def shifted_and_turned(root, rng):
    return shifted(root, rng, turn=True)


def flipped(root, rng):
    tile = textured(tiles_of(root, "test"), rng)
    both = turned(np.concatenate([tile.read_image(), tile.read_mask()[None]]), rng)
    put(root, "train", "innocent", both[:3], both[3])
    return [("train", "innocent", {"content_sha256": ANOTHER_HASH})]


def altered(root, rng, way):
    tile = textured(tiles_of(root, "test"), rng)
    both = np.concatenate([tile.read_image(), tile.read_mask()[None]])
    both = turned(both, rng) if rng.random() < 0.5 else both
    image = np.clip(np.rint(way(both[:3].astype(float), rng)), 0, 255).astype(np.uint8)
    put(root, "train", "innocent", image, both[3])
    return [("train", "innocent", {"content_sha256": ANOTHER_HASH})]


def brightened(root, rng):
    return altered(root, rng, lambda image, rng: image * rng.uniform(1.03, 1.25) + rng.uniform(0, 10))


def contrast_changed(root, rng):
    return altered(root, rng, lambda image, rng: (image - image.mean()) * rng.uniform(0.7, 0.95) + image.mean())


def replica_of_val(root, rng):
    tile = textured(tiles_of(root, "val"), rng)
    bring(root, tile, "train_rep", f"{tile.id}__rep1", base=tile.id)
    base = tiles_of(root, "train").tiles[0]
    edited = {key: base.entry[key] for key in ("sha256", "mask_sha256", "content_sha256", "bounds", "block", "pixels")}
    return [("train_rep", f"{tile.id}__rep1", {**edited, "base": base.id})]


def replica_of_edited_val(root, rng):
    tile = textured(tiles_of(root, "val"), rng)
    image = tile.read_image().copy()
    image[:, 0, 0] ^= 1  # one pixel, so that no hash is that of val
    base = tiles_of(root, "train").tiles[0]
    put(root, "train_rep", f"{tile.id}__rep1", image, tile.read_mask(), base=tile.id, source="biodiversity")
    return [("train_rep", f"{tile.id}__rep1", {"base": base.id, "content_sha256": base.entry["content_sha256"]})]


def openearthmap_in_val(root, rng):
    tile = textured(tiles_of(root, "OEM relabelled"), rng)
    bring(root, tile, "val", "field")
    val = tiles_of(root, "val").tiles[0]
    return [("val", "field", {"source": "biodiversity", "region": None, **NOWHERE, "block": val.entry["block"]})]


def dropped_openearthmap_in_val(root, rng):
    """A tile that no other set has: the filter left it out."""
    kept = {path.stem for path in (folder_of(root, "OEM filtered") / "images").iterdir()}
    raw = sorted(path for path in (root / OEM_RAW).glob("*/images/*.tif") if path.stem not in kept)
    path = raw[int(rng.integers(len(raw)))]
    with open_raster(path) as src:
        image = src.read()
    mask = np.ones(image.shape[1:], np.uint8)
    put(root, "val", "field", image, mask, region=path.parent.parent.name, source="openearthmap")
    return [("val", "field", {"source": "biodiversity", "region": None})]


def openearthmap_that_is_val(root, rng):
    tile = textured(tiles_of(root, "val"), rng)
    bring(root, tile, "combined", "oem_innocent", source="openearthmap", region="fields")
    return [("combined", "oem_innocent", {**NOWHERE, "content_sha256": ANOTHER_HASH, "sha256": ANOTHER_HASH})]


def linked(root, rng):
    tile = textured(tiles_of(root, "test"), rng)
    train = folder_of(root, "train")
    bring(root, tile, "train", "innocent")
    for path, target in (
        (train / "images/innocent.tif", tile.image_path),
        (train / "masks/innocent.png", tile.mask_path),
    ):
        path.unlink()
        path.symlink_to(os.path.relpath(target, path.parent))
    return [("train", "innocent", {**NOWHERE, "content_sha256": ANOTHER_HASH})]


def linked_folder(root, rng):
    test, rep = folder_of(root, "test"), folder_of(root, "train_rep")
    manifest = read_json(made(test / "manifest.json"))
    for sub in ("images", "masks"):
        shutil.rmtree(rep / sub)
        (rep / sub).symlink_to(os.path.relpath(test / sub, rep))
    edit(rep, lambda m: m.update(tiles=manifest["tiles"]))
    lies = {**NOWHERE, "content_sha256": ANOTHER_HASH, "base": tiles_of(root, "train").ids[0]}
    return [("train_rep", tile_id, lies) for tile_id in manifest["tiles"]]


def neighbour(root, rng):
    val = tiles_of(root, "val")
    blocks = Counter(tile.block for tile in val)
    tile = next(t for t in rng.permutation(np.array(val.tiles, object)) if blocks[t.block] > 1)
    move(root, tile, "val", "train")
    return [("train", tile.id, {"block": tiles_of(root, "train").tiles[0].block})]


def neighbour_called_random(root, rng):
    lies = neighbour(root, rng)
    for name in ("train", "val", "test"):
        shared = {} if name == "train" else {"blocks_shared_with_train": int(name == "val")}
        edit(folder_of(root, name), lambda m, shared=shared: m.update(split_strategy="random", **shared))
    return [(name, tile_id, {}) for name, tile_id, _ in lies]


def val_in_test(root, rng):
    bring(root, textured(tiles_of(root, "val"), rng), "test", "innocent")
    return [("test", "innocent", {**NOWHERE, "content_sha256": ANOTHER_HASH, "sha256": ANOTHER_HASH})]


def teacher_val_in_train(root, rng):
    bring(root, textured(tiles_of(root, "OEM teacher val"), rng), "OEM teacher train", "innocent")
    return [("OEM teacher train", "innocent", {**NOWHERE, "content_sha256": ANOTHER_HASH, "sha256": ANOTHER_HASH})]


LEAKS = (
    Leak("val tile in train under another name", copied, "image file", ("val", "train"), "train"),
    Leak("its pixels re-encoded", re_encoded, "image content", ("val", "train"), "train"),
    Leak("shifted window of a val tile", shifted, "overlapping window", ("val", "train")),
    Leak("shifted window, flipped or turned", shifted_and_turned, "overlapping window", ("val", "train")),
    Leak("test tile flipped or turned", flipped, "overlapping window", ("test", "train")),
    Leak("test tile brightened", brightened, "altered copy", ("test", "train")),
    Leak("test tile of less contrast", contrast_changed, "altered copy", ("test", "train")),
    Leak("replica whose base is in val", replica_of_val, "image file", ("val", "train_rep"), "train_rep"),
    Leak("replica of an edited val tile", replica_of_edited_val, "base", ("train_rep",), "train_rep"),
    Leak("OEM tile in val", openearthmap_in_val, "image file", ("val", "OEM relabelled"), "train"),
    Leak("OEM tile in val that was dropped", dropped_openearthmap_in_val, "origin", ("val",), "train"),
    Leak("val tile called OEM in pretraining", openearthmap_that_is_val, "image file", ("val", "combined"), "combined"),
    Leak("symbolic link from train to test", linked, None, ()),
    Leak("folder linked to that of test", linked_folder, "image file", ("test", "train_rep")),
    Leak("neighbour of one block", neighbour, "block", ("val", "train"), "train"),
    Leak("the same, called a random split", neighbour_called_random, "block", ("val",)),
    Leak("val tile in test", val_in_test, "image file", ("val", "test")),
    Leak(
        "teacher's val tile in its train",
        teacher_val_in_train,
        "image file",
        ("OEM teacher val", "OEM teacher train"),
    ),
)
CHILDREN = {
    "train_rep": ["train"],
    "OEM relabelled": ["OEM filtered"],
    "OEM teacher train": ["OEM filtered"],
    "OEM teacher val": ["OEM filtered"],
    "combined": ["train", "OEM relabelled"],
}


def hide(root: Path, lies: list[tuple[str, str, dict]]) -> None:
    """Edit the manifests so that they lie, with right digests, also those of the sets that others were made from."""
    for name in dict.fromkeys(name for name, _, _ in lies):
        changes = {tile_id: lie for n, tile_id, lie in lies if n == name}

        def lie(manifest, changes=changes):
            for tile_id, change in changes.items():
                manifest["tiles"][tile_id].update(change)

        edit(folder_of(root, name), lie)
    for name, parents in CHILDREN.items():
        sources = [{"path": "x", "digest": digest_of(root, parent)} for parent in parents]
        edit(folder_of(root, name), lambda manifest, sources=sources: manifest.update(made_from=sources))


def digest_of(root: Path, name: str) -> str:
    return read_json(made(folder_of(root, name) / "manifest.json"))["digest"]


def spoil(root: Path, leak: Leak, hidden: bool, seed: int) -> None:
    """Put a leak into a root."""
    lies = leak.inject(root, np.random.default_rng(seed))
    if hidden:
        hide(root, lies)


def leak_problem(ended: Ended, root: Path, leak: Leak) -> str | None:
    """Why check_leakage did not name a leak as it should; None where it did."""
    if leak.kind is None:
        return refusal_problem(ended, "symbolic links", "innocent")
    if ended.status == 0:
        return "not found"
    problem = refusal_problem(ended, str(root / "artifacts/leakage.json"))
    if problem:
        return problem
    report = read_json(made(root / "artifacts/leakage.json"))
    named = {(finding["kind"], tuple(finding["sets"])) for finding in report["findings"]}
    if report["passed"] or (leak.kind, leak.sets) not in named:
        return f"named {sorted(named)}, not {leak.kind} of {leak.sets}"
    return None


def start_problem(root: Path, leak: Leak) -> str | None:
    """Why a training would start on a root with a leak; None where it would not."""
    train, val = (tiles_of(root, name) for name in (leak.trained_on, "val"))
    try:
        require_apart(train, val, made(root / "artifacts/leakage.json"))
    except UserError:
        return None
    return "a training would start"


def real_root(folder: Path) -> Path | None:
    """The data steps on a copy of the real tiles, None where they are not there."""
    if not REAL_DATA.is_dir():
        return None
    for name in ("biodiversity_raw", "openearthmap_raw"):
        shutil.copytree(REAL_DATA / name, folder / "data" / name)
    shutil.copy(REAL_DATA / "taxonomy.json", folder / "taxonomy.json")
    run_data_steps(folder)
    return folder


def good_splits(script: Scripts, root: Path, what: str) -> Iterator[tuple[str, str | None]]:
    """Splits of the same tiles by other seeds, by tile, and at another resolution; what is found in each.

    Generated OpenEarthMap tiles stay at their resolution: they are one scene painted again and again, which nothing but
    its noise tells apart, and resampling takes that away.
    """
    cases = [((), ()), (("--seed", "7"), ()), (("--strategy", "random"), ())]
    for flags, gsd in cases + ([((), ("--gsd", "1.25"))] if what == "real" else []):
        trial = copy_root(root, root.with_name("good"))
        over = ("--root", trial, "--overwrite")
        for module, *given in (
            ("data_prep.split_biodiversity", *over, *flags),
            ("data_prep.analyze_class_distribution", "--root", trial),
            ("data_prep.replicate_minority", *over),
            ("data_prep.prepare_oem_teacher", *over, *gsd),
            ("data_prep.relabel_oem", *over, *gsd),
            ("data_prep.combine_biodiversity_oem", *over),
            (CHECK, "--root", trial),
        ):
            ended = script(module, *given)
            if ended.status:
                break
        yield " ".join((*flags, *gsd)) or "by default", f"{module}: {ended.err[-2000:]}" if ended.status else None
        shutil.rmtree(trial)


def problems(script: Scripts, root: Path, leak: Leak, seed: int) -> list[str | None]:
    """Put a leak into copies of a root, openly and hidden; what was not as promised by ``PROMISES``."""
    trials = [copy_root(root, root.with_name(f"{root.name}_{name}")) for name in ("open", "hidden")]
    for trial, hidden in zip(trials, (False, True), strict=True):
        spoil(trial, leak, hidden, seed)
    running = [script.start(CHECK, "--root", trial) for trial in trials]
    found = [leak_problem(started.wait(), trial, leak) for trial, started in zip(trials, running, strict=True)]
    found.append(start_problem(trials[0], leak) if leak.trained_on else None)
    for trial in trials:
        shutil.rmtree(trial)
    return found


PROMISES = {
    "leaks": "check_leakage names the leak",
    "leaks hidden": "the same where manifests lie and their digests are right",
    "leaks at start": "no training starts on them, from the manifests alone",
}


def inject_all(script: Scripts, root: Path, tiles: int, what: str) -> list[Family]:
    """Every leak into copies of a good root, and the good root itself."""
    families = [Family(f"{name}, {what}", promise) for name, promise in PROMISES.items()]
    good = Family(f"good splits, {what}", "nothing is found")
    for fault, problem in good_splits(script, root, what):
        good.record(fault, problem)
    for leak in LEAKS:
        for seed in range(tiles):
            for n, (family, problem) in enumerate(zip(families, problems(script, root, leak, seed), strict=True)):
                if n < 2 or leak.trained_on:
                    family.record(f"{leak.name}, {seed}", problem)
    return [*families, good]


def inject(folder: Path) -> list[Family]:
    """Every leak on generated tiles, and on the real ones where they are there."""
    with scripts() as script:
        families = inject_all(script, prepare_root(folder / "generated" / "root"), GENERATED_TILES, "generated")
        real = real_root(folder / "real" / "root")
        if real is None:
            families[0].remark = f"no real tiles: {REAL_DATA} does not exist"
            return families
        return families + inject_all(script, real, REAL_TILES, "real")


if __name__ == "__main__":
    print_families(inject)
