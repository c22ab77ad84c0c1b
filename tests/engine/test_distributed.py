"""Two gloo processes: equal weights, the figures of one process, ranks without objects, a loss broken on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import SCRIPT, SPEC, records, run, two_ranks, write_data
from torch import nn

from codetr.engine.distributed import World, choose_device, world
from codetr.engine.parallel import distribute
from codetr.errors import UserError


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    return tmp_path / "tiny.yaml"


def test_two_ranks_train_as_one(spec: Path, tmp_path: Path) -> None:
    """Without heads and dropout nothing is drawn at random, so that the ranks' own random streams do not matter."""
    data = str(write_data(tmp_path / "data", (1, 3, 2, 1, 2, 3)))
    alone = run(str(SCRIPT), str(spec), data, str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    done = two_ranks(str(spec), data, str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"both-rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert done.stdout.count("epoch 1/1  step 3/3") == 1  # one rank speaks
    ours, theirs = records(tmp_path / "both"), records(tmp_path / "alone")
    assert [record["kind"] for record in ours] == ["train"] * 3 + ["eval"]
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        # Float32 sums in another order, then up to two optimizer steps.
        assert mine["losses"] == pytest.approx(other["losses"], rel=1e-3, abs=1e-5)
        assert mine["lr"] == other["lr"]
    assert ours[0]["grad_norm"] == pytest.approx(theirs[0]["grad_norm"], rel=1e-4)


def test_heads_on_a_rank_without_objects_do_not_hang(spec: Path, tmp_path: Path) -> None:
    data = str(write_data(tmp_path / "data", (0, 2, 0, 0, 0, 0)))
    heads = "heads={atss: {}, faster_rcnn: {}}"
    done = two_ranks(str(spec), data, str(tmp_path / "run"), heads, "train.eval_every=null")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"run-rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert any(name.startswith("heads.faster_rcnn") for name in first)


def test_one_process_is_a_world_of_its_own() -> None:
    with world("cpu") as alone:
        assert (alone.rank, alone.size, alone.leads) == (0, 1, True)
        values = torch.tensor([1.0, 2.0])
        assert torch.equal(alone.mean(values), values)
        assert alone.gather("a") == ["a"] and alone.from_leader("b") == "b"
        model = nn.Linear(1, 1)
        assert distribute(model, alone, how="ddp").called is model
        assert distribute(model, alone, how="fsdp").called is model


@pytest.mark.parametrize(
    ("name", "message"),
    [("cdua", r"'cdua' is no device.*auto, cpu, cuda"), ("cuda:99", r"GPU 99, but PyTorch sees \d+")],
)
def test_a_device_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_device(name)


def test_a_batch_that_cannot_be_divided(spec: Path, tmp_path: Path) -> None:
    from codetr.data.coco import open_split
    from codetr.engine.session import training_loader
    from codetr.spec import load_spec

    data = write_data(tmp_path / "data", (1, 1))
    settings = load_spec(spec, [f"data={data}", "train.batch_size=6", "train.accumulate=2"])
    ranks = World(0, 2, torch.device("cpu"))
    with pytest.raises(UserError, match=r"6 images cannot be divided among 2 ranks times train.accumulate=2.*of 4"):
        training_loader(settings, open_split(settings.data, "train"), ranks)
