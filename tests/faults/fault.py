r"""Run a script with a fault in it: ``python -m tests.faults.fault SPEC module flags``.

What a script does to files below the folder FAULT_BELOW (of the environment) is numbered from 1: each file opened to be
written, each rename, link, new folder and removal. SPEC says what happens, and when:

    count=FILE         nothing; how many there were, and how many of them create something, is written to FILE
    kill@N             SIGKILL just before number N
    ENOSPC@N           from the N-th file on nothing can be created, with this error of the system; other errors alike
    vanish@N=FILE      before number N, FILE is removed
    fsize=BYTES        no file can become larger
    memory=BYTES       not more memory than now and so much can be had
    unprivileged       root has no rights beyond those of the owner of a file
    step@N             SIGKILL when the N-th batch of a training is there; SIGINT@N, SIGTERM@N, SIGHUP@N alike
    validation@N       SIGKILL in the middle of the N-th validation
    reader@N           SIGKILL of a loader process when the N-th batch of a training is there
    gradient@N         the gradient of the N-th step of a training becomes infinite, its loss stays finite
"""

import ctypes
import errno
import multiprocessing
import os
import re
import resource
import runpy
import signal
import sys
from pathlib import Path

import torch

from common import inference
from training.engine import meters

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CREATING = ("open", "os.mkdir", "os.link", "os.symlink")
CHANGING = (*CREATING, "os.rename", "os.remove", "os.rmdir", "os.truncate")
RIGHTS_OVER_FILES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH of linux/capability.h
CAPABILITIES_V3 = 0x20080522


def watch_files(below: str, happen) -> None:
    """Call happen(number, event, path) before each change of a file below a folder."""
    state = {"number": 0, "inside": False}

    def hook(event: str, args: tuple) -> None:
        if event not in CHANGING or state["inside"]:
            return
        path = str(args[0])
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
            return
        by_descriptor = event in ("os.remove", "os.rmdir") and args[1] != -1  # as shutil.rmtree does it
        if not by_descriptor and not os.path.abspath(path).startswith(below):
            return
        state["number"] += 1
        state["inside"] = True
        try:
            happen(state["number"], event, path)
        finally:
            state["inside"] = False

    sys.addaudithook(hook)


def give_up_rights() -> None:
    """Take from root what lets it read and write any file."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, each in two words
    if libc.capget(header, sets) == 0:
        sets[0] &= ~RIGHTS_OVER_FILES
        if libc.capset(header, sets):
            raise OSError(ctypes.get_errno(), "capset")


def on_call(owner, name: str, number: int, fault) -> None:
    """Have the ``number``-th call of a function begin with ``fault``."""
    original, calls = getattr(owner, name), []

    def with_fault(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            fault()
        return original(*args, **kwargs)

    setattr(owner, name, with_fault)


def kill_here() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_a_reader() -> None:
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def kill_validation(number: int) -> None:
    """Kill in the middle of a validation: when its first batch was predicted."""
    predict = inference.predict_tiles
    validations = []

    def killed(*args, **kwargs):
        validations.append(None)
        for n, batch in enumerate(predict(*args, **kwargs)):
            if len(validations) == number and n == 0:
                kill_here()
            yield batch

    inference.predict_tiles = killed


def spoil_gradient(number: int) -> None:
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def spoiled(parameters, norm):
        parameters = list(parameters)
        calls.append(None)
        if len(calls) == number:
            parameters[0].grad[:1] = float("inf")
        return clip(parameters, norm)

    torch.nn.utils.clip_grad_norm_ = spoiled


def install(spec: str, counted: list[int]) -> None:
    """Prepare the fault that ``spec`` describes; ``counted`` takes the changes and creations where it counts."""
    kind, rest = re.match(r"(\w+)[@=]?(.*)", spec).groups()
    below = os.path.abspath(os.environ.get("FAULT_BELOW", "/nowhere"))
    if kind == "count":

        def count(number: int, event: str, path: str) -> None:
            counted[0], counted[1] = number, counted[1] + (event in CREATING)

        watch_files(below, count)
    elif kind == "kill":
        watch_files(below, lambda number, *_: kill_here() if number == int(rest) else None)
    elif kind == "vanish":
        number_there, _, path = rest.partition("=")
        watch_files(below, lambda number, *_: os.remove(path) if number == int(number_there) else None)
    elif kind == "fsize":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(rest), resource.RLIM_INFINITY))
    elif kind == "memory":
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + int(rest), resource.RLIM_INFINITY))
    elif kind == "unprivileged":
        give_up_rights()
    elif kind in ("SIGINT", "SIGTERM", "SIGHUP"):
        on_call(meters.DrawnCrops, "add", int(rest), lambda: os.kill(os.getpid(), signal.Signals[kind]))
    elif kind == "step":
        on_call(meters.DrawnCrops, "add", int(rest), kill_here)
    elif kind == "reader":
        on_call(meters.DrawnCrops, "add", int(rest), kill_a_reader)
    elif kind == "validation":
        kill_validation(int(rest))
    elif kind == "gradient":
        spoil_gradient(int(rest))
    else:
        left, code = [int(rest)], getattr(errno, kind)

        def refuse(number: int, event: str, path: str) -> None:
            left[0] -= event in CREATING
            if left[0] < 1 and event in CREATING:
                raise OSError(code, os.strerror(code), path)

        watch_files(below, refuse)


def main() -> None:
    spec, module, *flags = sys.argv[1:]
    sys.argv = [module, *flags]
    counted = [0, 0]
    install(spec, counted)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        if spec.startswith("count="):
            Path(spec.removeprefix("count=")).write_text(f"{counted[0]} {counted[1]}")


if __name__ == "__main__":
    main()
