import pytest

from tests.faults.harness import scripts


@pytest.fixture(scope="session")
def script():
    """Runs a script to its end, as ``python -m`` would: script(module, *flags) → Ended."""
    with scripts() as found:
        yield found
