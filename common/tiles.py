"""Tile sets: a folder of images/*.tif, masks/*.png and the manifest.json that says what they are.

A tile is one image and its mask; their shared stem is the tile id. Sets are written beside their place and
renamed when complete, so that a folder with a manifest is always complete.
"""

import json
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.bands import (
    BANDS_FORM,
    FILL_FORM,
    RGB,
    STATISTICS_FORM,
    Bands,
    BandStatistics,
    Filling,
    bands_form_problem,
    named,
    same_bands,
)
from common.errors import UserError
from common.files import MANIFEST, digest_json, replaced_folder
from common.inputs import Input
from common.rasters import DAMAGED, read_image, read_mask, unknown_ids
from common.schema import is_count, is_number, is_object, is_text, list_of, misfit, optional, shown
from common.taxonomy import IGNORE_INDEX, Taxonomy, taxonomy_from_json

TILE_SUFFIXES = (".tif", ".tiff", ".png")
ENTRY = {
    **dict.fromkeys(("sha256", "mask_sha256", "content_sha256"), is_text),
    **dict.fromkeys(("height", "width"), lambda value: is_count(value) and value > 0),
    "pixels": list_of(is_count),
    "crs": optional(is_text),
    "bounds": optional(lambda value: isinstance(value, list) and len(value) == 4 and all(map(is_number, value))),
    "gsd": optional(lambda value: is_number(value) and value > 0),
    "block": optional(is_text),
    "corners?": optional(lambda value: isinstance(value, list) and len(value) == 4),
    "lost_labels?": optional(is_count),
    **dict.fromkeys(("base?", "source?", "region?", "unit?"), optional(is_text)),
}
MANIFEST_FORM = {
    "split": lambda value: value in ("train", "val", "test", "pool"),
    "taxonomy": {"classes": list_of(is_text)},
    "made_from": list_of({"digest": is_text}),
    "stretch": optional(is_object),
    **dict.fromkeys(("bands?", "oem_bands?"), optional(BANDS_FORM)),
    "band_statistics?": optional(STATISTICS_FORM),
    "oem_fill?": optional(FILL_FORM),
    "tiles": lambda value: is_object(value) and len(value) > 0,
    "digest": is_text,
}


def is_tile_id(name: object) -> bool:
    """Whether a tile can be called so: the name of a file, not a way out of its folder, and on one line of a table."""
    if not isinstance(name, str) or name[:1] in ("", ".") or {"/", "\\"} & set(name):
        return False
    return not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in name}


def _entry_problem(entry: Any, num_classes: int) -> str | None:
    """What is wrong with a tile's entry in a manifest; None if nothing is."""
    problem = misfit(entry, ENTRY)
    if not problem and (
        len(entry["pixels"]) != num_classes or sum(entry["pixels"]) != entry["height"] * entry["width"]
    ):
        problem = (
            f"its pixels are {shown(entry['pixels'])}, expected those of {num_classes} classes that make up the tile"
        )
    return problem


def manifest_problem(manifest: Any) -> str | None:
    """What is wrong with the form of a manifest's content, taxonomy apart; None if nothing is."""
    problem = misfit(manifest, MANIFEST_FORM) or bands_form_problem(manifest)
    for tile_id, entry in manifest["tiles"].items() if not problem else ():
        if not is_tile_id(tile_id):
            return f"tile {tile_id!r}: this is no name for a tile"
        problem = _entry_problem(entry, len(manifest["taxonomy"]["classes"]))
        if problem:
            return f"tile {tile_id!r}: {problem}"
    return problem


def manifest_digest(manifest: dict) -> str:
    """SHA-256 of what a manifest says of pixels: split, taxonomy, stretch and tiles, not command or paths."""
    return digest_json({key: manifest[key] for key in ("split", "taxonomy", "stretch", "tiles")})


def read_manifest(source: Input) -> dict:
    """The manifest in a tile set's folder. Raises UserError if it is broken, or none of this project."""
    manifest: Any = None
    try:
        manifest = json.loads((source.path / MANIFEST).read_text(encoding="utf-8"))
        problem = manifest_problem(manifest)
    except (ValueError, RecursionError) as error:
        problem = f"it is not valid JSON ({error})"
    if problem:  # such a folder is not known to be ours, and not replaced
        raise (source / MANIFEST).missing(f"is not a manifest of this project: {problem}. Move {source} away")
    return manifest


@dataclass(frozen=True)
class Tile:
    """One image and its mask, with what the manifest knows of them.

    ``filling``: of an image of OpenEarthMap that gets its ``bands`` when it is read.
    """

    id: str
    folder: Path
    entry: dict
    bands: int = len(RGB)
    filling: Filling | None = None

    @property
    def image_path(self) -> Path:
        return self.folder / "images" / f"{self.id}.tif"

    @property
    def mask_path(self) -> Path:
        return self.folder / "masks" / f"{self.id}.png"

    @property
    def pixels(self) -> np.ndarray:
        """(C,) int64 pixels of each class."""
        return np.array(self.entry["pixels"], np.int64)

    @property
    def labelled(self) -> int:
        """Number of pixels that are not void."""
        return int(self.pixels.sum() - self.pixels[IGNORE_INDEX])

    @property
    def base(self) -> str:
        """The tile this one is a replica of, or its own id."""
        return self.entry.get("base") or self.id

    @property
    def block(self) -> str:
        """The spatial block; a tile of unknown place is a block of its own."""
        return self.entry["block"] or self.base

    @property
    def unit(self) -> str:
        """What the split kept together: its block, or the blocks that are tied by tiles which show the same area."""
        return self.entry.get("unit") or self.block

    @property
    def bands_of_file(self) -> int:
        return len(RGB) if self.filling else self.bands

    def read_image(self, window: tuple[int, int, int] | None = None) -> np.ndarray:
        """(B, H, W) uint8, or (B, side, side) of a window (row, column, side). UserError if it changed."""
        image = read_image(self.image_path, window)
        size = (self.entry["height"], self.entry["width"]) if window is None else (window[2], window[2])
        if image.shape != (self.bands_of_file, *size) or image.dtype != np.uint8:
            raise UserError(f"{self.image_path}: is another image than its manifest says. {DAMAGED}")
        return self.filling(image) if self.filling else image

    def read_mask(self) -> np.ndarray:
        """(H, W) uint8 class ids. Raises UserError if the mask is not what it was, or holds an id that is no class."""
        mask = read_mask(self.mask_path)
        if mask.shape != (self.entry["height"], self.entry["width"]) or mask.dtype != np.uint8:
            raise UserError(f"{self.mask_path}: is another mask than its manifest says. {DAMAGED}")
        unknown = unknown_ids(mask, len(self.entry["pixels"]))
        if unknown:
            raise UserError(f"{self.mask_path}: ids {unknown} are not classes. {DAMAGED}")
        return mask


class TileSet:
    """The tiles of a folder in the order of their ids, and its manifest."""

    def __init__(self, source: Input, manifest: dict, taxonomy: Taxonomy) -> None:
        self.source = source
        self.path = source.path
        self.manifest = manifest
        self.taxonomy = taxonomy
        self.tiles = [self._tile(tile_id, entry) for tile_id, entry in sorted(manifest["tiles"].items())]
        self._position = {tile.id: i for i, tile in enumerate(self.tiles)}

    def _tile(self, tile_id: str, entry: dict) -> Tile:
        tile = Tile(tile_id, self.path, entry, len(self.bands))
        return replace(tile, filling=Filling.read(self.manifest)) if is_openearthmap(tile) else tile

    @classmethod
    def open(cls, source: Input) -> "TileSet":
        """Open a finished tile set. Hidden files and the sidecars of GIS programs are passed over.

        Raises:
            UserError: it is missing, or its files differ from its manifest.
        """
        path = source.path
        if not (path / MANIFEST).is_file():
            if replaced_folder(path):
                raise source.unusable(f"{path}: a run was killed while it was replaced")
            raise source.missing(f"is not a finished tile set: it has no {MANIFEST}")
        manifest = read_manifest(source)
        tiles = cls(source, manifest, taxonomy_from_json(manifest["taxonomy"], path / MANIFEST))
        for folder, suffix in (("images", ".tif"), ("masks", ".png")):
            tiles._require_files(path / folder, {tile_id + suffix for tile_id in tiles._position})
        return tiles

    def _require_files(self, folder: Path, listed: set[str]) -> None:
        """Refuse a folder that holds other files than ``listed``, or links."""
        entries = list(os.scandir(folder)) if folder.is_dir() else []
        links = [entry.name for entry in entries if entry.is_symlink() and not entry.name.startswith(".")]
        if links:
            first = f"{min(links)} to {os.readlink(folder / min(links))}"
            raise self.source.unusable(
                f"{folder} holds {len(links)} symbolic links (first: {first}), expected files: a link may lead to a "
                "tile of another split"
            )
        names = {entry.name for entry in entries}
        others = {n for n in names - listed if not n.startswith(".") and n.lower().endswith(TILE_SUFFIXES)}
        for odd, verb in ((listed - names, "lacks"), (others, "holds, beside its manifest,")):
            if odd:
                raise self.source.unusable(f"{folder} {verb} {len(odd)} of {len(listed)} files (first: {min(odd)})")

    def __len__(self) -> int:
        return len(self.tiles)

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.tiles)

    def __getitem__(self, tile_id: str) -> Tile:
        return self.tiles[self._position[tile_id]]

    def __contains__(self, tile_id: str) -> bool:
        return tile_id in self._position

    @property
    def ids(self) -> list[str]:
        return [tile.id for tile in self.tiles]

    @property
    def split(self) -> str:
        """train, val or test; pool for tiles that belong to none."""
        return self.manifest["split"]

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def stretch(self) -> dict | None:
        return self.manifest["stretch"]

    @property
    def pixels(self) -> np.ndarray:
        """(C,) int64 pixels of each class over the set."""
        return sum((tile.pixels for tile in self.tiles), np.zeros(self.taxonomy.num_classes, np.int64))

    @property
    def bands(self) -> Bands:
        """The numbers of its bands in the raw images; those of red, green and blue where none are named."""
        return tuple(self.manifest.get("bands") or RGB)

    @property
    def band_statistics(self) -> BandStatistics | None:
        """Of the bands of train; None where they are not recorded, as for OpenEarthMap, which has three."""
        recorded = self.manifest.get("band_statistics")
        return BandStatistics.read(recorded) if recorded else None

    @property
    def scaling(self) -> dict:
        """What a set made of its tiles records of them: how they were scaled to 8 bit, and their bands if known."""
        known = {key: self.manifest[key] for key in ("bands", "band_statistics") if key in self.manifest}
        return {"stretch": self.stretch, **known}

    @property
    def images(self) -> dict:
        """What its raw images are, None where not known: bands, dtypes, colors, gsd, and whether alpha hides pixels."""
        return {**{key: self.manifest.get(key) for key in ("bands", "alpha", "dtypes", "colors")}, "gsd": self.gsd}

    @property
    def gsd(self) -> float | None:
        """Median ground sampling distance in metres of the tiles if it is known, else None."""
        distances = [tile.entry["gsd"] for tile in self.tiles if tile.entry["gsd"]]
        return float(np.median(distances)) if distances else None

    def require_unchanged(self) -> None:
        """Refuse to go on with a folder that was replaced since it was opened."""
        try:
            digest = read_manifest(self.source)["digest"]
        except (UserError, OSError):
            digest = None
        if digest != self.digest:
            raise UserError(f"{self.path} was replaced while it was in use.")

    def require_split(self, split: str) -> "TileSet":
        """Refuse a folder that belongs to another split: a validation or test tile must never be trained on."""
        if self.split != split:
            flag = f"{self.source.flag} " if self.source.flag else ""
            raise UserError(f"{flag}{self.path}: its manifest says it is '{self.split}', expected '{split}'.")
        return self

    def require_bands_of(self, other: "TileSet") -> "TileSet":
        """Refuse a folder whose images have other bands than those of another set of the root."""
        if not same_bands(self.manifest.get("bands"), other.manifest.get("bands")):
            raise self.source.unusable(
                f"{self.path} has the bands {named(self.bands)}, {other.path} has {named(other.bands)}. Make both from "
                "one split, and what was made of them"
            )
        return self

    def require_taxonomy(self, taxonomy: Taxonomy) -> "TileSet":
        """Refuse a folder written under other classes than those asked for."""
        if self.taxonomy != taxonomy:
            raise self.source.unusable(
                f"{self.path} was written for the classes {', '.join(self.taxonomy.classes)}, but the root says "
                f"{', '.join(taxonomy.classes)} (or other colours or OpenEarthMap rows). "
                "Two taxonomies in one root cannot be mixed"
            )
        return self


def shares_line(taxonomy: Taxonomy, pixels: np.ndarray) -> str:
    """The share of each class among the labelled pixels, and that of void among all, as one line."""
    labelled = max(int(pixels[1:].sum()), 1)
    shares = [f"{name} {pixels[i + 1] / labelled:.1%}" for i, name in enumerate(taxonomy.foreground)]
    return ", ".join(shares) + f"; {taxonomy.void} {pixels[IGNORE_INDEX] / max(int(pixels.sum()), 1):.1%} of all pixels"


def is_openearthmap(tile: Tile) -> bool:
    """Whether a tile's entry says that it comes from OpenEarthMap."""
    return tile.entry.get("source") == "openearthmap" or bool(tile.entry.get("region"))


def is_blank(tile: Tile) -> bool:
    """Whether an image has one colour throughout, so that its being in two splits tells nothing."""
    image = tile.read_image()
    return bool((image == image[:, :1, :1]).all())


def shared_ids(train: list[Tile], val: list[Tile]) -> list[str]:
    """The tiles of ``train`` that have an id or a base in ``val``, where a replica counts as its base."""
    held = {name for tile in val for name in (tile.id, tile.base)}
    return [tile.id for tile in train if {tile.id, tile.base} & held]
