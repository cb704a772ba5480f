"""Several processes of one run (torchrun): who we are, agreement, the wrapped network."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join(device: str) -> str:
    """Join the other processes, if torchrun started us; return the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda"):
        torch.cuda.set_device(local)
        dist.init_process_group("nccl")
        return f"cuda:{local}"
    dist.init_process_group("gloo")
    return device


def here() -> tuple[int, int]:
    """Return our number among the processes, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def wrapped(net: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with its gradients averaged over all processes."""
    if here()[1] == 1:
        return net
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(net, device_ids=ids)


def agreed(share: float, stopped: bool, device: torch.device) -> tuple[float, bool]:
    """Return the first process's share of the run, and whether any process was told to stop."""
    if here()[1] == 1:
        return share, stopped
    first = torch.tensor([share], dtype=torch.float64, device=device)
    dist.broadcast(first, 0)
    anyone = torch.tensor([float(stopped)], device=device)
    dist.all_reduce(anyone)
    return float(first), bool(anyone > 0)


def averaged(values: list[Tensor], weight: float, sums: list[float]) -> list[float]:
    """Set values to their weighted mean over all processes; return the sums of the `sums`.

    Where nobody has any weight the values stay.

    Source: Stich 2019, "Local SGD converges fast and communicates little", here with weights, so
    that a process on a busier core counts for less and holds nobody up.
    """
    extra = torch.tensor([weight, *sums], dtype=torch.float32, device=values[0].device)
    flat = torch.cat([v.reshape(-1) * weight for v in values] + [extra])
    dist.all_reduce(flat)
    total = float(flat[-len(extra)])
    at = 0
    for v in values if total > 0 else []:
        v.copy_((flat[at : at + v.numel()] / total).reshape(v.shape))
        at += v.numel()
    return [float(x) for x in flat[len(flat) - len(sums) :]]


def wait() -> None:
    """Wait until all processes are here."""
    if here()[1] > 1:
        dist.barrier()


def leave() -> None:
    """Wait for the others and part."""
    wait()
    if here()[1] > 1:
        dist.destroy_process_group()
