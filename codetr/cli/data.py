"""`codetr data`: what can be done with a data set before it is trained on."""

from __future__ import annotations

from typing import ClassVar

import click

from codetr.cli.lazy import LazyGroup


class DataMenu(LazyGroup):
    """The commands about data sets."""

    modules: ClassVar = {
        "check": ("codetr.cli.data_check", "Find what is wrong with a data set; --fix writes a clean copy."),
        "stats": ("codetr.cli.data_stats", "Classes, sizes, duplicates and leaks of a data set, and pictures of it."),
        "show": ("codetr.cli.data_show", "Draw what a model will see when it is trained on a spec."),
        "convert": ("codetr.cli.data_convert", "Write a data set of any known layout as COCO."),
        "pack": ("codetr.cli.data_pack", "Pack a data set into shards for network storage."),
        "synth": ("codetr.cli.data_synth", "Render a synthetic data set."),
    }


@click.command("data", cls=DataMenu)
def command() -> None:
    """Check, look at, convert, pack or make data sets."""
