"""Errors whose cause lies outside this project, with their remedies."""

import errno

# What the operating system refuses, with a remedy for each.
_NO_ROOM = "Make room, then run the command again."
_NOT_ALLOWED = "Check the permissions, or choose another place."
WHOLE = "Existing outputs are complete."
REMEDIES = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or choose another file system.",
    errno.EROFS: "Choose another place.",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.ENOENT: "Restore it if it vanished, or give another path.",
    errno.ENOTDIR: "A file is in the place of a folder: move it away, or give another path.",
    errno.EISDIR: "A folder is in the place of a file: move it away, or give another path.",
    errno.EEXIST: "Move it away, or give another path.",
    errno.ELOOP: "A symbolic link leads in a circle: correct it.",
    errno.ENAMETOOLONG: "Choose shorter names.",
    errno.EIO: "The disk or the network gave an error: check its health before you trust what is on it.",
    errno.ESTALE: "The network file system lost it: mount it again.",
    errno.ENOLCK: "The file system cannot lock files: choose another place for the output.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n), or give fewer --workers.",
    errno.ENFILE: "Too many files are open on this machine: try again later.",
    errno.ENOMEM: "Not enough memory: give fewer --workers, or stop other work.",
    errno.EAGAIN: "The system allows no more processes: give fewer --workers.",
}


class UserError(Exception):
    """Wrong use or bad input: the message names the file or flag, what was found, what was expected, the remedy."""


def loader_died(error: BaseException) -> bool:
    """Whether torch says that a loader process is gone; False if it passes on an error that such a process raised."""
    message = str(error)
    return isinstance(error, RuntimeError) and "DataLoader worker" in message and "Original Traceback" not in message


# What segmentation-models-pytorch, timm and torch raise for a name or a size that they refuse. Others, such as a
# NameError, are defects.
LIBRARY_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError)


def one_line(error: BaseException) -> str:
    """The type and the first line of an error that a library raised."""
    lines = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of Python or of torch, on a GPU or not, says that memory ran out."""
    phrases = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)
