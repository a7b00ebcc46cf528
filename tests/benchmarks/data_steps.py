"""Item 5: every step of REPRODUCE_DATA.md on generated raw tiles, against plain reading and writing of its files.

Both include the start of Python with the libraries of the step.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from reproduction.documents import read_document
from tests.benchmarks.generated import write_biodiversity_raw, write_oem_raw
from tests.benchmarks.measuring import REPOSITORY, Figure, at_least, at_most, run_module
from tests.helpers import OEM_RAW

BIODIVERSITY_TILES, OEM_TILES = 2_300, 2_700
AUDITS = {"check_biodiversity", "check_leakage"}
BOUND_BY_PROCESSOR = {"check_biodiversity", "split_biodiversity", "filter_oem_rural", "relabel_oem", "check_leakage"}
SPLIT = "data/biodiversity_split"
# What each step reads and writes: globs below the root.
READS = {
    "split_biodiversity": ("data/biodiversity_raw/images/*.tif", "data/biodiversity_raw/masks/*.png"),
    "analyze_class_distribution": (f"{SPLIT}/train/manifest.json",),
    "replicate_minority": (f"{SPLIT}/train/manifest.json", "artifacts/class_distribution.json"),
    "filter_oem_rural": (f"{OEM_RAW}/*/images/*.tif", f"{OEM_RAW}/*/labels/*.tif"),
    "prepare_oem_teacher": ("data/openearthmap_filtered/manifest.json", f"{SPLIT}/train/manifest.json"),
    "relabel_oem": (
        *("data/openearthmap_filtered/manifest.json", f"{SPLIT}/train/manifest.json"),
        "data/openearthmap_filtered/masks/*.png",
    ),
    "combine_biodiversity_oem": (f"{SPLIT}/train/manifest.json", "data/openearthmap_relabelled/manifest.json"),
}
WRITES = {
    "split_biodiversity": [f"{SPLIT}/{split}" for split in ("train", "val", "test")],
    "analyze_class_distribution": [],  # a JSON file and a figure
    "replicate_minority": [f"{SPLIT}/train_rep"],
    "filter_oem_rural": ["data/openearthmap_filtered"],
    "prepare_oem_teacher": ["data/openearthmap_teacher/train", "data/openearthmap_teacher/val"],
    "relabel_oem": ["data/openearthmap_relabelled"],
    "combine_biodiversity_oem": ["data/biodiversity_oem_combined/train"],
}


def read(path: Path):
    if path.suffix == ".tif":
        with rasterio.open(path) as src:
            return src.read([1, 2, 3][: src.count]), src.profile
    if path.suffix == ".png":
        with Image.open(path) as image:
            return np.array(image)
    return json.loads(path.read_text())


def write(path: Path, content) -> None:
    if path.suffix == ".tif":
        pixels, profile = content
        with rasterio.open(path, "w", **profile) as dst:
            dst.write(pixels)
    elif path.suffix == ".png":
        Image.fromarray(content).save(path, compress_level=1)
    else:
        path.write_text(json.dumps(content, indent=1))


def plain_seconds(root: Path, step: str, scratch: Path) -> float:
    """Seconds that reading the inputs of a step and writing its outputs takes, without anything between them."""
    seconds = 0.0
    for glob in READS[step]:
        for path in sorted(root.glob(glob)):
            begin = time.perf_counter()
            read(path)
            seconds += time.perf_counter() - begin
    for folder in WRITES[step]:
        for path in sorted(p for p in (root / folder).rglob("*") if p.is_file()):
            target = scratch / path.name
            if path.stat().st_nlink > 1:
                begin = time.perf_counter()
                os.link(path, target)
            else:
                content = read(path)
                begin = time.perf_counter()
                write(target, content)
            seconds += time.perf_counter() - begin
            target.unlink()
    return seconds


def start_seconds(module: str) -> float:
    """Seconds that starting Python and importing the libraries of a step takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=REPOSITORY, check=True)
    return time.perf_counter() - begin


def measure(biodiversity: int = BIODIVERSITY_TILES, oem: int = OEM_TILES) -> list[Figure]:
    figures, times = [], {}
    with tempfile.TemporaryDirectory() as folder:
        root, scratch = Path(folder) / "root", Path(folder) / "scratch"
        scratch.mkdir()
        write_biodiversity_raw(root, biodiversity)
        write_oem_raw(root, oem)
        for step in read_document(REPOSITORY, "REPRODUCE_DATA.md"):
            name = step.module.split(".")[-1]
            flags = ("--root", root, *step.argv[3:])
            ended = run_module(step.module, *flags)
            times[name] = ended.seconds
            memory = f"{ended.peak_mib:.0f} MiB"
            if name in BOUND_BY_PROCESSOR:
                again = ("--overwrite",) if name not in AUDITS else ()
                two = run_module(step.module, *flags, *again, "--workers", 2).seconds
                detail = f"{ended.seconds:.1f} s and {two:.1f} s"
                figures.append(at_least("5", f"{name}: two workers : one", ended.seconds / two, 1.6, detail=detail))
            if name not in AUDITS:
                plain = start_seconds(step.module) + plain_seconds(root, name, scratch)
                detail = f"{ended.seconds:.1f} s and {plain:.1f} s, {memory}"
                figures.append(at_most("5", f"{name} : plain input and output", ended.seconds / plain, 1.5, "", detail))
            else:
                figures.append(Figure("5", f"{name} (an audit)", ended.seconds, "s", detail=memory))
    slowest = max(times, key=times.get)
    what = f"all steps, {biodiversity} and {oem} tiles, one worker"
    detail = f"slowest: {slowest}, {times[slowest]:.1f} s"
    return [*figures, Figure("5", what, sum(times.values()), "s", detail=detail)]
