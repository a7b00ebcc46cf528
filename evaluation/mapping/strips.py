"""From rows of a raster to rows of a map: windows blended by probability, with memory for a strip of them.

A row of windows is finished down to the first pixel of the next one; so many rows are a strip. What windows share is
added up in their order, from left to right and from top to bottom, wherever one begins: a strip has the same bytes
whichever strips are made beside it.
"""

import itertools
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from common.inference import WindowAxis
from evaluation.mapping.networks import Networks, entropy_of
from evaluation.mapping.raster import Place, Scaling

STEPS = 254  # bytes of a layer run from 0 to this
NO_DATA = 255  # of a layer beside the map
LAYERS = ("confidence", "entropy", "disagreement", "probabilities")


class Source(Protocol):
    """A raster that is read by rows."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def place(self) -> Place: ...
    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """In metres, if it is known."""
        ...

    @property
    def raw_pixels(self) -> int:
        """Pixels that are read to see all of it."""
        ...

    def read(self, top: int, bottom: int, scalings: Sequence[Scaling]) -> tuple[list[np.ndarray], np.ndarray]:
        """As ``Raster.read``."""
        ...


class Strip(NamedTuple):
    """A strip of a map.

    ``layers``: by name uint8, ``classes`` (rows, width), others (rows, width) or (C - 1, rows, width). ``confidence``:
    the sum of the largest probabilities of pixels with data.
    """

    number: int
    layers: dict[str, np.ndarray]
    confidence: float


@dataclass(frozen=True)
class Plan:
    """Where the windows lie, and which layers are made beside the classes."""

    rows: WindowAxis
    columns: WindowAxis
    layers: tuple[str, ...] = ()
    batch: int = 1  # windows that go through a network at once, on a GPU

    @property
    def windows(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def strips(self) -> int:
        return len(self.rows.starts)

    def bounds(self, strip: int) -> tuple[int, int]:
        """The first row of a strip, and the first below it."""
        starts = [*self.rows.starts, self.rows.length]
        return starts[strip], starts[strip + 1]

    @property
    def overlap(self) -> int:
        """Most rows that two rows of windows share."""
        return max((self.rows.side - (b - a) for a, b in itertools.pairwise(self.rows.starts)), default=0)

    def first_needed(self, strip: int) -> int:
        """The first row of windows that reaches into a strip."""
        top = self.rows.starts[strip]
        return next(n for n, start in enumerate(self.rows.starts) if start + self.rows.side > top)


def to_bytes(shares: torch.Tensor) -> torch.Tensor:
    """Shares of 0 to 1 → uint8, rounded to the nearest of STEPS equal steps."""
    return shares.mul(STEPS).round_().clamp_(0, STEPS).to(torch.uint8)


def _unheard(windows: int) -> None:
    pass


class _Rows:
    """The rows of pixels that a row of windows needs; those that the next one needs too are kept."""

    def __init__(self, source: Source, scalings: Sequence[Scaling], plan: Plan) -> None:
        self._source, self._scalings, self._plan = source, scalings, plan
        self._images: list[np.ndarray] = []
        self._valid = np.zeros((0, source.width), bool)
        self._top = self._bottom = 0

    def move_to(self, number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Images, for each scaling (B, side, width) uint8, and (side, width) bool, for a row of windows."""
        top = self._plan.rows.starts[number]
        bottom = top + self._plan.rows.side
        begin = max(top, self._bottom)
        images, valid = self._source.read(begin, bottom, self._scalings)
        if begin > top:
            kept = top - self._top
            both = zip(self._images, images, strict=True)
            images = [np.concatenate([old[:, kept:], new], axis=1) for old, new in both]
            valid = np.concatenate([self._valid[kept:], valid])
        self._images, self._valid, self._top, self._bottom = images, valid, top, bottom
        return images, valid


class StripMaker:
    """Makes the strips of a map, one after the other."""

    def __init__(self, source: Source, networks: Networks, plan: Plan) -> None:
        self._source, self._networks, self._plan = source, networks, plan
        self._with_entropy = "disagreement" in plan.layers
        self._channels = networks.taxonomy.num_classes + self._with_entropy
        self._carry = torch.zeros(0)

    def strips(self, first: int, last: int, done: Callable[[int], None] = _unheard) -> Generator[Strip]:
        """Yield strips ``first`` to before ``last``; rows of pixels are read while the windows before are predicted.

        ``done`` is called with the number of windows as they are finished.
        """
        plan = self._plan
        rows = _Rows(self._source, self._networks.scalings, plan)
        begin = plan.first_needed(first)
        shares = plan.rows.shares()
        self._carry = torch.zeros(self._channels, plan.overlap, self._source.width, device=self._networks.device)
        carried = 0
        with ThreadPoolExecutor(1) as reader:
            ahead: Future = reader.submit(rows.move_to, begin)
            for number in range(begin, last):
                images, valid = ahead.result()
                if number + 1 < last:
                    ahead = reader.submit(rows.move_to, number + 1)
                top, bottom = plan.bounds(number)
                told = done if number >= first else _unheard
                layers, confidence = self._row(images, valid, shares[number], carried, bottom - top, told)
                carried = plan.rows.side - (bottom - top)
                if number >= first:
                    yield Strip(number, layers, confidence)

    def _row(
        self,
        images: list[np.ndarray],
        valid: np.ndarray,
        share: np.ndarray,
        carried: int,
        height: int,
        done: Callable[[int], None],
    ) -> tuple[dict[str, np.ndarray], float]:
        """The layers of a strip and the sum of its confidences, from a row of windows, of which it takes in ``height``.

        ``share``: (side,) of the row. ``carried``: rows that the windows above left in ``_carry``; what these leave
        takes their place.
        """
        columns = self._plan.columns
        starts, side = columns.starts, columns.side
        left_over = valid.shape[0] - height if height < valid.shape[0] and self._carry.shape[1] else 0
        layers = self._empty_layers(height, valid.shape[1])
        confidence = 0.0
        device = self._networks.device
        beside = torch.zeros(self._channels, valid.shape[0], 0, device=device)
        shares = columns.shares()
        for n, found in enumerate(self._predicted(images, valid)):
            width = (starts[n + 1] if n + 1 < len(starts) else valid.shape[1]) - starts[n]
            if found is None:
                blend = torch.zeros(self._channels, valid.shape[0], side, device=device)
            else:
                blend = found.mul_(torch.from_numpy(share[:, None] * shares[n]).to(device))
            blend[:, :, : beside.shape[2]] += beside
            beside = blend[:, :, width:]
            at = slice(starts[n], starts[n] + width)
            blend = blend[:, :, :width]
            blend[:, :carried] += self._carry[:, :carried, at]
            self._carry[:, :left_over, at] = blend[:, height : height + left_over]
            block = {name: layer[..., at] for name, layer in layers.items()}
            confidence += self._finish(blend[:, :height], valid[:height, at], block)
            done(1)
        return layers, confidence

    def _predicted(self, images: list[np.ndarray], valid: np.ndarray) -> Generator[torch.Tensor | None]:
        """Yield (C, side, side) float32 probabilities of each window of a row; None for one without data."""
        columns = self._plan.columns
        waiting: list[int | None] = []
        for start in [*columns.starts, None]:
            if start is not None:
                waiting.append(start if valid[:, start : start + columns.side].any() else None)
            with_data = [left for left in waiting if left is not None]
            if start is None or len(with_data) == self._plan.batch:
                found = iter(self._forward(images, with_data) if with_data else ())
                for left in waiting:
                    yield None if left is None else next(found)
                waiting = []

    def seconds_a_window(self) -> float:
        """How long a window in the middle of the raster takes, its reading and the first call of a network apart."""
        middle = self._plan.strips // 2
        top, side = self._plan.rows.starts[middle], self._plan.rows.side
        images, _ = self._source.read(top, top + side, self._networks.scalings)
        left = self._plan.columns.starts[len(self._plan.columns.starts) // 2]
        begun = 0.0
        for _ in range(2):
            begun = time.monotonic()
            self._forward(images, [left]).cpu()
        return time.monotonic() - begun

    def _forward(self, images: list[np.ndarray], lefts: list[int]) -> torch.Tensor:
        """(N, C, side, side) float32, with the mean entropy of the networks as last channel if it is asked for."""
        side = self._plan.columns.side
        windows = [torch.from_numpy(np.stack([image[:, :, left : left + side] for left in lefts])) for image in images]
        mean, entropy = self._networks.probabilities(windows, self._with_entropy)
        return mean if entropy is None else torch.cat([mean, entropy], dim=1)

    def _empty_layers(self, height: int, width: int) -> dict[str, np.ndarray]:
        layers: dict[str, np.ndarray] = {"classes": np.zeros((height, width), np.uint8)}
        for name in self._plan.layers:
            shape = (self._networks.taxonomy.num_classes - 1,) if name == "probabilities" else ()
            layers[name] = np.full((*shape, height, width), NO_DATA, np.uint8)
        return layers

    def _finish(self, blend: torch.Tensor, valid: np.ndarray, layers: dict[str, np.ndarray]) -> float:
        """Write the layers of a block of finished pixels; returns the sum of their confidence."""
        if not valid.any():
            return 0.0
        probabilities = blend[: self._networks.taxonomy.num_classes]
        largest, classes = probabilities.max(dim=0)
        made = {"classes": classes.to(torch.uint8)}
        most = np.log(self._networks.taxonomy.num_classes - 1)
        if "confidence" in layers:
            made["confidence"] = to_bytes(largest)
        if {"entropy", "disagreement"} & layers.keys():
            entropy = entropy_of(probabilities[None])[0, 0]
            if "entropy" in layers:
                made["entropy"] = to_bytes(entropy / most)
            if "disagreement" in layers:
                made["disagreement"] = to_bytes((entropy - blend[-1]) / most)
        if "probabilities" in layers:
            made["probabilities"] = to_bytes(probabilities[1:])
        for name, values in made.items():
            np.copyto(layers[name], values.cpu().numpy(), where=valid)
        sure = largest.cpu().numpy()
        return float(sure.sum(dtype=np.float64) if valid.all() else sure[valid].sum(dtype=np.float64))
