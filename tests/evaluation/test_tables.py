from __future__ import annotations

import io

import pytest
from rich.console import Console

from codetr.evaluation.figures import UNDEFINED, CocoFigures
from codetr.evaluation.tables import print_figures, shown

FIGURES = CocoFigures(
    AP=0.5,
    AP50=0.75,
    AP75=0.25,
    APs=UNDEFINED,
    APm=0.1,
    APl=0.2,
    AR1=0.3,
    AR10=0.4,
    AR100=0.45,
    ARs=UNDEFINED,
    ARm=0.6,
    ARl=0.7,
    per_class={"red [bold]": 0.5, "no objects": UNDEFINED},
)


def printed(*, terminal: bool, per_class: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system=None)
    print_figures(FIGURES, console, title="runs/x", per_class=per_class)
    return stream.getvalue()


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.000"), (0.12345, "0.123"), (1.0, "1.000"), (UNDEFINED, "n/a")])
def test_undefined_is_told_from_zero(value: float, text: str) -> None:
    assert shown(value) == text


def test_plain_lines_when_not_a_terminal() -> None:
    lines = printed(terminal=False).splitlines()
    assert [line.split() for line in lines] == [
        ["AP", "0.500"],
        ["AP50", "0.750"],
        ["AP75", "0.250"],
        ["APs", "n/a"],
        ["APm", "0.100"],
        ["APl", "0.200"],
        ["AR1", "0.300"],
        ["AR10", "0.400"],
        ["AR100", "0.450"],
        ["ARs", "n/a"],
        ["ARm", "0.600"],
        ["ARl", "0.700"],
    ]


def test_classes_on_demand_with_their_names_as_they_are() -> None:
    assert printed(terminal=False, per_class=True).splitlines()[12:] == ["AP red [bold]  0.500", "AP no objects  n/a"]
    assert "red [bold]" in printed(terminal=True, per_class=True)
    assert "red [bold]" not in printed(terminal=True)


def test_a_table_on_a_terminal() -> None:
    table = printed(terminal=True)
    assert "runs/x" in table
    rows = [line.replace("\u2502", " ").split() for line in table.splitlines()]
    assert ["AP50", "0.50", "all", "100", "0.750"] in rows
    assert ["APs", "0.50:0.95", "small", "100", "n/a"] in rows
    assert ["AR10", "0.50:0.95", "all", "10", "0.400"] in rows
