"""A process that has the libraries imported and starts scripts by forking, so that each costs no import of torch.

Reads requests, JSON a line, from standard input: what to start, or which process to wait for. Each script runs as
``python -m`` would run it, in a process of its own that has done nothing before. But with --plain-curves the curves.png
of a training is blank: to draw it takes longer than the few steps of a test.
"""

import json
import os
import runpy
import signal
import sys
import traceback

from matplotlib.figure import Figure

from training.engine import run_folder


def become(module: str, flags: list[str], out: str, err: str, environment: dict[str, str]) -> int:
    """Run a script in this process, a child; its exit status."""
    os.environ.update(environment)
    for ending in (signal.SIGINT, signal.SIGHUP):  # whatever started the tests may have them ignored
        signal.signal(ending, signal.default_int_handler if ending == signal.SIGINT else signal.SIG_DFL)
    for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = open(0, closefd=False)
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    if "--plain-curves" in sys.argv:
        run_folder.history_figure = lambda *_: Figure((1, 1))
    running = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            running.discard(request["wait"])
        else:
            answer = os.fork()
            running.add(answer)
            if answer == 0:
                os.setsid()
                status = become(**request)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(answer, flush=True)
    for pid in running:  # of a test that failed, or was ended itself
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
