"""What processes talk through."""

from __future__ import annotations

import pytest

from codetr.doctor import communication
from codetr.doctor.communication import check_communication, check_gloo, judge_communication, judge_gloo


def test_this_torch_has_gloo() -> None:
    assert [row.verdict for row in check_communication()] == ["ok"]


def test_what_torch_was_built_with() -> None:
    assert judge_communication(8, nccl="2.30.7", gloo=True).found == "gloo, NCCL 2.30.7"
    assert judge_communication(0, nccl="", gloo=True).found == "gloo, NCCL"
    assert judge_communication(1, nccl=None, gloo=True).verdict == "ok"
    row = judge_communication(2, nccl=None, gloo=True)
    assert (row.verdict, row.found) == ("failure", "this torch was built without NCCL, for 2 GPUs")
    assert row.fix.endswith("--force-reinstall torch torchvision")
    assert judge_communication(0, nccl=None, gloo=False).verdict == "failure"


def test_two_processes_add() -> None:
    assert check_gloo() == [judge_gloo(None)]


def test_two_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(communication, "_ADD", "import sys\nsys.exit('connectFullMesh failed')")
    (row,) = check_gloo()
    assert (row.verdict, row.found) == ("failure", "two processes cannot add two numbers: connectFullMesh failed")
    assert row.fix == "export GLOO_SOCKET_IFNAME=lo"


def test_two_processes_that_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(communication, "_ADD", "import time\ntime.sleep(600)")
    monkeypatch.setattr(communication, "WAIT", 0.2)
    (row,) = check_gloo()
    assert row.found == "two processes cannot add two numbers: two processes did not meet within 0.2 s"
