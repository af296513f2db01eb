"""Several GPUs of one host, one process each: start, agree, add up gradients.

Gradients are reduced as one flat buffer after the backward pass; at some 12 million parameters that
takes well under a millisecond over NVLink, and it leaves `torch.compile` and uneven graphs alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class Ranks:
    """This process among its siblings.

    Attributes:
        rank: 0 is the one that writes.
        size: number of processes.
        device: where this one works.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1, device=self.device))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

    def agree(self, *values: float) -> tuple[float, ...]:
        """Rank 0's numbers, on every rank."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return tuple(tensor.tolist())

    def mean(self, value: Tensor) -> float:
        """Mean of a number [] over all ranks."""
        if self.size == 1:
            return float(value)
        total = value.detach().float().clone()
        dist.all_reduce(total)
        return float(total) / self.size

    @torch.no_grad()
    def share_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks."""
        if self.size == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.size
        pieces = torch.split(flat, [grad.numel() for grad in grads])
        torch._foreach_copy_(
            grads, [piece.view_as(grad) for piece, grad in zip(pieces, grads, strict=True)]
        )

    @torch.no_grad()
    def same_weights(self, *models: nn.Module) -> None:
        """Give every rank rank 0's weights."""
        if self.size > 1:
            for model in models:
                for value in model.state_dict().values():
                    if value.device.type == self.device.type:
                        dist.broadcast(value, 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _enter(
    rank: int, size: int, kind: str, port: int, work: Callable[[Ranks, Any], None], options: Any
) -> None:
    device = torch.device(kind, rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if size > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        threads = max(1, (os.cpu_count() or size) // size)
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            rank=rank,
            world_size=size,
            timeout=timedelta(minutes=10),
            device_id=device if kind == "cuda" else None,
        )
    try:
        work(Ranks(rank, size, device), options)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def launch(work: Callable[[Ranks, Any], None], options: Any, size: int, kind: str) -> None:
    """Run a function on every rank and wait; one rank runs in this very process.

    Args:
        work: module-level function of its ranks and the options.
        options: picklable.
        size: number of processes, one GPU each.
        kind: "cuda" or "cpu".
    """
    if size == 1:
        _enter(0, 1, kind, 0, work, options)
        return
    arguments = (size, kind, _free_port(), work, options)
    spawn(_enter, args=arguments, nprocs=size)  # type: ignore[no-untyped-call]
