"""Packs a split into shards (`codetr.data.shards`). What is written depends on the images and the shard size alone.

    OUT/annotations/instances_{train,val}.json    COCO; file_name is the member's name
    OUT/shards/{train,val}/000000.tar, ...        the image files as they were, in random order
    OUT/shards/{train,val}/index.npz              written last: its presence says that packing is done

Each shard is written under another name, and renamed when it is on disk; beside it lie its checksums until the index
has them. So a killed run goes on with the first shard that is not finished.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from codetr.data.annotations import AnnotationFile, ImageFolder
from codetr.data.batches import sample_seed
from codetr.data.config import DataConfig
from codetr.data.images import read_bytes
from codetr.data.index import read_infos
from codetr.data.layout import SplitName, open_annotations
from codetr.data.prepare import prepare
from codetr.data.shards import FORMAT, INDEX, Shards, is_packed, member_name, read_index, shard_name
from codetr.errors import UserError
from codetr.structures import ImageInfo

SHARD_BYTES = 256 * 10**6
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Packed:
    """What lies in the folder now. kept: shards that an earlier run had finished."""

    folder: Path
    images: int
    shards: int
    kept: int
    total_bytes: int


@dataclass(frozen=True)
class _Member:
    """An image file and its place. row: of the image in the annotation file."""

    row: int
    file: Path
    name: str
    size: int
    offset: int


def pack(
    config: DataConfig,
    split: SplitName,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Packs one split of a data set into a folder, or goes on where an earlier run stopped.

    shard_bytes: most bytes of a shard (one image larger than that has a shard of its own). progress: called with the
    number of images done and of all.

    Raises: UserError if the data set cannot be read, an image is missing, the folder holds something else, or the disk
    is full.
    """
    prepare(config)
    file, images = open_annotations(config, split)
    if is_packed(images):
        raise UserError(f"{images}: these are shards already")
    infos = read_infos(file, ImageFolder(images))
    shards = _plan(infos, shard_bytes)
    plan = _digest(shards, shard_bytes)
    folder = out / "shards" / split
    sizes = [_tar_bytes(shard) for shard in shards]
    with _clear_errors(out):
        folder.mkdir(parents=True, exist_ok=True)
        finished = [_checksums(folder, number, plan, sizes[number]) for number in range(len(shards))]
        kept = sum(found is not None for found in finished)
        _require_space(out, sum(size for size, found in zip(sizes, finished, strict=True) if found is None))
        done = 0
        for number, members in enumerate(shards):
            if finished[number] is None:
                finished[number] = _write_shard(folder, number, members, plan)
            done += len(members)
            progress(done, len(infos))
        _write_annotations(out / "annotations" / f"instances_{split}.json", file, shards)
        _write_index(folder, infos, shards, finished, sizes, plan)
    return Packed(folder, len(infos), len(shards), kept, sum(sizes))


def verify(folder: Path, *, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Reads every image of a folder of shards. Raises: BadImage for the first that is not as it was packed."""
    shards = Shards(folder)
    index = shards.index
    for done, row in enumerate(np.lexsort((index.offsets, index.shards)).tolist(), 1):
        shards.read(str(folder / shard_name(int(index.shards[row])) / member_name(int(index.ids[row]), "")))
        progress(done, len(index.ids))


def _plan(infos: Sequence[ImageInfo], shard_bytes: int) -> list[list[_Member]]:
    """Which images form which shard: in random order, so that images that lie together have nothing in common."""
    shards: list[list[_Member]] = []
    end = shard_bytes
    for row in sorted(range(len(infos)), key=lambda row: sample_seed(0, 0, infos[row].image_id)):
        file = Path(infos[row].file)
        size = file.stat().st_size
        if not shards or _padded(end + BLOCK + _whole_blocks(size)) > shard_bytes:
            shards.append([])
            end = 0
        shards[-1].append(_Member(row, file, member_name(infos[row].image_id, _suffix(file)), size, end + BLOCK))
        end += BLOCK + _whole_blocks(size)
    return shards


def _suffix(file: Path) -> str:
    found = file.suffix.lower()
    return found if re.fullmatch(r"\.[a-z0-9]{1,8}", found) else ".img"


def _whole_blocks(size: int) -> int:
    return math.ceil(size / BLOCK) * BLOCK


def _padded(size: int) -> int:
    """The size of a tar file: two empty blocks end it, and it is filled up to a whole record."""
    return math.ceil((size + 2 * BLOCK) / tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _tar_bytes(members: Sequence[_Member]) -> int:
    return _padded(members[-1].offset + _whole_blocks(members[-1].size))


def _digest(shards: Sequence[Sequence[_Member]], shard_bytes: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {shard_bytes}\n".encode())
    for members in shards:
        for member in members:
            digest.update(f"{member.name} {member.size}\n".encode())
    return digest.hexdigest()


def _checksums(folder: Path, number: int, plan: str, size: int) -> list[int] | None:
    """The checksums of a shard that is finished, or None. Raises: UserError if the folder has another data set."""
    tar, beside = folder / shard_name(number), _beside(folder, number)
    another = UserError(
        f"{folder}: it holds shards of other images or of another size; choose another folder, or remove this one"
    )
    if is_packed(folder):
        index = read_index(folder)
        if index.plan.tobytes().hex() != plan:
            raise another
        own = np.flatnonzero(index.shards == number)
        found = index.checksums[own[np.argsort(index.offsets[own])]].tolist()
    elif beside.is_file():
        content = json.loads(beside.read_text())
        if content["plan"] != plan:
            raise another
        found = content["checksums"]
    else:
        return None
    return found if tar.is_file() and tar.stat().st_size == size else None


def _write_shard(folder: Path, number: int, members: Sequence[_Member], plan: str) -> list[int]:
    checksums: list[int] = []
    with _replacing(folder / shard_name(number)) as output:
        with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member in members:
                content = read_bytes(member.file)
                if len(content) != member.size:
                    raise UserError(f"{member.file}: it changed while it was packed; run the same command again")
                entry = tarfile.TarInfo(member.name)  # without owner and time, so that the same images give the same
                entry.size = member.size
                tar.addfile(entry, BytesIO(content))
                assert tar.offset == member.offset + _whole_blocks(member.size)
                checksums.append(zlib.crc32(content))
        # Before the shard has its name: a shard with its name has its checksums.
        with _replacing(_beside(folder, number)) as beside:
            beside.write(json.dumps({"plan": plan, "checksums": checksums}).encode())
    return checksums


def _write_annotations(path: Path, file: AnnotationFile, shards: Sequence[Sequence[_Member]]) -> None:
    names = {member.row: member.name for members in shards for member in members}
    images = [_renamed(entry, names[row]) for row, entry in enumerate(file.images)]
    content = {**file.extra, "images": images, "annotations": file.annotations, "categories": file.categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as output:
        output.write(json.dumps(content, separators=(",", ":")).encode())


def _renamed(entry: Any, name: str) -> dict[str, Any]:
    if entry["file_name"] == name:
        return dict(entry)
    return {**entry, "file_name": name, "original_file_name": entry["file_name"]}


def _write_index(
    folder: Path,
    infos: Sequence[ImageInfo],
    shards: Sequence[Sequence[_Member]],
    checksums: Sequence[list[int] | None],
    sizes: Sequence[int],
    plan: str,
) -> None:
    rows: list[tuple[int, int, int, int, int]] = []
    for number, (members, sums) in enumerate(zip(shards, checksums, strict=True)):
        assert sums is not None
        for member, checksum in zip(members, sums, strict=True):
            rows.append((infos[member.row].image_id, number, member.offset, member.size, checksum))
    columns = np.array(sorted(rows), dtype=np.int64).reshape(-1, 5).T
    with _replacing(folder / INDEX) as output:
        np.savez(
            output,
            format=np.int64(FORMAT),
            ids=columns[0],
            shards=columns[1].astype(np.int32),
            offsets=columns[2],
            sizes=columns[3],
            checksums=columns[4].astype(np.uint32),
            shard_bytes=np.array(sizes, dtype=np.int64),
            plan=np.frombuffer(bytes.fromhex(plan), dtype=np.uint8),
        )
    for number in range(len(shards)):
        _beside(folder, number).unlink(missing_ok=True)


def _beside(folder: Path, number: int) -> Path:
    return folder / f"{shard_name(number)}.json"


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole and on disk, and is removed if it cannot be finished."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _require_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UserError(f"{out}: the disk has {free / 1e9:,.1f} GB free, the shards need {needed / 1e9:,.1f} GB")


@contextmanager
def _clear_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        goes_on = "; the same command goes on from the shards that are finished" if error.errno == errno.ENOSPC else ""
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror}){goes_on}") from error
