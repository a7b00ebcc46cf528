r"""Inject every fault that this project promises to survive, many times, and say how often it did.

The quick ones are in the tests; these take the better part of an hour on two cores.

    python -m tests.faults.run
    python -m tests.faults.run --only runs steps
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

from tests.faults import (
    bad_input,
    demo_twice,
    interrupted_steps,
    killed_runs,
    label_noise,
    leaks,
    refusing_system,
)
from tests.faults.harness import REPOSITORY, Family

TESTS = {  # whose cases are faults, each with a promise of its own
    "test_killed": "signals, locks, kills, resuming what does not fit",
    "test_failing_runs": "not finite, dead processes, no memory, tiles that change: step and tiles are told",
    "test_security": "no path leads out of an output, nothing that is read runs code",
    "test_silent_errors": "training and evaluation read alike, one seed gives one result",
}


def cases_of_tests(folder: Path) -> list[Family]:
    """Each fault test as a fault."""
    families = []
    for name, promise in TESTS.items():
        report = folder / f"{name}.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"tests/faults/{name}.py", f"--junitxml={report}"]
        subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        family = Family(name.replace("_", " "), promise)
        for case in ElementTree.parse(report).iter("testcase"):
            failed = [child.get("message", "failed") for child in case if child.tag in ("failure", "error")]
            family.record(case.get("name"), failed[0] if failed else None)
        families.append(family)
    return families


FAMILIES = {
    "tests": cases_of_tests,
    "runs": killed_runs.inject,
    "steps": interrupted_steps.inject,
    "system": refusing_system.inject,
    "input": bad_input.inject,
    "leaks": leaks.inject,
    "labels": label_noise.inject,
    "twice": demo_twice.inject,
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="some of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the counts and what was not survived")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    begin, families = time.monotonic(), []
    for name in args.only:
        since = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = FAMILIES[name](Path(folder))
        print(*found, f"{'':<28}({name}: {time.monotonic() - since:.0f} s)", sep="\n", flush=True)
        families += found
    survived, injected = (sum(getattr(f, key) for f in families) for key in ("survived", "injected"))
    print(f"{survived} of {injected} faults survived in {time.monotonic() - begin:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([asdict(family) for family in families], indent=1) + "\n")
    return int(survived < injected)


if __name__ == "__main__":
    sys.exit(main())
