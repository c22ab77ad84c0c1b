"""Random numbers that follow from an image, not from where or in whose company it is computed.

A draw is a function of the image's seed, of a stream (one for each place in the model that draws) and of the number of
the element that it is for. The same image so meets the same chance alone and in a batch, on one process and on many;
the global generators, whose state depends on all that, have no part in it. No draw asks the device anything.

An element's number comes from its indices and not from the extent of the tensor, so that padding does not change it.

Without seeds (a head used on its own) the draws come from the device's default generator.

Source: SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_POSITIVE = (1 << 63) - 1
# The constants of SplitMix64, as the int64 of the same bits.
_GAMMA, _FIRST, _SECOND = (value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def stream(name: str, parent: int = 0) -> int:
    """The number, in [0, 2**63), of the stream called `name`, a different one below each parent."""
    digest = hashlib.blake2b(f"{parent}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniform(seeds: Tensor | None, like: Tensor, stream: int) -> Tensor:
    """Uniform float32 in [0, 1), multiples of 2**-24.

    seeds: (B,) int64 or None. like: (B, ...), whose shape and device the numbers have.
    """
    if seeds is None:
        return torch.rand(like.shape, device=like.device)
    return (bits(seeds, like, stream) >> 39).float() * 2.0**-24


def integers(seeds: Tensor | None, like: Tensor, stream: int, *, high: int) -> Tensor:
    """Uniform int64 in [0, high). seeds, like: as in `uniform`."""
    if seeds is None:
        return torch.randint(high, like.shape, device=like.device)
    return bits(seeds, like, stream) % high


def priorities(seeds: Tensor | None, like: Tensor, stream: int) -> Tensor:
    """Uniform int64 in [0, 2**62): the elements of the largest ones are a random choice.

    Floating-point numbers would be equal too often, and which of two equal ones `topk` takes may depend on the batch.
    seeds, like: as in `uniform`.
    """
    if seeds is None:
        return torch.randint(1 << 62, like.shape, device=like.device)
    return bits(seeds, like, stream) >> 1


def bits(seeds: Tensor, like: Tensor, stream: int) -> Tensor:
    """Uniform int64 in [0, 2**63), of the shape of `like`, (B, ...): one dimension after the other is a sequence of
    SplitMix64 that starts from what the dimensions before gave."""
    state = _mixed(seeds ^ stream)
    for extent in like.shape[1:]:
        # The sum first: compilers take products of an index for addresses, in which an overflow is undefined.
        state = _mixed((state.unsqueeze(-1) + torch.arange(extent, device=like.device)) * _GAMMA)
    return state & _POSITIVE


def _mixed(state: Tensor) -> Tensor:
    """The finaliser of SplitMix64, on int64 as on unsigned numbers: products wrap, shifts are logical."""
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, by: int) -> Tensor:
    return (state >> by) & ((1 << 64 - by) - 1)
