"""The same global batch on one process and on two: the same losses, gradients and weights, but for float32 sums.

Every image has one size, nothing drops out, and norms look at one image: what is left to depend on the division of a
batch is the order of sums. Objects are few (below one a rank at times), one rank has none at times, and the images of a
batch have different numbers of them, so that denoising would differ if each rank counted its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import SCRIPT, SPEC, records, write_data
from torch import Tensor

from codetr.data.batches import training_batches

RCNN = (
    "{rpn: {channels: 16, train_candidates: 40, train_proposals: 20, samples: 16}, "
    "roi: {hidden: 16, samples: 8, output_size: 3}}"
)
HEADS = f"heads={{atss: {{}}, faster_rcnn: {RCNN}}}"
DINO = SPEC.replace("bases/deformable_detr_pp", "bases/dino")
SPECS = {
    # Negatives join the positives up to the largest number in the batch, that of any rank.
    "co_deformable": (SPEC, (HEADS, "collaborative.fill=negatives")),
    "co_dino": (DINO, (HEADS, "base.denoising.queries=6")),
    # One of the two classes counts where an image has none; which one depends on the image alone.
    "federated": (
        SPEC,
        (
            "heads={atss: {federated: true}}",
            "criterion.federated=true",
            "data.federated.classes=1",
            "data.repeat.threshold=1",
        ),
    ),
}
OBJECTS = (0, 0, 0, 3, 1, 0, 0, 0, 2, 4, 0, 1, 1, 1, 3, 0)
"""Of sixteen images, in batches of four."""
STEPS, RATE, SEED = 4, 1e-3, 10


def arguments(folder: Path, name: str, run: str) -> list[str]:
    spec, overrides = SPECS[name]
    (folder / f"{name}.yaml").write_text(spec)
    train = ["train.batch_size=4", "train.eval_every=null", f"train.lr={RATE}", f"train.seed={SEED}"]
    return [str(folder / f"{name}.yaml"), str(folder / "data"), str(folder / f"{run}-{name}"), *overrides, *train]


def start(folder: Path, name: str, run: str, *launcher: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, str(SCRIPT), *arguments(folder, name, run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module", params=SPECS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the same training on one process and on two."""
    folder = tmp_path_factory.mktemp("world")
    write_data(folder / "data", OBJECTS)
    started = [start(folder, request.param, "one"), start(folder, request.param, "two", *TWO)]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    return {name: folder / f"{name}-{request.param}" for name in ("one", "two")}


def weights(run: Path, rank: int = 0) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(f"{run}-rank{rank}.pt", weights_only=True)
    return found


def test_the_steps_are_hard_ones() -> None:
    """Objects of the images of each rank: one rank without any, one object for both ranks, unlike largest numbers."""
    plans = [
        training_batches([1.0] * len(OBJECTS), batch_size=2, seed=SEED, epoch=0, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    counts = [[[OBJECTS[index] for index in share] for share in shares] for shares in zip(*plans, strict=True)]
    assert counts == [[[0, 0], [1, 0]], [[0, 0], [1, 3]], [[0, 2], [1, 1]], [[0, 3], [4, 0]]]


def test_losses_and_gradients_of_the_first_step(runs: dict[str, Path]) -> None:
    """A float32 operation has 6e-8 of relative error, and a loss is behind some hundred in a row whose order or kernel
    may differ: 1e-5. One draw or one object counted otherwise moves a loss of so small a batch by 1e-3 at least."""
    one, two = (records(runs[name])[0] for name in ("one", "two"))
    assert set(one["losses"]) == set(two["losses"])
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-6)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


def test_weights_and_losses_after_an_epoch(runs: dict[str, Path]) -> None:
    """Adam divides a gradient by its own size, also one that is nothing but rounding: single weights may go anywhere
    within the learning rate, once a step. All together (root mean square) they are apart by little of that."""
    for mine, other in zip(records(runs["two"]), records(runs["one"]), strict=True):
        assert mine["losses"] == pytest.approx(other["losses"], rel=1e-3, abs=1e-5)
    one, two = (torch.cat([value.flatten().double() for value in weights(runs[name]).values()]) for name in runs)
    assert (one - two).square().mean().sqrt().item() < 1e-3 * STEPS * RATE
