"""Images that look alike: perceptual hashes, and a search for near ones among hundreds of thousands. No torch.

A hash holds the signs of an image's low frequencies against their median (pHash: Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010): 64 bits of 8 x 8 frequencies to search by, and 256 of 16 x 16
to confirm. The library that has it, ImageHash, needs PyWavelets and compares all pairs; here it is in numpy alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Indices = NDArray[np.int64]

SIDE = 32  # of the thumbnail that is hashed
# From 723 photographs (blood smears, chess boards, COCO) and altered copies of each. Different pictures: 14 bits of 64
# and 90 of 256 apart, or more. Copies at a quarter of the size, in grey, of JPEG quality 20, or with 40 % less or 30 %
# more light: at most 10 and 32. Crops by 2 % of each side: at most 8 and 32; by 5 %: within these limits in 97 of 100
# cases; by 10 %: in 3. Turns by 3 degrees: in 55.
COARSE, FINE = 10, 64
_FLAT = 2.0  # grey levels: an image that varies less has no low frequencies to tell it by
_BANDS, _BAND_BITS = 4, 16
_CHUNK = 1 << 21  # pairs that are compared at once
_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Alike:
    """Another image that looks the same. other: its key. distance: differing bits of 256."""

    other: int
    distance: int
    is_mirrored: bool

    @property
    def manner(self) -> str:
        """The end of a sentence about it."""
        return ", mirrored" if self.is_mirrored else ""


def fingerprint(thumbnail: NDArray[np.uint8]) -> Words | None:
    """The hash of an image from its thumbnail, (32, 32) grey: ten words, five of it and five of its mirror image.

    None for an image of one colour, which looks like any other such image.
    """
    grey = thumbnail.astype(np.float64)
    if grey.std() < _FLAT:
        return None
    wave = _cosines()
    frequencies = wave @ grey @ wave.T
    signs = np.where(np.arange(16) % 2, -1.0, 1.0)  # mirroring changes the sign of odd waves
    return np.concatenate([_words(frequencies), _words(frequencies * signs)])


def alike_earlier(prints: Mapping[int, Words]) -> dict[int, Alike]:
    """For each image that looks like one before it, the nearest such image."""
    keys = list(prints)
    if not keys:
        return {}
    rows = np.stack([prints[key] for key in keys])
    first = _first_of_equals(rows[:, :5])
    single = np.flatnonzero(first == np.arange(len(keys)))
    found = _search(rows[single, :5], rows[single, :5], earlier=True)
    mirrored = _search(rows[single, 5:], rows[single, :5], earlier=True)
    best = _merged(found, mirrored)
    result = {keys[single[a]]: Alike(keys[single[b]], d, m) for a, (b, d, m) in best.items()}
    result |= {keys[i]: Alike(keys[j], 0, False) for i, j in enumerate(first.tolist()) if i != j}
    return result


def alike_between(queries: Mapping[int, Words], others: Mapping[int, Words]) -> dict[int, Alike]:
    """For each of `queries` that looks like one of `others`, the nearest of them."""
    if not queries or not others:
        return {}
    keys, names = list(queries), list(others)
    rows, base = np.stack([queries[key] for key in keys]), np.stack([others[name] for name in names])
    single = np.flatnonzero(_first_of_equals(base[:, :5]) == np.arange(len(names)))
    first = _first_of_equals(rows[:, :5])
    asked = np.flatnonzero(first == np.arange(len(keys)))
    found = _search(rows[asked, :5], base[single, :5], earlier=False)
    mirrored = _search(rows[asked, 5:], base[single, :5], earlier=False)
    best = {int(asked[a]): (names[single[b]], d, m) for a, (b, d, m) in _merged(found, mirrored).items()}
    return {keys[i]: Alike(*best[j]) for i, j in enumerate(first.tolist()) if j in best}


@cache
def _cosines() -> NDArray[np.float64]:
    """The first 16 waves of the discrete cosine transform (II) of 32 values, (16, 32); their norms play no part."""
    return np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(16)[:, None])


def _words(frequencies: NDArray[np.float64]) -> Words:
    """One word of 8 x 8 frequencies and four of 16 x 16, each bit true above the median; the mean does not count.

    Bits are dealt out to the bands in turn, so that each has low and high frequencies and its values spread.
    """
    low = frequencies[:8, :8].ravel()
    coarse = (low > np.median(low[1:])).reshape(_BAND_BITS, _BANDS).T
    all_of_them = frequencies.ravel()
    fine = all_of_them > np.median(all_of_them[1:])
    return np.packbits(np.concatenate([coarse.ravel(), fine])).view(np.uint64)


def _first_of_equals(rows: Words) -> Indices:
    """For each row the index of the first one like it."""
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    found: Indices = first[which.reshape(-1)]
    return found


def _search(rows: Words, base: Words, *, earlier: bool) -> dict[int, tuple[int, int]]:
    """The nearest of `base` for each of `rows` that has one within the limits, and its distance.

    Two hashes within 10 bits of 64 differ by at most 2 in one of four bands of 16 bits, so that looking up all values
    of a band within 2 bits finds every such pair. earlier: the nearest with a smaller index.
    """
    nearest = np.full(len(rows), -1, dtype=np.int64)
    distance = np.full(len(rows), FINE + 1, dtype=np.int64)
    for a, b in _candidates(rows[:, 0], base[:, 0]):
        if earlier:
            before = b < a
            a, b = a[before], b[before]
        close = _distance(rows[a, :1], base[b, :1]) <= COARSE
        a, b = a[close], b[close]
        far = _distance(rows[a, 1:], base[b, 1:])
        order = np.lexsort((b, far, a))
        a, b, far = a[order], b[order], far[order]
        lead = np.flatnonzero(np.diff(a, prepend=-1))  # the nearest of each row in this chunk
        lead = lead[far[lead] < distance[a[lead]]]
        nearest[a[lead]], distance[a[lead]] = b[lead], far[lead]
    return {int(a): (int(nearest[a]), int(distance[a])) for a in np.flatnonzero(nearest >= 0)}


def _candidates(rows: Words, base: Words) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of indices whose hashes are alike in one band, a chunk at a time."""
    ours, theirs = (np.ascontiguousarray(words).view(np.uint16).reshape(-1, _BANDS) for words in (rows, base))
    for band in range(_BANDS):
        order = np.argsort(theirs[:, band], kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(theirs[:, band], minlength=1 << _BAND_BITS))])
        for mask in _masks(COARSE // _BANDS):
            values = (ours[:, band] ^ mask).astype(np.int64)
            counts = starts[values + 1] - starts[values]
            yield from _pairs(starts[values], counts, order)


def _pairs(starts: Indices, counts: Indices, order: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Row i with order[starts[i] : starts[i] + counts[i]], for all rows, in chunks of about `_CHUNK` pairs."""
    rows = np.flatnonzero(counts)
    ends = np.cumsum(counts[rows])
    first = 0
    while first < len(rows):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        chunk = rows[first:last]
        many = counts[chunk]
        place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        yield np.repeat(chunk, many), order[np.repeat(starts[chunk], many) + place]
        first = last


@cache
def _masks(radius: int) -> tuple[np.uint16, ...]:
    """Every word of a band with at most so many bits."""
    found = [0]
    for number in range(1, radius + 1):
        found += [sum(1 << bit for bit in bits) for bits in combinations(range(_BAND_BITS), number)]
    return tuple(np.uint16(value) for value in found)


def _distance(a: Words, b: Words) -> Indices:
    """Differing bits, row by row."""
    different = a ^ b
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(different).sum(axis=1, dtype=np.int64)
    return _BITS[np.ascontiguousarray(different).view(np.uint8)].sum(axis=1, dtype=np.int64)


def _merged(
    found: dict[int, tuple[int, int]], mirrored: dict[int, tuple[int, int]]
) -> dict[int, tuple[int, int, bool]]:
    """The nearer of an image as it is and mirrored; as it is, if both are as near."""
    best = {a: (b, d, False) for a, (b, d) in found.items()}
    for a, (b, d) in mirrored.items():
        if a not in best or d < best[a][1]:
            best[a] = (b, d, True)
    return best
