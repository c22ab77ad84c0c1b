"""Detections as bytes: short in memory, and exchanged between ranks without pickling."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from codetr.evaluation.results import Results

COLUMNS = 7


def pack(results: Results) -> bytes:
    """All of `results` but the name of its file: a count, whether there are masks, rows, then sizes, ends and codes."""
    rows = np.ascontiguousarray(results.rows())
    head = np.array([len(rows), results.segmentations is not None], dtype=np.int64)
    if results.segmentations is None:
        return head.tobytes() + rows.tobytes()
    codes = [segmentation["counts"].encode("ascii") for segmentation in results.segmentations]
    sizes = np.array([segmentation["size"] for segmentation in results.segmentations], dtype=np.int64)
    ends = np.cumsum([0, *map(len, codes)], dtype=np.int64)
    return b"".join([head.tobytes(), rows.tobytes(), sizes.tobytes(), ends.tobytes(), *codes])


def unpack(content: bytes | memoryview) -> Results:
    """The inverse of `pack`, bit for bit."""
    content = memoryview(content)
    count, has_masks = np.frombuffer(content, np.int64, 2).tolist()
    at = 16
    rows = np.frombuffer(content, np.float64, count * COLUMNS, at)
    results = Results.of(rows)
    if not has_masks:
        return results
    at += rows.nbytes
    sizes = np.frombuffer(content, np.int64, 2 * count, at).reshape(-1, 2)
    at += sizes.nbytes
    ends = np.frombuffer(content, np.int64, count + 1, at)
    at += ends.nbytes
    codes = [str(content[at + start : at + end], "ascii") for start, end in pairwise(ends.tolist())]
    segmentations: list[dict[str, Any]] = [
        {"size": size, "counts": code} for size, code in zip(sizes.tolist(), codes, strict=True)
    ]
    return replace(results, segmentations=tuple(segmentations))
