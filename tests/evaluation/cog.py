"""Whether a file is a cloud-optimised GeoTIFF, by the rules of ``rio cogeo validate --strict`` and of GDAL's validator.

The bytes are read here, so that what wrote a file is not asked whether it did it well.
"""

import struct
from pathlib import Path
from typing import NamedTuple

TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of numbers in a TIFF; texts and fractions are passed over
WIDTH, HEIGHT, STRIP_OFFSETS, TILE_WIDTH, TILE_OFFSETS, TILE_SIZES = 256, 257, 273, 322, 324, 325
GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE="


class Directory(NamedTuple):
    """One image of a TIFF, with the place of its directory in the file and its numeric tags."""

    offset: int
    tags: dict[int, tuple[int, ...]]

    @property
    def size(self) -> tuple[int, int]:
        return self.tags[WIDTH][0], self.tags[HEIGHT][0]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Where its tiles or strips lie; 0 for one that is left out."""
        return self.tags.get(TILE_OFFSETS) or self.tags[STRIP_OFFSETS]

    @property
    def is_tiled(self) -> bool:
        return TILE_OFFSETS in self.tags and self.tags[TILE_WIDTH][0] != self.size[0]


def directories(content: bytes) -> list[Directory]:
    """The images of a little-endian TIFF or BigTIFF, in the order of the file."""
    big = {b"II*\0": False, b"II+\0": True}[content[:4]]
    entry, count, pointer = ("<HHQ8s", "<Q", "<Q") if big else ("<HHI4s", "<H", "<I")
    (offset,) = struct.unpack_from(pointer, content, 8 if big else 4)
    found = []
    while offset:
        (entries,) = struct.unpack_from(count, content, offset)
        place, tags = offset + struct.calcsize(count), {}
        for tag, kind, number, value in struct.iter_unpack(
            entry, content[place : place + entries * struct.calcsize(entry)]
        ):
            if kind not in TYPES:
                continue
            layout = f"<{number}{TYPES[kind]}"
            inside = struct.calcsize(layout) <= len(value)
            tags[tag] = (
                struct.unpack_from(layout, value)
                if inside
                else struct.unpack_from(layout, content, struct.unpack(pointer, value)[0])
            )
        found.append(Directory(offset, tags))
        (offset,) = struct.unpack_from(pointer, content, place + entries * struct.calcsize(entry))
    return found


def cog_problems(path: Path) -> list[str]:
    """What keeps a file from being a cloud-optimised GeoTIFF; nothing for a good one."""
    content = path.read_bytes()
    images = directories(content)
    main, overviews = images[0], images[1:]
    problems = []
    if path.with_name(path.name + ".ovr").exists():
        problems.append("overviews in a file beside it")
    if max(main.size) > 512 and not overviews:
        problems.append("no overviews")
    problems += [f"{image.size} is not tiled" for image in images if max(image.size) > 512 and not image.is_tiled]
    if main.offset > 300:
        problems.append(f"the first directory lies at {main.offset}")
    offsets, sizes = [image.offset for image in images], [image.size for image in images]
    if offsets != sorted(offsets) or sizes != sorted(sizes, reverse=True):
        problems.append("directories are not in the order of falling sizes")
    first = [next((block for block in image.blocks if block), 0) for image in images]
    data = [block for block in first[::-1] if block]
    if data != sorted(data) or (data and data[0] < max(offsets)):
        problems.append("pixels do not follow the directories, smallest overview first")
    if b"KNOWN_INCOMPATIBLE_EDITION=YES" in content[:300]:
        problems.append("it was edited after it was made")
    if GHOST in content[:60] and not all(_in_order(image, content) for image in images):
        problems.append("tiles are not in rows, or their leaders do not say their sizes")
    return problems


def _in_order(image: Directory, content: bytes) -> bool:
    sizes = image.tags.get(TILE_SIZES, ())
    if len(sizes) != len(image.blocks):
        return False
    blocks = [pair for pair in zip(image.blocks, sizes, strict=True) if pair[0]]
    leaders = [struct.unpack_from("<I", content, offset - 4)[0] for offset, _ in blocks]
    return blocks == sorted(blocks) and leaders == [size for _, size in blocks]
