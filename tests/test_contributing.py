"""The stage that CONTRIBUTING.md adds: its edits, made in a copy of the tree, train and are scored."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduction.documents import read_blocks
from tests.conftest import TRAIN_FLAGS
from tests.helpers import ONE_THREAD, REPOSITORY
from tests.mutants.run import copy_tree

STAGE, COMPARED_WITH = "stage7_rare_tiles", "stage2_replication"


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a language in the section that adds a stage."""
    section = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8").split("## Add a stage")[1]
    return [block for language, _, block in read_blocks(section) if language == kind]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the tree with the edits made."""
    tree = tmp_path_factory.mktemp("tree")
    copy_tree(tree)
    for line in "\n".join(blocks("console")).splitlines():
        subprocess.run(shlex.split(line), cwd=tree, check=True)
    (patch,) = blocks("diff")
    subprocess.run(["git", "apply", "-"], cwd=tree, input=f"{patch}\n", text=True, check=True)
    return tree


def test_the_stage_trains_differs_in_its_sampler_alone_and_is_scored(tree, trained, tmp_path):
    """In one process, since to import torch takes longer than all else here."""
    root = shutil.copytree(trained, tmp_path / "root")
    training = ["--root", str(root), *TRAIN_FLAGS, "--iterations", "4", "--val-every", "2"]
    scoring = ["--root", str(root), "--stages", STAGE, "--device", "cpu"]
    program = f"""
import reproduce
from evaluation import compute_metrics
from training import train_{STAGE}
train_{STAGE}.main({training})
compute_metrics.main({scoring})
reproduce.main(["--list"])
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=tree, env=ONE_THREAD, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    weights = root / "model_weights/biodiversity"
    stage, other = (
        json.loads((weights / arm / "seed42/run.json").read_text())["recipe"] for arm in (STAGE, COMPARED_WITH)
    )
    assert {name for name in stage if stage[name] != other[name]} == {"sampler"}
    assert stage["sampler"] == {"kind": "rare"}
    assert re.search(rf"^{STAGE} +42 ", ended.stdout, re.M) and f"training.train_{STAGE}" in ended.stdout
