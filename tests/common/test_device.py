"""Which device is used, in which precision, and what several processes of one run do together."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common import device
from common.checkpoints import digest_tensors
from common.device import Processes, autocast, cuda_problem, place, resolve_device
from common.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


def test_the_device_is_the_one_asked_for_or_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(UserError, match="--device cpu"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 3)
    assert resolve_device("cpu") == CPU


def test_the_cpu_computes_in_full_precision_and_cuda_in_bfloat16(monkeypatch):
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    asked = {}
    monkeypatch.setattr(torch, "autocast", lambda kind, **how: asked.update(how, kind=kind))
    autocast(torch.device("cuda"))
    assert asked == {"kind": "cuda", "dtype": torch.bfloat16, "enabled": True}


@pytest.fixture
def told(monkeypatch):
    """What the second of two processes asks torch to do with the others, in order."""
    told = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("init_process_group", "broadcast", "barrier", "destroy_process_group"):
        monkeypatch.setattr(device.dist, name, lambda *args, name=name: told.append((name, *args)))
    monkeypatch.setattr(device.dist, "all_reduce", lambda tensor: tensor.mul_(2))
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: told.append(("set_device", chosen)))
    monkeypatch.setattr(device, "convert_sync_batchnorm", lambda network: ("synchronised", network))
    monkeypatch.setattr(device, "DistributedDataParallel", lambda network, **how: ("shared", network, how))
    return told


def test_one_process_has_the_network_and_the_sums_to_itself():
    model, processes = nn.Conv2d(3, 4, 1), Processes(CPU)
    assert (processes.rank, processes.world, processes.main) == (0, 1, True)
    assert processes.share(model, CPU) is model and processes.sum(torch.tensor(3.0)) == 3.0
    assert processes.agree(True, CPU) and not processes.agree(False, CPU)


def test_processes_on_the_cpu_share_one_network_and_one_sum(told):
    model, processes = nn.Conv2d(3, 4, 1), Processes(CPU)
    assert told == [("init_process_group", "gloo")]
    assert (processes.rank, processes.world, processes.main) == (1, 2, False)
    assert processes.share(model, CPU) == ("shared", model, {"device_ids": None, "find_unused_parameters": True})
    assert processes.sum(torch.tensor(3.0)) == 6.0
    assert processes.agree(True, CPU) and not processes.agree(False, CPU)


def test_processes_on_gpus_have_one_each_and_share_batch_statistics(told):
    model, processes = nn.Conv2d(3, 4, 1), Processes(CUDA)
    assert told == [("set_device", CUDA), ("init_process_group", "nccl")]
    how = {"device_ids": [1], "find_unused_parameters": True}
    assert processes.share(model, CUDA) == ("shared", ("synchronised", model), how)


def test_buffers_come_from_the_first_process_and_a_run_ends_in_all_of_them(told):
    model, processes = nn.BatchNorm2d(4), Processes(CPU)
    told.clear()
    processes.take_buffers_of_main(model)
    assert [(name, id(tensor), source) for name, tensor, source in told] == [
        ("broadcast", id(buffer), 0) for buffer in model.buffers()
    ]
    told.clear()
    processes.close()
    assert told == [("barrier",), ("destroy_process_group",)]


def test_why_there_is_no_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda_problem() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=None))
    assert "has no CUDA" in cuda_problem()
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda="13.0"))

    def fail_with(text):
        def init():
            raise RuntimeError(text)

        monkeypatch.setattr(torch.cuda, "init", init)
        return cuda_problem()

    assert "make CONSTRAINTS=" in fail_with("The NVIDIA driver on your system is too old.\nMore.")
    assert fail_with("No CUDA GPUs are available\nMore.") == "No CUDA GPUs are available"
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert cuda_problem() == "torch finds no CUDA device"


@torch.no_grad()
def test_a_network_on_the_cpu_is_laid_out_with_channels_last_and_gives_what_it_gave():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 2, 3)).eval()
    images = torch.rand(2, 3, 16, 16)
    before, digest = model(images), digest_tensors(model.state_dict())
    assert place(model, torch.device("cpu")) is model
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in model)
    assert digest_tensors(model.state_dict()) == digest
    torch.testing.assert_close(model(images), before)
