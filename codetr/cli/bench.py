"""`codetr bench`: what this machine makes of the kernels, of a training step, of loading and of evaluation."""

from __future__ import annotations

from typing import ClassVar

import click

from codetr.cli.lazy import LazyGroup


class BenchMenu(LazyGroup):
    """The benchmarks."""

    modules: ClassVar = {
        "kernels": ("codetr.cli.bench_kernels", "The kernels: correctness, then times beside their peers."),
        "step": ("codetr.cli.bench_step", "A training step part by part, with heads and without."),
        "data": ("codetr.cli.bench_data", "Images per second of every way to read them, beside their peers."),
        "eval": ("codetr.cli.bench_eval", "Images per second of detection, and the seconds of its evaluation."),
    }


@click.command("bench", cls=BenchMenu)
def command() -> None:
    """Benchmark the kernels, a training step, loading and evaluation."""
