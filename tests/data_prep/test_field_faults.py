"""Images and masks as people have them, 36 tiles of 96 pixels through audit and split: the right values come out."""

import contextlib
import io
import unicodedata

import numpy as np
import pytest
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from common.errors import UserError
from common.rasters import open_raster, read_image, read_mask
from data_prep import check_biodiversity, filter_oem_rural
from tests.helpers import CRS, audited_split, make_oem, quiet

SIDE = 96
GROUND = np.random.default_rng(0).integers(20, 200, (36, 3, SIDE, SIDE)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(1, 6, (36, SIDE // 8, SIDE // 8)).repeat(8, axis=1).repeat(8, axis=2)
LABELS = LABELS.astype(np.uint8)
SPLITS = ("train", "val", "test")


def place(n, gsd=0.5, origin=(500_000, 5_000_000)):
    return Affine(gsd, 0, origin[0] + n % 6 * SIDE * gsd, 0, -gsd, origin[1] - n // 6 * SIDE * gsd)


def tif(path, pixels, n, colors=None, scales=None, offsets=None, **profile):
    """A (bands, H, W) GeoTIFF in the place of tile n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"crs": CRS, "transform": place(n), **profile}
    with open_raster(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype, **profile
    ) as dst:
        dst.write(pixels)
        if colors:
            dst.colorinterp = colors
        if scales:
            dst.scales, dst.offsets = scales, offsets


def png(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def everything(main, *flags):
    """What a script prints and warns of."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        main([str(flag) for flag in flags])
    return said.getvalue()


class Raw:
    """A raw folder of which each tile can be made otherwise."""

    def __init__(self, root):
        self.root, self.folder = root, root / "data/biodiversity_raw"
        for n in range(36):
            self.tif(n, GROUND[n])
            self.png(n, LABELS[n])

    def tif(self, n, pixels, **profile):
        tif(self.folder / f"images/t{n:02}.tif", pixels, n, **profile)

    def png(self, n, ids):
        png(self.folder / f"masks/t{n:02}.png", ids)

    def audit(self, *flags):
        return everything(check_biodiversity.main, "--root", self.root, "--skip-suspicious", *flags)

    def split(self, *flags):
        """What the split says, and {n: (image, mask)} of what it wrote."""
        said = everything(audited_split, "--root", self.root, "--overwrite", *flags)
        split = self.root / "data/biodiversity_split"
        paths = [path for name in SPLITS for path in sorted((split / name / "images").iterdir())]
        masks = [path.parents[1] / "masks" / f"{path.stem}.png" for path in paths]
        assert len(paths) == 36
        return said, {int(p.stem[1:3]): (read_image(p), read_mask(m)) for p, m in zip(paths, masks, strict=True)}


def as_float(n):
    return (GROUND[n] * 10.0).astype(np.float32)


def test_a_declared_gap_of_one_band_moves_no_range_and_hides_its_labels(tmp_path):
    raw = Raw(tmp_path)
    for n in range(36):
        pixels = as_float(n)
        pixels[0, :, :8] = -9999
        raw.tif(n, pixels, nodata=-9999)
    said, tiles = raw.split()
    for n, (pixels, mask) in tiles.items():
        assert (mask[:, :8] == 0).all() and (mask[:, 8:] == LABELS[n][:, 8:]).all()
        assert 100 < pixels[0, :, 8:].mean() < 160  # brightness and contrast as of bands without gaps
    assert f"{36 * 96 * 8:,} labelled pixels of 36 tiles (8.3% of all) are not labelled any more" in said
    assert "t00 8.3%" in said


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, -9999), (np.uint16, 65535)])
def test_an_undeclared_gap_is_refused_by_name_in_whatever_band_it_is(tmp_path, dtype, value):
    raw = Raw(tmp_path)
    for n in range(36):
        pixels = (GROUND[n] * 10.0).astype(dtype)
        if n in (3, 7):
            pixels[n % 3, :, :8] = value
        raw.tif(n, pixels)
    with pytest.raises(UserError) as refused:
        raw.split()
    text = str(refused.value)
    assert "2 tiles cannot be used" in text and "undeclared nodata (2)" in text and "t03.tif" in text
    assert f"rio edit-info --nodata {value}" in text
    for n in (3, 7):
        with open_raster(raw.folder / f"images/t{n:02}.tif", "r+") as dst:
            dst.nodata = value
    _, tiles = raw.split()
    assert (tiles[3][1][:, :8] == 0).all() and (tiles[3][1][:, 8:] == LABELS[3][:, 8:]).all()


def test_fill_values_are_gaps_at_any_distance_and_in_a_whole_tile(tmp_path):
    raw = Raw(tmp_path)
    for n in range(36):
        wide = np.random.default_rng(n).integers(80, 20_000, (3, SIDE, SIDE)).astype(np.int16)
        if n == 2:
            wide[:, 10:16, 10:16] = -9999
        if n == 5:
            wide[:] = -9999
        raw.tif(n, wide)
    with pytest.raises(
        UserError, match=r"undeclared nodata \(2\)(.|\n)*t02.tif: -9999 fills(.|\n)*t05.tif: -9999 fills"
    ):
        raw.split()


def test_remedies_name_what_is_stored(tmp_path):
    raw = Raw(tmp_path)
    for n in range(36):
        ground = GROUND[n].astype(np.uint16) * 20 + 1000
        if n == 3:
            ground[:, :10] = 65535
        if n == 7:
            ground[:, :, :10] = 1000
        raw.tif(n, ground, scales=[1e-4] * 3, offsets=[-0.1] * 3)
    with pytest.raises(UserError, match=r"t03.tif: 6.4535 fills(.|\n)*rio edit-info --nodata 65535 "):
        raw.split()
    with open_raster(raw.folder / "images/t03.tif", "r+") as dst:
        dst.nodata = 65535
    said = raw.audit()
    assert "t07.tif" in said and "rio edit-info --nodata 1000 " in said
    assert "rio edit-info --nodata 1000 " in raw.split()[0]


def test_clear_pixels_lose_their_labels_where_nodata_is_declared_too(tmp_path):
    alpha = np.full((1, SIDE, SIDE), 255, np.uint8)
    alpha[:, :8] = 0
    raw = Raw(tmp_path)
    for n in range(36):
        raw.tif(n, np.concatenate([GROUND[n], alpha]), nodata=0, photometric="RGB", alpha="YES")
    said, tiles = raw.split()
    assert all((mask[:8] == 0).all() and (mask[8:] == LABELS[n][8:]).all() for n, (_, mask) in tiles.items())
    assert "t00 8.3%" in said


def test_near_infrared_that_is_called_alpha_hides_nothing_unless_it_is_said(tmp_path):
    infrared = np.random.default_rng(2).integers(1, 250, (1, SIDE, SIDE)).astype(np.uint8)
    infrared[:, 24:48] = 0  # water
    raw = Raw(tmp_path)
    for n in range(36):
        raw.tif(n, np.concatenate([GROUND[n], infrared]), photometric="RGB", alpha="YES")
    said, tiles = raw.split()
    assert all((mask == LABELS[n]).all() for n, (_, mask) in tiles.items())
    assert "alpha: bands that files call alpha have many values" in said
    _, tiles = raw.split("--alpha", "yes")
    assert all((mask[24:48] == 0).all() for _, mask in tiles.values())


def test_alpha_of_8_and_of_16_bits_hides_pixels(tmp_path):
    raw = Raw(tmp_path)
    for n in range(36):
        dtype, full = (np.uint8, 255) if n % 2 else (np.uint16, 65535)
        alpha = np.full((1, SIDE, SIDE), full, dtype)
        alpha[:, :8] = 0
        raw.tif(n, np.concatenate([GROUND[n].astype(dtype), alpha]), photometric="RGB", alpha="YES")
    _, tiles = raw.split()
    assert all((mask[:8] == 0).all() and (mask[8:] == LABELS[n][8:]).all() for n, (_, mask) in tiles.items())


def test_a_labelled_collar_is_warned_of_with_its_remedy(tmp_path):
    raw = Raw(tmp_path)
    collared = GROUND[5].copy()
    collared[:, :, :10] = 0
    raw.tif(5, collared)
    said = raw.audit()
    assert "constant edge (1)" in said and "rio edit-info --nodata 0 " in said and "t05.tif" in said


def test_scale_and_offset_tags_that_differ_give_one_ground(tmp_path):
    raw = Raw(tmp_path)
    for n in range(36):
        ground = GROUND[n].astype(np.uint16) * 20
        of_tile = (ground + 1000, [1e-4] * 3, [-0.1] * 3) if n % 2 else (ground, [1e-4] * 3, [0.0] * 3)
        raw.tif(n, of_tile[0], scales=of_tile[1], offsets=of_tile[2])
    _, tiles = raw.split()
    means = [tiles[n][0].mean() for n in range(36)]
    assert abs(np.mean(means[::2]) - np.mean(means[1::2])) < 1


def test_tiles_that_look_unlike_the_others_are_named_and_drawn(tmp_path):
    raw = Raw(tmp_path)
    assert "look unlike" not in raw.split()[0]
    raw.tif(4, np.full_like(GROUND[4], 90))
    raw.tif(9, np.where(GROUND[9] > 100, 255, 0).astype(np.uint8))
    said, _ = raw.split()
    assert "2 tiles look unlike the others" in said
    assert "t04: has one value throughout" in said and "t09: 100% of its values are 0 or 255" in said
    sheet = tmp_path / "artifacts/odd_tiles.png"
    assert sheet.exists()
    raw.tif(4, GROUND[4]), raw.tif(9, GROUND[9])
    raw.split()
    assert not sheet.exists()


def test_8_bit_beside_16_bit_is_told_by_audit_and_split(tmp_path):
    raw = Raw(tmp_path)
    for n in range(18):
        raw.tif(n, GROUND[n].astype(np.uint16))
    told = "18 tiles are uint16 with 3 bands; 18 tiles are uint8 with 3 bands. Those of 8 bit are taken as they are"
    assert told in raw.audit() and told in raw.split()[0]


def test_bands_declared_in_another_order_are_told_with_the_flag_that_follows_it(tmp_path):
    raw = Raw(tmp_path)
    for n in range(36):
        raw.tif(n, GROUND[n][::-1], colors=[ColorInterp.blue, ColorInterp.green, ColorInterp.red])
    told = "36 tiles declare bands 1 2 3 as blue, green, red"
    said, _ = raw.split()
    assert told in said and told in raw.audit() and "--bands 3 2 1 takes them as they are declared" in said
    said, tiles = raw.split("--bands", "3", "2", "1")
    assert told not in said and all((image == GROUND[n]).all() for n, (image, _) in tiles.items())


def test_colours_are_looked_for_among_all_bands(tmp_path):
    raw = Raw(tmp_path)
    infrared = np.full((1, SIDE, SIDE), 90, np.uint8)
    colors = [ColorInterp.undefined, ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    for n in range(36):
        raw.tif(n, np.concatenate([infrared, GROUND[n]]), colors=colors, photometric="MINISBLACK")
    assert "--bands 2 3 4 takes them as they are declared" in raw.split()[0]


def test_a_colour_table_is_expanded_to_its_colours(tmp_path):
    table = np.random.default_rng(3).integers(0, 256, (256, 3))
    raw = Raw(tmp_path)
    for n in range(36):
        raw.tif(n, GROUND[n][:1], photometric="palette")
        with open_raster(raw.folder / f"images/t{n:02}.tif", "r+") as dst:
            dst.write_colormap(1, {value: tuple(color) for value, color in enumerate(table.tolist())})
    _, tiles = raw.split()
    assert all((image == np.moveaxis(table[GROUND[n][0]], -1, 0)).all() for n, (image, _) in tiles.items())


def test_pages_are_named_with_the_command_that_makes_bands_of_them(tmp_path):
    raw = Raw(tmp_path)
    pages = [Image.fromarray(band) for band in GROUND[2]]
    pages[0].save(raw.folder / "images/t02.tif", save_all=True, append_images=pages[1:])
    told = r"has 3 pages, of which the first alone would be read(.|\n)*rio stack GTIFF_DIR:1.*GTIFF_DIR:3"
    for flags in ((), ("--bands", "1")):
        with pytest.raises(UserError, match=told):
            raw.split(*flags)


def test_grey_images_in_which_0_is_white_are_turned_round(tmp_path):
    raw = Raw(tmp_path)
    for n in range(36):
        grey = GROUND[n][:1]
        raw.tif(n, 255 - grey if n % 2 else grey, photometric="MINISWHITE" if n % 2 else "MINISBLACK")
    _, tiles = raw.split("--bands", "1")
    assert all((image == GROUND[n][:1]).all() for n, (image, _) in tiles.items())


def test_photographs_that_are_turned_when_shown_are_refused(tmp_path):
    raw = Raw(tmp_path)
    turned = Image.Exif()
    turned[274] = 6
    for n in (1, 2):
        (raw.folder / f"images/t{n:02}.tif").unlink()
        settings = {"exif": turned} if n == 1 else {}
        Image.fromarray(np.moveaxis(GROUND[n], 0, -1)).save(raw.folder / f"images/t{n:02}.jpg", **settings)
    with pytest.raises(UserError, match=r"1 tiles cannot be used(.|\n)*t01.jpg: is to be turned(.|\n)*Save it as PNG"):
        raw.split()


def test_names_whose_accents_are_written_apart_are_paired(tmp_path):
    raw = Raw(tmp_path)
    for folder, form in (("images", "NFC"), ("masks", "NFD")):
        path = next((raw.folder / folder).glob("t03.*"))
        path.rename(path.with_name(unicodedata.normalize(form, f"t03 fôret{path.suffix}")))
    _, tiles = raw.split()
    assert (tiles[3][1] == LABELS[3]).all()


def test_masks_that_count_from_0_and_masks_that_were_interpolated_are_suspected(tmp_path):
    raw = Raw(tmp_path)
    assert "ids from 0" not in raw.audit() and "made-up ids" not in raw.audit()
    for n in range(36):
        raw.png(n, LABELS[n] - 1)
    said = raw.audit()
    assert "ids from 0 (1)" in said and "add 1 to every id" in said
    for n in range(36):
        small = Image.fromarray(LABELS[n]).resize((SIDE // 2, SIDE // 2), Image.Resampling.NEAREST)
        raw.png(n, np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
    said = raw.audit()
    assert "made-up ids (1)" in said and "nearest neighbour" in said and "ids from 0" not in said


def test_masks_on_other_ground_are_refused_by_name(tmp_path):
    raw = Raw(tmp_path)
    for n, grid in ((1, place(1)), (2, place(2) @ Affine.translation(SIDE / 2, 0))):
        (raw.folder / f"masks/t{n:02}.png").unlink()
        tif(raw.folder / f"masks/t{n:02}.tif", LABELS[n][None], n, transform=grid)
    with pytest.raises(UserError) as refused:
        raw.split()
    text = str(refused.value)
    assert "1 tiles cannot be used" in text and "labels elsewhere (1)" in text
    assert "t02.tif: lies 48.0 pixels to the right of its image" in text


def test_problems_of_one_kind_are_counted_with_the_first_five(tmp_path):
    raw = Raw(tmp_path)
    for n in range(9):
        raw.png(n, np.where(LABELS[n] == 5, 77, LABELS[n]).astype(np.uint8))
    with pytest.raises(UserError) as refused:
        raw.split()
    text = str(refused.value)
    assert "unknown ids (9)" in text and "and 4 more" in text and "t04" in text and "t05" not in text
    with pytest.raises(UserError):
        raw.audit()
    assert (raw.root / "artifacts/audit/audit.json").read_text().count("ids 77 are not classes") == 9


def test_labels_of_openearthmap_are_read_as_masks_are(tmp_path):
    make_oem(tmp_path)
    folder = tmp_path / "data/openearthmap_raw/OpenEarthMap/OpenEarthMap_wo_xBD"
    label = sorted(folder.rglob("labels/*.tif"))[0]
    image = label.parents[1] / "images" / label.name
    with open_raster(label) as src:
        ids, crs, grid = src.read(1), src.crs, src.transform

    def write(ids, transform, nodata=None):
        height, width = ids.shape
        with open_raster(
            label, "w", driver="GTiff", count=1, height=height, width=width, dtype="uint8", crs=crs,
            transform=transform, nodata=nodata,
        ) as dst:  # fmt: skip
            dst.write(ids, 1)

    ids[:4], ids[4:8] = 255, 254
    write(ids, grid, nodata=255)
    with pytest.raises(UserError, match="ids 254 are not classes, expected 0-8"):
        quiet(filter_oem_rural.main, "--root", tmp_path, "--max-built", "1")
    with open_raster(image, "r+") as dst:
        dst.write(np.zeros((3, 4, ids.shape[1]), np.uint8), window=((20, 24), (0, ids.shape[1])))
        dst.nodata = 0
        hidden = (dst.read() == 0).any(axis=0)
    said = everything(filter_oem_rural.main, "--root", tmp_path, "--max-built", "1", "--void", "254")
    written = read_mask(next((tmp_path / "data/openearthmap_filtered/masks").glob(f"*{label.stem}.png")))
    kept = np.where(ids >= 254, 0, ids)
    np.testing.assert_array_equal(written, np.where(hidden, 0, kept))
    assert f"{np.count_nonzero(kept[hidden]):,} labelled pixels of 1 tiles" in said
    write(ids, grid @ Affine.translation(30, 0), nodata=255)
    with pytest.raises(UserError, match=r"labels/.*: lies 30.0 pixels to the right of its image"):
        quiet(filter_oem_rural.main, "--root", tmp_path, "--max-built", "1", "--void", "254", "--overwrite")
