"""Pairs of an image and a mask, as users name them and lay them out in folders."""

import argparse
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.cli import Parser
from common.errors import UserError
from common.text import some
from data_prep.raw.files import (
    LONGEST_NAME,
    SIDECAR_SUFFIXES,
    Problem,
    RawTile,
    link_problem,
    name_problem,
    printable,
)
from data_prep.raw.masks import PLAIN, MaskReading

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", ".jp2")
MASK_SUFFIXES = (".png", *TIFF_SUFFIXES)
# What the names of images and masks begin or end in, beside what they share.
BEGINNINGS = (("IMG_", "MSK_"), ("image_", "mask_"), ("img_", "mask_"), ("img_", "label_"), ("image_", "label_"))
ENDINGS = (
    ("_img", "_mask"), ("_image", "_mask"), ("_sat", "_mask"), ("_rgb", "_label"), ("_rgb", "_mask"),
    ("_img", "_label"), ("_image", "_label"), ("_x", "_y"), ("", "_mask"), ("", "_label"), ("", "_labels"),
    ("", "_gt"), ("", "_msk"), ("", "_lbl"), ("_img", ""), ("_image", ""), ("_sat", ""), ("_rgb", ""),
)  # fmt: skip

Files = dict[str, list[Path]]


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
    """What --images and --masks ask for; None where they are not given. UserError where one is, or has no asterisk."""
    given = [pattern for pattern in (args.images, args.masks) if pattern is not None]
    if not given:
        return None
    if len(given) == 1 or not all("*" in pattern for pattern in given):
        raise UserError(
            "--images and --masks are given together, each with an asterisk for what an image and its mask share: "
            "--images 'train/*_sat.jpg' --masks 'train/*_mask.png'."
        )
    return Patterns(args.images, args.masks)


def find_raw(
    in_dir: Path, reading: MaskReading = PLAIN, patterns: Patterns | None = None
) -> tuple[list[RawTile], list[Problem]]:
    """The tiles of a raw folder in the order of their ids, and what does not pair.

    Without ``patterns`` they lie in images and masks, or folders below these. Names that differ in case, or in endings
    such as _sat and _mask, are paired where no name is the same.

    Raises:
        UserError: a folder is missing, or there is no image at all.
    """
    if patterns is None:
        _require_folders(in_dir)
        images, odd_images = _below(in_dir / "images", IMAGE_SUFFIXES)
        masks, odd_masks = _below(in_dir / "masks", MASK_SUFFIXES)
        where = f"{in_dir / 'images'} holds no image ({', '.join(IMAGE_SUFFIXES)}). Put the raw images there"
    else:
        images, odd_images = _matching(in_dir, patterns.images), []
        masks, odd_masks = _matching(in_dir, patterns.masks), []
        where = f"{in_dir}: no file matches --images {patterns.images}"
    if not images:
        raise UserError(f"{where}, or give --in-dir.")
    problems = [*_odd(odd_images, IMAGE_SUFFIXES), *_odd(odd_masks, MASK_SUFFIXES)]
    if not images.keys() & masks.keys() and masks:
        images, masks, said = _renamed(images, masks)
        problems += [Problem("", "names", said, fatal=False)] if said else []
    masks = _in_the_case_of(images, masks)
    tiles = []
    for stem in sorted(images.keys() | masks.keys()):
        of_image, of_mask = images.get(stem, []), masks.get(stem, [])
        paths = [*of_image, *of_mask]
        if len(of_image) > 1 or len(of_mask) > 1:
            text = f"{', '.join(map(str, paths))}: several files have this name, expected one image and one mask"
            problems.append(Problem(stem, "duplicate name", text))
        elif not of_mask:
            problems.append(Problem(stem, "no mask", f"{paths[0]}: has no mask {in_dir / 'masks' / stem}.png"))
        elif not of_image:
            problems.append(Problem(stem, "no image", f"{paths[0]}: has no image {in_dir / 'images' / stem}.tif"))
        else:
            tiles.append(RawTile(stem, of_image[0], of_mask[0], reading))
    return tiles, problems


def _require_folders(in_dir: Path) -> None:
    for name in ("images", "masks"):
        if not (in_dir / name).is_dir():
            raise UserError(
                f"{in_dir / name} does not exist. Expected images/*.tif and masks/*.png in {in_dir}, an image and a "
                "mask with the same name; see REPRODUCE_DATA.md, or give --in-dir, or --images and --masks for another "
                "layout."
            )


def _below(folder: Path, suffixes: tuple[str, ...]) -> tuple[Files, list[Path]]:
    """Files below a folder by name, those of sub-folders with the folder's before it; and what else lies there.

    Hidden files and the sidecars of GIS programs are passed over, and so is a picture beside a GeoTIFF of its name.
    """
    found: Files = defaultdict(list)
    others = []
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        suffix = path.suffix.lower()
        if any(part.startswith(".") for part in below.parts) or suffix in SIDECAR_SUFFIXES:
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        if suffix in suffixes and (path.is_file() or link_problem(path)) and not name_problem(path):
            found["_".join(below.with_suffix("").parts)].append(path)
        else:
            others.append(path)
    if suffixes == IMAGE_SUFFIXES:
        for name, paths in found.items():
            rasters = [path for path in paths if path.suffix.lower() in TIFF_SUFFIXES]
            if len(rasters) == 1 and len(paths) > 1:
                others += [path for path in paths if path not in rasters]
                found[name] = rasters
    return dict(found), others


def _matching(in_dir: Path, pattern: str) -> Files:
    """The files below a folder that match a pattern, by what its asterisks stand for."""
    parts = [re.escape(part) for part in re.split(r"\*\*/|\*", pattern)]
    gaps = [("(?:(.*)/)?" if gap == "**/" else "([^/]*)") for gap in re.findall(r"\*\*/|\*", pattern)]
    expression = re.compile(parts[0] + "".join(gap + part for gap, part in zip(gaps, parts[1:], strict=True)))
    found: Files = defaultdict(list)
    for path in sorted(in_dir.glob(pattern)):
        match = expression.fullmatch(path.relative_to(in_dir).as_posix())
        if match and path.is_file() and not path.name.startswith("."):
            found["_".join(part.replace("/", "_") for part in match.groups() if part)].append(path)
    return dict(found)


def _odd(paths: Iterable[Path], suffixes: tuple[str, ...]) -> list[Problem]:
    """What is told of files that are no images or masks; those of one suffix in one line."""
    problems, passed_over = [], defaultdict(list)
    for path in paths:
        problem = name_problem(path)
        if problem and path.suffix.lower() in suffixes:
            problems.append(Problem(printable(path.stem)[:LONGEST_NAME], "name", problem))
        else:
            passed_over[path.suffix.lower()].append(path)
    for suffix, of_suffix in sorted(passed_over.items()):
        names = some([printable(path.name) for path in of_suffix])
        kind = suffix or "without a suffix"
        text = f"{printable(str(of_suffix[0].parent))}: {len(of_suffix)} files {kind} are passed over: {names}"
        problems.append(Problem(printable(of_suffix[0].stem), "other file", text, fatal=False))
    return problems


def _renamed(images: Files, masks: Files) -> tuple[Files, Files, str | None]:
    """Images and masks by what their names share beside one of BEGINNINGS or ENDINGS; and which, in words."""

    def without(files: Files, affix: str, at_end: bool) -> Files:
        renamed: Files = defaultdict(list)
        for name, paths in files.items():
            renamed[_cut(name, affix, at_end)] += paths
        return dict(renamed)

    best: tuple[Files, Files, str | None] = images, masks, None
    most = 0
    for pairs, at_end in ((ENDINGS, True), (BEGINNINGS, False)):
        for of_image, of_mask in pairs:
            tried = without(images, of_image, at_end), without(masks, of_mask, at_end)
            matches = len(tried[0].keys() & tried[1].keys())
            if matches > most:
                most = matches
                place = "end in" if at_end else "begin with"
                said = f"images {place} {of_image!r}, masks {place} {of_mask!r}: paired by the rest of their names"
                best = *tried, said
    return best


def _cut(name: str, affix: str, at_end: bool) -> str:
    lower = name.lower()
    if at_end:
        return name[: len(name) - len(affix)] if affix and lower.endswith(affix.lower()) else name
    return name[len(affix) :] if lower.startswith(affix.lower()) else name


def _in_the_case_of(images: Files, masks: Files) -> Files:
    """Masks whose names differ from those of images in case or Unicode form alone, by the name of the image."""
    by_folded: dict[str, list[str]] = defaultdict(list)
    for name in images:
        by_folded[_folded(name)].append(name)
    renamed: Files = defaultdict(list)
    for name, paths in masks.items():
        alike = by_folded.get(_folded(name), [])
        renamed[alike[0] if name not in images and len(alike) == 1 else name] += paths
    return dict(renamed)


def _folded(name: str) -> str:
    """A name as file systems that pass over case and write accents apart, such as that of macOS, compare it."""
    return unicodedata.normalize("NFC", name).casefold()
