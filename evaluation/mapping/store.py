"""The strips of a map on disk, until it is whole: each a file of its own, so that a run can go on and be shared."""

import io
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import digest_json, json_text, read_json, write_files
from common.inputs import Command, Input
from evaluation.mapping.strips import Strip
from evaluation.scoring.results import read_arrays

PLAN = "plan.json"
CONFIDENCE = "sum_of_confidence"


class StripStore:
    """A folder beside the map that gets its strips; the map is written from it, and it goes.

    Several processes may write into one, each its own strips.
    """

    def __init__(self, out: Path, plan: dict, command: Command) -> None:
        """Take the folder of a map.

        Args:
            out: the map.
            plan: all that the bytes of the map depend on, in plain JSON values; ``layers`` among them.
            command: of this run.
        """
        self.path = out.with_name(f".{out.name}.strips")
        self._plan, self._command = plan, command

    def _strip(self, number: int) -> Path:
        return self.path / f"strip_{number:06d}.npz"

    def part(self, part: tuple[int, int]) -> Path:
        """What a process that makes a part of the map holds meanwhile."""
        return self.path.with_name(f"{self.path.name}.part{part[0]}of{part[1]}")

    def open(self, go_on: bool, overwrite: bool) -> None:
        """Make the folder, or go on with the one that is there.

        Raises:
            UserError: it is there and neither ``go_on`` nor ``overwrite``, or it is of another plan.
        """
        record = Input(self.path / PLAN, self._command)
        if self.path.exists():
            if overwrite:
                self.remove()
            elif not go_on:
                again = self._command.resumed()
                raise UserError(f"{self.path} holds part of a map. Go on: {again}; or begin anew with --overwrite.")
            elif record.path.is_file() and digest_json(read_json(record)) != digest_json(self._plan):
                raise UserError(
                    f"{self.path} was begun with another {', '.join(self._differences(read_json(record)))}. Give the "
                    "same again, or begin anew with --overwrite."
                )
        write_files({record.path: json_text(self._plan)})

    def _differences(self, before: dict) -> list[str]:
        keys = sorted(self._plan.keys() | before.keys())
        return [key for key in keys if self._plan.get(key) != before.get(key)]

    def missing(self, strips: Iterable[int]) -> list[int]:
        """Those of the strips that are not there."""
        return [number for number in strips if not self._strip(number).is_file()]

    def write(self, strip: Strip) -> None:
        """Write a strip, whole or not at all."""
        content = io.BytesIO()
        arrays: dict[str, Any] = {**strip.layers, CONFIDENCE: np.float64(strip.confidence)}
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:  # numpy takes 6
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asanyarray(array))
        write_files({self._strip(strip.number): content.getvalue()})

    def read(self, number: int) -> Strip:
        """A strip that was written; UserError where it is damaged."""
        names = [*self._plan["layers"], CONFIDENCE]
        layers = dict(zip(names, read_arrays(Input(self._strip(number), self._command), names), strict=True))
        return Strip(number, layers, float(layers.pop(CONFIDENCE)))

    def remove(self) -> None:
        shutil.rmtree(self.path)
