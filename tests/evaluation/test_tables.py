from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from codetr.evaluation.figures import UNDEFINED, ClassFigures, CocoFigures, Figures, LvisFigures
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
    by_class={
        "red [bold]": ClassFigures(0.5, 0.75, UNDEFINED, 0.1, 0.2, 0.45, objects=12),
        "no objects": ClassFigures(*[UNDEFINED] * 6, objects=0),
    },
)
LVIS = LvisFigures(
    AP=0.5,
    AP50=0.75,
    AP75=0.25,
    APs=UNDEFINED,
    APm=0.1,
    APl=0.2,
    APr=0.11,
    APc=0.12,
    APf=0.13,
    AR=0.45,
    ARs=UNDEFINED,
    ARm=0.6,
    ARl=0.7,
    by_class={f"class_{index}": ClassFigures(*[index / 2000] * 6, objects=index % 2) for index in range(1203)},
)


def printed(*, terminal: bool, per_class: bool = False, figures: Figures = FIGURES) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system=None)
    print_figures(figures, console, title="runs/x", per_class=per_class)
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
    assert [line.rstrip() for line in printed(terminal=False, per_class=True).splitlines()[12:]] == [
        "class       objects       AP     AP50      APs      APm      APl       AR",
        "red [bold]       12    0.500    0.750      n/a    0.100    0.200    0.450",
        "1 of 2 classes have no objects here: no objects",
    ]
    assert "red [bold]" in printed(terminal=True, per_class=True)
    assert "red [bold]" not in printed(terminal=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_hundreds_of_classes_without_objects_are_counted(terminal: bool) -> None:
    lines = printed(terminal=terminal, per_class=True, figures=LVIS).splitlines()
    assert (
        "".join(lines[-2:])
        .replace(" ", "")
        .endswith("602of1203classeshavenoobjectshere:class_0,class_2,class_4,class_6,class_8and597more")
    )
    rows = [line.replace("\u2502", " ").split() for line in lines]
    assert ["class_999", "1", *["0.499"] * 6] in rows
    assert len([row for row in rows if row and row[0].startswith("class_")]) == 601


def test_a_table_on_a_terminal() -> None:
    table = printed(terminal=True)
    assert "runs/x" in table
    rows = [line.replace("\u2502", " ").split() for line in table.splitlines()]
    assert ["AP50", "0.50", "all", "100", "0.750"] in rows
    assert ["APs", "0.50:0.95", "small", "100", "n/a"] in rows
    assert ["AR10", "0.50:0.95", "all", "10", "0.400"] in rows


def test_a_table_of_lvis() -> None:
    rows = [line.replace("\u2502", " ").split() for line in printed(terminal=True, figures=LVIS).splitlines()]
    assert ["APr", "0.50:0.95", "rare", "classes", "300", "0.110"] in rows
    assert ["ARm@300", "0.50:0.95", "medium", "300", "0.600"] in rows
    fixed = printed(terminal=True, figures=replace(LVIS, max_detections=None))
    assert ["APl", "0.50:0.95", "large", "all", "0.200"] in [
        line.replace("\u2502", " ").split() for line in fixed.splitlines()
    ]
