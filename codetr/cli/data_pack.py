"""`codetr data pack`: a data set as shards."""

from __future__ import annotations

import re
from pathlib import Path

import click

from codetr.cli.bar import progress_bar

UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
LEAST = 20_000  # bytes: two records of a tar file


class ByteSize(click.ParamType):
    """A number of bytes with its unit."""

    name = "SIZE"

    def convert(self, value: str | int, parameter: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMG]B)", value)
        size = 0 if found is None else round(float(found[1]) * UNITS[found[2]])
        if size < LEAST:
            self.fail(f"{value!r} is no size of a shard. Write a number and kB, MB or GB, such as 256MB.")
        return size


@click.command("pack")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--out", metavar="OUT", required=True, type=click.Path(path_type=Path), help="Write shards there.")
@click.option("--shard-size", type=ByteSize(), default="256MB", show_default=True, help="Most bytes of a shard.")
@click.option(
    "--split",
    "splits",
    type=click.Choice(["train", "val"]),
    multiple=True,
    default=("train", "val"),
    help="Pack this split alone.",
)
@click.option("--verify", is_flag=True, help="Read everything in OUT again and compare checksums.")
def command(directory: Path, out: Path, shard_size: int, splits: tuple[str, ...], verify: bool) -> None:
    """Pack the data set in DIR, of any layout that can be trained on, into shards for network storage.

    Shards are tar files in webdataset's form with the image files as they are; the annotations stay one COCO file.
    Train with data=OUT. A run that was ended goes on where it stopped when it is started again.
    """
    from codetr.data.config import DataConfig
    from codetr.data.pack import pack
    from codetr.data.pack import verify as compare

    config = DataConfig(dir=directory)
    for split in splits:
        with progress_bar(f"packing {split}") as progress:
            packed = pack(config, split, out, shard_bytes=shard_size, progress=progress)  # type: ignore[arg-type]
        size = f"{packed.images} image{'s' * (packed.images > 1)} in {packed.shards} shard{'s' * (packed.shards > 1)}"
        kept = f", {packed.kept} of them there before" if packed.kept else ""
        click.echo(f"{packed.folder}: {size}{kept}, {packed.total_bytes / 1e6:,.1f} MB")
        if verify:
            with progress_bar(f"verifying {split}") as progress:
                compare(packed.folder, progress=progress)
            click.echo(f"{packed.folder}: every image is as it was packed")
    click.echo(f"use it with data={out}")
