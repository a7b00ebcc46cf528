"""Options with which GDAL writes a map of classes as a cloud-optimised GeoTIFF (COG)."""

TILE_SIDES = (512, 256, 128)  # GDAL takes no other than powers of two for overviews
TALL = 512  # pixels


def cog_options(width: int, height: int) -> dict[str, str | int]:
    """Creation options of GDAL's COG driver for a map of so many pixels.

    Overviews show the class that most pixels have: a mean of ids would be the id of another class.
    """
    return {
        "driver": "COG",
        "compress": "deflate",
        "blocksize": tile_side(width, height),
        "overview_resampling": "mode",
        "bigtiff": "if_safer",
    }


def tile_side(width: int, height: int) -> int:
    """The side of a map's tiles in pixels: the largest that validators accept, 512 if there is none.

    ``rio cogeo validate`` takes tiles for strips if an image taller than 512, the map or an overview, is as wide as a
    tile: 1024 x 2048 has an overview of 512 x 1024. Only a map more than four times as tall as wide, whose width is a
    power of two, is left with such an image.
    """
    for side in TILE_SIDES:
        if not any(width >> level == side and height >> level > TALL for level in range(width.bit_length())):
            return side
    return TILE_SIDES[0]
