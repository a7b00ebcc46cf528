"""From a raster and a checkpoint to a map: its place, its files, and what is refused."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import rasterio.shutil
import rasterio.vrt
import shapely
import torch
from PIL import Image
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from common.bands import BandStatistics
from common.checkpoints import Checkpoint
from common.encoders import EncoderConstants
from common.errors import UserError
from common.inference import predict_logits
from common.inputs import Command
from common.models import Architecture, build_model
from common.rasters import open_raster
from common.raw_images import Reading
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP
from common.tiles import TileSet
from evaluation import predict_map
from evaluation.mapping import publish, store
from evaluation.mapping import raster as mapped_raster
from evaluation.mapping.parts import part_of, strips_of
from evaluation.mapping.raster import Raster, Scaling
from tests.evaluation.cog import cog_problems
from tests.helpers import made, quiet, save_checkpoint, write_tif

HERE = Path(__file__).resolve().parents[2]
SMALL = Architecture("linknet", "mobilenet_v2")
IMAGES = {"bands": [1, 2, 3], "dtypes": ["uint8"], "colors": ["red", "green", "blue"], "gsd": 2.0}
ORIGIN = (500_000, 5_000_000)


def metadata(**changes):
    settled = {"stage": "stage6_distill", "seed": 42, "step": 2, "iterations": 2, "cumulative_steps": 2}
    return {
        **settled, **SMALL.to_json(), "val": {"digest": "of val"}, "taxonomy": BIODIVERSITY.to_json(), "stretch": None,
        "images": IMAGES, "command": "python -m training.train_stage6_distill", **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(5)
    model = build_model(SMALL, 6)
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))  # so that its statistics are those of images
    return model.state_dict()


@pytest.fixture
def checkpoint(tmp_path, state):
    return save_checkpoint(tmp_path / "best.pt", state, metadata())


def of_type(path, state, dtype, stretch):
    """A checkpoint that was trained on tiles of a type that were scaled so."""
    return save_checkpoint(path, state, metadata(stretch=stretch, images=IMAGES | {"dtypes": [dtype]}))


def noise(height, width, dtype=np.uint8, seed=0):
    """(3, H, W) of patches in which a network finds several classes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (3, height // 16 + 1, width // 16 + 1))
    image = np.kron(coarse, np.ones((16, 16), int))[:, :height, :width] + rng.integers(0, 56, (3, height, width))
    return image.astype(dtype)


def raster(path, image, *, origin=ORIGIN, gsd=2.0, **profile):
    profile = {"photometric": "RGB"} | profile if image.dtype == np.uint8 and len(image) == 3 else profile
    write_tif(path, image, origin=origin, gsd=gsd, **profile)
    return path


def map_it(image, checkpoint, *flags, out=None):
    """Map with windows of 64 pixels; returns the path of the map and what was printed."""
    out = out or Path(checkpoint).parent / "map.tif"
    said = quiet(
        predict_map.main, "--image", image, "--out", out, "--checkpoint", checkpoint, "--window", 64, "--overlap", 16,
        "--device", "cpu", *flags,
    )  # fmt: skip
    return out, said


def classes(path):
    with open_raster(path) as src:
        return src.read(1)


# Where a map lies


@pytest.mark.parametrize(
    "place",
    [
        {"crs": "EPSG:32633", "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)},
        {"crs": "EPSG:32633", "transform": Affine(2, 0, 500_000, 0, 2, 5_000_000)},  # from south to north
        {"crs": "EPSG:32633", "transform": Affine(1.6, 1.2, 500_000, 1.2, -1.6, 5_000_000)},  # rotated
        {"crs": "EPSG:4326", "transform": Affine(2e-5, 0, 14.1, 0, -1.8e-5, 5.3)},
        {"crs": 'LOCAL_CS["here",UNIT["metre",1]]', "transform": Affine(2, 0, 0, 0, -2, 0)},
        {"crs": None, "transform": Affine(2, 0, 7, 0, -2, 9)},
        {"crs": None, "transform": Affine.identity()},
    ],
    ids=["projected", "south-up", "rotated", "degrees", "local", "no system", "no place"],
)
def test_a_map_lies_where_its_raster_lies(tmp_path, checkpoint, place):
    path = tmp_path / "a.tif"
    with open_raster(path, "w", driver="GTiff", count=3, height=90, width=70, dtype="uint8", **place) as dst:
        dst.write(noise(90, 70))
    out, _ = map_it(path, checkpoint)
    with open_raster(path) as src, open_raster(out) as found:
        assert found.transform == src.transform and found.crs == src.crs
        assert (found.height, found.width, found.count, found.dtypes) == (90, 70, 1, ("uint8",))
        assert (found.read(1) > 0).all()


def test_ground_control_points_are_kept(tmp_path, checkpoint):
    path = tmp_path / "a.tif"
    corners = ((0, 0), (0, 70), (90, 0), (90, 70))
    points = [GroundControlPoint(row, col, 5e5 + 2 * col, 5e6 - 2 * row) for row, col in corners]
    profile = {"driver": "GTiff", "count": 3, "height": 90, "width": 70, "dtype": "uint8"}
    with open_raster(path, "w", **profile, gcps=points, crs="EPSG:32633") as dst:
        dst.write(noise(90, 70))
    out, _ = map_it(path, checkpoint)
    with open_raster(out) as found:
        kept, crs = found.gcps
        assert crs.to_epsg() == 32633 and found.transform.is_identity
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


def test_a_folder_of_tiles_and_a_vrt_are_as_good_as_one_file(tmp_path, checkpoint):
    image = noise(150, 110)
    whole, _ = map_it(raster(tmp_path / "whole.tif", image), checkpoint)
    tiles = tmp_path / "tiles"
    for n, (top, left) in enumerate([(70, 0), (0, 0), (70, 50), (0, 50)]):
        corner = ORIGIN[0] + 2 * left, ORIGIN[1] - 2 * top
        raster(tiles / f"{n}.tif", image[:, top : top + 80, left : left + 60], origin=corner)
    found, said = map_it(tiles, checkpoint, out=tmp_path / "of_tiles.tif")
    assert "4 tiles, 110 x 150 pixels" in said
    np.testing.assert_array_equal(classes(found), classes(whole))
    with open_raster(whole) as one, open_raster(found) as other:
        assert one.transform == other.transform
    with open_raster(tmp_path / "whole.tif") as src:
        with rasterio.vrt.WarpedVRT(src, src_crs=src.crs, crs=src.crs) as vrt:
            rasterio.shutil.copy(vrt, tmp_path / "whole.vrt", driver="VRT")
    of_vrt, _ = map_it(tmp_path / "whole.vrt", checkpoint, out=tmp_path / "v.tif")
    np.testing.assert_array_equal(classes(of_vrt), classes(whole))


def test_a_gap_between_tiles_is_void(tmp_path, checkpoint):
    tiles = tmp_path / "tiles"
    raster(tiles / "a.tif", noise(60, 60))
    raster(tiles / "b.tif", noise(60, 60), origin=(ORIGIN[0] + 200, ORIGIN[1] - 40))
    found = classes(map_it(tiles, checkpoint)[0])
    assert found.shape == (80, 160)
    shown = np.zeros((80, 160), bool)
    shown[:60, :60], shown[20:, 100:] = True, True
    assert ((found > 0) == shown).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origin": (ORIGIN[0] + 121, ORIGIN[1])}, r"lies \+0\.50, \+0\.00 pixels beside the grid of a\.tif"),
        ({"gsd": 1.0}, "has another coordinate system or pixel size than a.tif"),
        ({"crs": "EPSG:32634"}, "has another coordinate system or pixel size than a.tif"),
        ({"origin": None}, "has no place on earth"),
    ],
)
def test_tiles_that_make_no_grid_are_refused(tmp_path, checkpoint, change, message):
    raster(tmp_path / "tiles/a.tif", noise(60, 60))
    raster(tmp_path / "tiles/b.tif", noise(60, 60), **{"origin": (ORIGIN[0] + 120, ORIGIN[1]), **change})
    with pytest.raises(UserError, match=message):
        map_it(tmp_path / "tiles", checkpoint)


# What is no data


def test_nodata_alpha_masks_and_nan_are_void(tmp_path, checkpoint):
    image = np.maximum(noise(90, 70), 1)
    island = np.zeros((90, 70), bool)
    island[20:60, 10:50] = True
    empty = np.where(island, image, np.uint8(0))
    raster(tmp_path / "nodata.tif", empty, nodata=0)
    with open_raster(tmp_path / "alpha.tif", "w", driver="GTiff", count=4, height=90, width=70, dtype="uint8") as dst:
        dst.write(np.concatenate([image, island[None] * np.uint8(255)]))
        dst.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    for name, internal in (("internal", True), ("beside", False)):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
            raster(tmp_path / f"{name}.tif", image)
            with open_raster(tmp_path / f"{name}.tif", "r+") as dst:
                dst.write_mask(island)
    assert (tmp_path / "beside.tif.msk").exists() and not (tmp_path / "internal.tif.msk").exists()
    whole = classes(map_it(raster(tmp_path / "whole.tif", empty), checkpoint)[0])
    for name in ("nodata", "alpha", "internal", "beside"):
        found = classes(map_it(tmp_path / f"{name}.tif", checkpoint, "--as-it-is", out=tmp_path / f"{name}_map.tif")[0])
        assert ((found > 0) == island).all(), name
        np.testing.assert_array_equal(found[island], whole[island], name)


def test_nan_is_void_and_floats_are_scaled_by_the_range_of_training(tmp_path, state):
    image = noise(90, 70)
    stretch = {"kind": "train", "percentiles": [2, 98], "ranges": [[0.0, 0.5], [0.1, 0.6], [0.2, 0.7]]}
    trained = of_type(tmp_path / "f.pt", state, "float32", stretch)
    low = np.array([0.0, 0.1, 0.2])[:, None, None]
    values = (image / 255 * 0.5 + low).astype(np.float32)
    values[:, 30:40, 5:60] = np.nan
    found = classes(map_it(raster(tmp_path / "f.tif", values), trained)[0])
    shown = np.isfinite(values[0])
    assert ((found > 0) == shown).all()
    in_8bit = np.where(shown, image, np.uint8(0))
    plain = save_checkpoint(tmp_path / "p.pt", state, metadata())
    of_bytes = classes(map_it(raster(tmp_path / "b.tif", in_8bit), plain, out=tmp_path / "b_map.tif")[0])
    np.testing.assert_array_equal(found[shown], of_bytes[shown])


def test_tiles_that_were_scaled_each_by_itself_are_mapped_by_the_range_of_the_raster(tmp_path, state):
    stretch = {"kind": "tile", "percentiles": [2, 98], "ranges": None}
    trained = of_type(tmp_path / "t.pt", state, "uint16", stretch)
    image = noise(90, 70).astype(np.uint16) * 40 + 1000
    brighter, _ = map_it(raster(tmp_path / "a.tif", image), trained)
    darker, _ = map_it(raster(tmp_path / "b.tif", image // 2), trained, out=tmp_path / "d.tif")
    assert (classes(brighter) == classes(darker)).mean() > 0.99


def test_a_dark_tile_in_a_bright_raster_gets_the_labels_it_gets_alone(tmp_path, checkpoint, monkeypatch):
    class Colours(torch.nn.Module):
        def forward(self, images):
            steps = torch.linspace(0, 1, 5)[None, :, None, None]
            logits = -20 * (images.mean(dim=1, keepdim=True) - steps).abs()
            return torch.cat([torch.full_like(logits[:, :1], -1e4), logits], dim=1)

    monkeypatch.setattr("common.checkpoints.Checkpoint.build", lambda _: Colours())
    image = np.clip(noise(200, 200).astype(int) + 150, 0, 255).astype(np.uint8)
    image[:, 70:134, 70:134] = noise(64, 64) // 4
    alone = classes(map_it(raster(tmp_path / "dark.tif", image[:, 70:134, 70:134]), checkpoint)[0])
    inside = classes(map_it(raster(tmp_path / "all.tif", image), checkpoint, out=tmp_path / "all_map.tif")[0])
    np.testing.assert_array_equal(inside[70:134, 70:134], alone)
    assert len(np.unique(alone)) > 1


def test_a_checkerboard_is_mapped_without_a_shift(tmp_path, checkpoint, monkeypatch):
    class Echo(torch.nn.Module):
        """Class 1 where it sees black, class 2 where it sees white, as in training a window at a time."""

        def forward(self, images):
            logits = torch.full((len(images), 6, *images.shape[-2:]), -1e4)
            logits[:, 1], logits[:, 2] = 9 * (1 - images[:, 0]), 9 * images[:, 0]
            return logits

    monkeypatch.setattr("common.checkpoints.Checkpoint.build", lambda _: Echo())
    board = (np.indices((150, 131)).sum(axis=0) % 2).astype(np.uint8)
    out, _ = map_it(raster(tmp_path / "board.tif", np.stack([board * 255] * 3)), checkpoint)
    np.testing.assert_array_equal(classes(out), board + 1)


def test_a_tile_of_val_gets_the_labels_that_evaluation_gives_it(trained, tmp_path):
    run = trained / "model_weights/biodiversity/stage4_minority_crop/seed42"
    val = TileSet.open(made(trained / "data/biodiversity_split/val"))
    model = Checkpoint.load(made(run / "last.pt")).build().eval()
    for tile in val.tiles[:2]:
        wanted = predict_logits(model, torch.from_numpy(tile.read_image())[None])[0].argmax(dim=0).numpy()
        raw = trained / "data/biodiversity_raw/images" / f"{tile.id}.tif"
        out = tmp_path / f"{tile.id}.tif"
        flags = ("--image", raw, "--out", out, "--checkpoint", run / "last.pt", "--device", "cpu")
        quiet(predict_map.main, "--root", trained, *flags)
        found = classes(out)
        np.testing.assert_array_equal(found[found > 0], wanted[found > 0])
        assert (found > 0).mean() > 0.5


# The files


def test_the_map_and_its_record_say_what_they_are(tmp_path, checkpoint):
    out, said = map_it(raster(tmp_path / "a.tif", noise(700, 600)), checkpoint, "--confidence", "--probabilities")
    with open_raster(out) as src:
        assert src.driver == "GTiff" and src.nodata == 0 and src.colorinterp == (ColorInterp.palette,)
        assert src.block_shapes == [(512, 512)] and src.compression.name == "deflate"
        assert src.overviews(1) == [2]
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        table = src.colormap(1)
        for n, color in enumerate(BIODIVERSITY.rgb().tolist()):
            assert list(table[n][:3]) == color
        assert src.tags(1)["CLASS_1"] == "Forest"
        found = src.read(1)
        overview = src.read(1, out_shape=(350, 300))
        assert set(np.unique(overview)) <= set(np.unique(found))
    assert cog_problems(out) == []
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["pixels"] == np.bincount(found.ravel(), minlength=6).tolist()
    assert record["square_metres"] == pytest.approx([4 * n for n in record["pixels"]])
    assert record["checkpoints"][0]["stage"] == "stage6_distill" and record["gsd"] == 2
    with open_raster(tmp_path / "map_confidence.tif") as src:
        sure = src.read(1)
        assert src.nodata == 255 and src.scales == (1 / 254,)
    assert record["mean_confidence"] == pytest.approx(sure.mean() / 254, abs=0.002)
    with open_raster(tmp_path / "map_probabilities.tif") as src:
        assert src.descriptions == BIODIVERSITY.foreground and src.count == 5
        np.testing.assert_array_equal(src.read().argmax(axis=0)[sure > 130] + 1, found[sure > 130])
    assert {"map.qml", "map.tif.aux.xml"} <= {path.name for path in tmp_path.iterdir()}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert "hectares" in said and f"{4 * record['pixels'][1] / 1e4:,.1f}" in said


def test_square_metres_follow_the_latitude(tmp_path, checkpoint):
    path = tmp_path / "a.tif"
    place = {"crs": "EPSG:4326", "transform": Affine(0.01, 0, 10, 0, -0.01, 60.9)}
    with open_raster(path, "w", driver="GTiff", count=3, height=90, width=40, dtype="uint8", **place) as dst:
        dst.write(noise(90, 40))
    out, _ = map_it(path, checkpoint, "--as-it-is")
    e2 = 0.00669437999014  # squared eccentricity of WGS 84
    sine = np.sin(np.radians([60.0, 60.9]))
    e = np.sqrt(e2)
    q = (1 - e2) * (sine / (1 - e2 * sine**2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))  # Snyder 1987, 3-12
    wanted = 6_378_137**2 / 2 * np.radians(0.4) * (q[1] - q[0])
    found = sum(json.loads(out.with_suffix(".json").read_text())["square_metres"])
    assert found == pytest.approx(wanted, rel=1e-5)


# Going on, and sharing the work


def test_parts_make_the_bytes_of_one_run(tmp_path, checkpoint):
    image = raster(tmp_path / "a.tif", noise(400, 130))
    whole, _ = map_it(image, checkpoint, "--entropy", out=tmp_path / "one/map.tif")
    out = tmp_path / "many/map.tif"
    for part in ("2/3", "1/3"):
        _, said = map_it(image, checkpoint, "--entropy", "--part", part, out=out)
        assert "--join" in said and not out.exists()
    with pytest.raises(UserError, match=r"lacks 3 of 8 strips. Make all parts before --join"):
        map_it(image, checkpoint, "--entropy", "--join", out=out)
    map_it(image, checkpoint, "--entropy", "--part", "3/3", out=out)
    map_it(image, checkpoint, "--entropy", "--join", out=out)
    for name in ("map.tif", "map_entropy.tif"):
        assert (out.parent / name).read_bytes() == (whole.parent / name).read_bytes()


def test_parts_are_not_thrown_away_by_a_join_or_by_one_another(tmp_path, checkpoint, monkeypatch):
    image = raster(tmp_path / "a.tif", noise(200, 130))
    with pytest.raises(UserError, match=r"no part was made yet"):
        map_it(image, checkpoint, "--join")
    assert not (tmp_path / ".map.tif.strips").exists()
    map_it(image, checkpoint)
    with pytest.raises(UserError, match=r"--overwrite with parts would remove those of others"):
        map_it(image, checkpoint, "--part", "1/2", "--overwrite")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"--overwrite with parts would remove those of others"):
        map_it(image, checkpoint, "--overwrite")
    monkeypatch.undo()
    for name in ("map.tif", "map.json", "map.png", "map.qml", "map.tif.aux.xml"):
        (tmp_path / name).unlink()
    for part in ("1/2", "2/2"):
        map_it(image, checkpoint, "--part", part)
    (tmp_path / "map.tif").write_bytes(b"of somebody else")
    map_it(image, checkpoint, "--join", "--overwrite")
    assert (classes(tmp_path / "map.tif") > 0).all()


def test_parts_that_begin_together_do_not_disturb_one_another(tmp_path):
    plan, command = {"layers": ["classes"], "height": 4}, Command.of("evaluation.predict_map", tmp_path)
    code = (
        "import sys; from pathlib import Path; from common.inputs import Command\n"
        "from evaluation.mapping.store import StripStore\n"
        "sys.stdin.read()\n"
        f"for n in range(30): StripStore(Path({str(tmp_path)!r}) / f'{{n}}.tif', {plan!r}, "
        "Command(('x',))).open(go_on=True, overwrite=False)"
    )
    paths = os.environ | {"PYTHONPATH": str(HERE)}
    options = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": paths}
    parts = [subprocess.Popen([sys.executable, "-c", code], **options) for _ in range(3)]
    assert [part.communicate("")[1] for part in parts] == [""] * 3
    assert store.StripStore(tmp_path / "0.tif", plan, command).exists
    assert [path.name for path in (tmp_path / ".0.tif.strips").iterdir()] == ["plan.json"]


def test_what_is_there_is_not_lost_to_a_wrong_out(tmp_path, checkpoint):
    image = raster(tmp_path / "a.tif", noise(70, 70))
    before = image.read_bytes()
    with pytest.raises(UserError, match=r"map.png: expected a GeoTIFF, with the suffix .tif"):
        map_it(image, checkpoint, out=tmp_path / "map.png")
    with pytest.raises(UserError, match=r"a.tif is a file of --image"):
        map_it(image, checkpoint, "--overwrite", out=image)
    (tmp_path / "b.json").write_text("mine")
    with pytest.raises(UserError, match=r"b.json exists"):
        map_it(image, checkpoint, out=tmp_path / "b.tif")
    assert image.read_bytes() == before and (tmp_path / "b.json").read_text() == "mine"


def test_a_map_that_is_replaced_leaves_nothing_of_itself(tmp_path, checkpoint):
    map_it(raster(tmp_path / "a.tif", noise(70, 70)), checkpoint, "--confidence")
    (tmp_path / "map_areas.json").write_text("{}")
    map_it(raster(tmp_path / "b.tif", noise(80, 80)), checkpoint, "--overwrite")
    assert not (tmp_path / "map_confidence.tif").exists() and not (tmp_path / "map_areas.json").exists()


def test_a_raster_that_changes_is_not_mixed_with_what_it_was(tmp_path, checkpoint, monkeypatch):
    image = raster(tmp_path / "a.tif", noise(200, 130))
    write = store.StripStore.write

    def and_changed(self, strip):
        write(self, strip)
        raster(image, noise(200, 130, seed=1))

    monkeypatch.setattr(store.StripStore, "write", and_changed)
    with pytest.raises(UserError, match=r"was changed while it was mapped. Begin anew with --overwrite"):
        map_it(image, checkpoint)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"was begun with another files"):
        map_it(image, checkpoint, "--resume")


def test_tiles_in_degrees_far_from_the_equator_are_mapped_as_they_are(tmp_path, state):
    path = tmp_path / "a.tif"
    place = {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 10, 0, -1e-5, 48)}
    with open_raster(path, "w", driver="GTiff", count=3, height=90, width=70, dtype="uint8", **place) as dst:
        dst.write(noise(90, 70))
    trained = save_checkpoint(tmp_path / "best.pt", state, metadata(images=IMAGES | {"gsd": 0.745}))
    assert classes(map_it(path, trained)[0]).shape == (90, 70)
    coarse = save_checkpoint(tmp_path / "half.pt", state, metadata(images=IMAGES | {"gsd": 1.49}))
    out, _ = map_it(path, coarse, "--resample", out=tmp_path / "half.tif")
    assert classes(out).shape == (45, 35)  # as much smaller in both directions


def test_each_checkpoint_must_fit_the_raster(tmp_path, state, checkpoint):
    fine = save_checkpoint(tmp_path / "fine.pt", state, metadata(images=IMAGES | {"gsd": 0.5}))
    image = raster(tmp_path / "a.tif", noise(70, 70))
    flags = ("--image", image, "--out", tmp_path / "map.tif", "--device", "cpu", "--checkpoint", checkpoint, fine)
    with pytest.raises(UserError, match=r"fine.pt of 0.5 m"):
        quiet(predict_map.main, *flags)
    early = save_checkpoint(tmp_path / "early.pt", state, {k: v for k, v in metadata().items() if k != "images"})
    four = raster(tmp_path / "four.tif", np.concatenate([noise(70, 70), noise(70, 70)[:1]]))
    with pytest.raises(UserError, match=r"has 4 bands, and .*early.pt, of an earlier version, .* --bands 1 2 3"):
        map_it(four, early)


def test_more_tiles_than_files_may_be_open_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_raster, "MOST_OPEN", 2)
    image = noise(32, 32 * 6)
    for n in range(6):
        raster(tmp_path / f"t/{n}.tif", image[:, :, 32 * n : 32 * n + 32], origin=(ORIGIN[0] + 64 * n, ORIGIN[1]))
    with Raster(tmp_path / "t", [1, 2, 3]) as found:
        np.testing.assert_array_equal(found.read(0, 32, [Scaling(Reading((1, 2, 3)), None)])[0][0], image)
        assert len(found._open) == 2


def test_a_part_is_that_of_the_task(monkeypatch):
    assert part_of(None) is None
    assert part_of("2/4") == (2, 4)
    for wrong in ("0/4", "5/4", "2", "a/b", "/4"):
        with pytest.raises(UserError, match=r"expected I/N, such as 1/4"):
            part_of(wrong)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert part_of(None) == (2, 2)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    assert part_of(None) == (2, 2)  # an array of one
    for key, value in (("MIN", "5"), ("MAX", "8"), ("STEP", "1"), ("COUNT", "4")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", value)
    assert part_of(None) == (3, 4)
    for key, value in (("MAX", "11"), ("STEP", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", value)
    assert part_of(None) == (2, 4)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")  # as of --array 5,7,11
    with pytest.raises(UserError, match=r"leave numbers out, .* Give --part I/N"):
        part_of(None)
    assert part_of("1/1") is None
    for strips in (1, 7, 20):
        assert [n for i in range(1, 5) for n in strips_of((i, 4), strips)] == list(range(strips))


def test_a_killed_run_goes_on_at_its_strip_and_has_the_same_bytes(tmp_path, checkpoint, monkeypatch):
    image = raster(tmp_path / "a.tif", noise(400, 130))
    whole, _ = map_it(image, checkpoint, out=tmp_path / "one/map.tif")
    write = store.StripStore.write
    written = []

    def until_killed(self, strip):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(strip.number)
        write(self, strip)

    monkeypatch.setattr(store.StripStore, "write", until_killed)
    out = tmp_path / "two/map.tif"
    with pytest.raises(KeyboardInterrupt):
        map_it(image, checkpoint, out=out)
    assert not out.exists() and written == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"holds part of a map. Go on: .* --resume; or begin anew with --overwrite"):
        map_it(image, checkpoint, out=out)

    def noted(self, strip):
        written.append(strip.number)
        write(self, strip)

    monkeypatch.setattr(store.StripStore, "write", noted)
    with pytest.raises(UserError, match=r"was begun with another flips\. Give the same again"):
        map_it(image, checkpoint, "--resume", "--flips", out=out)
    map_it(image, checkpoint, "--resume", out=out)
    assert written == list(range(8))
    assert out.read_bytes() == whole.read_bytes()
    with pytest.raises(UserError, match=r"exists. Replace it with --overwrite"):
        map_it(image, checkpoint, out=out)
    written.clear()
    monkeypatch.setattr(store.StripStore, "write", until_killed)
    with pytest.raises(KeyboardInterrupt):
        map_it(image, checkpoint, "--overwrite", out=out)
    assert out.exists()  # the earlier one
    monkeypatch.setattr(store.StripStore, "write", noted)
    map_it(image, checkpoint, "--resume", out=out)
    assert written == list(range(8)) and out.read_bytes() == whole.read_bytes()


def test_a_full_disk_leaves_no_half_map_and_the_next_run_goes_on(tmp_path, checkpoint, monkeypatch):
    image = raster(tmp_path / "a.tif", noise(200, 130))
    out = tmp_path / "maps/map.tif"

    replace = os.replace

    def full(source, target):
        if Path(target) == out:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
        replace(source, target)

    monkeypatch.setattr(publish.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        map_it(image, checkpoint, out=out)
    assert not out.exists() and not out.with_suffix(".json").exists()
    monkeypatch.undo()

    def copying(*_, **__):
        raise CPLE_BaseError(3, 3, "no room")

    monkeypatch.setattr(rasterio.shutil, "copy", copying)
    with pytest.raises(UserError, match=r"maps cannot be written .*Make room, and go on with --resume"):
        map_it(image, checkpoint, "--resume", out=out)
    monkeypatch.undo()
    monkeypatch.setattr(store.StripStore, "write", lambda *_: pytest.fail("a strip is made again"))
    map_it(image, checkpoint, "--resume", out=out)
    assert (classes(out) > 0).all()
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "map.json", "map.png", "map.qml", "map.tif", "map.tif.aux.xml",
    ]  # fmt: skip


def test_what_is_read_back_must_be_what_was_written(tmp_path, checkpoint, monkeypatch):
    image = raster(tmp_path / "a.tif", noise(200, 130))
    copy = rasterio.shutil.copy

    def spoil(source, target, **options):
        with open_raster(source, "r+") as dst:
            dst.write(dst.read() % 5 + 1)
        copy(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", spoil)
    with pytest.raises(UserError, match=r"is not what is read back .* go on with --resume"):
        map_it(image, checkpoint)
    assert not (tmp_path / "map.tif").exists()


def test_a_raster_that_vanishes_or_breaks_off_is_named(tmp_path, checkpoint):
    path = raster(tmp_path / "a.tif", noise(300, 130), compress="deflate", blockysize=8)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(UserError, match=r"a.tif: cannot be read"):
        map_it(path, checkpoint)
    with pytest.raises(UserError, match=r"--image .*gone.tif does not exist. Give a raster"):
        map_it(tmp_path / "gone.tif", checkpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the folder holds no raster"):
        map_it(tmp_path / "empty", checkpoint)


def test_two_runs_do_not_write_one_map(tmp_path, checkpoint):
    image = raster(tmp_path / "a.tif", noise(70, 70))
    code = "import sys,time; from pathlib import Path; from common.files import locked\n"
    code += f"with locked(Path({str(tmp_path / 'map.tif')!r})):\n print('held', flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"is being written by another run"):
            map_it(image, checkpoint)
        other.kill()


# What is refused


@pytest.mark.parametrize(
    ("changes", "profile", "flags", "message"),
    [
        ({"gsd": 1.0}, {}, (), r"has pixels of 2 m, the training tiles of .* of 1 m.* --resample maps it at that"),
        ({"gsd": 2.6}, {}, (), r"has pixels of 2 m, the training tiles of .*best.pt of 2.6 m"),
        ({"gsd": 2.4}, {}, (), None),
        ({"gsd": 1.0}, {}, ("--resample",), None),
        ({"gsd": 1.0}, {}, ("--as-it-is",), None),
        ({"dtypes": ["uint16"]}, {}, (), r"holds uint8, the training tiles uint16.* --as-it-is maps it anyway"),
        ({"dtypes": ["uint16", "uint8"]}, {}, (), None),
        ({"bands": [4, 3, 2]}, {}, (), r"has 3 bands, but --bands 4 3 2 asks for band 4; choose --bands among 1 to 3"),
        ({"bands": [4, 3, 2]}, {}, ("--bands", 1, 2, 3), None),
        ({"colors": ["blue", "green", "red"]}, {}, (), r"those of the training tiles blue, green, red.* --bands 3 2 1"),
    ],
)
def test_a_raster_unlike_the_tiles_of_training_is_refused(tmp_path, state, changes, profile, flags, message):
    trained = save_checkpoint(tmp_path / "best.pt", state, metadata(images=IMAGES | changes))
    image = raster(tmp_path / "a.tif", noise(70, 70), **profile)
    if message is None:
        out, _ = map_it(image, trained, *flags)
        assert classes(out).shape == ((140, 140) if "--resample" in flags else (70, 70))
    else:
        with pytest.raises(UserError, match=message):
            map_it(image, trained, *flags)


def test_a_float_raster_is_refused_where_training_scaled_nothing(tmp_path, checkpoint):
    with pytest.raises(UserError, match=r"holds float32, the training tiles uint8"):
        map_it(raster(tmp_path / "a.tif", noise(70, 70, np.float32)), checkpoint)
    with pytest.raises(UserError, match=r"was trained on 8-bit tiles, so that no range is known"):
        map_it(raster(tmp_path / "a.tif", noise(70, 70, np.float32)), checkpoint, "--as-it-is")


def test_other_units_are_warned_of(tmp_path, state, capsys):
    stretch = {"kind": "train", "percentiles": [2, 98], "ranges": [[0.0, 0.5]] * 3}
    trained = of_type(tmp_path / "f.pt", state, "float32", stretch)
    predict_map.main(
        ["--image", str(raster(tmp_path / "a.tif", noise(70, 70, np.float32))), "--out", str(tmp_path / "map.tif")]
        + ["--checkpoint", str(trained), "--device", "cpu"]
    )
    assert "it seems to be in other units" in capsys.readouterr().err


def test_checkpoints_that_make_no_map_together_are_refused(tmp_path, state, checkpoint):
    image = raster(tmp_path / "a.tif", noise(70, 70))
    with pytest.raises(UserError, match=r"none.pt does not exist. Train it first"):
        map_it(image, tmp_path / "none.pt")
    other = save_checkpoint(tmp_path / "b.pt", state, metadata(images=IMAGES | {"bands": [3, 2, 1]}))
    flags = ("--image", image, "--out", tmp_path / "map.tif", "--device", "cpu", "--checkpoint")
    with pytest.raises(UserError, match=r"was trained on bands \[3, 2, 1\], .*best.pt on \[1, 2, 3\]"):
        quiet(predict_map.main, *flags, checkpoint, other)
    colors = BIODIVERSITY.to_json() | {"classes": ["Background", "A", "B", "C", "D", "E"], "from_openearthmap": None}
    colors["from_openearthmap"] = {name: {"A": 1.0} for name in OPENEARTHMAP.classes}
    other = save_checkpoint(tmp_path / "c.pt", state, metadata(taxonomy=colors))
    with pytest.raises(UserError, match=r"was trained for the classes .* they cannot make one map"):
        quiet(predict_map.main, *flags, checkpoint, other)
    unfinished = save_checkpoint(tmp_path / "d.pt", state, metadata(), training={"step": 1})
    with pytest.raises(UserError, match=r"is of an unfinished run. Finish it: .* --resume"):
        map_it(image, unfinished)


def test_without_checkpoint_the_last_stage_of_the_root_is_taken_or_that_of_its_folds(tmp_path, state):
    image = raster(tmp_path / "a.tif", noise(70, 70))
    flags = ("--root", tmp_path, "--image", image, "--device", "cpu")
    with pytest.raises(UserError, match=r"stage6_distill/seed42/best.pt does not exist. Train it first"):
        quiet(predict_map.main, *flags)
    run = "model_weights/biodiversity/stage6_distill/seed{}/best.pt"
    save_checkpoint(tmp_path / run.format(42), state, metadata())
    quiet(predict_map.main, *flags)
    record = tmp_path / "evaluation/map/map.json"
    assert len(json.loads(record.read_text())["checkpoints"]) == 1
    for fold in (1, 2):
        save_checkpoint(tmp_path / f"folds/{fold}" / run.format(41 + fold), state, metadata(seed=41 + fold))
    quiet(predict_map.main, *flags, "--overwrite")
    assert [one["seed"] for one in json.loads(record.read_text())["checkpoints"]] == [42, 43]


def test_a_dry_run_writes_nothing_and_says_what_it_would_take(tmp_path, checkpoint):
    before = sorted(tmp_path.iterdir())
    image = raster(tmp_path / "a.tif", noise(300, 130))
    out, said = map_it(image, checkpoint, "--dry-run")
    assert not out.exists() and sorted(tmp_path.iterdir()) == sorted([*before, image])
    assert "130 x 300 pixels, 3 bands of uint8" in said and "18 windows of 64 x 64 pixels, in 6 strips" in said
    assert "minutes on cpu" in said and " MB" in said


PEAK = """
import sys
import numpy as np
import torch
sys.path.insert(0, {here!r})
from evaluation import predict_map

class Grey(torch.nn.Module):
    def forward(self, images):
        logits = images.mean(dim=1, keepdim=True) * torch.arange(6.0)[None, :, None, None]
        logits[:, 0] = -1e4
        return logits

torch.set_num_threads(1)
import common.checkpoints
common.checkpoints.Checkpoint.build = lambda self: Grey()
predict_map.main(sys.argv[1:])
status = open("/proc/self/status").read()  # ru_maxrss is that of the parent, if it was larger
print("peak", status.partition("VmHWM:")[2].split()[0])
"""


def test_memory_does_not_grow_with_the_height_of_the_raster(tmp_path, checkpoint):
    here = str(Path(__file__).resolve().parents[2])
    peaks = []
    for height in (2048, 16_384):
        path = tmp_path / f"{height}.tif"
        raster(path, np.tile(noise(64, 64), (1, height // 64, 16)), tiled=True, compress="deflate")
        flags = ["--image", path, "--out", tmp_path / f"{height}_map.tif", "--checkpoint", checkpoint]
        flags += ["--window", 256, "--overlap", 64, "--device", "cpu", "--probabilities"]
        command = [sys.executable, "-c", PEAK.format(here=here), *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.rpartition("peak ")[2]))
    assert peaks[1] <= 1.1 * peaks[0], peaks  # kilobytes


def test_only_rows_and_columns_that_are_asked_for_are_read_and_the_first_by_name_wins(tmp_path):
    image = noise(100, 60)
    raster(tmp_path / "t/a.tif", image[:, :60])
    raster(tmp_path / "t/b.tif", 255 - image[:, 40:], origin=(ORIGIN[0], ORIGIN[1] - 80))
    with Raster(tmp_path / "t", [3, 2, 1]) as found:
        (pixels,), valid = found.read(30, 80, [Scaling(Reading((3, 2, 1)), None)])
    assert valid.all()
    np.testing.assert_array_equal(pixels[:, :30], image[::-1, 30:60])
    np.testing.assert_array_equal(pixels[:, 30:], 255 - image[::-1, 60:80])


def test_polygons_and_a_picture_are_written_with_the_map(tmp_path, checkpoint):
    image = raster(tmp_path / "a.tif", noise(150, 130))
    vector = tmp_path / "map.gpkg"
    out, said = map_it(image, checkpoint, "--vector", vector, "--min-area", 200)
    layer = pyogrio.raw.read(vector, layer="classes")
    polygons, areas = shapely.from_wkb(layer[2]), dict(zip(layer[0]["fields"], layer[3], strict=True))
    assert shapely.is_valid(polygons).all() and (shapely.area(polygons) >= 200).all()
    record = json.loads(out.with_suffix(".json").read_text())
    left_out = float(said.partition("left out: ")[2].partition(" metres, ")[2].split(" hectares")[0].replace(",", ""))
    assert areas["hectares"].sum() + left_out == pytest.approx(sum(record["square_metres"]) / 1e4, abs=0.01)
    with pytest.raises(UserError, match=r"map.gpkg exists. Replace it with --overwrite, or choose another"):
        map_it(image, checkpoint, "--vector", vector, out=tmp_path / "again.tif")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > picture.height


@pytest.mark.parametrize("shape", [(1, 1), (40, 3000), (3000, 40)])
def test_a_picture_of_a_map_of_any_shape_shows_raster_and_classes(tmp_path, checkpoint, shape):
    out, _ = map_it(raster(tmp_path / "a.tif", noise(*shape)), checkpoint, "--overlap", 0)
    with Image.open(out.with_suffix(".png")) as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 2


# Other bands than three


def test_a_map_of_four_bands_is_what_the_network_makes_of_them_in_the_order_of_training(tmp_path):
    torch.manual_seed(6)
    statistics = BandStatistics((0.4,) * 4, (0.2,) * 4)
    model = build_model(SMALL, 6, bands=statistics).eval()
    constants = EncoderConstants.installed(model.encoder).to_json()
    images = IMAGES | {"bands": [1, 2, 3, 4], "colors": ["red", "green", "blue", "undefined"]}
    path = tmp_path / "best.pt"
    save_checkpoint(path, model.state_dict(), metadata(images=images, encoder_constants=constants))
    pixels = np.concatenate([noise(64, 64), noise(64, 64, seed=1)[:1]])
    four = raster(tmp_path / "four.tif", pixels, photometric="RGB", alpha="no")
    out, said = map_it(four, path)
    wanted = predict_logits(model, torch.from_numpy(pixels)[None])[0].argmax(dim=0).numpy()
    np.testing.assert_array_equal(classes(out), wanted)
    assert json.loads(out.with_suffix(".json").read_text())["bands"] == [1, 2, 3, 4]
    assert "4 bands of uint8" in said
    turned = raster(tmp_path / "turned.tif", pixels[[3, 0, 1, 2]])
    again, _ = map_it(turned, path, "--bands", 2, 3, 4, 1, out=tmp_path / "again.tif")
    np.testing.assert_array_equal(classes(again), wanted)
    three = raster(tmp_path / "three.tif", pixels[:3])
    with pytest.raises(UserError, match=r"has 3 bands, but --bands 1 2 3 4 asks for band 4.*best.pt was trained on"):
        map_it(three, path, "--overwrite")
    with pytest.raises(UserError, match=r"--bands 1 2 3: .*best.pt was trained on the bands 1 2 3 4"):
        map_it(four, path, "--bands", 1, 2, 3, "--overwrite")


def test_a_raster_whose_colours_are_declared_in_another_order_is_told_with_its_other_bands(tmp_path):
    model = build_model(SMALL, 6, bands=BandStatistics((0.4,) * 4, (0.2,) * 4))
    constants = EncoderConstants.installed(model.encoder).to_json()
    images = IMAGES | {"bands": [1, 2, 3, 4], "colors": ["blue", "green", "red", "undefined"]}
    path = save_checkpoint(tmp_path / "b.pt", model.state_dict(), metadata(images=images, encoder_constants=constants))
    pixels = np.concatenate([noise(64, 64), noise(64, 64, seed=1)[:1]])
    four = raster(tmp_path / "four.tif", pixels, photometric="RGB", alpha="no")
    with pytest.raises(UserError, match=r"Give their order: --bands 3 2 1 4"):
        map_it(four, path)
    images |= {"colors": ["blue", "green", "red", "alpha"]}  # programs call a fourth band otherwise
    path = save_checkpoint(tmp_path / "c.pt", model.state_dict(), metadata(images=images, encoder_constants=constants))
    with pytest.raises(UserError, match=r"Give their order: --bands 3 2 1 4"):
        map_it(four, path)
