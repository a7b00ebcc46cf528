"""Whether sets were made from one another as their manifests say, from files that are still the same."""

import math
import shlex
from pathlib import Path

from common.bands import named, same_bands
from common.cli import map_progress
from common.files import read_json
from common.folds import FOLDS, RECORD, fold_number, study_root
from common.ground import spatial_blocks
from common.inputs import Input
from common.text import some, warn
from common.tiles import is_openearthmap, manifest_digest
from data_prep.leakage.sets import PARENTS, ImageLook, MaskLook, Part, finding, is_elsewhere, read_location
from data_prep.raw.pairs import raw_images, recorded_patterns


def from_steps(parts: dict[str, Part]) -> list[dict]:
    """Findings about the steps that made the sets: other versions, splits, scalings and resolutions."""
    findings = []
    train = parts["train"].tiles
    for name, parents in PARENTS.items():
        for parent in parents if name in parts else ():
            made_from = {source["digest"] for source in parts[name].tiles.manifest["made_from"]}
            if parent in parts and parts[parent].tiles.digest not in made_from:
                again = parts[name].tiles.source.made_by.again()
                text = f"{name} was made from another version of {parent}; make it again: {again}"
                findings.append(finding("stale", [name], 1, text))
    relabelled, teacher = parts.get("OEM relabelled"), parts.get("OEM teacher train")
    if relabelled and teacher:
        gsd, other = (part.tiles.manifest.get("gsd") for part in (relabelled, teacher))
        if gsd != other:
            again = teacher.tiles.source.made_by.again(*(("--gsd", str(gsd)) if gsd else ()))
            text = f"OEM relabelled has --gsd {gsd}, OEM teacher train {other}; make the teacher's tiles again: {again}"
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
        if not same_bands(part.tiles.manifest.get("bands"), train.manifest.get("bands")):
            text = f"{name} has the bands {named(part.tiles.bands)}, train has {named(train.bands)}"
            findings.append(finding("bands", [name], 1, text))
    return findings


def other_dealings(parts: dict[str, Part], root: Path) -> list[dict]:
    """Findings about a fold that is not one with the others of its study; none if ``root`` is that of no fold."""
    findings = []
    number, path = fold_number(root), study_root(root) / FOLDS / RECORD
    if number is None or not path.is_file():
        return findings
    record = read_json(Input(path, parts["train"].tiles.source.made_by))
    for name in ("train", "val", "test"):
        manifest, again = parts[name].tiles.manifest, parts[name].tiles.source.made_by.again()
        fold = manifest.get("fold") or {}
        if fold.get("fold") != number:
            text = f"{name} is of fold {fold.get('fold')}, expected {number}; make it again: {again}"
            findings.append(finding("stale", [name], 1, text))
        elif not isinstance(record, dict) or manifest.get("dealing") != record.get("dealing"):
            text = f"{name} was dealt otherwise than the other folds, by {path}; make it again: {again}"
            findings.append(finding("stale", [name], 1, text))
    return findings


def origins(parts: dict[str, Part], raw_dir: Path, workers: int) -> list[dict]:
    """Findings about where tiles come from: replicas without base, OpenEarthMap in val or test, tiles from nowhere."""
    findings = []

    def add(kind: str, name: str, tile_ids: list[str], text: str) -> None:
        if tile_ids:
            findings.append(finding(kind, [name], len(tile_ids), f"{text}: {some(tile_ids)}"))

    for name in ("val", "test"):
        strangers = [tile.id for tile in parts[name].tiles if is_openearthmap(tile)]
        add("OpenEarthMap tile", name, strangers, f"{name} holds OpenEarthMap tiles")
    split = [parts[name] for name in ("train", "val", "test")]
    manifest = parts["train"].tiles.manifest
    raw = raw_images(raw_dir, recorded_patterns(manifest))
    if not raw and (raw_dir.is_dir() or manifest.get("inputs") not in (None, [str(raw_dir)])):
        warn(f"{raw_dir} holds no raw tiles, so that those that were split are not compared with raw ones: --raw-dir")
    ids = [tile.id for part in split for tile in part.tiles]
    if raw and 2 * sum(name in raw for name in ids) < len(ids):
        warn(f"{raw_dir} holds other tiles than those that were split, which are not compared with raw ones: --raw-dir")
        raw = {}
    if raw:
        items = [(part, tile) for part in split for tile in part.tiles if tile.id in raw]
        paths = [raw[tile.id] for _, tile in items]
        locations = list(map_progress(read_location, paths, workers=workers, desc="Raw tiles"))
        for part in split:
            unknown = [tile.id for tile in part.tiles if tile.id not in raw]
            add("origin", part.name, unknown, f"{part.name} holds tiles that are not among those of {raw_dir}")
            moved = [
                tile.id
                for (holder, tile), location in zip(items, locations, strict=True)
                if holder is part and location and is_elsewhere(location, part.image(tile).location)
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


def replayed_blocks(parts: dict[str, Part]) -> dict[str, dict[str, str | None]] | None:
    """{set: {tile id: block}} of train, val and test, by the grid that the split laid over them.

    None if the manifests do not agree on its block size.
    """
    sizes = [parts[name].tiles.manifest.get("block_size") for name in ("train", "val", "test")]
    size = sizes[0]
    is_size = isinstance(size, (int, float)) and not isinstance(size, bool) and math.isfinite(size) and size > 0
    if any(other != size for other in sizes) or not (size is None or is_size):
        return None
    tiles = [(name, tile) for name in ("train", "val", "test") for tile in parts[name].tiles]
    locations = []
    for name, tile in tiles:
        of_file = parts[name].image(tile).location
        # The entry holds the numbers that the grid was laid over, the file perhaps their rounding.
        locations.append(tile.entry if of_file and not is_elsewhere(of_file, tile.entry) else of_file)
    by_set: dict[str, dict[str, str | None]] = {"train": {}, "val": {}, "test": {}}
    blocks = spatial_blocks([{"bounds": None, **location} for location in locations], size)
    for (name, tile), block in zip(tiles, blocks, strict=True):
        by_set[name][tile.id] = block
    return by_set


def block_findings(parts: dict[str, Part]) -> tuple[list[dict], dict[str, int]]:
    """Findings if a block split has a block on two sides; and the number of such blocks for val and for test."""
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
        recorded = parts[name].tiles.manifest.get("blocks_shared_with_train", crossing[name])
        if recorded != crossing[name]:
            text = f"{name} shares {crossing[name]} spatial blocks with train, its manifest says {recorded}"
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
    """Findings if a set is called a random split, but its command draws blocks."""
    findings = []
    locations = [parts[name].image(tile).location for name in ("train", "val", "test") for tile in parts[name].tiles]
    nowhere = sum(not location.get("bounds") for location in locations)
    by_default = "blocks" if 2 * nowhere < len(locations) else "random"
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
    """Findings if a file, or a manifest, is not what the manifest says."""
    findings = []
    for name, part in parts.items():
        changed, untrue = [], []
        for tile in part.tiles:
            image, mask = part.looks[tile.id]
            for path, look, key in ((tile.image_path, image, "sha256"), (tile.mask_path, mask, "mask_sha256")):
                if look.sha256 != tile.entry[key]:
                    changed.append(f"{path.parent.name}/{path.name}")
            keys = untrue_entries(tile.entry, image, mask, tile.bands_of_file)
            if keys:
                untrue.append(f"{tile.id} ({', '.join(keys)})")
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


def untrue_entries(entry: dict, image: ImageLook, mask: MaskLook, bands: int) -> list[str]:
    """What a manifest's entry says that its two files, of which the image has so many bands, do not bear out."""
    if image.anchors is None or image.bands != bands:
        return [f"no 8-bit image of {bands} bands"]
    if not mask.size:
        return ["no 8-bit mask"]
    count, size = len(entry["pixels"]), (image.location["height"], image.location["width"])
    is_untrue = {
        "content_sha256": image.content != entry["content_sha256"],
        "size": (entry["height"], entry["width"]) != size or mask.size != size,
        "pixels": tuple(entry["pixels"]) != mask.counts[:count] or any(mask.counts[count:]),
        "place": is_elsewhere(image.location, {**entry, "height": size[0], "width": size[1]}),
    }
    return [name for name, untrue in is_untrue.items() if untrue]
