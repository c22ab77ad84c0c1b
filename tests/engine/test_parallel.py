"""Sharded training: units, the same training as with whole copies, checkpoints that other numbers of ranks take up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from ranks import SPEC, records, run, write_data
from torch import nn

from codetr.api import build
from codetr.engine.checkpoint import read_meta, read_weights, state_folder
from codetr.engine.distributed import World
from codetr.engine.parallel import SHARD_OF_BACKBONE, Replicated, _units, distribute
from codetr.engine.run_folder import RunFolder

HEADS = "heads={atss: {}, faster_rcnn: {rpn: {channels: 16}, roi: {hidden: 16}}}"
SETTINGS = (HEADS, "train.epochs=2", "train.eval_every=2", "train.ema={decay: 0.9}", "train.lr=1e-4")
SAME = 1e-5
"""Of losses and weights relative to the largest: sums over ranks in another order, float32, 8 steps of lr 1e-4."""


def test_units_are_layers_and_large_blocks_of_the_backbone() -> None:
    model = build("deformable_two_stage_r50", classes=2)
    names = {id(module): name for name, module in model.named_modules()}
    units = [names[id(unit)] for unit in _units(model)]
    layers = [name for name in units if name.startswith("base.backbone.")]
    assert sorted(set(units) - set(layers)) == sorted(
        f"base.{part}.layers.{index}" for part in ("encoder", "decoder") for index in range(6)
    )
    assert layers and all(name.startswith("base.backbone.net.layer") for name in layers)
    for name in layers:
        assert sum(p.numel() for p in model.get_submodule(name).parameters()) >= SHARD_OF_BACKBONE
    for name in units:  # none within another
        assert not any(other != name and other.startswith(f"{name}.") for other in units)


def test_one_rank_holds_the_model_as_it_is() -> None:
    model = nn.Linear(2, 2)
    held = distribute(model, World(0, 1, torch.device("cpu")), how="fsdp")
    assert isinstance(held, Replicated) and held.called is model and not held.sharded
    with held.whole(model) as whole:
        assert whole is model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `ddp` and `fsdp` of the same training, and `half`, which stopped after 5 of its 8 steps."""
    place = tmp_path_factory.mktemp("parallel")
    (place / "tiny.yaml").write_text(SPEC)
    data = write_data(place / "data", (1, 3, 2, 0, 2, 3, 1, 1))
    for name, parallel, more in (("ddp", "ddp", ()), ("fsdp", "fsdp", ()), ("half", "fsdp", ("--max-steps", "5"))):
        line = ["-m", "codetr.cli.main", "train", str(place / "tiny.yaml"), f"data={data}", *SETTINGS]
        done = run(*line, f"train.parallel={parallel}", "--gpus", "2", "--out", str(place / name), *more)
        assert done.returncode == 0, done.stderr
    return place


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        if value.is_floating_point():
            bound = SAME * max(1.0, float(value.abs().max()))
            torch.testing.assert_close(right[name], value, rtol=0, atol=bound, msg=name)


def test_shares_train_as_whole_copies(trained: Path) -> None:
    runs = [RunFolder(trained / name) for name in ("ddp", "fsdp")]
    for one, other in zip(*(records(folder.path) for folder in runs), strict=True):
        if one["kind"] == "train":
            assert other["losses"] == pytest.approx(one["losses"], rel=SAME, abs=SAME)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=SAME)
    assert_same(*(read_weights(folder.last) for folder in runs))
    files = sorted(file.name for file in state_folder(runs[1].last).iterdir())
    assert len(files) == 2 and all(name.startswith("shard-0000") for name in files)
    whole = safetensors.torch.load_file(state_folder(runs[0].last) / "state.safetensors")
    assert any(name.startswith("model/") for name in whole) and any(name.startswith("optimizer/") for name in whole)


@pytest.mark.parametrize("going_on", [("--gpus", "2"), ("train.parallel=ddp",)])
def test_any_number_of_ranks_goes_on_from_shares(trained: Path, tmp_path: Path, going_on: tuple[str, ...]) -> None:

    shutil.copytree(trained / "half", tmp_path / "half")
    assert read_meta(RunFolder(tmp_path / "half").last).step == 5
    done = run("-m", "codetr.cli.main", "train", "--resume", str(tmp_path / "half"), *going_on)
    assert done.returncode == 0, done.stderr
    assert_same(read_weights(RunFolder(trained / "fsdp").last), read_weights(RunFolder(tmp_path / "half").last))


def test_the_leader_of_shares_describes_the_run(trained: Path) -> None:
    meta = json.loads((RunFolder(trained / "fsdp").last / "meta.json").read_text())
    assert (meta["step"], meta["epoch"]) == (8, 2)
