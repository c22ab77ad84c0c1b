from __future__ import annotations

from codetr.bench import report
from codetr.bench.step.measuring import Result
from codetr.bench.step.subjects import TRANSFORMERS, WITH, WITHOUT
from codetr.bench.step.tables import print_results
from codetr.bench.timing import Times


def result(name, mean, note="", memory=None, **parts) -> Result:
    return Result(name, note, 4, 1_500_000, mean, parts, Times(mean - 1, mean + 2, 10), memory)


def test_side_by_side(capsys) -> None:
    results = [
        result(WITHOUT, 100, data=0.5, decoder=40, backward=59.5, memory=2**30),
        result(WITH, 150, data=0.1, **{"head atss": 30}, decoder=60, backward=59.9, memory=2**31),
        result(TRANSFORMERS, 200, "its own loss", backward=119, rest=81),
    ]
    print_results(report.console(), results, title="tiny: a step")
    lines = capsys.readouterr().out.splitlines()
    cells = {row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("│┃").split("│")] for line in lines)}
    header = next(line for line in lines if "share" in line)
    names = [WITHOUT, "share", WITH, "share", TRANSFORMERS, "share", "with / without", "peer / without"]
    assert [cell.strip() for cell in header.strip("┃").split("┃")][1:] == names
    assert cells["data"] == ["0.5", "0.5 %", "0.1", "0.1 %", "", "", "", ""]  # too short for a ratio
    assert cells["head atss"] == ["", "", "30", "20.0 %", "", "", "", ""]
    assert cells["decoder"] == ["40", "40.0 %", "60", "40.0 %", "", "", "1.50", ""]
    assert cells["backward"] == ["59.5", "59.5 %", "59.9", "39.9 %", "119", "59.5 %", "1.01", "2.00"]
    assert cells["step"] == ["100", "100.0 %", "150", "100.0 %", "200", "100.0 %", "1.50", "2.00"]
    assert cells["images/s"][::2] == ["40", "26.7", "20", ""]
    assert cells["peak memory, MiB"][::2] == ["1,024", "2,048", "", ""]
    assert cells["trained parameters, M"][0] == "1.5"
    assert "transformers: its own loss" in lines
    order = [name for name in cells if name in ("data", "head atss", "decoder", "backward", "rest", "step")]
    assert order == ["data", "head atss", "decoder", "backward", "rest", "step"]
