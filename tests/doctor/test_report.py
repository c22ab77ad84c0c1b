"""What people and programs read."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from codetr.doctor.findings import Finding
from codetr.doctor.report import as_json, print_details, print_line, print_table, summary

LONG = (
    "python -m pip install --upgrade --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl"
)
ROWS = [
    Finding("python", "ok", "3.12.1"),
    Finding("torch", "failure", "[bold]broken[/bold]", LONG, "Traceback [x]"),
    Finding("gpu", "failure", "not checked", LONG),
    Finding("open files", "note", "at most 1024", "ulimit -n 65536"),
]


def test_lines_are_not_broken_and_text_is_not_markup() -> None:
    out = StringIO()
    console = Console(file=out, width=40)
    for row in ROWS[:2]:
        print_line(console, row)
    assert out.getvalue() == (
        "ok       python          3.12.1\n"
        "failure  torch           [bold]broken[/bold]\n"
        f"                         fix: {LONG}\n"
    )


def test_a_table_is_followed_by_each_command_once_on_one_line() -> None:
    out = StringIO()
    print_table(Console(file=out, width=60), ROWS)
    text = out.getvalue()
    assert "[bold]broken[/bold]" in text
    assert text.splitlines()[-5:] == [
        "to mend or improve",
        "  torch",
        f"    {LONG}",
        "  open files",
        "    ulimit -n 65536",
    ]


def test_a_table_without_commands() -> None:
    out = StringIO()
    print_table(Console(file=out, width=60), ROWS[:1])
    assert "mend" not in out.getvalue()


def test_details() -> None:
    out = StringIO()
    print_details(Console(file=out), ROWS)
    assert out.getvalue() == "\n--- torch\nTraceback [x]\n"


def test_the_last_line() -> None:
    assert summary(ROWS) == "2 failures, 4 rows"
    assert summary(ROWS[:2]) == "1 failure, 2 rows"
    assert summary([Finding("a", "warning", ""), Finding("b", "ok", "")]) == "no failures, 1 warning, 2 rows"


def test_json_says_what_the_exit_code_says() -> None:
    assert as_json(ROWS[:1], "0.1.0") == {
        "codetr": "0.1.0",
        "passed": True,
        "findings": [{"check": "python", "verdict": "ok", "found": "3.12.1", "fix": "", "detail": ""}],
    }
    assert as_json(ROWS, "0.1.0")["passed"] is False
