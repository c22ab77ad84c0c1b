"""`codetr doctor`: what this machine and installation are fit for."""

from __future__ import annotations

from pathlib import Path

import click

FAILED = 1


@click.command("doctor")
@click.option("--distributed", is_flag=True, help="Also let two processes talk to each other (some seconds).")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything to a JSON file.")
@click.pass_context
def command(ctx: click.Context, distributed: bool, json_file: Path | None) -> None:
    """Check this machine and installation; say how to mend what is wrong.

    Versions and whether they fit one another, the build of torch against the driver and the GPUs, every kernel against
    its reference on every device, the evaluators, the speed of image decoding, cores, shared memory and disk.

    Exit code 0 if nothing failed, else 1. Some seconds; with a GPU longer the first time, which compiles the kernels.
    `codetr --debug doctor` shows the tracebacks.
    """
    from rich.console import Console

    from codetr.doctor import checks, examination, report
    from codetr.doctor.findings import Finding, failed

    console = Console()
    names = [name for name in checks.CHECKS if distributed or name not in checks.OPTIONAL]
    findings: list[Finding] = []
    if console.is_terminal:
        with console.status("starting") as status:
            findings += examination.examine(names, begun=lambda name: status.update(f"checking {name}"))
        report.print_table(console, findings)
    else:
        for finding in examination.examine(names):
            findings.append(finding)
            report.print_line(console, finding)
    if ctx.find_root().params["debug"]:
        report.print_details(console, findings)
    console.print(f"\n{report.summary(findings)}", markup=False, highlight=False, soft_wrap=True)
    if json_file is not None:
        from importlib import metadata

        from codetr.evaluation.files import write_json

        try:
            version = metadata.version("codetr")
        except metadata.PackageNotFoundError:
            version = "not installed"
        write_json(json_file, report.as_json(findings, version), indent=2)
    if failed(findings):
        ctx.exit(FAILED)
