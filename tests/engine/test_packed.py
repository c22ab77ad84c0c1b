"""A run on shards goes on where it was killed, and is the run on files where all shards are shuffled together."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import harm
import pytest
from harm import Lab

from codetr.data.config import DataConfig
from codetr.data.pack import pack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and signals process groups")

SHARD_BYTES = 30_720  # two of the twelve images


def _pack(lab: Lab) -> Path:
    packed = lab.path / "packed"
    for split in ("train", "val"):
        pack(DataConfig(dir=lab.path / "data"), split, packed, shard_bytes=SHARD_BYTES)  # type: ignore[arg-type]
    assert len(list(packed.glob("shards/train/*.tar"))) == 6
    return packed


def test_killed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """After step 9 of 12, two of which are saved together: step 3 of the second epoch, in the second window."""
    lab = Lab(tmp_path / "lab")
    packed = _pack(lab)
    shutil.rmtree(lab.path / "data")
    packed.rename(lab.path / "data")
    spec = lab.path / "tiny.yaml"
    spec.write_text(spec.read_text().replace("workers: 0}", "workers: 0, shuffle_shards: 2}"))
    run, code, output = lab.train("train.preflight=false", fault=harm.Send(10, signal.SIGKILL))
    assert code == -signal.SIGKILL and harm.last_step(run) in (6, 8), output
    code, output = lab.resume(run, "data.workers=2")
    assert code == 0, output
    lab.ends_alike(run)


def test_a_run_on_shards_is_the_run_on_files(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    _pack(lab)
    run, code, output = lab.train("train.preflight=false", "data=packed", "data.shuffle_shards=null")
    assert code == 0, output
    lab.ends_alike(run)
