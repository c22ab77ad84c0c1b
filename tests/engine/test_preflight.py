"""Checks before the first step, which leave training as it was."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_distributed import SPEC, write_data
from torch import Tensor, nn

from codetr.data.coco import CocoDataset, open_split
from codetr.data.loader import Loader
from codetr.engine import preflight as module
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.inputs import training_loader
from codetr.engine.memory import BatchShape
from codetr.engine.preflight import advice, check_room, preflight, try_step
from codetr.errors import UserError
from codetr.models.build import build
from codetr.spec import Spec, load_spec

CPU = torch.device("cpu")
SHAPE = BatchShape(2, 96, 128, 3)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Spec, CocoDataset]:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    data = write_data(tmp_path / "data", (1, 3))
    spec = load_spec(tmp_path / "tiny.yaml", [f"data={data}", "heads={atss: {}}", "backbone.norm=batch"])
    return spec, open_split(spec.data, "train")


def changed(spec: Spec, *settings: str) -> Spec:
    return load_spec(spec.model_dump(mode="json"), settings)


def loader_of(spec: Spec, data: CocoDataset) -> Loader:
    """Batches of one image, so that an epoch has several."""
    train = spec.train.model_copy(update={"batch_size": 1})
    return training_loader(spec.model_copy(update={"train": train}), data, World(0, 1, CPU))


def generators() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_a_trial_leaves_no_trace(run: tuple[Spec, CocoDataset]) -> None:
    """With trained batch norms, whose statistics a forward pass moves, and positives drawn at random."""
    model = build(run[0], 2, pretrained=False).train()
    before, random_before = {k: v.clone() for k, v in model.state_dict().items()}, generators()
    assert any("running_mean" in name for name in before)
    assert try_step(model, SHAPE, run[0].train, device=CPU) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert generators() == random_before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_a_preflight_leaves_no_trace(run: tuple[Spec, CocoDataset], tmp_path: Path) -> None:
    spec, data = run
    model = build(spec, 2, pretrained=False).train()
    before, random_before = {k: v.clone() for k, v in model.state_dict().items()}, generators()
    found = preflight(
        spec, data, World(0, 1, CPU), model=model, loader=loader_of(spec, data), folder=tmp_path / "runs" / "a"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert generators() == random_before
    assert found.rows["memory"].startswith("about ") and "2 x 128 x 128" in found.rows["memory"]
    assert found.rows["loader"].startswith("about ") and found.rows["loader"].endswith(" images/s")
    assert any("images are few" in line for line in found.warnings)
    assert not (tmp_path / "runs").exists()


class Full(nn.Module):
    def forward(self, images: Any, targets: Any) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")


def test_a_batch_that_does_not_fit() -> None:
    with pytest.raises(UserError) as caught:
        try_step(Full(), SHAPE, TrainConfig(accumulate=2), device=CPU)
    message = str(caught.value)
    assert "batch (2 x 96 x 128) does not fit" in message and "Tried to allocate 2 GiB" in message
    for option in ("accumulate=4", "recompute=", "precision=bf16", "parallel=fsdp", "preflight=false"):
        assert f"train.{option}" in message
    with pytest.raises(UserError) as caught:
        try_step(Full(), SHAPE, TrainConfig(precision="bf16", recompute=("a",), parallel="fsdp"), device=CPU)
    assert not any(option in str(caught.value) for option in ("recompute=", "precision=", "parallel="))


def test_too_little_memory_for_the_estimate(
    run: tuple[Spec, CocoDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, data = run
    monkeypatch.setattr(module, "available_memory", lambda device: 2**20)
    found = preflight(
        spec, data, World(0, 1, CPU), model=nn.Linear(1, 1), loader=loader_of(spec, data), folder=tmp_path / "run"
    )
    assert any("this machine has 1 MB left" in line and "train.accumulate=2" in line for line in found.warnings)


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=3 * 2**30))
    run = tmp_path / "runs" / "a"
    check_room(run, 3 * 2**30)
    with pytest.raises(UserError, match=r"take up to 4.0 GB, but the disk has 3.0 GB left.*keep_last=1"):
        check_room(run, 4 * 2**30)
    assert not (tmp_path / "runs").exists()
    (run / "checkpoints" / "last").mkdir(parents=True)
    with (run / "checkpoints" / "last" / "model.safetensors").open("wb") as file:
        file.truncate(2**30)  # what is there already is room enough for itself
    check_room(run, 4 * 2**30)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written to; name another folder with --out"):
        check_room(tmp_path / "a" / "b", 0)


def test_advice(run: tuple[Spec, CocoDataset]) -> None:
    spec, data = run
    few = advice(spec, data)
    assert [line for line in few if "2 images are few" in line] and "AP 0" in few[0]
    assert advice(changed(spec, "train.init_from=a.safetensors"), data) == []
    frozen = advice(changed(spec, "backbone.norm=frozen", "train.batch_size=4"), data)
    assert "blocks add nothing" in frozen[0] and "batch_size=4 is more than the 2 images" in frozen[2]
    pretrained = changed(spec, "backbone.norm=frozen", "backbone.pretrained=true")
    assert advice(pretrained, data) == []


def test_classes_without_objects(run: tuple[Spec, CocoDataset], tmp_path: Path) -> None:
    spec, _ = run
    other = open_split(
        load_spec(spec.model_dump(mode="json"), [f"data={write_data(tmp_path / 'b', (1, 1))}"]).data, "train"
    )
    assert other.class_counts() == [2, 0] and other.object_counts() == [1, 1]
    assert any("1 of 2 classes have no object" in line and line.endswith(": dog.") for line in advice(spec, other))
