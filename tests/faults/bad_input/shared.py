"""What the tables of bad input share: folders and commands by name, and what a case is."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common.tiles import Tile, TileSet
from tests.conftest import ARCH, ENCODER
from tests.faults.bad_input.files import Spoil
from tests.faults.harness import Ended, Scripts, changed_problem, copy_root, snapshot
from tests.helpers import made

RAW, SPLIT = Path("data/biodiversity_raw"), Path("data/biodiversity_split")
IMAGES, MASKS = RAW / "images", RAW / "masks"
IMAGE, MASK = IMAGES / "tile_1_1.tif", MASKS / "tile_1_1.png"  # of the raw tile that is spoilt
SIDE = 32  # pixels of a raw tile
CPU = ("--device", "cpu")
SMALL = (
    *("--preset", "demo", "--arch", ARCH, "--encoder", ENCODER, "--encoder-weights", "none"),
    *("--crop-size", "32", "--batch-size", "2"),
    *("--iterations", "1", "--val-every", "1", "--warmup", "1", "--workers", "0", *CPU),
)
AUDIT = "data_prep.check_biodiversity"
SPLITTING = "data_prep.split_biodiversity"
ANALYZE = "data_prep.analyze_class_distribution"
REPLICATE = "data_prep.replicate_minority"
FILTER = "data_prep.filter_oem_rural"
PREPARE_TEACHER = "data_prep.prepare_oem_teacher"
RELABEL = "data_prep.relabel_oem"
CHECK_LEAKAGE = "data_prep.check_leakage"
STAGE1 = "training.train_stage1_baseline"
STAGE6 = "training.train_stage6_distill"
SCORE = "training.score_difficulty"
METRICS = "evaluation.compute_metrics"
PREDICT = "evaluation.plot_predictions"


@dataclass(frozen=True)
class Case:
    """One fault and what the command must do.

    ``spoil`` changes a copy of the root ``base``, whose checkpoints are links: it replaces them and never writes to
    them. The command ``module`` with ``flags`` (in which {root} is the copy) must end with ``status`` and its message
    must hold all of ``words`` (in which {root} is the copy as a shell needs it); where it is refused nothing may be
    written but what lies below ``writes``. ``holds`` says what is wrong with the root after a command that must
    succeed. ``first`` are commands that run before it and must succeed. Cases that are ``quick`` run in the test suite,
    all in ``inject``.
    """

    name: str
    base: str
    spoil: Spoil
    module: str
    words: tuple[str, ...]
    flags: tuple[str, ...] = ()
    status: int = 2
    writes: tuple[str, ...] = ()
    holds: Callable[[Path, Ended], str | None] | None = None
    first: tuple[tuple[str, ...], ...] = ()
    root_name: str = "root"
    quick: bool = True

    def problem(self, roots: dict[str, Path], script: Scripts, folder: Path) -> str | None:
        """What went wrong with this case, None where all is as promised; ``folder`` is a new one to work in."""
        root = copy_root(roots[self.base], folder / self.root_name, linked=(".pt",))
        self.spoil(root)
        for module, *flags in self.first:
            ended = script(module, "--root", root, *flags)
            if ended.status:
                return f"{module} ended with {ended.status}: {ended.err[-500:]}"
        before = snapshot(root)
        ended = script(self.module, "--root", root, *(flag.replace("{root}", str(root)) for flag in self.flags))
        words = [text.replace("{root}", shlex.quote(str(root))) for text in self.words]
        if self.status == 0:
            return self._not_handled(root, ended, words)
        return changed_problem(ended, root, before, *words, writes=self.writes)

    def _not_handled(self, root: Path, ended: Ended, words: list[str]) -> str | None:
        if ended.status or "Traceback" in ended.err:
            return f"exit status {ended.status}, expected 0: {ended.err[-500:]}"
        lacking = [text for text in words if text not in ended.out + ended.err]
        if lacking:
            return f"its words lack {lacking}: {ended.out[-500:]} {ended.err[-500:]}"
        left = [path for path in snapshot(root) if path.endswith((".partial", ".replaced"))]
        return f"it left {left}" if left else self.holds(root, ended) if self.holds else None


def refusals(base: str, path: Path | str, module: str, rows: Iterable[tuple], *also: str, **more) -> list[Case]:
    """Cases of rows: name, what is done to ``path`` below the root, words of the message beside those of ``also``."""
    return [Case(name, base, at(path, spoil), module, (*words, *also), **more) for name, spoil, *words in rows]


def raw_refusals(path: Path | str, rows: Iterable[tuple]) -> list[Case]:
    """Raw tiles that split_biodiversity refuses, pointing at the audit and --exclude."""
    return refusals("raw", path, SPLITTING, rows, "cannot be used", "--exclude", AUDIT)


def handled(name: str, spoil: Spoil, *words: str, base="raw", module=SPLITTING, first=None, **more) -> Case:
    """A case that must succeed; raw tiles are audited before they are split, unless ``first`` says otherwise."""
    audited = ((AUDIT, "--skip-suspicious"),) if module == SPLITTING else ()
    return Case(name, base, spoil, module, words, status=0, first=audited if first is None else first, **more)


def nothing(path: Path) -> None:
    pass


def at(path: Path | str, spoil: Spoil) -> Spoil:
    """Spoils what lies there below a folder."""
    return lambda folder: spoil(folder / path)


def each(spoil: Spoil) -> Spoil:
    """Spoils all that a folder holds."""
    return lambda folder: [spoil(path) for path in sorted(folder.iterdir())]


def image(root: Path, name: str) -> Path:
    return root / IMAGES / f"{name}.tif"


def mask(root: Path, name: str) -> Path:
    return root / MASKS / f"{name}.png"


def split_tiles(root: Path) -> dict[str, Tile]:
    """The tiles of train, val and test by id."""
    sets = [TileSet.open(made(root / SPLIT / name, "python")) for name in ("train", "val", "test")]
    return {tile.id: tile for tiles in sets for tile in tiles}


def kept(*names: str) -> Callable[[Path, Ended], str | None]:
    """Checks that the split has the tiles of these names."""

    def check(root: Path, _) -> str | None:
        lacking = set(names) - split_tiles(root).keys()
        return f"the split lacks {lacking}" if lacking else None

    return check
