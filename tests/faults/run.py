r"""Inject every fault that this project promises to survive, many times, and say how often it did.

The quick ones are in the tests; these take the better part of an hour on two cores.

    python -m tests.faults.run
    python -m tests.faults.run --only runs steps
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.faults import (
    bad_input,
    demo_twice,
    interrupted_steps,
    killed_runs,
    label_noise,
    leaks,
    refusing_system,
)

FAMILIES = {
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
