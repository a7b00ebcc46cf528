"""Writing a tile set: its files and the manifest that makes it one."""

import argparse
import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.cli import Parser
from common.errors import UserError
from common.files import MANIFEST, link_or_copy, new_folder, sha256_file, write_json
from common.rasters import class_pixels
from common.taxonomy import Taxonomy
from common.tiles import Tile, TileSet, is_tile_id, manifest_digest, shares_line


def add_mode(parser: Parser) -> None:
    """Add --mode, by which a tile set takes over the files that it does not change."""
    parser.add_argument("--mode", choices=["link", "copy"], default="link", help="how unchanged files are taken over")


def describe_tile(
    image: np.ndarray, mask: np.ndarray, image_path: Path, mask_path: Path, location: dict, num_classes: int
) -> dict:
    """The manifest entry of a tile that was just written.

    Args:
        image: (B, H, W) uint8.
        mask: (H, W) uint8 class ids.
        image_path, mask_path: the files that hold them.
        location: what ``georeference`` returned.
        num_classes: length of the pixel counts.
    """
    return {
        "sha256": sha256_file(image_path),
        "mask_sha256": sha256_file(mask_path),
        "content_sha256": hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
        "height": mask.shape[0],
        "width": mask.shape[1],
        "pixels": class_pixels(mask, num_classes).tolist(),
        "block": None,
        **location,
    }


class TileSetWriter:
    """Collects the tiles of a new set in a folder beside its place; ``new_tile_set`` makes one."""

    def __init__(self, path: Path, folder: Path, taxonomy: Taxonomy, mode: str):
        self.path = path
        self.folder = folder
        self.taxonomy = taxonomy
        self.mode = mode
        self.entries: dict[str, dict] = {}
        self._claimed: set[str] = set()
        for name in ("images", "masks"):
            (folder / name).mkdir()

    def __len__(self) -> int:
        return len(self.entries)

    def image_path(self, tile_id: str) -> Path:
        return self.folder / "images" / f"{tile_id}.tif"

    def mask_path(self, tile_id: str) -> Path:
        return self.folder / "masks" / f"{tile_id}.png"

    def claim(self, tile_id: str) -> tuple[Path, Path]:
        """Where to write the image and the mask of a new tile; raises UserError if another tile has this id."""
        if not is_tile_id(tile_id):
            raise UserError(
                f"{self.path}: a tile cannot be called {tile_id!r}. Rename it: a name has no control characters and "
                "no slash, and does not begin with a full stop."
            )
        if tile_id in self._claimed:
            raise UserError(f"{self.path}: two tiles are called {tile_id}. Rename one of them.")
        self._claimed.add(tile_id)
        return self.image_path(tile_id), self.mask_path(tile_id)

    def record(self, tile_id: str, entry: dict) -> None:
        """Enter a tile that was claimed and whose two files are in the folder."""
        self.entries[tile_id] = entry

    def add(self, tile: Tile, *, tile_id: str | None = None, **changes: object) -> None:
        """Take a tile of another set over unchanged, under another id or with other entries if given."""
        tile_id = tile_id or tile.id
        image_path, mask_path = self.claim(tile_id)
        link_or_copy(tile.image_path, image_path, self.mode)
        link_or_copy(tile.mask_path, mask_path, self.mode)
        self.record(tile_id, {**tile.entry, **changes})

    @property
    def pixels(self) -> np.ndarray:
        """(C,) int64 pixels of each class over the set so far."""
        return np.sum([entry["pixels"] for entry in self.entries.values()] or [[0] * self.taxonomy.num_classes], axis=0)

    def summary(self) -> str:
        """One line: the folder, the number of its tiles, and the share of each class."""
        return f"{self.path}: {len(self)} tiles; {shares_line(self.taxonomy, self.pixels)}"

    def write_manifest(
        self,
        args: argparse.Namespace,
        split: str,
        made_from: Sequence[TileSet],
        inputs: Sequence[Path],
        **entries: object,
    ) -> None:
        """Write manifest.json, after which the folder is a whole tile set; arguments as for ``new_tile_set``."""
        if not self.entries:
            sources = [*(tiles.path for tiles in made_from), *inputs]
            raise UserError(f"{self.path} would be empty: no tile of {', '.join(map(str, sources))} is left for it.")
        manifest = {
            "split": split,
            "taxonomy": self.taxonomy.to_json(),
            "command": args.command,
            "made_from": [{"path": str(tiles.path), "digest": tiles.digest} for tiles in made_from],
            "inputs": [str(source) for source in inputs],
            "stretch": None,
            **entries,
            "tile_count": len(self),
            "pixels_per_class": dict(zip(self.taxonomy.classes, self.pixels.tolist(), strict=True)),
            "tiles": dict(sorted(self.entries.items())),
        }
        manifest["digest"] = manifest_digest(manifest)
        write_json(self.folder / MANIFEST, manifest)


@contextmanager
def new_tile_set(
    path: Path,
    args: argparse.Namespace,
    *,
    taxonomy: Taxonomy,
    split: str,
    made_from: Sequence[TileSet] = (),
    inputs: Sequence[Path] = (),
    **entries: object,
) -> Generator[TileSetWriter]:
    """Give a TileSetWriter for the tile set ``path``; the set is published, with its manifest, when the block ends.

    Args:
        path: the folder to be.
        args: the script's flags; ``command``, ``overwrite`` and, if given, ``mode`` (link or copy) are used.
        taxonomy: of the masks.
        split: train, val, test, or pool if the tiles belong to none.
        made_from: tile sets the tiles come from; their digests are recorded.
        inputs: folders the tiles come from that are no tile sets.
        entries: further ones of the manifest: ``stretch`` and ``bands`` of the images, and so on.

    Raises:
        UserError: the folder exists and ``overwrite`` is not set, is not ours, or no tile was added.
    """
    sources = [*(tiles.path for tiles in made_from), *inputs]
    with new_folder(path, args.overwrite, inputs=sources) as folder:
        writer = TileSetWriter(path, folder, taxonomy, getattr(args, "mode", "link"))
        yield writer
        writer.write_manifest(args, split, made_from, inputs, **entries)
