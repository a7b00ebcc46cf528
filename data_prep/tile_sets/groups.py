"""Groups of tiles that show the same area and are never divided: the table of the audit, and one that a user gives."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.inputs import Input
from common.text import some
from data_prep.raw.inspect import Inspection

COLUMNS = ("tile", "group", "image")
UNUSABLE = "-"  # in place of the digest of an image that could not be compared


class TileGroup(NamedTuple):
    """Ids of the tiles that show the same area, in order, and by what that was found; a single tile has no kinds."""

    tiles: tuple[str, ...]
    tied_by: tuple[str, ...]


def groups_text(tile_ids: list[str], groups: list[TileGroup], contents: dict[str, str]) -> str:
    """Tab-separated text under a header: each tile, the first tile of its group, and the digest of its image.

    ``contents``: digests of the tiles in ``groups``. Other tiles are groups of their own, without one.
    """
    group_of = {tile_id: group.tiles[0] for group in groups for tile_id in group.tiles}
    rows = [COLUMNS]
    for tile_id in tile_ids:
        usable = tile_id in group_of
        rows.append((tile_id, group_of[tile_id], contents[tile_id]) if usable else (tile_id, tile_id, UNUSABLE))
    return "".join("\t".join(row) + "\n" for row in rows)


def _read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a tab-separated table with these columns, maybe among others; ValueError says what is wrong."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no table in UTF-8 ({error})") from None
    header = lines[0].split("\t")
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise ValueError(
            f"{path}: the first line names {', '.join(header)}, expected the tab-separated columns "
            f"{' and '.join(columns)}"
        )
    rows, seen = [], set()
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        values = line.split("\t")
        if len(values) != len(header):
            raise ValueError(f"{path}, line {number}: has {len(values)} values, expected {len(header)}, between tabs")
        row = dict(zip(header, values, strict=True))
        if not all(row[name] for name in columns):
            raise ValueError(f"{path}, line {number}: a value is empty, expected {' and '.join(columns)}")
        if row["tile"] in seen:
            raise ValueError(f"{path}, line {number}: {row['tile']} is in a line above already")
        seen.add(row["tile"])
        rows.append(row)
    return rows


@dataclass(frozen=True)
class GroupTables:
    """Which tiles belong together, by the audit's table and the one that --groups names; see ``read``."""

    audit: Input
    rows: dict[str, dict[str, str]]
    remedy: tuple[str, ...]
    given_path: Path | None
    given: dict[str, str]

    @classmethod
    def read(cls, audit: Input, given: Path | None, bands: list[int]) -> "GroupTables":
        """The tables as they are; ``pairs`` compares them with the tiles.

        Args:
            audit: groups.tsv of the audit.
            given: the file of --groups, with columns tile and group; tiles may be missing in it.
            bands: that --bands named.

        Raises:
            UserError: a table is missing or broken.
        """
        if not audit.path.is_file():
            raise audit.missing()
        remedy = ("--bands", *map(str, bands)) if bands != [1, 2, 3] else ()
        try:
            rows = {row["tile"]: row for row in _read_rows(audit.path, COLUMNS)}
        except ValueError as error:
            raise audit.unusable(str(error), *remedy) from None
        try:
            own = _read_rows(given, COLUMNS[:2]) if given else []
        except (FileNotFoundError, IsADirectoryError):
            raise UserError(f"--groups {given} is no file. Give a table with the columns tile and group.") from None
        except ValueError as error:
            raise UserError(f"--groups {error}. Correct the file.") from None
        return cls(audit, rows, remedy, given, {row["tile"]: row["group"] for row in own})

    @property
    def sources(self) -> list[str]:
        """The files that the groups come from."""
        return [str(self.audit), *([str(self.given_path)] if self.given_path else [])]

    def pairs(self, inspections: list[Inspection], left_out: Collection[str]) -> list[tuple[int, int]]:
        """Pairs of positions that tie each group of each table together, as ``joined`` takes them.

        Args:
            inspections: of the tiles to split.
            left_out: ids of raw tiles that are not split.

        Raises:
            UserError: the audit's table is of other tiles or images, or --groups names tiles that are not there.
        """
        contents = {i.tile.id: i.content for i in inspections}
        for what, names in (
            ("does not know", [tile_id for tile_id in contents if tile_id not in self.rows]),
            ("names raw tiles that are gone:", sorted(self.rows.keys() - contents.keys() - set(left_out))),
            (
                "was written for other images, or other --bands, --alpha or --overlaps, of",
                [t for t, content in contents.items() if t in self.rows and self.rows[t]["image"] != content],
            ),
        ):
            if names:
                problem = f"{self.audit} {what} {some(names)}, so that it is out of date"
                raise self.audit.unusable(problem, *self.remedy)
        strange = sorted(self.given.keys() - contents.keys() - set(left_out))
        if strange:
            raise UserError(
                f"--groups {self.given_path} names {len(strange)} tiles that are not in --in-dir: {some(strange)}. "
                "A tile's name is that of its image without the suffix."
            )
        found = []
        for group_of in ({tile_id: row["group"] for tile_id, row in self.rows.items()}, self.given):
            first: dict[str, int] = {}
            for n, tile_id in enumerate(contents):
                if tile_id in group_of and first.setdefault(group_of[tile_id], n) != n:
                    found.append((first[group_of[tile_id]], n))
        return found

    def cause(self, sizes: list[int]) -> str:
        """A sentence on groups of these sizes and the remedy, empty without any."""
        if not sizes:
            return ""
        return (
            f" {sum(sizes)} tiles are in {len(sizes)} groups that are never divided, the largest of {max(sizes)} "
            f"({' and '.join(self.sources)}): leave some out with --exclude, or correct the groups that are wrong."
        )


def group_sizes(units: np.ndarray) -> list[int]:
    """Numbers of tiles of the units that have several; ``units``: (N,) int64 unit of each tile."""
    sizes = np.bincount(units)
    return sizes[sizes > 1].tolist()
