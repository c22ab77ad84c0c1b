"""Detections of all ranks on each, and one rank's answer on all, as plain tensors: nothing is pickled."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True if this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, in order of rank, on every rank.

    rows: (N, 7) float64 on the host, N of its own on each rank; the first column is the image id. Samplers repeat
    images to give every rank as many; the rows of an image are taken from the first rank that has any.
    """
    device = _device()
    count = torch.tensor([len(rows)], device=device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    padded = torch.zeros(max(sizes), rows.shape[1], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows.to(device)
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return first_of_each_image([part[:size].cpu() for part, size in zip(parts, sizes, strict=True)])


def first_of_each_image(parts: list[Tensor]) -> Tensor:
    """Concatenate, leaving out of each part the images that an earlier part has. parts: (N_i, 7), image id first."""
    kept: list[Tensor] = []
    seen = torch.empty(0, dtype=torch.float64)
    for part in parts:
        kept.append(part[~torch.isin(part[:, 0], seen)])
        seen = torch.cat([seen, part[:, 0].unique()])
    return torch.cat(kept)


def from_leader(compute: Callable[[], list[float]], length: int) -> list[float]:
    """The numbers that rank 0 computes, on every rank. length: how many they are, known to all.

    Raises:
        RuntimeError: on the other ranks, if rank 0 raised, so that none waits for an answer that does not come.
    """
    answer = torch.zeros(length + 1, dtype=torch.float64, device=_device())
    if dist.get_rank() != 0:
        dist.broadcast(answer, src=0)
        if not answer[0]:
            raise RuntimeError("Rank 0 could not evaluate; its own message says why.")
        return answer[1:].tolist()
    try:
        values = compute()
        answer[1:] = torch.tensor(values, dtype=torch.float64)
        answer[0] = 1
    finally:
        dist.broadcast(answer, src=0)
    return values


def _device() -> torch.device:
    """Where the backend exchanges tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
