"""Pictures of many scenes, drawn in large lots on the device.

A lot takes hardly more kernel launches than a small part of it would, and launching is what takes
the time; so lots are large, and threads launch the next ones while the caller works on one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from compose.world.renderer import SIZE, Table, render_table, worn_shares

Drawn = TypeVar("Drawn")
_THREADS = 2
_LARGE = 64 << 30  # bytes of a device that holds several of the largest lots at once


def lot_size(device: torch.device) -> int:
    """Scenes that are best drawn together there."""
    if device.type != "cuda":
        return 2048
    large = torch.cuda.get_device_properties(device).total_memory > _LARGE
    return 16384 if large else 4096


def draw(table: Table, device: torch.device) -> Tensor:
    """Draw packed scenes as [N, 3, 128, 128] uint8 on the device."""
    return render_table(table, device).mul_(255).round_().to(torch.uint8)


def draw_worn(table: Table, device: torch.device, size: int = 32) -> Tensor:
    """How much of each latent's place is an accessory, [N, size, size] uint8, 255 for all of it."""
    shares = functional.avg_pool2d(worn_shares(table, device), SIZE // size)
    return shares.mul_(255).round_().to(torch.uint8)


def draw_ahead(
    tables: Iterable[Table],
    device: torch.device,
    what: Callable[[Table, torch.device], Drawn],
    threads: int | None = None,
) -> Iterator[Drawn]:
    """Draw tables in their order, the next ones while the caller works on one.

    Args:
        tables: lots of scenes.
        device: where they are drawn and stay.
        what: draws one table.
        threads: that draw ahead; None for two on a GPU and none on the CPU. They share the
            device's default stream, so pictures need no further waiting.

    Yields:
        What was drawn of each table.
    """
    if threads is None:
        threads = _THREADS if device.type == "cuda" else 0
    if threads == 0:
        yield from (what(table, device) for table in tables)
        return
    waiting: deque[Future[Drawn]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for table in tables:
            waiting.append(pool.submit(what, table, device))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
