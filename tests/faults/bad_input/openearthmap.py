"""The OpenEarthMap archive: regions, images and labels that are missing, damaged or not what they should be."""

import shutil
from pathlib import Path

import numpy as np

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import FILTER, at, each, handled, refusals
from tests.faults.harness import Ended
from tests.helpers import OEM_RAW

AGAIN = "Unpack the archive again"
REGIONS = [
    ("OEM region without any folder", at("lake", Path.mkdir), "lake has neither", "--in-dir"),
    ("OEM without regions", each(shutil.rmtree), "holds no region", "--in-dir"),
    ("OEM folder missing", shutil.rmtree, "OpenEarthMap_wo_xBD does not exist", "--in-dir"),
    ("OEM region that is a link in a circle", at("lake", files.link("lake")), "lake: is a link"),
    (
        "OEM labels folder that is a link to nowhere",
        at("hills/labels", files.link("gone")),
        "hills/labels: is a link to gone",
    ),
]
IMAGES = [
    ("OEM truncated image", lambda path: files.cut(path, 0.3), "images/hills_1.tif", "cannot be read (", AGAIN),
    ("OEM image of floats", files.repaint(lambda pixels: pixels.astype(np.float32)), "holds float32", AGAIN),
    ("OEM image of two bands", files.repaint(lambda pixels: pixels[:2]), "hills_1.tif: has 2 bands", AGAIN),
    ("OEM link that leads nowhere", files.link("gone.tif"), "images/hills_1.tif: is a link to gone.tif"),
    ("OEM newline in a name", files.rename("a\nb.tif"), "a\\nb.tif", "Rename"),
    (
        "OEM metres called degrees",
        files.repaint(crs="EPSG:4326"),
        "images/hills_1.tif",
        "EPSG:4326",
        "rio edit-info",
    ),
    ("OEM two images of one stem", files.copy_as(".TIF"), "hills_1.TIF", "several files are called hills_1"),
]


def write_image_over(label: Path) -> None:
    shutil.copyfile(label.parents[1] / "images" / label.name, label)


LABELS = [
    (
        "OEM id 9",
        files.repaint(lambda ids: np.full_like(ids, 9)),
        "labels/hills_1.tif: ids 9 are not classes, expected 0-8",
    ),
    ("OEM label of zero bytes", files.rewrite(b""), "hills_1.tif"),
    (
        "OEM label of another size",
        files.repaint(lambda ids: ids[:, 1:]),
        "labels/hills_1.tif: is 64 x 63 pixels, its image 64 x 64",
    ),
    ("OEM label in colours", write_image_over, "labels/hills_1.tif: has colours that stand for no class"),
]


def images_without_label_are_counted(root: Path, ended: Ended) -> str | None:
    counts = "hills      0        0                    0                    6"
    return None if counts in ended.out else f"its images are not counted as images without label: {ended.out}"


CASES = [
    *refusals("oem", OEM_RAW, FILTER, REGIONS),
    *refusals("oem", OEM_RAW / "hills/images/hills_1.tif", FILTER, IMAGES),
    *refusals("oem", OEM_RAW / "hills/labels/hills_1.tif", FILTER, LABELS, AGAIN),
    handled(
        "OEM region without labels folder",
        at(OEM_RAW / "hills/labels", shutil.rmtree),
        "hills",
        base="oem",
        module=FILTER,
        holds=images_without_label_are_counted,
    ),
]
