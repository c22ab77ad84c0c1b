"""`codetr inspect`: what collaborative training does, made visible."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("inspect")
def command() -> None:
    """See what collaborative training does."""


@command.command("assign")
@click.argument("image", type=click.Path(path_type=Path), metavar="IMAGE")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--annotations", required=True, type=click.Path(path_type=Path), metavar="FILE", help="COCO file.")
@click.option("--spec", metavar="SPEC", help="Base and heads; default: those of --checkpoint.")
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="RUN|CKPT", help="Trained weights.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="Draw a picture."
)
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything to a JSON file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of untrained weights and of sampling.")
def assign(
    image: Path,
    overrides: tuple[str, ...],
    annotations: Path,
    spec: str | None,
    checkpoint: Path | None,
    output: Path | None,
    json_file: Path | None,
    seed: int,
) -> None:
    """Show which priors of an image each head calls positive for which object, and what the Hungarian branch matches.

    \b
        codetr inspect assign photo.jpg --annotations instances.json --spec co_deformable_r50 -o assign.png

    The image is resized as in evaluation. Without --checkpoint the weights are untrained: that changes nothing for
    heads that assign by anchors and points alone, but proposals and matched queries are then random.
    """
    if spec is None and checkpoint is None:
        raise click.UsageError("name the base and its heads: --spec SPEC, or --checkpoint RUN")
    if output is not None:
        from codetr.inspection.picture import require_matplotlib

        require_matplotlib("-o")

    from rich.console import Console

    from codetr.evaluation.files import write_json
    from codetr.inspection.inspecting import inspect_assignment
    from codetr.inspection.report import as_record, assignment_table

    found = inspect_assignment(image, annotations, spec=spec, checkpoint=checkpoint, overrides=overrides, seed=seed)
    Console(highlight=False).print(assignment_table(found))
    if json_file is not None:
        write_json(json_file, as_record(found), indent=1)
    if output is not None:
        from codetr.inspection.picture import draw

        draw(found, output)
        click.echo(f"drawn: {output}")
