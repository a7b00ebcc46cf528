import pytest

from tests.faults.bad_input import CASES, make_roots


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return make_roots(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("case", [case for case in CASES if case.quick], ids=lambda case: case.name)
def test_bad_input_is_refused_or_handled_as_documented(case, roots, script, tmp_path):
    assert case.problem(roots, script, tmp_path) is None
