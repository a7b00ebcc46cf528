"""Map a raster with what others offer for it, in an environment of their own that has the torch of this one.

    python map_peers.py REPORT geoai|torchgeo RASTER OUT
    python map_peers.py REPORT torch                      only what torch and the network take

tests.benchmarks.map starts it. It is a file of its own, which needs nothing of this project, so that no memory of the
project counts as theirs. All map with windows of the same size and overlap, one at a time, by the same network.
"""

import json
import re
import sys
import time
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

WINDOW, OVERLAP = 1024, 256
PALETTE = ((58, 92, 44), (128, 142, 70), (176, 158, 118), (64, 92, 124), (206, 200, 192))  # of classes 1 to 5
SHARPNESS = 40.0


def small_network() -> nn.Module:
    """One convolution that finds the colour of PALETTE nearest to a pixel; class 0 is silent."""
    colours = torch.tensor(PALETTE) / 255
    layer = nn.Conv2d(3, 1 + len(PALETTE), 1).requires_grad_(False)
    layer.weight[0], layer.bias[0] = 0, -1e4
    layer.weight[1:, :, 0, 0], layer.bias[1:] = 2 * SHARPNESS * colours, -SHARPNESS * (colours**2).sum(dim=1)
    return layer.eval()


def peak_mib() -> float:
    """The largest resident memory that this process has had."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def bare_seconds(network: nn.Module, raster: Path) -> float:
    """Seconds in which the network sees each window of a raster, which is in memory by then, and nothing else."""
    import rasterio

    seconds = 0.0
    with rasterio.open(raster) as src, torch.no_grad():
        for rows, columns in ((a, b) for a in spans(src.height) for b in spans(src.width)):
            window = torch.from_numpy(src.read(window=(rows, columns)))[None].float() / 255
            begin = time.perf_counter()
            network(window)
            seconds += time.perf_counter() - begin
    return seconds


def spans(length: int) -> list[tuple[int, int]]:
    """First and last pixel of the windows along a side: as many as all three take, the last one drawn back."""
    last = max(length - WINDOW, 0)
    return [(start, min(start + WINDOW, length)) for start in [*range(0, last, WINDOW - OVERLAP), last]]


def with_geoai(network: nn.Module, raster: Path, out: Path) -> None:
    from geoai.inference import predict_geotiff

    predict_geotiff(
        network, str(raster), str(out), tile_size=WINDOW, overlap=OVERLAP, batch_size=1, num_classes=1 + len(PALETTE),
        output_dtype="uint8", output_nodata=0, postprocess_fn=lambda scores: scores.argmax(axis=0), device="cpu",
        compress="deflate", verbose=False,
    )  # fmt: skip


def with_torchgeo(network: nn.Module, raster: Path, out: Path) -> None:
    """A grid of windows, their logits added up and divided by how many there are at a pixel.

    Its windows are laid from the lower left corner, and those of the last row and column may reach beyond the raster.
    """
    import numpy as np
    import rasterio
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    dataset = RasterDataset(str(raster))
    sampler = GridGeoSampler(dataset, size=WINDOW, stride=WINDOW - OVERLAP)
    with rasterio.open(raster) as src:
        profile, (left, top), size = src.profile, (src.bounds.left, src.bounds.top), src.res
    total = np.zeros((1 + len(PALETTE), profile["height"], profile["width"]), np.float32)
    count = np.zeros(total.shape[1:], np.float32)
    with torch.no_grad():
        for batch in DataLoader(dataset, batch_size=1, sampler=sampler, collate_fn=stack_samples):
            for logits, (x, y, _) in zip(network(batch["image"] / 255).numpy(), batch["bounds"], strict=True):
                row, column = round((top - y.stop) / size[1]), round((x.start - left) / size[0])
                at = slice(max(row, 0), row + WINDOW), slice(column, column + WINDOW)
                inside = total[:, *at]
                inside += logits[:, max(-row, 0) :][:, : inside.shape[1], : inside.shape[2]]
                count[at] += 1
    total /= count
    profile.update(count=1, nodata=0, compress="deflate")
    with rasterio.open(out, "w", **profile) as dst:
        dst.write(total.argmax(axis=0).astype(np.uint8), 1)


def main() -> None:
    report, peer, *paths = sys.argv[1:]
    network = small_network()
    if peer == "torch":
        found = {"peak_mib": peak_mib()}
    else:
        raster, out = map(Path, paths)
        if peer == "geoai":  # which imports it for what is not used here; it brings 80 packages
            sys.modules["leafmap"] = ModuleType("leafmap")
            import geoai.inference
            import geoai.utils  # noqa: F401
        else:
            import torchgeo.datasets
            import torchgeo.samplers  # noqa: F401
        begin = time.perf_counter()
        {"geoai": with_geoai, "torchgeo": with_torchgeo}[peer](network, raster, out)
        seconds = time.perf_counter() - begin
        found = {"seconds": seconds, "peak_mib": peak_mib(), "bare": bare_seconds(network, raster)}
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
