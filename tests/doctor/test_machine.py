"""Cores, shared memory, open files, disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetr.doctor import machine
from codetr.doctor.machine import (
    GIB,
    check_cores,
    check_disk,
    check_open_files,
    check_shared_memory,
    cpu_limit,
    judge_cores,
    judge_disk,
    judge_open_files,
    judge_shared_memory,
)

UNLIMITED = -1


def test_this_machine_is_looked_at() -> None:
    rows = [*check_cores(), *check_shared_memory(), *check_open_files(), *check_disk()]
    assert [row.check for row in rows] == ["cores", "shared memory", "open files", "disk", "temporary files"]
    assert all(row.fix for row in rows if row.verdict == "failure")


def test_cores() -> None:
    assert judge_cores(64, 64, None, None).verdict == "ok"
    row = judge_cores(64, 64, 2.5, None)
    assert (row.verdict, row.fix) == ("warning", "export OMP_NUM_THREADS=2")
    assert row.found == "64, but a control group allows the time of 2.5: torch would start 64 threads"
    assert judge_cores(64, 64, 0.5, None).fix == "export OMP_NUM_THREADS=1"
    row = judge_cores(64, 64, 2.0, "2")
    assert (row.verdict, row.found) == ("note", "64, a control group allows the time of 2; OMP_NUM_THREADS=2")
    row = judge_cores(64, 8, None, None)
    assert (row.verdict, row.found) == ("note", "8 of 64 may be used")
    assert judge_cores(8, 8, 16.0, None).verdict == "ok"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_limit_is_the_least_of_the_group_and_those_above(tmp_path: Path) -> None:
    groups, membership = tmp_path / "cgroup", tmp_path / "self"
    write(membership, "0::/pod/container\n")
    assert cpu_limit(groups, membership) is None
    write(groups / "pod" / "container" / "cpu.max", "max 100000\n")
    assert cpu_limit(groups, membership) is None
    write(groups / "pod" / "cpu.max", "250000 100000\n")
    assert cpu_limit(groups, membership) == 2.5
    write(groups / "pod" / "container" / "cpu.max", "50000 100000\n")
    assert cpu_limit(groups, membership) == 0.5
    write(groups / "other" / "cpu.max", "10000 100000\n")
    assert cpu_limit(groups, membership) == 0.5


def test_inside_a_container_its_group_is_the_root(tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    write(groups / "cpu.max", "400000 100000\n")
    assert cpu_limit(groups, tmp_path / "none") == 4.0


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    groups, membership = tmp_path / "cgroup", tmp_path / "self"
    write(membership, "5:memory:/job\n4:cpu,cpuacct:/job\n")
    write(groups / "memory" / "job" / "cpu.cfs_quota_us", "1\n")
    write(groups / "memory" / "job" / "cpu.cfs_period_us", "1\n")
    write(groups / "cpu,cpuacct" / "job" / "cpu.cfs_quota_us", "300000\n")
    write(groups / "cpu,cpuacct" / "job" / "cpu.cfs_period_us", "100000\n")
    write(groups / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1\n")
    write(groups / "cpu,cpuacct" / "cpu.cfs_period_us", "100000\n")
    assert cpu_limit(groups, membership) == 3.0


@pytest.mark.parametrize(("mebibytes", "verdict"), [(64, "failure"), (512, "warning"), (1024, "ok"), (8192, "ok")])
def test_shared_memory(mebibytes: int, verdict: str) -> None:
    size = mebibytes * 2**20
    row = judge_shared_memory(size, size)
    assert row.verdict == verdict
    if verdict != "ok":
        assert "bus error" in row.found and "data.workers=0" in row.found
        assert "remount,size=8G" in row.fix and "--shm-size=8g" in row.fix


def test_shared_memory_that_is_taken() -> None:
    row = judge_shared_memory(8 * GIB, GIB // 10)
    assert row.verdict == "failure"
    assert row.found.startswith("/dev/shm has 0.10 of 8.00 GiB free")


def test_a_system_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert [row.verdict for row in check_shared_memory()] == ["ok"]


def test_open_files() -> None:
    assert judge_open_files(UNLIMITED, UNLIMITED, unlimited=UNLIMITED).verdict == "ok"
    assert judge_open_files(4096, 4096, unlimited=UNLIMITED).verdict == "ok"
    row = judge_open_files(1024, 1048576, unlimited=UNLIMITED)
    assert (row.verdict, row.fix) == ("note", "ulimit -n 65536")
    row = judge_open_files(256, 4096, unlimited=UNLIMITED)
    assert (row.verdict, row.fix) == ("warning", "ulimit -n 4096")
    assert judge_open_files(256, UNLIMITED, unlimited=UNLIMITED).fix == "ulimit -n 65536"
    row = judge_open_files(1024, 1024, unlimited=UNLIMITED)
    assert (row.verdict, row.fix) == ("warning", "sudo prlimit --pid $$ --nofile=65536")


@pytest.mark.parametrize(("gibibytes", "verdict"), [(0.5, "failure"), (5.0, "warning"), (10.0, "ok")])
def test_disk(gibibytes: float, verdict: str) -> None:
    row = judge_disk("disk", Path("/runs"), int(gibibytes * GIB), least=GIB, wanted=10 * GIB, writable=True, fix="move")
    assert row.verdict == verdict
    assert row.found.startswith(f"/runs has {gibibytes} GiB free")
    assert row.fix == ("" if verdict == "ok" else "move")


def test_a_folder_that_cannot_be_written_to() -> None:
    row = judge_disk("disk", Path("/runs"), 99 * GIB, least=1, wanted=1, writable=False, fix="move")
    assert (row.verdict, row.found, row.fix) == ("failure", "/runs cannot be written to", "move")
