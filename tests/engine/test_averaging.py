"""The mean of checkpoints, by hand and against PyTorch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from codetr.engine.averaging import average_weights, averaged_epochs
from codetr.engine.checkpoint import Meta, read_weights, save_checkpoint, save_weights
from codetr.engine.config import TrainConfig
from codetr.errors import UserError


def written(path: Path, weights: dict[str, Tensor], *, classes: tuple[str, ...] = ("cat",)) -> Path:
    save_checkpoint(path, weights, Meta(classes, tuple(range(len(classes))), {}))
    return path


def test_floats_are_averaged_and_counters_taken_from_the_last(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / str(step), {"w": torch.tensor([value, 1.0]), "steps": torch.tensor(step)})
        for step, value in ((10, 1.0), (20, 2.0), (30, 6.0))
    ]
    mean = average_weights(paths)
    assert mean["w"].tolist() == [3.0, 1.0]
    assert mean["w"].dtype == torch.float32
    assert mean["steps"].item() == 30


def test_the_sum_is_more_precise_than_the_tensors(tmp_path: Path) -> None:
    """In float32 the ones would be lost beside 1e8, one after the other; near 6e6 it has halves."""
    values = (1e8, *[1.0] * 15)
    paths = [written(tmp_path / str(i), {"w": torch.tensor([value])}) for i, value in enumerate(values)]
    assert average_weights(paths)["w"].item() == 6_250_001.0


def test_shared_parameters_are_one(tmp_path: Path) -> None:
    paths = []
    for value in (1.0, 3.0):
        shared = torch.tensor([value, value], dtype=torch.float64)
        paths.append(written(tmp_path / str(value), {"first": shared, "second": shared, "other": shared.clone()}))
    mean = average_weights(paths)
    assert mean["first"] is mean["second"] is not mean["other"]
    assert [tensor.tolist() for tensor in mean.values()] == [[2.0, 2.0]] * 3
    save_weights(tmp_path / "mean.safetensors", mean, Meta(("cat",), (1,), {}))
    assert set(read_weights(tmp_path / "mean.safetensors")) == set(mean)


def test_as_pytorch_averages_a_model(tmp_path: Path) -> None:
    """PyTorch updates a mean in float32: 5 roundings of 6e-8 relative to values below 4."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average, paths = AveragedModel(model, use_buffers=True), []
    for index in range(5):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
                tensor.copy_(torch.randn_like(tensor))
        average.update_parameters(model)
        paths.append(written(tmp_path / str(index), model.state_dict()))
    mean = average_weights(paths)
    expected = average.module.state_dict()
    del mean["1.num_batches_tracked"], expected["1.num_batches_tracked"]
    torch.testing.assert_close(mean, dict(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"w": torch.zeros(2), "v": torch.zeros(1)}, "v is only in one of them"),
        ({"w": torch.zeros(3)}, r"w has shape \(2,\) and \(3,\)"),
    ],
)
def test_different_models_are_refused(tmp_path: Path, weights: dict[str, Tensor], message: str) -> None:
    first, second = written(tmp_path / "a", {"w": torch.zeros(2)}), written(tmp_path / "b", weights)
    with pytest.raises(UserError, match=rf"a and .*b cannot be averaged: {message}"):
        average_weights([first, second])


def test_other_classes_are_refused(tmp_path: Path) -> None:
    first = written(tmp_path / "a", {"w": torch.zeros(2)}, classes=("cat", "dog"))
    second = written(tmp_path / "b", {"w": torch.zeros(2)}, classes=("dog", "cat"))
    with pytest.raises(UserError, match="have them in another order"):
        average_weights([first, second])
    with pytest.raises(UserError, match="no checkpoints to average"):
        average_weights([])


def test_the_last_epochs_are_averaged() -> None:
    assert list(averaged_epochs(TrainConfig(epochs=5, average_last=3))) == [3, 4, 5]
    assert list(averaged_epochs(TrainConfig(epochs=5))) == []
    with pytest.raises(UserError, match=r"average_last=4 is more than train\.epochs=3; use at most 3"):
        averaged_epochs(TrainConfig(epochs=3, average_last=4))
