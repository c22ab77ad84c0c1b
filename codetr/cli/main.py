"""The `codetr` command: a menu whose commands are imported when they are called."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import ClassVar, TextIO

import click

from codetr.cli.lazy import USER_ERROR, Failure, LazyGroup
from codetr.cli.text import printable
from codetr.errors import Notice, UserError

COMMANDS = {
    "train": ("codetr.cli.train", "Train a spec; --resume continues a run."),
    "launch": ("codetr.cli.launch", "Write the batch file of a cluster that trains a spec."),
    "eval": ("codetr.cli.eval", "Evaluate a run, a checkpoint or a results file."),
    "predict": ("codetr.cli.predict", "Detect objects in images and draw them."),
    "wrap": ("codetr.cli.wrap", "Put auxiliary heads around a detector and write the spec."),
    "inspect": ("codetr.cli.inspect", "See what each head calls positive in an image."),
    "data": ("codetr.cli.data", "Check, look at, convert, pack or make data sets."),
    "zoo": ("codetr.cli.zoo", "List the shipped specs, show what one resolves to."),
    "convert": ("codetr.cli.convert", "Convert published weights to safetensors."),
    "doctor": ("codetr.cli.doctor", "Check this machine and installation; say how to mend them."),
    "bench": ("codetr.cli.bench", "Benchmark kernels, steps, loading and evaluation."),
}
"""Each command's module, which calls it `command`, and its line in the menu."""

INTERRUPTED = 130

MENU = """\b
Start here:
  codetr train zoo/quickstart.yaml                     a small run on a data set that it makes itself
  codetr train zoo/co_deformable_r50.yaml data=DIR     any setting is key=value, such as train.epochs=36
  codetr zoo list                                      the shipped specs
"""


class Menu(LazyGroup):
    """The commands of codetr; an error of the user is shown as its message alone."""

    modules: ClassVar = COMMANDS

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params["debug"]:
                raise
            raise Failure(str(error)) from error


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"codetr {version('codetr')}")
        ctx.exit()


@click.group(
    cls=Menu,
    invoke_without_command=True,
    epilog=MENU,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Train, evaluate and run end-to-end object detectors under collaborative hybrid assignments training."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's) and return its exit code.

    0 done, 2 an error of the user, 130 interrupted. Any other exception is a defect of codetr, and passes.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = cli.main(args=arguments, prog_name="codetr", standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except UserError:
        traceback.print_exc()
        return USER_ERROR
    except click.ClickException as error:
        _print_error(error)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In place of `warnings.showwarning`: a notice without the line of code that gave it."""
    if issubclass(category, Notice):
        text = f"{click.style('warning:', fg='yellow', bold=True)} {printable(str(message))}"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line).rstrip("\n")
    click.echo(text, err=True)


def _print_error(error: click.ClickException) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(error.format_message())}", err=True)
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(f"{context.get_usage()}\nTry '{context.command_path} --help'.", err=True)


if __name__ == "__main__":
    sys.exit(main())
