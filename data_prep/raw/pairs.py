"""Pairs of an image and a mask, as users name them and lay them out in folders."""

import argparse
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.cli import Parser
from common.errors import UserError
from common.text import some
from common.tiles import is_tile_id
from data_prep.raw.files import (
    IMAGE_SUFFIXES,
    LONGEST_NAME,
    MASK_SUFFIXES,
    TIFF_SUFFIXES,
    Problem,
    RawTile,
    is_litter,
    link_problem,
    name_problem,
    printable,
)
from data_prep.raw.masks import PLAIN, MaskReading

# What the names of images and masks begin or end in, beside what they share.
BEGINNINGS = (("IMG_", "MSK_"), ("image_", "mask_"), ("img_", "mask_"), ("img_", "label_"), ("image_", "label_"))
ENDINGS = (
    ("_img", "_mask"), ("_image", "_mask"), ("_sat", "_mask"), ("_rgb", "_label"), ("_rgb", "_mask"),
    ("_img", "_label"), ("_image", "_label"), ("_x", "_y"), ("", "_mask"), ("", "_label"), ("", "_labels"),
    ("", "_gt"), ("", "_msk"), ("", "_lbl"), ("_img", ""), ("_image", ""), ("_sat", ""), ("_rgb", ""),
)  # fmt: skip

OF_PATTERN = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)  # what a part of a pattern is made of


class Named(NamedTuple):
    """A file, and what its tile is called after: the folders, and the name below them."""

    folders: tuple[str, ...]
    stem: str
    path: Path


Files = dict[str, list[Named]]


class Affixes(NamedTuple):
    """What the names of images and of masks end in, or begin with, beside what they share."""

    image: str = ""
    mask: str = ""
    at_end: bool = True

    def described(self) -> str:
        place = "end in" if self.at_end else "begin with"
        kinds = [f"{kind} {place} {of!r}" for kind, of in (("images", self.image), ("masks", self.mask)) if of]
        return f"{', '.join(kinds)}: paired by the rest of their names"


AFFIXES = (*(Affixes(*pair) for pair in ENDINGS), *(Affixes(*pair, at_end=False) for pair in BEGINNINGS))


class Pairing(NamedTuple):
    """Images and masks by what pairs them; ``moved``: the number of pairs of which one file alone lies in a folder."""

    images: Files
    masks: Files
    affixes: Affixes
    moved: int

    @property
    def matches(self) -> int:
        both = self.images.keys() & self.masks.keys()
        return sum(len(self.images[key]) == len(self.masks[key]) == 1 for key in both)


class Patterns(NamedTuple):
    """Where images and masks lie below --in-dir; their tiles are called by what the asterisks stand for."""

    images: str
    masks: str


def add_patterns(parser: Parser) -> None:
    """Add --images and --masks, which ``chosen_patterns`` reads."""
    for kind, example in (("images", "train/*_sat.jpg"), ("masks", "train/*_mask.png")):
        parser.add_argument(
            f"--{kind}",
            metavar="PATTERN",
            help=f"where {kind} lie below --in-dir, as in '{example}' (default: {kind}/, with its sub-folders)",
        )


def chosen_patterns(args: argparse.Namespace) -> Patterns | None:
    """What --images and --masks ask for; None if they are not given.

    Raises:
        UserError: one alone is given, or one that is no pattern below --in-dir, or has no asterisk.
    """
    given = [pattern for pattern in (args.images, args.masks) if pattern is not None]
    if not given:
        return None
    if len(given) == 1 or not all("*" in pattern for pattern in given):
        raise UserError(
            "--images and --masks are given together, each with an asterisk for what an image and its mask share: "
            "--images 'train/*_sat.jpg' --masks 'train/*_mask.png'."
        )
    for flag, pattern in (("--images", args.images), ("--masks", args.masks)):
        _expression(flag, pattern)
    return Patterns(args.images, args.masks)


def recorded_patterns(manifest: dict) -> Patterns | None:
    """The patterns by which a split found its raw tiles, as its manifest says; None if it was given none."""
    images, masks = manifest.get("image_pattern"), manifest.get("mask_pattern")
    return Patterns(images, masks) if isinstance(images, str) and isinstance(masks, str) else None


def raw_images(in_dir: Path, patterns: Patterns | None = None) -> dict[str, Path]:
    """The images of the tiles of a raw folder by the ids of these; none if there are no tiles."""
    try:
        tiles, _ = find_raw(in_dir, patterns=patterns)
    except UserError:
        return {}
    return {tile.id: tile.image for tile in tiles}


def find_raw(
    in_dir: Path, reading: MaskReading = PLAIN, patterns: Patterns | None = None
) -> tuple[list[RawTile], list[Problem]]:
    """The tiles of a raw folder in the order of their ids, and what does not pair.

    Without ``patterns`` they lie in images and masks, or folders below these. Names may differ in case, and in one
    pair of endings such as _sat and _mask, the one that makes most pairs. If either the images or the masks lie in
    folders, a file name that occurs once among each is enough.

    Raises:
        UserError: a folder is missing, or there is no image at all, or no file that matches a pattern.
    """
    images, masks, problems = _files(in_dir, patterns)
    pairing = _paired(images, masks)
    if pairing.affixes != Affixes():
        problems.append(Problem("", "names", pairing.affixes.described(), fatal=False))
    if pairing.moved:
        text = f"{in_dir}: {pairing.moved} images and masks lie in different folders: paired by the names of the files"
        problems.append(Problem("", "names", text, fatal=False))
    tiles = []
    keys = pairing.images.keys() | pairing.masks.keys()
    ids = {key: key.replace("/", "_") for key in keys}
    holders = Counter(ids.values())
    for key in sorted(keys, key=lambda key: (ids[key], key)):
        tile_id = ids[key]
        of_image, of_mask = pairing.images.get(key, []), pairing.masks.get(key, [])
        files = [*of_image, *of_mask]
        if len(of_image) > 1 or len(of_mask) > 1 or holders[tile_id] > 1:
            paths = ", ".join(str(file.path) for file in files)
            also = "" if holders[tile_id] == 1 else f" and so would other files ({tile_id})"
            text = f"{paths}: several files have this name{also}, expected one image and one mask"
            problems.append(Problem(tile_id, "duplicate name", text))
        elif not of_mask or not of_image:
            kind = "image" if of_mask else "mask"
            text = f"{files[0].path}: has no {kind} {_missing(in_dir, files[0], kind, key, pairing.affixes, patterns)}"
            problems.append(Problem(tile_id, f"no {kind}", text))
        else:
            tiles.append(RawTile(tile_id, of_image[0].path, of_mask[0].path, reading))
    return tiles, problems


def _files(in_dir: Path, patterns: Patterns | None) -> tuple[list[Named], list[Named], list[Problem]]:
    """The images and masks of a raw folder, and what is wrong with names or lies there beside them."""
    found, problems = [], []
    if patterns is None:
        _require_folders(in_dir)
        for folder, suffixes in ((in_dir / "images", IMAGE_SUFFIXES), (in_dir / "masks", MASK_SUFFIXES)):
            files, others = _below(folder, suffixes)
            found.append(_with_names(files, problems))
            problems += _passed_over(others)
        if not found[0]:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise UserError(
                f"{in_dir / 'images'} holds no image ({suffixes}). Put the raw images there, or give --in-dir."
            )
    else:
        for flag, pattern in (("--images", patterns.images), ("--masks", patterns.masks)):
            files = list(_matching(in_dir, flag, pattern))
            if not files:
                raise UserError(f"{in_dir}: no file matches {flag} {pattern}. Change it, or give --in-dir.")
            found.append(_with_names(files, problems))
    return found[0], found[1], problems


def _require_folders(in_dir: Path) -> None:
    for name in ("images", "masks"):
        if not (in_dir / name).is_dir():
            raise UserError(
                f"{in_dir / name} does not exist. Expected images/*.tif and masks/*.png in {in_dir}, an image and a "
                "mask with the same name; see REPRODUCE_DATA.md, or give --in-dir, or --images and --masks for another "
                "layout."
            )


def _below(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[Named], list[Path]]:
    """Files below a folder with one of the suffixes, and what else lies there; a picture beside a GeoTIFF of its name
    is no image.
    """
    found: dict[tuple[str, ...], list[Named]] = defaultdict(list)
    others = []
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if is_litter(below) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.suffix.lower() in suffixes and (path.is_file() or link_problem(path)):
            found[below.with_suffix("").parts].append(Named(below.parts[:-1], path.stem, path))
        else:
            others.append(path)
    if suffixes == IMAGE_SUFFIXES:
        for name, files in found.items():
            rasters = [file for file in files if file.path.suffix.lower() in TIFF_SUFFIXES]
            if len(rasters) == 1 and len(files) > 1:
                others += [file.path for file in files if file not in rasters]
                found[name] = rasters
    return [file for files in found.values() for file in files], others


def _expression(flag: str, pattern: str) -> tuple[str, re.Pattern[str]]:
    """A pattern as ``Path.glob`` takes it, and as a regular expression with a group for each asterisk.

    Raises:
        UserError: it is absolute, or has two asterisks beside other characters, or is otherwise no pattern.
    """
    example = f"expected one that is relative to --in-dir, as in {flag} 'train/*.tif'"
    path = PurePosixPath(pattern)
    if path.is_absolute():
        raise UserError(f"{flag} {pattern}: is an absolute pattern, {example}.")
    if path.name == "**" or any("**" in part and part != "**" for part in path.parts):
        raise UserError(f"{flag} {pattern}: ** stands for folders and is a part of its own, as in {flag} '**/*.tif'.")
    text = ""
    for part in path.parts[:-1]:
        text += "(?:(.*)/)?" if part == "**" else "".join(map(_translated, OF_PATTERN.findall(part))) + "/"
    text += "".join(map(_translated, OF_PATTERN.findall(path.name)))
    try:
        return str(path), re.compile(text, re.DOTALL)
    except re.error as error:
        raise UserError(f"{flag} {pattern}: is no pattern ({error}), {example}.") from None


def _translated(piece: str) -> str:
    """A piece of a pattern (an asterisk, a question mark, characters in brackets, one character) as an expression."""
    if piece in ("*", "?"):
        return "([^/]*)" if piece == "*" else "[^/]"
    if len(piece) == 1:
        return re.escape(piece)
    none_of = piece[1] == "!"
    inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", piece[1 + none_of : -1])
    return f"[{'^' if none_of else ''}{inside}]"


def _matching(in_dir: Path, flag: str, pattern: str) -> Iterator[Named]:
    """The files below a folder that match a pattern, named by what its asterisks stand for."""
    spelled, expression = _expression(flag, pattern)
    own = set(PurePosixPath(spelled).parts)  # hidden folders that the pattern itself names are meant
    for path in sorted(in_dir.glob(spelled)):
        below = path.relative_to(in_dir)
        match = expression.fullmatch(below.as_posix())
        if match and (path.is_file() or link_problem(path)):
            parts = [part for part in below.parts if part not in own]
            if not is_litter(PurePosixPath(*parts)):
                *folders, stem = [part for group in match.groups() for part in (group or "").split("/")]
                yield Named(tuple(filter(None, folders)), stem, path)


def _with_names(files: Iterable[Named], problems: list[Problem]) -> list[Named]:
    """The files whose tiles can have their names; adds to ``problems`` what is wrong with the others."""
    good = []
    for file in files:
        name = "_".join([*file.folders, file.stem])
        problem = name_problem(file.path, name)
        if not file.stem or name.startswith("."):
            problem = (
                f"{printable(str(file.path))}: the asterisks of the pattern leave {name!r} as the name of its tile, "
                "expected one that is not empty and begins with no full stop. Change the pattern"
            )
        if problem:
            problems.append(Problem(printable(name)[:LONGEST_NAME], "name", problem))
        else:
            good.append(file)
    return good


def _passed_over(paths: Iterable[Path]) -> list[Problem]:
    """What is told of files that are no images or masks; those of one suffix in one line."""
    problems, passed_over = [], defaultdict(list)
    for path in paths:
        passed_over[path.suffix.lower()].append(path)
    for suffix, of_suffix in sorted(passed_over.items()):
        names = some([printable(path.name) for path in of_suffix])
        kind = suffix or "without a suffix"
        text = f"{printable(str(of_suffix[0].parent))}: {len(of_suffix)} files {kind} are passed over: {names}"
        problems.append(Problem(printable(of_suffix[0].stem), "other file", text, fatal=False))
    return problems


def _missing(in_dir: Path, file: Named, kind: str, key: str, affixes: Affixes, patterns: Patterns | None) -> str:
    """Which file was expected as the mask, or the image, of ``file``."""
    if patterns is not None:
        pattern = patterns.images if kind == "image" else patterns.masks
        return f"with {key} for the asterisks of --{kind}s {pattern}"
    own, other = (affixes.mask, affixes.image) if kind == "image" else (affixes.image, affixes.mask)
    stem = _cut(file.stem, own, affixes.at_end)
    stem = stem + other if affixes.at_end else other + stem
    return str(in_dir / f"{kind}s" / Path(*file.folders) / f"{stem}{'.tif' if kind == 'image' else '.png'}")


def _paired(images: list[Named], masks: list[Named]) -> Pairing:
    """Images and masks by what their names share beside the affixes, or none, that make most pairs."""
    best = _paired_beside(Affixes(), images, masks)
    for affixes in AFFIXES:
        if best.matches == min(len(images), len(masks)):
            break
        if all(_occurs(of, files, affixes.at_end) for of, files in ((affixes.image, images), (affixes.mask, masks))):
            tried = _paired_beside(affixes, images, masks)
            best = tried if tried.matches > best.matches else best
    return best


def _occurs(affix: str, files: list[Named], at_end: bool) -> bool:
    return not affix or any(_cut(file.stem, affix, at_end) != file.stem for file in files)


def _cut(stem: str, affix: str, at_end: bool) -> str:
    """A name without its ending or beginning; as it is if it has none, or would be no name without."""
    lower = stem.lower()
    if not affix or not (lower.endswith(affix) if at_end else lower.startswith(affix.lower())):
        return stem
    rest = stem[: -len(affix)] if at_end else stem[len(affix) :]
    return rest if is_tile_id(rest) else stem


def _paired_beside(affixes: Affixes, images: list[Named], masks: list[Named]) -> Pairing:
    """Images and masks by their folders and what their names share beside ``affixes``."""

    def by_key(files: list[Named], affix: str) -> Files:
        keyed: Files = defaultdict(list)
        for file in files:
            stem = _cut(file.stem, affix, affixes.at_end)
            keyed["/".join([*file.folders, stem])].append(file)
        return dict(keyed)

    of_images, of_masks = by_key(images, affixes.image), by_key(masks, affixes.mask)
    of_masks = _in_the_case_of(of_images, of_masks)
    moved = 0
    if any(file.folders for file in (*images, *masks)):
        for alike in (lambda key: key.replace("/", "_"), lambda key: key.rpartition("/")[2]):
            of_masks, more = _from_other_folders(of_images, of_masks, alike)
            moved += more
    return Pairing(of_images, of_masks, affixes, moved)


def _in_the_case_of(images: Files, masks: Files) -> Files:
    """Masks whose names differ from those of images in case or Unicode form alone, by the name of the image."""
    by_folded: dict[str, list[str]] = defaultdict(list)
    for name in images:
        by_folded[_folded(name)].append(name)
    renamed: Files = defaultdict(list)
    for name, files in masks.items():
        alike = by_folded.get(_folded(name), [])
        renamed[alike[0] if name not in images and len(alike) == 1 else name] += files
    return dict(renamed)


def _from_other_folders(images: Files, masks: Files, alike: Callable[[str], str]) -> tuple[Files, int]:
    """Masks without image by the key of the image without mask that alone is ``alike``, and the number of these.

    Either the image or the mask lies in no folder: of two in different folders it is not known that they belong
    together. What is alike must occur once among all images, and once among all masks.
    """
    sides: list[dict[str, list[str]]] = []
    for files in (images, masks):
        side = defaultdict(list)
        for key, of_key in files.items():
            side[_folded(alike(key))] += [key] * len(of_key)
        sides.append(side)
    renamed, moved = dict(masks), 0
    for what, keys in sides[1].items():
        others = sides[0].get(what, [])
        if len(keys) == len(others) == 1 and keys != others and ("/" in keys[0]) != ("/" in others[0]):
            renamed[others[0]] = renamed.pop(keys[0])
            moved += 1
    return renamed, moved


def _folded(name: str) -> str:
    """A name as file systems that pass over case and write accents apart, such as that of macOS, compare it."""
    return unicodedata.normalize("NFC", name).casefold()
