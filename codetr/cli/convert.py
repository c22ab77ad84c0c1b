"""`codetr convert`: published weights to safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codetr.weights.convert import Converted


@click.command("convert")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.safetensors"
)
@click.option("--spec", help="Spec that the weights belong to [that of the published weights].")
@click.option("--annotations", type=click.Path(path_type=Path), help="COCO file that names the classes.")
@click.option("--quiet", is_flag=True, help="Print the summary only.")
def command(
    file: Path, overrides: tuple[str, ...], output: Path, spec: str | None, annotations: Path | None, quiet: bool
) -> None:
    """Convert the published checkpoint FILE, and account for every tensor in it.

    Known are the authors' files of Co-Deformable-DETR, DETR and Conditional DETR, and mmdetection's of the last two.

    \b
        codetr convert co_deformable_detr_r50_1x_coco.pth -o co_deformable_r50.safetensors
        codetr eval co_deformable_r50.safetensors data=COCO
    """
    from codetr.errors import UserError
    from codetr.weights.convert import convert_checkpoint

    if output.suffix != ".safetensors":
        raise UserError(f"{output}: the output is a .safetensors file; try {output.with_suffix('.safetensors')}")
    result = convert_checkpoint(file, output, spec=spec, overrides=overrides, annotations=annotations)
    _print(result, output, quiet=quiet)


def _print(result: Converted, output: Path, *, quiet: bool) -> None:
    conversion = result.conversion
    if not quiet:
        for entry in conversion.entries:
            joint = "->" if entry.outcome == "mapped" else ":"
            click.echo(f"{entry.outcome:8} {entry.source} {joint} {entry.detail}")
    counts = ", ".join(f"{conversion.count(o)} {o}" for o in ("mapped", "dropped", "unmatched"))
    click.echo(f"{len(conversion.entries)} tensors: {counts}")
    if not result.named:
        click.echo("class names are numbers: give --annotations FILE to name them", err=True)
    click.echo(f"wrote {output} ({len(result.meta.classes)} classes)")
