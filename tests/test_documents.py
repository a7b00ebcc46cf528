"""What the documents tell a user to type is what the scripts accept."""

import importlib
import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoints import Checkpoint
from common.inference import predict_logits
from common.rasters import open_raster
from common.raw_images import Reading
from data_prep.raw.files import RawTile
from data_prep.split_biodiversity import write_tile
from reproduction.documents import DOCUMENTS as STEPS_IN
from reproduction.documents import REPOSITORY, read_blocks, read_steps
from tests.helpers import made, save_checkpoint, write_tif
from tests.small_sets import split_sets

DOCUMENTS = (
    *("README.md", *STEPS_IN, "CONTRIBUTING.md", "CHANGELOG.md", "model_weights/README.md"),
    *(f"tests/{folder}/README.md" for folder in ("faults", "mutants")),
)
README_LINES = 130
FIRST_COMMAND_BY = 25  # the line of a REPRODUCE file by which a reader finds something to paste
FENCES_TO_TYPE = ("bash", "console")


def documented_commands():
    """(document, module, flags) of each command that starts a script of this repository, in any fenced block."""
    for document in DOCUMENTS:
        path = REPOSITORY / document
        blocks = read_blocks(path.read_text("utf-8")) if path.exists() else []
        text = "\n".join(block for kind, _, block in blocks if kind in FENCES_TO_TYPE)
        for line in text.replace("\\\n", " ").splitlines():
            if re.search(r"\b(python|torchrun) ", line):
                yield from ((document, *command) for command in plain_commands(line))


def plain_commands(line: str):
    """Yield (module, flags) of each ``... -m package.module flags`` and ``python reproduce.py flags`` of a line."""
    line = re.sub(r"\$\{?\w+\}?", "1", line.removeprefix("$ "))  # the variable of a loop over seeds
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    for is_separator, command in itertools.groupby(words, key=lambda word: set(word) <= set(";|&<>()")):
        command = tuple(command)
        for k, (before, word) in enumerate(itertools.pairwise(command), 2):
            if not is_separator and (before == "-m" and "." in word or word == "reproduce.py"):
                yield word.removesuffix(".py"), command[k:]
                break


def test_commands_are_found_in_loops_and_launchers():
    line = "for s in 1 2; do python -m a.b --seed $s | tee x; done  # python -m no.comment"
    assert list(plain_commands(line)) == [("a.b", ("--seed", "1"))]
    assert list(plain_commands("$ torchrun --nproc_per_node 2 -m a.b --x")) == [("a.b", ("--x",))]
    assert list(plain_commands("python reproduce.py --list")) == [("reproduce", ("--list",))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_exists_and_is_well_formed(document):
    assert list(read_blocks((REPOSITORY / document).read_text("utf-8")))


@pytest.mark.parametrize(("document", "module", "flags"), sorted(set(documented_commands())))
def test_documented_command_parses(document, module, flags, capsys):
    try:
        importlib.import_module(module).parse_args(flags)
    except SystemExit as stopped:
        asked_for_help = stopped.code == 0 and "--help" in flags
        assert asked_for_help, f"{document}: {module} {shlex.join(flags)}: {capsys.readouterr().err}"


def test_each_reproduce_document_has_steps_that_reproduce_py_reads():
    steps = read_steps(REPOSITORY)
    assert {step.document for step in steps} == set(STEPS_IN)


def test_there_is_one_version():
    texts = {name: (REPOSITORY / name).read_text("utf-8") for name in ("CITATION.cff", "CHANGELOG.md")}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    assert re.search(r"^version: (\S+)$", texts["CITATION.cff"], re.M)[1] == project["version"]
    version, date = re.search(r"^## (\S+) — (\S+)$", texts["CHANGELOG.md"], re.M).groups()
    assert version == project["version"]
    assert re.search(r'^date-released: "(\S+)"$', texts["CITATION.cff"], re.M)[1] == date


def test_make_targets_in_the_documents_exist():
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for document in DOCUMENTS:
        for kind, _, block in read_blocks((REPOSITORY / document).read_text("utf-8")):
            named = re.findall(r"^(?:\$ )?make ([a-z-]+)", block, re.M) if kind in FENCES_TO_TYPE else []
            assert set(named) <= targets, f"{document} names {sorted(set(named) - targets)}"


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("document", STEPS_IN)
def test_a_reproduce_document_begins_with_the_commands_of_its_steps_in_order(document):
    blocks = read_blocks((REPOSITORY / document).read_text("utf-8"))
    start, first = next((line, block) for kind, line, block in blocks if kind in FENCES_TO_TYPE)
    assert start < FIRST_COMMAND_BY
    listed = [shlex.split(line, comments=True) for line in first.splitlines()]
    assert listed == [step.argv for step in read_steps(REPOSITORY) if step.document == document]


def test_the_numbers_in_a_list_of_commands_are_those_of_the_steps():
    for document in STEPS_IN:
        blocks = read_blocks((REPOSITORY / document).read_text("utf-8"))
        first = next(block for kind, _, block in blocks if kind in FENCES_TO_TYPE)
        numbers = [int(line.partition("#")[2].split()[0]) for line in first.splitlines()]
        assert numbers == list(range(1, len(numbers) + 1)), document


def tree() -> set[str]:
    """The paths of the tree in CONTRIBUTING.md, folders without their slash."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    block = next(block for kind, _, block in read_blocks(text) if kind == "" and "REPRODUCE_DATA.md" in block)
    paths, folder = set(), ""
    for line in block.splitlines():
        name = line.split()[0]
        path = folder + name if line.startswith(" ") else name
        folder = name if name.endswith("/") and not line.startswith(" ") else folder
        paths.add(path.rstrip("/"))
    return paths


def test_the_tree_is_true():
    there = {path for path in tree() if (REPOSITORY / path).exists()}
    assert tree() - there == set()
    packages = ("data_prep", "training", "evaluation", "common", "reproduction")
    modules = {f"{p}/{path.name}" for p in packages for path in (REPOSITORY / p).glob("*.py")}
    rooms = {f"{p}/{path.parent.name}" for p in packages for path in (REPOSITORY / p).glob("*/__init__.py")}
    assert {path for path in modules if not path.endswith("__init__.py")} | rooms <= tree()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_links_to_exist_and_nothing_is_left_to_fill_in(document):
    path = REPOSITORY / document
    text = path.read_text("utf-8")
    assert "PUT_" not in text
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def anchors(path: Path) -> set[str]:
    """What a link to a heading of a document can name after #, as GitHub makes it."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_headings_that_a_document_links_to_exist(document):
    path = REPOSITORY / document
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text("utf-8"))
    missing = [(file, anchor) for file, anchor in links if anchor not in anchors(path.parent / file if file else path)]
    assert missing == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["demo", "evidence"])
def test_make_ends_by_naming_the_report(target):
    command = ["make", "--no-print-directory", "-n", target]  # which a make that runs the tests would have printed
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "demo/evaluation/evaluation_results/val/report.html" in said.stdout.splitlines()[-1]
    assert "reproduce.py --root 'demo' --preset demo" in said.stdout


def python_of(document: str) -> str:
    """What a user pastes from a document into Python."""
    blocks = read_blocks((REPOSITORY / document).read_text("utf-8"))
    return "\n".join(block for kind, _, block in blocks if kind == "python")


# What becomes of a val tile in the file of a sensor, and how the network's training tiles were scaled to 8 bit.
SENSORS = {
    "8 bit": (lambda image: image, None),
    "alike": (lambda image: image * np.float32(0.01) - 1, {"kind": "train", "ranges": [[-0.9, 1.1], [-1, 1], [0, 1]]}),
    "each": (lambda image: image.astype(np.uint16) * 20 + 50, {"kind": "tile", "ranges": None}),
}


@pytest.mark.parametrize("sensor", SENSORS)
def test_the_python_of_the_documents_gives_what_evaluation_gives(trained, tmp_path, monkeypatch, sensor):
    as_recorded, stretch = SENSORS[sensor]
    path = "model_weights/biodiversity/stage6_distill/seed42/best.pt"
    checkpoint = Checkpoint.load(made(trained / path))
    tile = split_sets(trained)[1].tiles[0]
    with torch.inference_mode():  # after two steps it predicts one class alone: shift the outputs until several win
        logits = predict_logits(checkpoint.build().eval(), torch.from_numpy(tile.read_image())[None])
    checkpoint.state["segmentation_head.0.0.bias"] -= logits.mean(dim=(0, 2, 3))
    save_checkpoint(tmp_path / path, checkpoint.state, checkpoint.metadata | {"stretch": stretch})
    write_tif(tmp_path / "new.tif", as_recorded(tile.read_image()))
    split = (tmp_path / "image.tif", tmp_path / "mask.png")
    raw = RawTile("new", tmp_path / "new.tif", tile.mask_path)
    write_tile((raw, *split, ()), reading=Reading((1, 2, 3)), stretch=stretch, mode="copy", num_classes=6)
    with open_raster(split[0]) as src, torch.inference_mode():
        logits = predict_logits(checkpoint.build().eval(), torch.from_numpy(src.read())[None])

    monkeypatch.chdir(tmp_path)
    said = {}
    for document in DOCUMENTS:
        exec(compile(python_of(document), document, "exec"), said)
    expected = logits[0].argmax(dim=0)
    assert len(expected.unique()) > 1 and torch.equal(said["ids"], expected)
