"""What a training set and the set that it is validated on must not share, as far as their manifests tell."""

from common.tiles import Tile


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
