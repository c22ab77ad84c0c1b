"""What all ranks hold to rank 0, and its answer to all, as plain tensors: nothing is pickled."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True if this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def to_leader(content: bytes) -> list[bytes]:
    """What every rank holds, in order of rank, on rank 0; nothing on the others.

    Each rank sends as much as it has, to rank 0 alone, and rank 0 takes one after the other.
    """
    device = _device()
    size = torch.tensor([len(content)], dtype=torch.int64, device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    if dist.get_rank() != 0:
        if content:
            dist.send(_tensor(content).to(device), dst=0)
        return []
    return [content, *(_received(rank, int(sizes[rank]), device) for rank in range(1, len(sizes)))]


def _received(rank: int, size: int, device: torch.device) -> bytes:
    if not size:
        return b""
    buffer = torch.empty(size, dtype=torch.uint8, device=device)
    dist.recv(buffer, src=rank)
    return buffer.cpu().numpy().tobytes()


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


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
