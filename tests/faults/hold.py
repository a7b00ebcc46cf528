"""Hold a file or folder as a run that writes it does: ``python -m tests.faults.hold PATH``, until it is killed."""

import signal
import sys
from pathlib import Path

from common.files import locked

if __name__ == "__main__":
    with locked(Path(sys.argv[1])):
        signal.pause()
