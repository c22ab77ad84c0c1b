"""How fast are images loaded, and what would caches, other decoders and smaller batches change?

    python benchmarks/loading.py
    python benchmarks/loading.py co_deformable_r50 data=DIR --images 512 --rounds 5

Measures every reader of `codetr bench data` in turns; then, in one process, decoders, reads of files and shards with an
emptied and a filled page cache, batches of float32 and of uint8 through a worker, and the memory that a worker comes to
own. Writes benchmarks/results/loading.{json,md}. An emptied cache is asked for (posix_fadvise); that of the disk itself
stays filled.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from _common import environment, write
from PIL import Image
from torch.utils.data import DataLoader

from codetr.bench.data.measuring import measure_readers, measure_stages
from codetr.bench.data.readers import annotated_pictures, subjects
from codetr.bench.data.tables import record
from codetr.bench.data.task import make_task
from codetr.data.coco import CocoDataset, open_split
from codetr.data.compact import Infos
from codetr.data.images import decode
from codetr.spec import load_spec
from codetr.structures import ImageInfo

ROWS = 1_000_000
BATCH = (4, 3, 800, 1216)  # what the DETR recipe makes of four photographs of 640 x 480 with one turned
BATCHES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default="co_deformable_r50")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="loading", help="Of the files of results.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_spec(options.spec, options.overrides).data
    with TemporaryDirectory(prefix="codetr-loading-") as folder:
        task, note = make_task(
            config, Path(folder), batch_size=options.batch_size, workers=options.workers, rendered=64
        )
        found, absent = subjects(task, annotated_pictures(task.files))
        rates = measure_readers(found, images=options.images, rounds=options.rounds)
        files, shards = open_split(task.files, "train"), open_split(task.shards, "train")
        stages = {
            name: measure_stages(dataset, task.files, batch_size=options.batch_size, images=options.images)
            for name, dataset in (("files", files), ("shards", shards))
        }
        settings = {key: value for key, value in vars(options).items() if key != "name"}
        document: dict[str, Any] = {
            "environment": environment(),
            "settings": {**settings, "data": note},
            **record(rates, absent, stages, workers=options.workers),
            "decoders_ms": decoders([files.read(info) for info in files.infos], options.rounds),
            "reads_ms": reads(files, shards, options.rounds),
            "cached_bytes": cached_bytes(files),
            "batches_ms": {name: through_a_worker(kind) for name, kind in KINDS.items()},
            "prefetch_ms": {str(factor): through_a_worker(torch.float32, factor) for factor in (2, 4, 8)},
            "worker_memory_mb": worker_memory(),
        }
    write(options.name, document, _table(document, {subject.name: subject.note for subject in found}))


def _per_item(call: Callable[[Any], object], items: Iterable[Any]) -> float:
    """Mean milliseconds."""
    count = 0
    start = time.perf_counter()
    for item in items:
        call(item)
        count += 1
    return 1000 * (time.perf_counter() - start) / count


def decoders(contents: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Milliseconds of an image, the median of the rounds, all in turns; those that are installed."""
    import simplejpeg
    from torchvision.io import ImageReadMode, decode_image

    def pillow(content: bytes) -> object:
        return np.array(Image.open(BytesIO(content)).convert("RGB"))

    def torchvision(content: bytes) -> object:
        return decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)

    def half(content: bytes) -> object:
        height, width = simplejpeg.decode_jpeg_header(content)[:2]
        return simplejpeg.decode_jpeg(content, "RGB", min_height=height // 2, min_width=width // 2)

    ways: dict[str, Callable[[bytes], object]] = {
        "simplejpeg": lambda content: decode(content, Path()),
        "Pillow": pillow,
        "torchvision.io": torchvision,
        "simplejpeg at half the size": half,
    }
    seen = [{name: _per_item(way, contents) for name, way in ways.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in seen) for name in ways}


def reads(files: CocoDataset, shards: CocoDataset, rounds: int) -> dict[str, float]:
    """Milliseconds to read an image's bytes in random order."""
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, dataset in (("files", files), ("shards", shards)):
            paths = {Path(info.file) for info in dataset.infos}
            _forget(paths if name == "files" else {path.parent for path in paths})
            for cache in ("emptied", "filled"):
                taken = _per_item(lambda row, dataset=dataset: dataset.read(dataset.infos[row]), order)
                seen.setdefault(f"{name}, page cache {cache}", []).append(taken)
    return {name: statistics.median(values) for name, values in seen.items()}


def _forget(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def cached_bytes(dataset: CocoDataset) -> dict[str, float]:
    """Mean bytes of an image as a file and as pixels."""
    sizes = [(len(dataset.read(info)), 3 * info.size[0] * info.size[1]) for info in dataset.infos]
    return {
        name: statistics.mean(column) for name, column in zip(("file", "pixels"), zip(*sizes, strict=True), strict=True)
    }


KINDS = {"float32": torch.float32, "uint8": torch.uint8}


class _Batches:
    """Batches that are made as `collate` makes them: zeros, and a copy of each image."""

    def __init__(self, kind: torch.dtype) -> None:
        self._images = torch.ones(BATCH, dtype=kind)

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= BATCHES:
            raise IndexError
        batch = torch.zeros(BATCH, dtype=self._images.dtype)
        for place, image in enumerate(self._images):
            batch[place] = image
        return batch


def through_a_worker(kind: torch.dtype, prefetch_factor: int = 2) -> float:
    """Milliseconds of a batch until the training process has it, from one worker that does nothing else."""
    loader = DataLoader(_Batches(kind), batch_size=None, num_workers=1, prefetch_factor=prefetch_factor)  # type: ignore[arg-type]
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return 1000 * (time.perf_counter() - start) / (BATCHES - 1)


def worker_memory() -> dict[str, float]:
    """MB that a forked process has for itself after it has looked at every one of a million images."""
    plain = tuple(ImageInfo(row, f"/data/images/{row:012d}.jpg", (480, 640)) for row in range(ROWS))
    return {"objects": _owned(plain), "arrays": _owned(Infos(plain)), "nothing": _owned(())}


def _owned(infos: Sequence[ImageInfo]) -> float:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def look() -> None:
        for row in range(len(infos)):
            assert infos[row].file
        lines = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
        send.send(int(lines["Private_Dirty"].split()[0]) / 1e3)

    process = context.Process(target=look)
    process.start()
    found: float = receive.recv()
    process.join()
    return found


def _table(document: dict[str, Any], notes: dict[str, str]) -> str:
    settings = document["settings"]
    rows = [
        "# Loading\n",
        f"`{settings['spec']}`, {settings['data']}; batches of {settings['batch_size']}, {settings['workers']} "
        f"workers; median of {settings['rounds']} rounds of {settings['images']} images or more, readers in turns.\n",
        "| reader | images/s | least, most | per worker | of codetr, files | first batch, s | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in document["readers"].items():
        least, most = entry["least_and_most"]
        rates = f"{entry['images_per_second']:.1f} | {least:.1f}, {most:.1f} | {entry['per_worker']:.1f}"
        share, first = entry["of codetr, files"], entry["first_batch_seconds"]
        rows.append(f"| {name} | {rates} | {share:.2f} | {first:.1f} | {notes[name]} |")
    files, shards = document["stages_ms"]["files"], document["stages_ms"]["shards"]
    rows += ["\n| stage of an image, ms | files | shards |", "|---|---|---|"]
    rows += [f"| {name} | {files[name]:.2f} | {shards[name]:.2f} |" for name in files]
    for title, key, digits in (
        ("decoder, ms of an image", "decoders_ms", 2),
        ("bytes of an image in random order, ms", "reads_ms", 3),
        ("a batch of 4 through a worker, ms", "batches_ms", 1),
        ("batches of float32 by prefetch_factor, ms", "prefetch_ms", 1),
        ("memory of a worker's own after a million images, MB", "worker_memory_mb", 0),
        ("kB of an image in a cache", "cached_bytes", 0),
    ):
        rows += [f"\n| {title} | |", "|---|---|"]
        scale = 1000 if key == "cached_bytes" else 1
        rows += [f"| {name} | {value / scale:.{digits}f} |" for name, value in document[key].items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
