"""The lists of errors fit the code as it is, and the script that tries them tells a noticed one from a survivor."""

import ast
import json
import re
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
        for wing in ("common", "data_prep", "training", "evaluation", "reproduction")
        for path in (REPOSITORY / wing).rglob("*.py")
        if path.name != "__init__.py"
    }
    nothing_computed = {"common.text", "evaluation.report.render"}
    assert modules - listed == nothing_computed


OF_SUMS = """
tests = ['tests/test_sums.py']
[[mutant]]
there = 'a + b'
put = 'a - b'
why = 'sign'
[[mutant]]
there = '2 * a'
put = '3 * a'
why = 'nobody doubles'
[[mutant]]
there = 'a * 2'
put = '2 * a'
why = 'order'
equivalent = 'a product is the same either way'
[[mutant]]
there = 'def add'
put = 'def plus'
why = 'the tests cannot even import it'
"""


def test_errors_are_killed_survive_or_break_the_tests_and_are_told_apart(tmp_path):
    sums = (
        "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return 2 * a\n\n\ndef twice(a):\n    return a * 2\n"
    )
    for name, text in {
        "common/__init__.py": "",
        "common/sums.py": sums,
        "common/text.py": (REPOSITORY / "common/text.py").read_text(),
        "tests/__init__.py": "",
        "tests/test_sums.py": "from common.sums import add\n\n\ndef test_sum():\n    assert add(2, 3) == 5\n",
        "tests/mutants/__init__.py": "",
        "tests/mutants/run.py": re.sub(r"LIBRARIES = \(.*\)", "LIBRARIES = ()", Path(run.__file__).read_text()),
        "tests/mutants/common.sums.toml": OF_SUMS,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "tests.mutants.run", "--jobs", "2", "--json", "results.json"]
    done = subprocess.run(command, cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["common.sums", "4", "1", "1", "1", "1"] in rows, done.stdout
    assert "common/sums.py:6: survived: nobody doubles" in done.stdout
    assert "common/sums.py:1: broke the tests: the tests cannot even import it" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    outcomes = {result["mutant"]["why"]: result["outcome"] for result in results}
    assert outcomes["sign"] == "killed" and outcomes["order"] == "survived" and len(outcomes) == 4
    assert (tmp_path / "common/sums.py").read_text() == sums


def test_a_module_without_a_list_is_wrong_use(capsys):
    with pytest.raises(SystemExit):
        run.main(["common.sums"])
    assert "no list for common.sums; there are common.artifacts, " in capsys.readouterr().err
