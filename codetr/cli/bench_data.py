"""`codetr bench data`: images per second of loading."""

from __future__ import annotations

from pathlib import Path

import click

from codetr.cli.bar import progress_bar

SPEC = "co_deformable_r50"
IMAGES = 256
RENDERED = 64


@click.command("data")
@click.argument("arguments", nargs=-1, metavar="[SPEC] [KEY=VALUE]...")
@click.option("--images", type=click.IntRange(min=1), default=IMAGES, show_default=True, help="Counted in a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Turns of each reader.")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Images of a batch.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that load; default: data.workers.")
@click.option("--only", metavar="NAME", multiple=True, help="This reader alone, beside codetr on files.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything to a JSON file.")
def command(
    arguments: tuple[str, ...],
    images: int,
    rounds: int,
    batch_size: int,
    workers: int | None,
    only: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Measure how fast training images are loaded: as files, as shards, and by other libraries.

    Loads the data of SPEC by its recipe (default: co_deformable_r50), or rendered images if it names none.
    """
    from tempfile import TemporaryDirectory

    import torch

    from codetr.bench import report
    from codetr.bench.data import tables
    from codetr.bench.data.measuring import measure_readers, measure_stages
    from codetr.bench.data.readers import BASELINE, annotated_pictures, subjects
    from codetr.bench.data.task import make_task
    from codetr.data.coco import open_split
    from codetr.data.loader import worker_count
    from codetr.errors import UserError, suggestion
    from codetr.spec import load_spec

    named = [argument for argument in arguments[:1] if "=" not in argument]
    spec = named[0] if named else SPEC
    config = load_spec(spec, arguments[len(named) :]).data
    workers = worker_count(config) if workers is None else workers
    out = report.console()
    report.print_machine(out, torch.device("cpu"))
    with TemporaryDirectory(prefix="codetr-bench-") as folder:
        task, note = make_task(config, Path(folder), batch_size=batch_size, workers=workers, rendered=RENDERED)
        out.print(f"{note}; batches of {batch_size}, {workers} workers", markup=False)
        found, absent = subjects(task, annotated_pictures(task.files))
        for name in only:
            names = [subject.name for subject in found]
            if name not in names:
                raise UserError(f"no reader is called {name!r}; {suggestion(name, names, kind='readers')}")
        if only:
            found = [subject for subject in found if subject.name in (BASELINE, *only)]
        with progress_bar("turns") as progress:
            rates = measure_readers(found, images=images, rounds=rounds, progress=progress)
        stages = {
            name: measure_stages(open_split(own, "train"), own, batch_size=batch_size, images=min(images, IMAGES))
            for name, own in (("files", task.files), ("shards", task.shards))
        }
    title = f"{spec}: images per second, median of {rounds} round{'s' * (rounds > 1)} of {images} images or more"
    tables.print_readers(out, rates, found, absent, title=title, workers=workers)
    tables.print_stages(out, stages)
    if json_file is not None:
        from codetr.evaluation.files import write_json

        settings = {"images": images, "rounds": rounds, "batch_size": batch_size, "workers": workers, "data": note}
        machine = report.machine(torch.device("cpu"))
        document = {"machine": machine, "spec": spec, "data": config.model_dump(mode="json"), "settings": settings}
        write_json(json_file, {**document, **tables.record(rates, absent, stages, workers=workers)}, indent=2)
