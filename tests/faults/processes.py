"""What processes of their own do in the tests: die, or hold a file or folder until they are killed.

python -m tests.faults.processes PATH
"""

import os
import signal
import sys
from pathlib import Path

from common.files import locked


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


if __name__ == "__main__":
    with locked(Path(sys.argv[1])):
        signal.pause()
