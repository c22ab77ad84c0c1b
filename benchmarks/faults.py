"""Everything that can go wrong in a training run, done to one, and what came of it.

    python benchmarks/faults.py [--kills 50] [--seed 0]

Each run is hurt, mended as its message says, and compared with a run that nothing happened to: weights, best weights,
averaged weights and optimizer bit for bit, the log but for times. A fifth of the kills hit `python -m codetr.cli.main`
at any time from its start, others a forked process at any time after its run's folder was made; loader processes: 0
and 2 by turns. The disk that gets full is a tmpfs, which takes root; otherwise that row says so. What is done is in
tests/engine/harm.py. Writes benchmarks/results/faults.{json,md}.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from _common import environment, write

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engine"))

import harm  # noqa: E402
from harm import Lab, Seen  # noqa: E402

FRESH = 5
"""Of so many kills, one hits a fresh process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        lab = Lab(Path(temporary))
        rows = [_row(name, fault, temporary) for name, fault in _faults(lab).items()]
        kills = _kills(lab, options.kills, options.seed)
    record = {"environment": environment(), "seed": options.seed, "kills": kills, "faults": rows}
    write("faults", record, _table(kills, rows))


def _faults(lab: Lab) -> dict[str, Callable[[], Seen]]:
    return {
        "disk full for a while": lambda: _on_small_disk(lab, for_ever=False),
        "disk full for ever": lambda: _on_small_disk(lab, for_ever=True),
        "no file may grow (RLIMIT_FSIZE)": lambda: harm.files_limited(lab, for_ever=True),
        "newest checkpoint cut short": lambda: harm.checkpoint_damaged(lab, cut=True),
        "newest checkpoint with a bit flipped": lambda: harm.checkpoint_damaged(lab, cut=False),
        "image damaged in an epoch": lambda: harm.image_damaged(lab),
        "the same, data.on_bad_image=skip": lambda: harm.image_skipped(lab),
        "loader process killed": lambda: harm.worker_killed(lab),
        "NaN in one loss term": lambda: harm.poisoned(lab),
        "SIGTERM": lambda: harm.stopped(lab, signal.SIGTERM),
        "Ctrl-C": lambda: harm.stopped(lab, signal.SIGINT),
        "one of 2 ranks killed, --max-restarts 1": lambda: harm.rank_killed(lab),
    }


def _on_small_disk(lab: Lab, *, for_ever: bool) -> Seen:
    with harm.small_disk(lab.path / ("full-disk" if for_ever else "disk")) as disk:
        if disk is None:
            return Seen("", 0, "", "not done: mounting takes root")
        return harm.disk_full(lab, disk, for_ever=for_ever)


def _row(name: str, fault: Callable[[], Seen], temporary: str) -> dict[str, Any]:
    start = time.monotonic()
    try:
        seen, passed = fault(), True
    except AssertionError as error:
        seen, passed = Seen(name, -1, str(error), "FAILED"), False
    message = seen.message.replace(f"{temporary}/", "")
    print(f"{name}: {seen.outcome} ({time.monotonic() - start:.0f} s)\n{message}", flush=True)
    return {**asdict(replace(seen, fault=name, message=message)), "passed": passed}


def _kills(lab: Lab, count: int, seed: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for fresh, share in ((True, count // FRESH), (False, count - count // FRESH)):
        for moment in harm.moments(lab, share, seed=seed, fresh=fresh):
            entry = {"fresh": fresh, "drawn": round(moment, 3), "workers": 2 * (len(found) % 2)}
            try:
                seen = harm.killed(lab, moment=moment, workers=2 * (len(found) % 2), fresh=fresh)
                entry |= {"fault": seen.fault, "passed": True, "outcome": seen.outcome}
            except AssertionError as error:
                entry |= {"fault": "kill -9", "passed": False, "message": str(error)}
            print(f"{len(found) + 1}/{count} {entry}", flush=True)
            found.append(entry)
    return found


def _table(kills: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    lines = ["| fault | times | exit code | what it says first | outcome |", "|---|---:|---:|---|---|"]
    passed = Counter(entry["fault"] for entry in kills if entry["passed"])
    for fault, times in Counter(entry["fault"] for entry in kills).most_common():
        lines.append(f"| {fault} | {times} | -9 | | {passed[fault]} of {times} resumed and identical |")
    for row in rows:
        first = row["message"].partition("\n")[0].replace("|", "\\|")
        lines.append(f"| {row['fault']} | 1 | {row['code']} | {first} | {row['outcome']} |")
    good = sum(entry["passed"] for entry in kills)
    lines.append(
        f"\nkill -9: {good} of {len(kills)} identical; other faults: {sum(r['passed'] for r in rows)} of {len(rows)}"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
