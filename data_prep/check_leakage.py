r"""Check that nothing of val or test is in anything that is trained on.

Every file of all tile sets under data/ is read, and what the manifests say is believed nowhere: ids, files, pixels,
ground, spatial blocks and the origin of replicas follow from the files. Windows and altered copies of held-out images
are found from their pixels. Exit status 2 where anything leaks.

    python -m data_prep.check_leakage
"""

import hashlib
import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.errors import RasterioError

from common.cli import Parser, UserError, command_for, map_progress, run
from common.files import sha256_file, write_json
from common.leakage import is_openearthmap, shared_ids
from common.raw import IMAGE_SUFFIXES, files_by_stem
from common.splitting import not_comparable, overlapping, spatial_blocks, world_bounds
from common.taxonomy import OPENEARTHMAP, load_taxonomy
from common.text import some, table, warn
from common.tiles import Tile, TileSet, georeference, manifest_digest, open_raster, read_mask
from data_prep import near_duplicates

SPLIT = "data_prep.split_biodiversity"
PARENTS = {
    "train_rep": ["train"],
    "OEM relabelled": ["OEM filtered"],
    "OEM teacher train": ["OEM filtered"],
    "OEM teacher val": ["OEM filtered"],
    "combined": ["train", "OEM relabelled"],
}
KINDS = ("tile id", "image file", "image content", "overlapping window", "altered copy", "ground")
NEAR_COPIES = {"overlapping window", "altered copy"}
RAW_REPEATS = " Where raw tiles overlap or repeat one another, leave some out: split_biodiversity --exclude FILE."
SAME_PLACE = 0.01  # pixels: the rounding of a place that was written to a file and read back
SAME_PLACE_ON_EARTH = 1.0  # pixels, where the file writes the system in other words


class ImageLook(NamedTuple):
    """What a file of images/ holds. ``place``: what ``georeference`` returns, with height and width."""

    path: Path
    sha256: str
    content: str = ""
    place: dict = {}
    is_blank: bool = False
    anchors: np.ndarray | None = None
    thumbnail: np.ndarray | None = None


class MaskLook(NamedTuple):
    """What a file of masks/ holds. ``counts``: pixels of each id, up to the highest a file can hold."""

    sha256: str
    size: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """A tile set and its name in this report.

    role: train, val or test of Biodiversity, or openearthmap. command: makes the set. looks: of each tile, once read.
    """

    name: str
    role: str
    tiles: TileSet
    command: str
    looks: dict[str, tuple[ImageLook, MaskLook]] = field(default_factory=dict)

    def image(self, tile: Tile) -> ImageLook:
        return self.looks[tile.id][0]

    def mask(self, tile: Tile) -> MaskLook:
        return self.looks[tile.id][1]

    def places(self) -> list[dict]:
        """Where each tile lies, by its file; one that cannot be read has no place."""
        nowhere = {"crs": None, "bounds": None}
        return [{**nowhere, **self.image(tile).place, "source": tile.entry.get("source")} for tile in self.tiles]


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--split-dir", "data/biodiversity_split", "folder with train, val, test and, where made, train_rep")
    parser.add_path("--raw-dir", "data/biodiversity_raw", "raw tiles that were split, where they are there")
    parser.add_path("--combined-dir", "data/biodiversity_oem_combined/train", "pretraining set, where made")
    parser.add_path("--filtered-dir", "data/openearthmap_filtered", "rural OpenEarthMap tiles, where made")
    parser.add_path("--relabelled-dir", "data/openearthmap_relabelled", "the same in Biodiversity classes, where made")
    parser.add_path("--teacher-dir", "data/openearthmap_teacher", "folder with the teacher's train and val, where made")
    parser.add_path("--out", "artifacts/leakage.json", "findings and counts")
    parser.add_workers()
    return parser.parse_args(argv)


def open_parts(args) -> dict[str, Part]:
    """The tile sets by name: train, val and test, and those of the others that exist."""
    taxonomy = load_taxonomy(args.root)
    places = [
        ("train", "train", args.split_dir / "train", SPLIT, taxonomy),
        ("val", "val", args.split_dir / "val", SPLIT, taxonomy),
        ("test", "test", args.split_dir / "test", SPLIT, taxonomy),
        ("train_rep", "train", args.split_dir / "train_rep", "data_prep.replicate_minority", taxonomy),
        ("combined", "train", args.combined_dir, "data_prep.combine_biodiversity_oem", taxonomy),
        ("OEM filtered", "openearthmap", args.filtered_dir, "data_prep.filter_oem_rural", OPENEARTHMAP),
        ("OEM relabelled", "openearthmap", args.relabelled_dir, "data_prep.relabel_oem", taxonomy),
        (
            "OEM teacher train",
            "openearthmap",
            args.teacher_dir / "train",
            "data_prep.prepare_oem_teacher",
            OPENEARTHMAP,
        ),
        ("OEM teacher val", "openearthmap", args.teacher_dir / "val", "data_prep.prepare_oem_teacher", OPENEARTHMAP),
    ]
    parts = {}
    for name, role, path, made_by, classes in places:
        if name in ("train", "val", "test") or path.exists():
            command = command_for(made_by, args)
            parts[name] = Part(name, role, TileSet.open(path, command).require_taxonomy(classes), command)
    return parts


def look_at_image(path: Path) -> ImageLook:
    """Read an image once for all that is asked of it; only its hash is known of one that cannot be read."""
    digest = sha256_file(path)
    try:
        with open_raster(path, sidecars=False) as src:
            image, place = src.read(), georeference(src)
    except RasterioError:
        return ImageLook(path, digest)
    content = hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
    place |= {"height": image.shape[1], "width": image.shape[2]}
    if image.dtype != np.uint8 or len(image) != 3:
        return ImageLook(path, digest, content, place)
    blank = bool((image == image[:, :1, :1]).all())
    return ImageLook(
        path, digest, content, place, blank, near_duplicates.anchors(image), near_duplicates.thumbnail(image)
    )


def look_at_mask(path: Path) -> MaskLook:
    """Read a mask; only its hash is known of one that cannot be read."""
    digest = sha256_file(path)
    try:
        mask = read_mask(path)
    except UserError:
        return MaskLook(digest)
    if mask.dtype != np.uint8:
        return MaskLook(digest)
    return MaskLook(digest, mask.shape, tuple(np.bincount(mask.ravel(), minlength=256).tolist()))


def look(path: Path) -> ImageLook | MaskLook:
    """What an image or a mask file holds."""
    return look_at_image(path) if path.suffix == ".tif" else look_at_mask(path)


def look_at_files(parts: dict[str, Part], workers: int) -> None:
    """Fill ``looks`` of all parts; hard links are one file, and read once."""
    files, of_tile = {}, {}
    for name, part in parts.items():
        for tile in part.tiles:
            for path in (tile.image_path, tile.mask_path):
                status = path.stat()
                key = status.st_dev, status.st_ino, path.suffix
                files.setdefault(key, path)
                of_tile.setdefault((name, tile.id), []).append(key)
    looked = map_progress(look, files.values(), workers=workers, desc="Reading", unit="file")
    known = dict(zip(files, looked, strict=True))
    for (name, tile_id), keys in of_tile.items():
        parts[name].looks[tile_id] = tuple(known[key] for key in keys)


def shared_tiles(part: Part, other: Part) -> list[tuple[str, str, str]]:
    """(kind, tile of part, tile of other) of each tile, file, image or ground that two sets share.

    Replicas count as their base. Ids are compared among Biodiversity sets only: OpenEarthMap has names of its own.
    """
    found = []
    if "openearthmap" not in (part.role, other.role) or part.role == other.role:
        found += [("tile id", name, name) for name in shared_ids(list(part.tiles), list(other.tiles))]
    seen = set()
    for key, kind in (("sha256", "image file"), ("content", "image content")):
        holders = defaultdict(list)
        for twin in other.tiles:
            holders[getattr(other.image(twin), key)].append(twin)
        for tile in part.tiles:
            image = part.image(tile)
            for twin in holders.get(getattr(image, key), ()) if getattr(image, key) else ():
                if (tile.id, twin.id) not in seen and not image.is_blank:
                    seen.add((tile.id, twin.id))
                    found.append((kind, tile.id, twin.id))
    pairs = overlapping(part.places(), other.places())
    found += [("ground", part.tiles.tiles[i].id, other.tiles.tiles[j].id) for i, j in pairs]
    return found


def pairs_apart(parts: dict[str, Part]) -> list[tuple[str, str]]:
    """The sets that must share nothing: (held out, other)."""
    names = list(parts)
    pairs = [(held, name) for held in ("val", "test") for name in names if name not in ("val", held)]
    if "OEM teacher val" in parts and "OEM teacher train" in parts:
        pairs.append(("OEM teacher val", "OEM teacher train"))
    return pairs


def near_copies(parts: dict[str, Part], workers: int) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """{(held out, other): [(kind, tile, tile)]} of images that differ, but show the same pixels or one picture."""
    pairs = pairs_apart(parts)
    holders: dict[str, list[tuple[str, str]]] = defaultdict(list)
    looks: dict[str, ImageLook] = {}
    for name, part in parts.items():
        for tile in part.tiles:
            image = part.image(tile)
            if image.anchors is not None:
                holders[image.content].append((name, tile.id))
                looks[image.content] = image
    bit = {name: 1 << n for n, name in enumerate(parts)}
    inside = {content: sum({bit[name] for name, _ in tiles}) for content, tiles in holders.items()}
    against = {name: sum({bit[other] for held, other in pairs if held == name}) for name in parts}
    apart = {content: _either(against[name] for name, _ in tiles) for content, tiles in holders.items()}
    held = [content for content in looks if apart[content]]

    candidates: dict[tuple[str, str], list] = {}  # contents → [look for windows, orientation of one picture]

    def propose(content: str, other: str) -> list:
        if content == other or not apart[content] & inside[other]:
            return [None, None]
        return candidates.setdefault((content, other), [False, None])

    others = list(looks)
    shared = near_duplicates.sharing([looks[c].anchors for c in held], [looks[c].anchors for c in others])
    for other, owners in zip(others, shared, strict=True):
        for i in owners:
            propose(held[i], other)[0] = True
    held, others = ([c for c in some if looks[c].thumbnail is not None] for some in (held, others))
    thumbnails = ([looks[c].thumbnail for c in some] for some in (held, others))
    for i, j, orientation in near_duplicates.resembling(*thumbnails):
        propose(held[i], others[j])[1] = orientation

    items = [(looks[a].path, looks[b].path, *how) for (a, b), how in candidates.items()]
    kinds = list(map_progress(near_duplicates.confirm, items, workers=workers, desc="Comparing", unit="pair"))
    found = defaultdict(list)
    for (content, other), kind in zip(candidates, kinds, strict=True):
        for name, tile_id in holders[content] if kind else ():
            for second, twin_id in holders[other]:
                if (name, second) in pairs:
                    found[name, second].append((kind, tile_id, twin_id))
    return found


def _either(masks: Iterator[int]) -> int:
    """The bits that are set in any of some numbers."""
    found = 0
    for mask in masks:
        found |= mask
    return found


def compare(parts: dict[str, Part], workers: int) -> tuple[list[dict], list[dict]]:
    """What every pair of sets that must be apart shares, as findings, and a row of counts for each pair."""
    findings, rows = [], []
    near = near_copies(parts, workers)
    for held, name in pairs_apart(parts):
        shared = shared_tiles(parts[held], parts[name]) + near.get((held, name), [])
        counts = Counter(kind for kind, _, _ in shared)
        for kind in counts:
            examples = [f"{a} = {b}" if a != b else a for k, a, b in shared if k == kind]
            text = f"{held} and {name} share {kind} in {counts[kind]} cases: {some(examples)}"
            findings.append(finding(kind, [held, name], counts[kind], text))
        row = {"sets": [held, name], **{kind: counts[kind] for kind in KINDS}}
        unknown = not_comparable(parts[held].places(), parts[name].places())
        rows.append({**row, "ground not comparable": unknown})
    return findings, rows


def finding(kind: str, sets: list[str], count: int, text: str) -> dict:
    """An entry of the report."""
    return {"kind": kind, "sets": sets, "count": count, "text": text}


def shown(row: dict, kind: str) -> str:
    """A count of the table; ground that cannot be compared is said so, instead of 0."""
    unknown = row["ground not comparable"] if kind == "ground" else 0
    if not unknown:
        return str(row[kind])
    return f"{row[kind]} ({unknown} pairs not comparable)" if row[kind] else f"not comparable ({unknown} pairs)"


def from_steps(parts: dict[str, Part]) -> list[dict]:
    """Findings about the steps that made the sets: other versions, splits, scalings and resolutions."""
    findings = []
    train = parts["train"].tiles
    for name, parents in PARENTS.items():
        for parent in parents if name in parts else ():
            made_from = {source["digest"] for source in parts[name].tiles.manifest["made_from"]}
            if parent in parts and parts[parent].tiles.digest not in made_from:
                again = f"make it again: {parts[name].command} --overwrite"
                text = f"{name} was made from another version of {parent}; {again}"
                findings.append(finding("stale", [name], 1, text))
    relabelled, teacher = parts.get("OEM relabelled"), parts.get("OEM teacher train")
    if relabelled and teacher:
        gsd, other = (part.tiles.manifest.get("gsd") for part in (relabelled, teacher))
        if gsd != other:
            flag = f" --gsd {gsd}" if gsd else ""
            text = (
                f"OEM relabelled has --gsd {gsd}, OEM teacher train {other}; make the teacher's tiles again: "
                f"{teacher.command} --overwrite{flag}"
            )
            findings.append(finding("resolution", [relabelled.name, teacher.name], 1, text))
    for name, part in parts.items():
        if part.role == "openearthmap":
            continue
        if part.tiles.split != part.role:
            text = f"{part.tiles.path} should be '{part.role}', but its manifest says {part.tiles.split}"
            findings.append(finding("split", [name], 1, text))
        if part.tiles.stretch != train.stretch:
            text = f"{name} was scaled to 8 bit by another range than train"
            findings.append(finding("stretch", [name], 1, text))
    return findings


def origins(parts: dict[str, Part], raw_dir: Path, workers: int) -> list[dict]:
    """Findings about where tiles come from: replicas without base, OpenEarthMap in val or test, tiles from nowhere."""
    findings = []

    def add(kind, name, names, text):
        if names:
            findings.append(finding(kind, [name], len(names), f"{text}: {some(names)}"))

    for name in ("val", "test"):
        strangers = [tile.id for tile in parts[name].tiles if is_openearthmap(tile)]
        add("OpenEarthMap tile", name, strangers, f"{name} holds OpenEarthMap tiles")
    split = [parts[name] for name in ("train", "val", "test")]
    raw = files_by_stem(raw_dir / "images", IMAGE_SUFFIXES)[0] if (raw_dir / "images").is_dir() else {}
    ids = [tile.id for part in split for tile in part.tiles]
    if raw and 2 * sum(name in raw for name in ids) < len(ids):
        warn(f"{raw_dir} holds other tiles than those that were split, which are not compared with raw ones: --raw-dir")
        raw = {}
    if raw:
        items = [(part, tile) for part in split for tile in part.tiles if tile.id in raw]
        paths = [raw[tile.id][0] for _, tile in items]
        places = list(map_progress(read_place, paths, workers=workers, desc="Raw tiles"))
        for part in split:
            unknown = [tile.id for tile in part.tiles if tile.id not in raw]
            add("origin", part.name, unknown, f"{part.name} holds tiles that are not among those of {raw_dir}")
            moved = [
                tile.id
                for (holder, tile), place in zip(items, places, strict=True)
                if holder is part and place and is_elsewhere(place, part.image(tile).place)
            ]
            add("origin", part.name, moved, f"{part.name} holds tiles that lie elsewhere than those of {raw_dir}")

    train = parts["train"]
    own = {(train.image(tile).content, train.mask(tile).sha256) for tile in train.tiles}
    relabelled = parts.get("OEM relabelled")
    foreign = {relabelled.image(tile).content for tile in relabelled.tiles} if relabelled else None
    for name in ("train_rep", "combined"):
        if name not in parts:
            continue
        part = parts[name]
        added = [t for t in part.tiles if name == "combined" and is_openearthmap(t)]
        bred = [t for t in part.tiles if name != "combined" or not is_openearthmap(t)]
        orphans = [t.id for t in bred if t.base not in train.tiles]
        add("base", name, orphans, f"{name} holds tiles whose base is not in train")
        changed = [
            t.id
            for t in bred
            if t.base in train.tiles
            and any(a.sha256 != b.sha256 for a, b in zip(part.looks[t.id], train.looks[t.base], strict=True))
        ]
        add("base", name, changed, f"{name} holds tiles that differ from their base in train")
        unknown = [t.id for t in bred if (part.image(t).content, part.mask(t).sha256) not in own]
        unknown += [t.id for t in added if foreign is not None and part.image(t).content not in foreign]
        source = "train" if name == "train_rep" or foreign is None else "train or OEM relabelled"
        add("base", name, sorted(unknown), f"{name} holds pixels that no tile of {source} has")
    return findings


def read_place(path: Path) -> dict | None:
    """Where a raw image lies, with its size in pixels; None where it cannot be read."""
    try:
        with open_raster(path) as src:
            return {**georeference(src), "height": src.height, "width": src.width}
    except RasterioError:
        return None


def is_elsewhere(place: dict, other: dict) -> bool:
    """Whether two records of where one tile lies contradict one another by more than rounding."""
    if (place.get("height"), place.get("width")) != (other.get("height"), other.get("width")):
        return True
    bounds = [known.get("bounds") for known in (place, other)]
    if None in bounds:
        return bounds[0] is not bounds[1]
    if place["crs"] != other["crs"]:
        world = [world_bounds(known["crs"], tuple(known["bounds"])) for known in (place, other)]
        if None not in world:  # systems without a known place on earth are told apart by their numbers alone
            return _differ(*world, place, SAME_PLACE_ON_EARTH)
    return _differ(*bounds, place, SAME_PLACE)


def _differ(bounds, other, place: dict, pixels: float) -> bool:
    """Whether two bounds differ by more than so many pixels of a tile."""
    left, bottom, right, top = bounds
    slack = pixels * max((right - left) / place["width"], (top - bottom) / place["height"])
    return max(abs(a - b) for a, b in zip(bounds, other, strict=True)) > slack


def replayed_blocks(parts: dict[str, Part]) -> dict[str, dict[str, str | None]] | None:
    """{set: {tile id: block}} of train, val and test, by the grid that the split laid over their places.

    None where the manifests do not agree on its block size.
    """
    sizes = [parts[name].tiles.manifest.get("block_size") for name in ("train", "val", "test")]
    size = sizes[0]
    is_size = isinstance(size, (int, float)) and not isinstance(size, bool) and math.isfinite(size) and size > 0
    if any(other != size for other in sizes) or not (size is None or is_size):
        return None
    tiles = [(name, tile) for name in ("train", "val", "test") for tile in parts[name].tiles]
    places = []
    for name, tile in tiles:
        file = parts[name].image(tile).place
        # The entry holds the numbers that the grid was laid over, the file perhaps their rounding.
        places.append(tile.entry if file and not is_elsewhere(file, tile.entry) else file)
    blocks: dict[str, dict] = {"train": {}, "val": {}, "test": {}}
    known = spatial_blocks([{"bounds": None, **place} for place in places], size)
    for (name, tile), block in zip(tiles, known, strict=True):
        blocks[name][tile.id] = block
    return blocks


def blocks(parts: dict[str, Part]) -> tuple[list[dict], dict[str, int]]:
    """Findings where a block split has a block on two sides; and the number of such blocks for val and for test."""
    findings, crossing = [], {}
    names = ("train", "val", "test")
    replayed = replayed_blocks(parts)
    if replayed is None:
        sizes = ", ".join(f"{name} {parts[name].tiles.manifest.get('block_size')!r}" for name in names)
        text = f"the manifests do not say one size of the spatial blocks: {sizes}"
        findings.append(finding("block", list(names), 1, text))
        replayed = {name: {tile.id: tile.entry["block"] for tile in parts[name].tiles} for name in names}
    for name in names:
        moved = [
            f"{tile.id} ({replayed[name][tile.id]}, not {tile.entry['block']})"
            for tile in parts[name].tiles
            if replayed[name][tile.id] != tile.entry["block"]
        ]
        if moved:
            text = f"{name}: {len(moved)} tiles lie in another spatial block than its manifest says: {some(moved)}"
            findings.append(finding("block", [name], len(moved), text))
    held = {name: {block or f"tile {i}" for i, block in replayed[name].items()} for name in names}
    for name, others in (("val", ("train",)), ("test", ("train", "val"))):
        crossing[name] = len(held[name] & held["train"])
        for other in others:
            both = sorted(held[name] & held[other])
            strategies = {parts[p].tiles.manifest.get("split_strategy") for p in (name, other)}
            if both and strategies != {"random"}:
                text = f"{name} and {other} share {len(both)} spatial blocks of a block split: {some(both)}"
                findings.append(finding("block", [name, other], len(both), text))
        said = parts[name].tiles.manifest.get("blocks_shared_with_train", crossing[name])
        if said != crossing[name]:
            text = f"{name} shares {crossing[name]} spatial blocks with train, its manifest says {said}"
            findings.append(finding("block", [name], 1, text))
    findings += strategy_findings(parts)
    if "OEM teacher val" in parts and "OEM teacher train" in parts:
        teacher = [{tile.block for tile in parts[f"OEM teacher {side}"].tiles} for side in ("train", "val")]
        both = sorted(teacher[0] & teacher[1])
        if both:
            text = f"OEM teacher val and OEM teacher train share {len(both)} spatial blocks: {some(both)}"
            findings.append(finding("block", ["OEM teacher val", "OEM teacher train"], len(both), text))
    return findings, crossing


def strategy_findings(parts: dict[str, Part]) -> list[dict]:
    """Findings where a set is called a random split, but its command draws blocks."""
    findings = []
    tiles = [parts[name].image(tile).place for name in ("train", "val", "test") for tile in parts[name].tiles]
    by_default = "blocks" if 2 * sum(not place.get("bounds") for place in tiles) < len(tiles) else "random"
    for name in ("train", "val", "test"):
        manifest = parts[name].tiles.manifest
        strategy, command = manifest.get("split_strategy"), manifest.get("command", "")
        try:
            asked = [word for word in shlex.split(str(command)) if word.partition("=")[0] == "--strategy"]
        except ValueError:
            asked = []
        if strategy == "random" and not asked and by_default == "blocks":
            text = f"{name}: its manifest says that tiles were drawn, but its command draws spatial blocks: {command}"
            findings.append(finding("block", [name], 1, text))
    return findings


def check_files(parts: dict[str, Part]) -> list[dict]:
    """Findings where a file, or a manifest, is not what the manifest says."""
    findings = []
    for name, part in parts.items():
        changed, untrue = [], []
        for tile in part.tiles:
            image, mask = part.looks[tile.id]
            for path, seen, key in ((tile.image_path, image, "sha256"), (tile.mask_path, mask, "mask_sha256")):
                if seen.sha256 != tile.entry[key]:
                    changed.append(f"{path.parent.name}/{path.name}")
            wrong = untrue_entries(tile.entry, image, mask)
            if wrong:
                untrue.append(f"{tile.id} ({', '.join(wrong)})")
        if changed:
            text = f"{name}: {len(changed)} files are not those of its manifest: {some(changed)}"
            findings.append(finding("changed file", [name], len(changed), text))
        if untrue:
            text = f"{name}: its manifest is not true of the files of {len(untrue)} tiles: {some(untrue)}"
            findings.append(finding("untrue entry", [name], len(untrue), text))
        if part.tiles.digest != manifest_digest(part.tiles.manifest):
            text = f"{name}: its manifest was changed after it was written"
            findings.append(finding("changed manifest", [name], 1, text))
    return findings


def untrue_entries(entry: dict, image: ImageLook, mask: MaskLook) -> list[str]:
    """What a manifest's entry says that its two files do not bear out."""
    if image.anchors is None or not mask.size:
        return ["no 8-bit RGB image" if image.anchors is None else "no 8-bit mask"]
    count, size = len(entry["pixels"]), (image.place["height"], image.place["width"])
    wrong = {
        "content_sha256": image.content != entry["content_sha256"],
        "size": (entry["height"], entry["width"]) != size or mask.size != size,
        "pixels": tuple(entry["pixels"]) != mask.counts[:count] or any(mask.counts[count:]),
        "place": is_elsewhere(image.place, {**entry, "height": size[0], "width": size[1]}),
    }
    return [name for name, is_wrong in wrong.items() if is_wrong]


def main(argv=None):
    args = parse_args(argv)
    parts = open_parts(args)
    look_at_files(parts, args.workers)
    findings = check_files(parts) + from_steps(parts)
    shared, rows = compare(parts, args.workers)
    block_findings, crossing = blocks(parts)
    findings += shared + origins(parts, args.raw_dir, args.workers) + block_findings
    strategy = parts["train"].tiles.manifest.get("split_strategy")
    write_json(
        args.out,
        {
            "passed": not findings,
            "findings": findings,
            "compared": rows,
            "split_strategy": strategy,
            "blocks_shared_with_train": crossing,
            "sets": {
                name: {"path": str(part.tiles.path), "digest": part.tiles.digest, "tiles": len(part.tiles)}
                for name, part in parts.items()
            },
        },
    )
    print(
        table(
            ["set", "tiles", "blocks"], [[n, len(p.tiles), len({t.block for t in p.tiles})] for n, p in parts.items()]
        )
    )
    print()
    print(
        table(
            ["shared by", *KINDS],
            [[f"{row['sets'][0]} and {row['sets'][1]}", *(shown(row, kind) for kind in KINDS)] for row in rows],
        )
    )
    print(
        f"\nblocks on both sides: val and train {crossing['val']}, test and train {crossing['test']} ({strategy} split)"
    )
    if findings:
        lines = "\n".join(f"  {finding['text']}" for finding in findings)
        raise UserError(
            f"{len(findings)} findings under {args.split_dir} and beside it, expected none ({args.out}):\n{lines}\n"
            "Make the tile sets again from the raw tiles, from split_biodiversity on with --overwrite, in the order of "
            "REPRODUCE_DATA.md." + (RAW_REPEATS if {found["kind"] for found in findings} & NEAR_COPIES else "")
        )
    if any(crossing.values()):
        warn(
            f"a random split: {crossing['val']} blocks of val and {crossing['test']} of test have neighbours in train, "
            "so that scores are higher than on new ground. split_biodiversity --strategy blocks keeps them together."
        )
    print(
        f"no leakage found: {sum(len(p.tiles) for p in parts.values())} tiles in {len(parts)} sets; {args.out} written"
    )


if __name__ == "__main__":
    run(main)
