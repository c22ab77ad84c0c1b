"""What a data set holds for each image or object, as bytes of one array instead of Python objects.

A process that loads images shares its parent's memory until one of them writes to it, and reading a Python object
writes: it counts the reference. Objects would be copied into every such process in the course of an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from codetr.structures import ImageInfo


class Rows(Sequence[Any]):
    """Values of JSON, made anew whenever they are asked for."""

    def __init__(self, values: Iterable[Any]) -> None:
        content = bytearray()
        ends = [0]
        for value in values:
            content += json.dumps(value, separators=(",", ":")).encode()
            ends.append(len(content))
        self._content = np.frombuffer(bytes(content), dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._value(row) for row in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._value(index % len(self))

    def _value(self, row: int) -> Any:
        return json.loads(self._content[self._ends[row] : self._ends[row + 1]].tobytes())


class Infos(Sequence[ImageInfo]):
    """The images of a data set. sizes: (N, 2), height and width of each."""

    def __init__(self, infos: Sequence[ImageInfo]) -> None:
        self._ids = np.array([info.image_id for info in infos], dtype=np.int64)
        self.sizes = np.array([info.size for info in infos], dtype=np.int32).reshape(-1, 2)
        self._files = Rows(info.file for info in infos)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> ImageInfo: ...

    @overload
    def __getitem__(self, index: slice) -> list[ImageInfo]: ...

    def __getitem__(self, index: int | slice) -> ImageInfo | list[ImageInfo]:
        if isinstance(index, slice):
            return [self._info(row) for row in range(*index.indices(len(self)))]
        return self._info(index)

    def _info(self, row: int) -> ImageInfo:
        height, width = self.sizes[row].tolist()
        return ImageInfo(int(self._ids[row]), self._files[row], (height, width))
