"""Where a model runs, in what precision, and the few things that several processes of one run share."""

import ctypes
import functools
import os

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def cuda_problem() -> str | None:
    """Why torch cannot use a GPU here, or None if it can."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"this build of torch ({torch.__version__}) has no CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        if "driver" in first and "too old" in first:
            return (
                f"{first} Install with `make CONSTRAINTS= ...` a torch built for an older CUDA, or update the driver."
            )
        return first
    return "torch finds no CUDA device"


def resolve_device(choice: str) -> torch.device:
    """auto, cpu or cuda → the device. Raises UserError if cuda is asked for and cannot be used.

    Also has this process keep the memory that it frees, see ``_keep_freed_memory``.
    """
    _keep_freed_memory()
    problem = None if choice == "cpu" else cuda_problem()
    if choice != "cpu" and problem is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if choice == "cuda":
        raise UserError(f"--device cuda: {problem}. Without a GPU: --device cpu")
    return torch.device("cpu")


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc keep the memory of tensors that are gone, for the next ones.

    It would give large pieces back to the system, which hands them out again page by page, filled with zeros. On the
    CPU that is a third of the time of a forward pass on whole tiles, and a tenth of a training step.
    """
    malloc = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(malloc, "mallopt"):
        malloc.mallopt(M_MMAP_MAX, 0)
        malloc.mallopt(M_TRIM_THRESHOLD, -1)


def place(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A network on its device, once before it is used; on the CPU with channels last, which takes a fifth less time."""
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if device.type == "cpu" else model


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on CUDA, full precision on the CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


class Processes:
    """The processes of one run: one, or those that torchrun started."""

    def __init__(self, device: torch.device) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1 and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place; no gradient passes through."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, answer: bool, device: torch.device) -> bool:
        """True if any process says so."""
        return bool(self.sum(torch.tensor(float(answer), device=device)).item())

    def share(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """The network whose gradients, and on CUDA batch statistics, are those of all processes."""
        if self.world == 1:
            return model
        if device.type == "cuda":
            model = convert_sync_batchnorm(model)  # that of timm, whose normalisation layers hold activations too
        # Some encoders have layers that a segmentation network does not use.
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)

    def take_buffers_of_main(self, model: torch.nn.Module) -> None:
        """Give all processes the running batch statistics of the one that writes.

        Without synchronised normalisation, as on the CPU, each has moved on by its own crops since the last step began.
        """
        for buffer in model.buffers() if self.world > 1 else ():
            dist.broadcast(buffer, 0)

    def close(self) -> None:
        """Wait for the writing process, then leave the group."""
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()
