"""What the device itself reaches: the bandwidth of a large copy, and the rate of random reads of short rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from codetr.bench.original import can_compile, gather_rows
from codetr.bench.timing import measure

BAG = 64
"""Rows summed into one, so that reads outweigh writes 64 to 1."""


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second. copy: read plus written. gather: by the bytes of a row."""

    copy: float
    gather: dict[int, float]


def measure_ceilings(device: torch.device, *, quick: bool) -> Ceilings:
    """Measure a copy too large for the caches, and gathers of rows of 64 and 128 bytes out of 46 MB.

    46 MB is value of two images of 4 levels in float32: within an H100's L2 cache, as in the operation itself. The
    points of neighbouring queries share cells, which the L1 cache keeps: an operation can go beyond this limit.
    """
    seconds = 0.05 if quick else 0.3
    size = (64 if quick or device.type == "cpu" else 1024) * 2**20
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    copy = 2 * size / _seconds(lambda: target.copy_(source), device, seconds)
    return Ceilings(copy, {width: _gather(width, device, seconds, quick=quick) for width in (64, 128)})


def _gather(width: int, device: torch.device, seconds: float, *, quick: bool) -> float:
    """The best of three ways to read random rows: index_select, embedding_bag, and a kernel with 128-bit reads."""
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(46 * 10**6 // width, width // 4, device=device)
    rows = BAG * (2**11 if quick or device.type == "cpu" else 2**17)
    index = torch.randint(table.shape[0], (rows // BAG, BAG), generator=generator).to(device)
    flat = index.flatten()
    ways = [lambda: table.index_select(0, flat), lambda: F.embedding_bag(index, table, mode="sum")]
    if can_compile(device):
        narrow = index.to(torch.int32)
        ways.append(lambda: gather_rows(table, narrow))
    return max(rows * width / _seconds(way, device, seconds) for way in ways)


def _seconds(call: object, device: torch.device, seconds: float) -> float:
    assert callable(call)
    return measure(call, device, seconds=seconds).median / 1000
