"""Checkpoints that cannot be read, hold code, or are not those that a script goes on from; nothing in them is run."""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch

from common.taxonomy import BIODIVERSITY
from tests.faults.bad_input import files
from tests.faults.bad_input.shared import CPU, METRICS, SCORE, SMALL, STAGE1, STAGE6, Case, nothing, refusals
from tests.faults.harness import Bomb
from tests.helpers import THREE_CLASSES

STAGE2, STAGE5A = "training.train_stage2_replication", "training.train_stage5a_pretrain"
STAGE5B, TEACHER = "training.train_stage5b_finetune", "training.train_teacher"
STAGE2_LAST = Path("model_weights/biodiversity/stage2_replication/seed42/last.pt")
STAGE5A_LAST = Path("model_weights/biodiversity/stage5a_pretrain/seed42/last.pt")
TEACHER_LAST = Path("model_weights/openearthmap/teacher/seed42/last.pt")


def save(content: object) -> files.Spoil:
    """Saves a checkpoint into a file of its own."""
    return lambda path: (path.unlink(), torch.save(content, path))


def edit(part: str, change: Callable[[dict], object]) -> files.Spoil:
    def spoil(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content[part])
        save(content)(path)

    return spoil


def metadata(**changes) -> files.Spoil:
    return edit("metadata", lambda entries: entries.update(changes))


def lacking(text: str, *keys: str) -> list[tuple]:
    return [
        (f"{text} that does not say its {key}", edit("metadata", lambda entries, key=key: entries.pop(key)), key)
        for key in keys
    ]


def with_bomb(path: Path) -> dict:
    """What a checkpoint holds, but for the file ``exploded`` that appears beside it where it is loaded as pickle."""
    return {"model": {}, "metadata": Bomb(path.with_name("exploded")), "training": None}


def bomb(path: Path) -> None:
    save(with_bomb(path))(path)


def bare_bomb(path: Path) -> None:
    """A bomb as pickle writes it, not as torch does."""
    files.rewrite(pickle.dumps(with_bomb(path)))(path)


def take_other_stage(path: Path) -> None:
    files.rewrite((path.parents[2] / "stage5a_pretrain/seed42/last.pt").read_bytes())(path)


TO_SCORE = [
    ("truncated checkpoint", files.cut, "cannot be read as a checkpoint"),
    ("checkpoint of zero bytes", files.rewrite(b""), "cannot be read"),
    ("checkpoint that is text", files.rewrite(b"no"), "cannot be read"),
    ("checkpoint that is missing", Path.unlink, "does not exist"),
    ("checkpoint that is a folder", files.empty_folder),
    ("checkpoint that is a link in a circle", files.link("last.pt")),
    ("checkpoint that is a list", save([1]), "not a checkpoint of this project"),
    ("pickle bomb to score with", bomb, "cannot be read"),
    ("bare pickle bomb to score with", bare_bomb, "cannot be read"),
    (
        "checkpoint of another stage",
        take_other_stage,
        "is of stage5a_pretrain with seed 42, expected stage2_replication with seed 42",
    ),
    ("checkpoint of another seed", metadata(seed=7), "with seed 7, expected"),
    ("checkpoint of another architecture", metadata(encoder="resnet18"), "does not fit this network"),
    ("checkpoint of an unknown architecture", metadata(arch="mynet"), "mynet"),
    ("checkpoint scored on other tiles than it saw", metadata(train={"digest": "other"}), "other tiles"),
    ("checkpoint that lacks a tensor", edit("model", lambda model: model.popitem()), "1 tensors are missing"),
    (
        "checkpoint with numbers for tensors",
        edit("model", lambda model: model.update(dict.fromkeys(model, 1))),
        "other things than tensors",
    ),
    *lacking("checkpoint to score with", "train"),
]
TO_START_FROM = [
    ("pickle bomb to start from", bomb, "cannot be read"),
    ("checkpoint of another taxonomy", metadata(taxonomy=THREE_CLASSES.to_json()), "was trained for Nothing, Wet"),
    ("checkpoint with a broken taxonomy", metadata(taxonomy=[1]), "taxonomy"),
    ("checkpoint of another split", metadata(val={"digest": "other"}), "another split"),
    ("checkpoint with a list for its val", metadata(val=[1]), "val"),
    (
        "checkpoint with a NaN tensor",
        edit("model", lambda model: next(iter(model.values())).fill_(torch.nan)),
        "not finite",
    ),
    *lacking("checkpoint", "val"),
]
MORE_TO_START_FROM = lacking("checkpoint", "stage", "taxonomy", "ancestors", "step", "stretch")
TEACHERS = [
    ("pickle bomb as teacher", bomb, "cannot be read"),
    ("teacher in other classes", metadata(taxonomy=BIODIVERSITY.to_json()), "not trained in the OpenEarthMap classes"),
]
WEIGHTS = [
    ("pickle bomb as encoder weights", bomb, "holds objects of Python", "torch.save(model.state_dict(), FILE)"),
    ("cut safetensors file as encoder weights", files.rewrite(b"\x60" + bytes(7) + b'{"a": {'), "cannot be read"),
]
MORE_WEIGHTS = [
    (
        "encoder weights that lack a tensor",
        edit("model", lambda model: model.pop(next(iter(model)))),
        "does not fit this encoder",
        "lacks 1 of its",
    ),
    (
        "encoder weights with a NaN tensor",
        edit("model", lambda model: next(iter(model.values())).fill_(torch.nan)),
        "not finite",
    ),
]
WEIGHTS_FLAGS = ("--encoder-weights", f"{{root}}/{STAGE2_LAST}")
TO_RESUME = ("pickle bomb to resume", bomb, "cannot be read")
TO_EVALUATE = (
    "pickle bombs to evaluate",
    lambda path: (bomb(path), bomb(path.with_name("best.pt"))),
    "best.pt cannot be read",
)
OTHER_ENCODER = ("checkpoint to start from, of another encoder than asked for", nothing, "does not fit this network")


def refused(path: Path, module: str, remedy: str, *rows: tuple, flags: tuple[str, ...] = (), **more) -> list[Case]:
    """Cases of rows for one checkpoint and the script that reads it, whose message names both ``remedy`` and path."""
    needed = {SCORE: (*CPU, "--overwrite"), METRICS: CPU}.get(module, SMALL)
    return refusals("trained", path, module, rows, path.as_posix(), remedy, flags=(*needed, *flags), **more)


CASES = [
    *refused(STAGE2_LAST, SCORE, STAGE2, *TO_SCORE),
    *refused(STAGE2_LAST, SCORE, STAGE2, *lacking("checkpoint to score with", "encoder"), quick=False),
    *refused(STAGE5A_LAST, STAGE5B, STAGE5A, *TO_START_FROM),
    *refused(STAGE5A_LAST, STAGE5B, STAGE5A, *MORE_TO_START_FROM, quick=False),
    *refused(STAGE5A_LAST, STAGE5B, "--encoder", OTHER_ENCODER, flags=("--encoder", "resnet18")),
    *refused(STAGE2_LAST, STAGE2, "--overwrite", TO_RESUME, flags=("--resume",)),
    *refused(STAGE2_LAST, STAGE1, "--encoder-weights", *WEIGHTS, flags=WEIGHTS_FLAGS),
    *refused(STAGE2_LAST, STAGE1, "--encoder-weights", *MORE_WEIGHTS, flags=WEIGHTS_FLAGS, quick=False),
    *refused(STAGE2_LAST, METRICS, "train_stage2_replication", TO_EVALUATE, flags=("--stages", "stage2_replication")),
    *refused(TEACHER_LAST, STAGE6, TEACHER, *TEACHERS),
]
