"""Makes sure that the data of a spec exist: renders the synthetic set where the spec asks for one."""

from __future__ import annotations

from collections.abc import Callable

from codetr.data.config import DataConfig


def prepare(config: DataConfig, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Renders `data.synthetic` into `data.dir`, or does nothing if it is there already, or not asked for.

    progress: called with the number of images made and of all. In a distributed run one process should go first.
    Raises: UserError if the folder holds anything else.
    """
    if config.synthetic is None or config.dir is None:
        return
    from codetr.data.synthetic import generate

    settings = config.synthetic
    generate(
        config.dir,
        train=settings.train,
        val=settings.val,
        size=settings.size,
        seed=settings.seed,
        objects=settings.objects,
        clutter=settings.clutter,
        crowds=settings.crowds,
        long_tail=settings.long_tail,
        progress=progress,
    )
