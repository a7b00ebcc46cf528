"""The lists of errors fit the code as it is, and the script that tries them tells a noticed one from a survivor."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ONE_THREAD
from tests.mutants import run

LISTS = run.all_lists()
REPOSITORY = run.REPOSITORY
FEWEST = 150


@pytest.mark.parametrize("lst", LISTS, ids=lambda lst: lst.module)
def test_each_error_changes_the_module_as_it_is(lst):
    source = (REPOSITORY / lst.module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    original = ast.dump(ast.parse(source))
    for mutant in lst.mutants:
        assert ast.dump(ast.parse(mutant.applied(source))) != original, mutant.why
    assert len({mutant.applied(source) for mutant in lst.mutants}) == len(lst.mutants), "one is listed twice"


def test_there_are_enough_errors_and_the_tests_they_name_exist():
    assert sum(len(lst.mutants) for lst in LISTS) >= FEWEST
    named = {name.partition("::")[0] for lst in LISTS for name in lst.tests}
    assert not [name for name in named if not (REPOSITORY / name).is_file()]


def test_every_module_that_computes_something_has_a_list():
    listed = {lst.module for lst in LISTS}
    modules = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for wing in ("common", "data_prep", "training", "evaluation")
        for path in (REPOSITORY / wing).rglob("*.py")
        if path.name != "__init__.py"
    }
    nothing_computed = {"common.text", "evaluation.page"}
    assert modules - listed == nothing_computed


def test_an_error_that_a_test_notices_is_killed_and_another_survives(tmp_path):
    for name, text in {
        "common/__init__.py": "",
        "common/sums.py": "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return 2 * a\n",
        "common/text.py": (REPOSITORY / "common/text.py").read_text(),
        "tests/__init__.py": "",
        "tests/test_sums.py": "from common.sums import add\n\n\ndef test_sum():\n    assert add(2, 3) == 5\n",
        "tests/mutants/__init__.py": "",
        "tests/mutants/run.py": Path(run.__file__).read_text(),
        "tests/mutants/common.sums.toml": "tests = ['tests/test_sums.py']\n"
        "[[mutant]]\nthere = 'a + b'\nput = 'a - b'\nwhy = 'sign'\n"
        "[[mutant]]\nthere = '2 * a'\nput = '3 * a'\nwhy = 'nobody doubles'\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants.run", "--jobs", "1"],
        cwd=tmp_path,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["common.sums", "2", "1", "0", "1"] in rows, done.stdout
    assert "common/sums.py:6: survived: nobody doubles" in done.stdout
