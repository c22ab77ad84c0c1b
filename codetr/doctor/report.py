"""Findings for people, a table on a terminal and plain lines elsewhere, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.doctor.findings import Finding, Verdict, failed

MARKS: dict[Verdict, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "warning": ("warning", "yellow"),
    "failure": ("failure", "bold red"),
}
"""The word and the style of each verdict."""

WIDTHS = 8, 15
"""Of the first two columns of plain lines."""


def print_line(console: Console, finding: Finding) -> None:
    """A line, and one for its command."""
    text = f"{finding.verdict:<{WIDTHS[0]}} {finding.check:<{WIDTHS[1]}} {finding.found}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if finding.fix:
        console.print(f"{'':<{sum(WIDTHS) + 1}} fix: {finding.fix}", markup=False, highlight=False, soft_wrap=True)


def print_table(console: Console, findings: Sequence[Finding]) -> None:
    """The findings, then the commands, each unbroken on a line of its own so that it can be pasted."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        word, style = MARKS[finding.verdict]
        table.add_row(Text(word, style=style), Text(finding.check), Text(finding.found))
    console.print(table)
    fixes = {finding.fix: finding for finding in reversed(findings) if finding.fix}
    if fixes:
        console.print("\nto mend or improve", style="bold")
    for command, finding in reversed(fixes.items()):
        mark = Text.assemble((f"  {finding.check}", MARKS[finding.verdict][1]))
        console.print(mark)
        console.print(f"    {command}", markup=False, highlight=False, soft_wrap=True)


def print_details(console: Console, findings: Sequence[Finding]) -> None:
    """Tracebacks and the like of what failed."""
    for finding in findings:
        if finding.detail:
            console.print(f"\n--- {finding.check}", markup=False, highlight=False, soft_wrap=True)
            console.print(finding.detail.rstrip(), markup=False, highlight=False, soft_wrap=True)


def summary(findings: Sequence[Finding]) -> str:
    """How many there are of each verdict, in a sentence."""
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in MARKS}
    parts = [f"{counts['failure']} failure{'s' * (counts['failure'] != 1)}"] if counts["failure"] else ["no failures"]
    parts += [f"{counts['warning']} warning{'s' * (counts['warning'] != 1)}"] if counts["warning"] else []
    return f"{', '.join(parts)}, {len(findings)} rows"


def as_json(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    """version: of codetr. `passed` says what the exit code says."""
    return {
        "codetr": version,
        "passed": not failed(findings),
        "findings": [asdict(finding) for finding in findings],
    }
