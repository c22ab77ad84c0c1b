"""Reads images out of shards: tar files of webdataset's form, and an index that says where in them each image lies.

A folder of shards holds `000000.tar`, `000001.tar`, ... and `index.npz`. The members are named by the image id, twelve
digits and a suffix, one after the other in random order (`codetr.data.pack` writes them). Imports no torch.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codetr.data.images import BadImage
from codetr.errors import UserError

INDEX = "index.npz"
FORMAT = 1
OPEN_SHARDS = 64  # of one process at a time; a window of shards is smaller by default
NAMED = 3  # shards that an error names before it counts the rest


@dataclass(frozen=True)
class Index:
    """Where the images lie. Images are in ascending order of their ids.

    ids: (N,). shards: (N,) number of the shard. offsets, sizes: (N,) bytes. checksums: (N,) CRC-32 of the bytes.
    shard_bytes: (S,) size of each shard. plan: (P,) uint8, a digest of what was packed and how.
    """

    ids: NDArray[np.int64]
    shards: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    shard_bytes: NDArray[np.int64]
    plan: NDArray[np.uint8]


def shard_name(number: int) -> str:
    """`000012.tar`"""
    return f"{number:06d}.tar"


def member_name(image_id: int, suffix: str) -> str:
    """`000000000139.jpg`: one key and one suffix, as webdataset groups the members of a sample by their key."""
    return f"{image_id:012d}{suffix}"


def is_packed(images: Path) -> bool:
    """True for a folder of shards."""
    return (images / INDEX).is_file()


def require_finished(images: Path) -> None:
    """Raises: UserError if a folder was being packed and is not finished."""
    if not is_packed(images):
        raise UserError(f"{images}: packing was not finished; the same `codetr data pack` again goes on with it")


def open_shards(images: Path) -> Shards | None:
    """The shards in a folder, or None if it is one of image files."""
    return Shards(images) if is_packed(images) else None


def read_index(root: Path) -> Index:
    """Raises: UserError if the index cannot be read, or is of another version."""
    path = root / INDEX
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if int(arrays["format"]) != FORMAT:
                raise UserError(f"{path}: format {int(arrays['format'])} is not known here, only {FORMAT}; {_CURE}")
            return Index(**{field.name: arrays[field.name] for field in fields(Index)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable index of shards ({error}); {_CURE}") from error


class Shards:
    """A folder of shards, which stands in for `codetr.data.annotations.ImageFolder`.

    An image is addressed by a path that does not exist, `ROOT/000003.tar/000000000139.jpg`, which is also how messages
    name it. Reading goes to its place at once, by handles of this process, so that any order is as good as any other;
    the handles are left out when a worker is given a copy.

    Raises: UserError if a shard is missing, or of another size than when it was packed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = read_index(root)
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._owner = os.getpid()
        _require_shards(root, self.index.shard_bytes)

    def leaves(self, file_name: str) -> bool:
        """Nothing leads out of a tar file."""
        return False

    def find(self, file_name: str) -> Path | None:
        """The address of an image by its name in the annotation file, or None if it is in no shard."""
        row = self._row(file_name)
        return None if row is None else self.root / shard_name(int(self.index.shards[row])) / file_name

    def shard_of(self, address: str) -> int:
        """The number of the shard of an image."""
        return int(os.path.basename(os.path.dirname(address)).removesuffix(".tar"))

    def read(self, address: str) -> bytes:
        """The bytes of an image file. Raises: BadImage if they are not those that were packed."""
        row = self._row(os.path.basename(address))
        assert row is not None, address
        size = int(self.index.sizes[row])
        try:
            content = os.pread(self._handle(int(self.index.shards[row])), size, int(self.index.offsets[row]))
        except OSError as error:
            raise BadImage(f"{address}: cannot be read ({error.strerror})") from error
        if len(content) != size or zlib.crc32(content) != self.index.checksums[row]:
            raise BadImage(f"{address}: its bytes are not those that were packed (checksum); {_CURE}")
        return content

    def _row(self, file_name: str) -> int | None:
        key = file_name.partition(".")[0]
        if not re.fullmatch("-?[0-9]{1,18}", key):
            return None
        row = int(np.searchsorted(self.index.ids, int(key)))
        return row if row < len(self.index.ids) and self.index.ids[row] == int(key) else None

    def _handle(self, shard: int) -> int:
        if self._owner != os.getpid():  # after a fork: those of the parent are the parent's to close
            self._handles, self._owner = OrderedDict(), os.getpid()
        if shard in self._handles:
            self._handles.move_to_end(shard)
        else:
            if len(self._handles) == OPEN_SHARDS:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[shard] = os.open(self.root / shard_name(shard), os.O_RDONLY)
        return self._handles[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict()}

    def __del__(self) -> None:
        if getattr(self, "_owner", None) == os.getpid():
            while self._handles:
                os.close(self._handles.popitem()[1])


def _require_shards(root: Path, expected: NDArray[np.int64]) -> None:
    wrong: list[str] = []
    for number, size in enumerate(expected.tolist()):
        path = root / shard_name(number)
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            wrong.append(f"{path.name} ({'missing' if found is None else f'{found:,} bytes'}, packed: {size:,})")
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise UserError(
            f"{root}: {len(wrong)} of {len(expected)} shards are not as they were packed: {', '.join(wrong[:NAMED])}"
            f"{more}; copy them again, or {_CURE}"
        )


_CURE = "pack the data set again (`codetr data pack`)"
