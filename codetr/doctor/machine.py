"""What the operating system, or a container, leaves to a run: cores, shared memory, open files, disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from codetr.doctor.findings import Finding

GIB = 2**30

SHARED_MEMORY = Path("/dev/shm")
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

LEAST_FILES = 1024
"""Open files: each batch that a worker hands over takes some."""

WANTED_FILES = 65536


def check_cores() -> list[Finding]:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return [judge_cores(total, usable, cpu_limit(CGROUPS, MEMBERSHIP), os.environ.get("OMP_NUM_THREADS"))]


def judge_cores(total: int, usable: int, limit: float | None, threads: str | None) -> Finding:
    """total: of the machine. usable: that this process may run on. limit: processor time of its container, in cores.
    threads: OMP_NUM_THREADS."""
    found = f"{total}" if usable == total else f"{usable} of {total} may be used"
    allowed = max(1, int(limit)) if limit is not None else usable
    if allowed < usable and threads is None:
        found += f", but a control group allows the time of {limit:g}: torch would start {usable} threads"
        return Finding("cores", "warning", found, f"export OMP_NUM_THREADS={allowed}")
    if limit is not None:
        found += f", a control group allows the time of {limit:g}"
    if threads is not None:
        found += f"; OMP_NUM_THREADS={threads}"
    return Finding("cores", "note" if usable < total or allowed < usable else "ok", found)


def cpu_limit(groups: Path, membership: Path) -> float | None:
    """Cores' worth of processor time that the control groups of this process allow, None if they set no limit.

    groups: where control groups are mounted. membership: the file that says in which ones the process is.
    """
    limits = [limit for limit in _limits(groups, membership) if limit is not None]
    return min(limits, default=None)


def _limits(groups: Path, membership: Path) -> Iterator[float | None]:
    """Of the process's own group and of all above it: version 2 has one file, version 1 two."""
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for line in lines or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers if controllers else groups
        place = Path(path.lstrip("/"))
        for folder in (place, *place.parents):
            yield _quota(root / folder / "cpu.max")
            yield _quota(root / folder / "cpu.cfs_quota_us", root / folder / "cpu.cfs_period_us")


def _quota(*files: Path) -> float | None:
    if not all(file.is_file() for file in files):
        return None
    quota, period = " ".join(file.read_text() for file in files).split()[:2]
    return None if quota in ("max", "-1") else int(quota) / int(period)


def check_shared_memory() -> list[Finding]:
    if not SHARED_MEMORY.is_dir():
        return [Finding("shared memory", "ok", f"this system has no {SHARED_MEMORY}, and needs none")]
    usage = shutil.disk_usage(SHARED_MEMORY)
    return [judge_shared_memory(usage.total, usage.free)]


def judge_shared_memory(total: int, free: int) -> Finding:
    """The processes that load images hand batches over in /dev/shm: 16 images of 800 x 1333 are 50 MB."""
    text = f"{SHARED_MEMORY} has {free / GIB:.2f} of {total / GIB:.2f} GiB free"
    if free >= GIB:
        return Finding("shared memory", "ok", text)
    found = f"{text}: processes that load images may die with a bus error; or train with data.workers=0"
    fix = "sudo mount -o remount,size=8G /dev/shm  # of a container: docker run --shm-size=8g ..."
    return Finding("shared memory", "failure" if free < GIB / 4 else "warning", found, fix)


def check_open_files() -> list[Finding]:
    try:
        import resource
    except ImportError:  # not a Unix
        return []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [judge_open_files(soft, hard, unlimited=resource.RLIM_INFINITY)]


def judge_open_files(soft: int, hard: int, *, unlimited: int) -> Finding:
    if soft == unlimited or soft > LEAST_FILES:
        return Finding("open files", "ok", "no limit" if soft == unlimited else f"at most {soft}")
    raised = WANTED_FILES if hard == unlimited else min(hard, WANTED_FILES)
    found = f"at most {soft}: many workers may end with 'too many open files'"
    if raised <= soft:
        return Finding("open files", "warning", found, f"sudo prlimit --pid $$ --nofile={WANTED_FILES}")
    return Finding("open files", "note" if soft == LEAST_FILES else "warning", found, f"ulimit -n {raised}")


def check_disk() -> list[Finding]:
    return [
        _disk("disk", Path.cwd(), least=GIB, wanted=10 * GIB, fix="codetr train SPEC --out /path/on/a/larger/disk"),
        _disk("temporary files", Path(tempfile.gettempdir()), least=GIB // 10, wanted=GIB, fix="export TMPDIR=$HOME"),
    ]


def _disk(check: str, folder: Path, *, least: int, wanted: int, fix: str) -> Finding:
    writable = os.access(folder, os.W_OK)
    return judge_disk(
        check, folder, shutil.disk_usage(folder).free, least=least, wanted=wanted, writable=writable, fix=fix
    )


def judge_disk(check: str, folder: Path, free: int, *, least: int, wanted: int, writable: bool, fix: str) -> Finding:
    """least, wanted: bytes, below which it is a failure and a warning. A checkpoint takes 0.2 to 4 GB."""
    if not writable:
        return Finding(check, "failure", f"{folder} cannot be written to", fix)
    text = f"{folder} has {free / GIB:.1f} GiB free"
    if free >= wanted:
        return Finding(check, "ok", text)
    return Finding(check, "failure" if free < least else "warning", f"{text}, {wanted / GIB:.0f} or more are safe", fix)
