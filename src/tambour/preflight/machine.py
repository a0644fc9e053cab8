"""What this machine has: free memory, and how fast it multiplies."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch

GIB = 2**30  # bytes
# Share of a matrix product's rate that a UNet reaches. cpu: measured on mini's crops of 192 px; the others: estimates.
UTILISATION = {"cpu": 0.15, "cuda": 0.4, "mps": 0.4}


def free_memory(device: str) -> int:
    """Bytes free on a device: "cuda" and "mps" ask the driver, "cpu" the operating system.

    What this process holds on a GPU in reserve counts as free. Where Linux does not say what is available, half of the
    whole memory is taken to be.
    """
    if device == "cuda":
        reserve = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + reserve
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def probe(device: str, dtype: str) -> float:
    """Operations a second that a UNet will reach here: `UTILISATION` of a matrix product's, the best of 0.3 s."""
    side = 512 if device == "cpu" else 4096
    matrix = torch.ones(side, side, dtype=getattr(torch, dtype), device=device)
    best, end = math.inf, time.perf_counter() + 0.3
    while (start := time.perf_counter()) < end:
        float((matrix @ matrix)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return UTILISATION[device] * 2 * side**3 / best
