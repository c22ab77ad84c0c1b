"""The images that are loaded: those of a spec, or rendered ones; as files and, packed into a folder, as shards."""

from __future__ import annotations

from pathlib import Path

from codetr.bench.data.readers import Task
from codetr.data.coco import open_split
from codetr.data.config import DataConfig
from codetr.data.images import read_bytes
from codetr.data.pack import pack
from codetr.data.prepare import prepare
from codetr.data.shards import is_packed
from codetr.data.synthetic import generate
from codetr.errors import UserError

SIDE = 640
SHARDS_PER_WORKER = 4  # a webdataset worker has shards of its own


def make_task(config: DataConfig, folder: Path, *, batch_size: int, workers: int, rendered: int) -> tuple[Task, str]:
    """The task, and a sentence about its images. folder: an empty one, for what is rendered and packed.

    rendered: how many images are made if the settings name no data. Raises: UserError if they cannot be read.
    """
    if config.dir is None and config.train.annotations is None:
        generate(folder / "rendered", train=rendered, val=1, size=SIDE)
        config = config.model_copy(update={"dir": folder / "rendered"})
    prepare(config)
    dataset = open_split(config, "train")
    if is_packed(dataset.images):
        raise UserError(f"{dataset.images}: name the files that these shards were packed from, to compare both")
    if len(dataset) < batch_size:
        raise UserError(f"{dataset.annotations}: {len(dataset)} images are less than a batch of {batch_size}")
    total = sum(len(read_bytes(Path(info.file))) for info in dataset.infos)
    shard_bytes = max(1, total // (SHARDS_PER_WORKER * max(1, workers)))
    pack(config, "train", folder / "packed", shard_bytes=min(shard_bytes, 256 * 10**6))
    shards = DataConfig(**{**config.model_dump(), "dir": folder / "packed", "train": {}, "synthetic": None})
    note = f"{len(dataset)} images of {dataset.annotations}, {total / len(dataset) / 1e3:.0f} kB each"
    return Task(config, shards, batch_size, workers), note
