"""A run that is hurt loses nothing, and says what happened. benchmarks/faults.py does the same at length."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import harm
import pytest
from harm import Lab

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and signals process groups")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


def test_killed_at_any_moment(lab: Lab) -> None:
    for index, moment in enumerate(harm.moments(lab, 3, seed=0)):
        harm.killed(lab, moment=moment, workers=2 * (index % 2))


def test_killed_before_anything_was_saved(lab: Lab) -> None:
    """The folder is there, and a few steps are done: the same command line goes on as with any other run."""
    run, code, output = lab.train("train.preflight=false", fault=harm.Send(2, signal.SIGKILL))
    assert code == -signal.SIGKILL and harm.last_step(run) == 0, output
    assert [record["step"] for record in harm.timeless(run)] == [1]
    code, output = lab.resume(run)
    assert code == 0 and "nothing was saved before the run was cut off. It starts again from step 1." in output, output
    lab.ends_alike(run)


def test_disk_full_for_a_while(lab: Lab, tmp_path: Path) -> None:
    with harm.small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("mounting a small tmpfs takes root")
        harm.disk_full(lab, disk, for_ever=False)


def test_disk_full_for_ever(lab: Lab, tmp_path: Path) -> None:
    with harm.small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("mounting a small tmpfs takes root")
        harm.disk_full(lab, disk, for_ever=True)


def test_files_limited(lab: Lab) -> None:
    harm.files_limited(lab, for_ever=True)


@pytest.mark.parametrize("cut", [True, False])
def test_checkpoint_damaged(lab: Lab, cut: bool) -> None:
    harm.checkpoint_damaged(lab, cut=cut)


def test_image_damaged(lab: Lab) -> None:
    harm.image_damaged(lab)


def test_image_skipped(lab: Lab) -> None:
    harm.image_skipped(lab)


def test_worker_killed(lab: Lab) -> None:
    harm.worker_killed(lab)


def test_loss_poisoned(lab: Lab) -> None:
    harm.poisoned(lab)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(lab: Lab, number: signal.Signals) -> None:
    harm.stopped(lab, number)
