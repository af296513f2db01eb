"""Peak memory of a piece of work, where the system tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Most memory that was in use, in bytes; None where nobody knows."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure what runs inside.

    On a GPU: memory that torch has given out. On Linux: resident memory of the process, weights and
    all, whose high-water mark the kernel resets on request (man 5 proc, clear_refs).
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    try:
        _CLEAR.write_text("5")
    except OSError:  # another system, or not allowed here
        yield peak
        return
    yield peak
    (line,) = (x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
    peak.bytes = int(line.split()[1]) * 1024
