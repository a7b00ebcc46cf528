"""Masks as users have them become the ids that are stored in them."""

import json

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from common.errors import UserError
from common.rasters import open_raster
from common.taxonomy import BIODIVERSITY
from data_prep import check_biodiversity, split_biodiversity
from data_prep.raw.masks import MaskProblem, MaskReading, chosen_masks, read_raw_mask
from data_prep.raw.places import place_problem
from tests.helpers import quiet

IDS = np.random.default_rng(0).integers(0, 6, (30, 40)).astype(np.uint8)
COLORS = MaskReading(colors=tuple((tuple(rgb), n) for n, rgb in enumerate(BIODIVERSITY.rgb().tolist())))


def read(path, reading=COLORS):
    found = read_raw_mask(path, reading)
    return found.ids.astype(np.uint8), found.done, found.as_it_is


def save(path, image, **options):
    image.save(path, **options)
    return path


def tiff(path, array, **profile):
    bands = array if array.ndim == 3 else array[None]
    height, width = bands.shape[1:]
    profile = {"driver": "GTiff", "count": len(bands), "height": height, "width": width, "dtype": bands.dtype} | profile
    with open_raster(path, "w", **profile) as dst:
        dst.write(bands)
    return path


def test_a_png_of_8_bit_ids_is_as_it_is(tmp_path):
    ids, done, as_it_is = read(save(tmp_path / "a.png", Image.fromarray(IDS)))
    np.testing.assert_array_equal(ids, IDS)
    assert done is None and as_it_is


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_greys_of_few_bits_are_what_is_stored(tmp_path, bits):
    stored = IDS % 2**bits
    with open_raster(
        tmp_path / "a.png", "w", driver="PNG", nbits=bits, count=1, height=30, width=40, dtype="uint8"
    ) as dst:
        dst.write(stored[None])
    assert (tmp_path / "a.png").read_bytes()[24] == bits
    ids, done, as_it_is = read(tmp_path / "a.png")
    np.testing.assert_array_equal(ids, stored)
    assert bits == 1 or ("as they are stored" in done and not as_it_is)


def test_jpeg_data_under_the_name_of_a_png_is_refused(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(IDS), format="JPEG")
    with pytest.raises(MaskProblem, match="holds JPEG data, which change ids near every edge"):
        read(path)


@pytest.mark.parametrize("form", ["WEBP", "JPEG2000", "GIF", "BMP"])
def test_data_of_other_formats_under_the_name_of_a_png_are_refused(tmp_path, form):
    path = save(tmp_path / "a.png", Image.fromarray(IDS), format=form)
    with pytest.raises(MaskProblem, match=f"holds {form} data, expected PNG or GeoTIFF"):
        read(path)


@pytest.mark.parametrize(
    ("profile", "lossy"),
    [
        ({"compress": "JPEG"}, "JPEG"),
        ({"compress": "LERC", "max_z_error": 1}, "LERC"),
        ({"compress": "LERC"}, None),
        ({"compress": "deflate"}, None),
    ],
)
def test_geotiffs_whose_compression_changes_ids_are_refused(tmp_path, profile, lossy):
    path = tiff(tmp_path / "a.tif", IDS, **profile)
    if lossy is None:
        np.testing.assert_array_equal(read(path)[0], IDS)
    else:
        with pytest.raises(MaskProblem, match=f"is compressed by {lossy}, which changes ids"):
            read(path)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_pngs_of_any_channels_hold_what_is_stored(tmp_path, channels):
    bands = np.repeat(IDS[None].astype(np.uint16), channels, axis=0)
    hidden = np.zeros(IDS.shape, bool)
    if channels == 4:
        hidden[:5] = True
        bands[3] = np.where(hidden, 0, 65535)
    path = tmp_path / "a.png"
    height, width = IDS.shape
    with open_raster(path, "w", driver="PNG", count=channels, height=height, width=width, dtype="uint16") as dst:
        dst.write(bands)
    np.testing.assert_array_equal(read(path)[0], np.where(hidden, 0, IDS))


def test_what_masks_inside_geotiff_masks_hide_is_void(tmp_path):
    path = tiff(tmp_path / "a.tif", IDS, nodata=5)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), open_raster(path, "r+") as dst:
        dst.write_mask(np.where(np.arange(IDS.shape[0])[:, None] < 4, 0, 255).astype(np.uint8).repeat(IDS.shape[1], 1))
    wanted = np.where(IDS == 5, 0, IDS)
    wanted[:4] = 0
    np.testing.assert_array_equal(read(path)[0], wanted)


def test_a_palette_whose_greys_are_other_ids_than_its_indices_is_refused(tmp_path):
    shifted = Image.fromarray(np.maximum(IDS, 1) - 1, mode="P")
    shifted.putpalette([n + 1 for n in range(5) for _ in range(3)])
    path = save(tmp_path / "a.png", shifted)
    with pytest.raises(MaskProblem, match="index 0 of its palette has the colour of class 1"):
        read(path)


def test_colours_that_a_file_names_decide_in_a_palette(tmp_path):
    swapped = BIODIVERSITY.rgb()[[0, 2, 1, 3, 4, 5]]
    palette = Image.fromarray(IDS, mode="P")
    palette.putpalette(swapped.ravel().tolist())
    path = save(tmp_path / "a.png", palette)
    ids, done, _ = read(path, COLORS._replace(colors_decide=True))
    np.testing.assert_array_equal(ids, np.array([0, 2, 1, 3, 4, 5])[IDS])
    assert done == "colours of the palette are taken for the classes they stand for"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "holds no colours"),
        ('{"#1b7837": "Lake"}', "'Lake' is no class"),
        ('{"#1b7837": true}', "True is no class"),
        ('{"#1b7837": 1.7}', "1.7 is no class"),
        ('{"#+1-2+3": 1}', "'#[+]1-2[+]3' is no colour"),
        ("[1]", "holds no colours"),
    ],
)
def test_a_file_of_colours_that_is_none_is_refused(tmp_path, content, said):
    (tmp_path / "colors.json").write_text(content)
    args = split_biodiversity.parse_args(["--mask-colors", str(tmp_path / "colors.json")])
    with pytest.raises(UserError, match=f"{said}. Expected a JSON object"):
        chosen_masks(args, BIODIVERSITY)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32])
def test_geotiffs_of_whole_numbers_hold_ids_and_their_nodata_is_void(tmp_path, dtype):
    stored = np.where(IDS == 0, 99, IDS).astype(dtype)
    ids, done, as_it_is = read(tiff(tmp_path / "a.tif", stored, nodata=99))
    np.testing.assert_array_equal(ids, IDS)
    assert done == "masks are GeoTIFF, their nodata 99 is void" and not as_it_is


def test_16_bit_pngs_and_equal_channels_and_palettes_hold_ids(tmp_path):
    ids, _, _ = read(save(tmp_path / "wide.png", Image.fromarray(IDS.astype(np.uint16))))
    np.testing.assert_array_equal(ids, IDS)
    for name, channels in (("rgb", 3), ("rgba", 4)):
        alike = np.repeat(IDS[..., None], channels, axis=-1)
        if channels == 4:
            alike[..., 3] = 255
        ids, done, _ = read(save(tmp_path / f"{name}.png", Image.fromarray(alike)))
        np.testing.assert_array_equal(ids, IDS)
        assert done == "of equal channels one is taken"
    palette = Image.fromarray(IDS, mode="P")
    palette.putpalette(BIODIVERSITY.rgb().ravel().tolist())
    ids, done, _ = read(save(tmp_path / "palette.png", palette))
    np.testing.assert_array_equal(ids, IDS)
    assert done == "palette indices are taken as ids"
    palette.putpalette(BIODIVERSITY.rgb()[[0, 2, 1, 3, 4, 5]].ravel().tolist())
    with pytest.raises(MaskProblem, match="index 1 of its palette has the colour of class 2"):
        read(save(tmp_path / "mixed.png", palette))


def test_colours_of_the_taxonomy_or_of_a_file_name_the_classes(tmp_path):
    colored = BIODIVERSITY.rgb()[IDS]
    ids, done, _ = read(save(tmp_path / "a.png", Image.fromarray(colored)))
    np.testing.assert_array_equal(ids, IDS)
    assert done == "colours are taken for the classes they stand for"
    ids, _, _ = read(tiff(tmp_path / "a.tif", np.moveaxis(colored, -1, 0)))
    np.testing.assert_array_equal(ids, IDS)
    colored[0, 0] = 1, 2, 3
    path = save(tmp_path / "strange.png", Image.fromarray(colored))
    with pytest.raises(MaskProblem, match=r"colours that stand for no class \(#010203\).*--mask-colors FILE"):
        read(path)
    names = {color: name for name, color in zip(BIODIVERSITY.classes, BIODIVERSITY.colors, strict=True)}
    (tmp_path / "colors.json").write_text(json.dumps(names | {"#010203": 4}))
    args = split_biodiversity.parse_args(["--mask-colors", str(tmp_path / "colors.json"), "--void", "3"])
    ids, _, _ = read(path, chosen_masks(args, BIODIVERSITY))
    assert ids[0, 0] == 4 and not (ids == 3).any()


def test_another_id_is_void_where_it_is_named(tmp_path):
    stored = np.where(IDS == 0, 255, IDS)
    path = save(tmp_path / "a.png", Image.fromarray(stored))
    ids, done, as_it_is = read(path, COLORS._replace(void=(255,)))
    np.testing.assert_array_equal(ids, IDS)
    assert done is None and not as_it_is
    ids, _, _ = read(path, COLORS._replace(void=(255, 2)))
    np.testing.assert_array_equal(ids, np.where(IDS == 2, 0, IDS))
    below = tiff(tmp_path / "a.tif", np.where(IDS == 0, -1, IDS.astype(np.int16)))
    ids, _, _ = read(below, COLORS._replace(void=(-1,)))
    np.testing.assert_array_equal(ids, IDS)


def test_floating_numbers_are_ids_if_all_are_whole(tmp_path):
    stored = IDS.astype(np.float32)
    stored[IDS == 0] = -3.4e38
    stored[0, 0] = np.nan
    ids, done, _ = read(tiff(tmp_path / "a.tif", stored, nodata=-3.4e38))
    wanted = IDS.copy()
    wanted[0, 0] = 0
    np.testing.assert_array_equal(ids, wanted)
    assert done == "masks are GeoTIFF, their nodata -3.4e+38 is void, NaN is void"
    stored[3, 3] = 2.5
    with pytest.raises(MaskProblem, match=r"holds values such as 2.5, expected whole numbers"):
        read(tiff(tmp_path / "b.tif", stored, nodata=-3.4e38))


GRID = Affine(2, 0, 500_000, 0, -2, 5_000_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda grid: grid, None),
        (lambda grid: grid * Affine.translation(0.4, -0.4), None),
        (lambda grid: grid * Affine.translation(15, 0), "lies 15.0 pixels to the right of its image and 0.0 below it"),
        (lambda grid: Affine(2, 0, grid.c, 0, 2, grid.f - 60), "is stored from south to north"),
        (lambda grid: grid * Affine.scale(2), "covers another area than its image"),
    ],
)
def test_a_mask_must_lie_on_its_image(change, message):
    crs = rasterio.crs.CRS.from_epsg(32633)
    found = place_problem((crs, GRID), (crs, change(GRID)), (30, 40))
    assert (found is None) if message is None else message in found


def test_a_mask_in_another_zone_is_refused_and_one_in_a_system_of_another_name_is_not():
    utm, etrs, next_zone = (rasterio.crs.CRS.from_epsg(code) for code in (32633, 25833, 32634))
    assert place_problem((utm, GRID), (etrs, GRID), (30, 40)) is None
    assert place_problem((utm, GRID), (None, GRID), (30, 40)) is None
    assert place_problem((utm, GRID), (next_zone, GRID), (30, 40)) is not None


def test_audit_and_split_take_geotiff_masks_and_say_so(prepared, tmp_path):
    raw = tmp_path / "data/biodiversity_raw"
    (raw / "images").mkdir(parents=True), (raw / "masks").mkdir()
    source = prepared / "data/biodiversity_raw"
    for path in (source / "images").iterdir():
        (raw / "images" / path.name).write_bytes(path.read_bytes())
        mask = np.asarray(Image.open(source / "masks" / f"{path.stem}.png"))
        with open_raster(path) as src:
            tiff(raw / "masks" / f"{path.stem}.tif", mask, crs=src.crs, transform=src.transform)
    said = quiet(check_biodiversity.main, "--root", tmp_path, "--skip-suspicious")
    assert "masks are GeoTIFF" in said
    quiet(split_biodiversity.main, "--root", tmp_path)
    for split in ("train", "val", "test"):
        for path in (tmp_path / f"data/biodiversity_split/{split}/masks").iterdir():
            with Image.open(path) as ours, Image.open(source / "masks" / path.name) as theirs:
                np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
