"""Times of a call: CUDA events and an emptied L2 cache on a GPU, the clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

FLUSH_BYTES = 256 * 2**20
"""More than the L2 cache of any GPU (H100: 50 MB, B200: 126 MB, MI300X: 256 MB behind its L2)."""

WARM_UP = 3


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call. runs: how many were timed."""

    median: float
    p95: float
    runs: int


def measure(call: Callable[[], object], device: torch.device, *, seconds: float) -> Times:
    """Time a call again and again for about `seconds`, at least 3 and at most 1000 times, after a warm-up."""
    for _ in range(WARM_UP if device.type == "cuda" else 1):
        call()
    once = _on_gpu(call, device, 1)[0] if device.type == "cuda" else _on_cpu(call, 1)[0]
    runs = max(3, min(1000, round(1000 * seconds / max(once, 1e-3))))
    samples = sorted(_on_gpu(call, device, runs) if device.type == "cuda" else _on_cpu(call, runs))
    return Times(median=statistics.median(samples), p95=samples[round(0.95 * (runs - 1))], runs=runs)


def _on_cpu(call: Callable[[], object], runs: int) -> list[float]:
    samples = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        samples.append(1000 * (time.perf_counter() - start))
    return samples


def _on_gpu(call: Callable[[], object], device: torch.device, runs: int) -> list[float]:
    """The flush also gives the host a head start, so that short calls are not timed waiting for their launch."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    with torch.cuda.device(device):
        for start, end in events:
            flush.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in events]


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that a call holds beside what was allocated before it; None on a CPU, which does not say."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
