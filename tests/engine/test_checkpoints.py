"""Saving in the background: what is on disk and when, which checkpoints stay, and a disk that is full."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from codetr.engine import checkpoints as module
from codetr.engine.checkpoint import Meta, read_meta, read_weights, verify
from codetr.engine.checkpoints import Checkpoints, NotSaved, set_aside
from codetr.engine.distributed import World
from codetr.engine.run_folder import RunFolder

META = Meta(("cat",), (7,), {}, steps_per_epoch=10)
ALONE = World(0, 1, torch.device("cpu"))


class Saving:
    """A run's checkpoints and what was said of them."""

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.folder, self.said = RunFolder(path), []
        path.mkdir()
        self.checkpoints = Checkpoints(self.folder, ALONE, keep=keep, sharded=False, say=self.said.append)

    def save(self, step: int, weights: dict[str, torch.Tensor] | None = None, keep_too: tuple[int, ...] = ()) -> None:
        state = {"optimizer/a/step": torch.tensor([float(step)])}
        self.checkpoints.save(weights or {"a": torch.ones(2)}, META.at(step), state=state, keep_too=keep_too)

    def steps(self) -> list[int]:
        self.checkpoints.wait(last=True)
        return [read_meta(folder).step for folder in self.folder.steps]


@pytest.fixture
def saving(tmp_path: Path) -> Iterator[Saving]:
    made = Saving(tmp_path / "run")
    yield made
    made.checkpoints.close()


def test_the_newest_and_those_that_are_needed_stay(saving: Saving) -> None:
    for step in (5, 10, 15, 20, 25):
        saving.save(step, keep_too=(10,))
    assert saving.steps() == [10, 20, 25]
    for folder in saving.folder.steps:
        verify(folder)
    assert saving.said == []


def test_training_goes_on_while_what_was_saved_stays_as_it_was(saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    going, real = threading.Event(), module.save_checkpoint

    def slow(*args: object, **settings: object) -> None:
        assert going.wait(10)
        real(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save_checkpoint", slow)
    weight = torch.ones(2)
    saving.save(5, {"a": weight, "b": weight})
    assert saving.folder.steps == []
    weight.fill_(7)  # the next step
    going.set()
    assert saving.steps() == [5]
    stored = read_weights(saving.folder.last)
    assert torch.equal(stored["a"], torch.ones(2)) and stored["a"] is stored["b"]  # shared weights are one tensor still


def test_a_full_disk_is_told_and_tried_again(saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    saving.save(5)
    real = module.save_checkpoint

    def full(*args: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", full)
    saving.checkpoints.wait()
    saving.save(10)
    saving.checkpoints.wait()
    assert len(saving.said) == 1
    assert saving.said[0].startswith("warning: the checkpoint of step 10 could not be written: No space left on device")
    assert "step_00000005 is whole and stays" in saving.said[0] and "Training goes on" in saving.said[0]
    monkeypatch.setattr(module, "save_checkpoint", real)
    saving.save(15)
    assert saving.steps() == [5, 15]


def test_a_full_disk_at_the_end_is_an_error(saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", full)
    saving.save(5)
    with pytest.raises(NotSaved, match=r"step 5 could not be written: No space left.*There is no earlier one"):
        saving.checkpoints.wait(last=True)


def test_a_mistake_of_ours_is_not_called_a_full_disk(saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **settings: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(module, "save_checkpoint", broken)
    saving.save(5)
    with pytest.raises(KeyError):
        saving.checkpoints.wait()


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    rest = tmp_path / "run" / "checkpoints" / ".step_00000005.writing" / "state"
    rest.mkdir(parents=True)
    (rest / "half").touch()
    Checkpoints(RunFolder(tmp_path / "run"), ALONE, keep=1, sharded=False, say=print).close()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_newer_ones_are_set_aside(saving: Saving) -> None:
    for step in (5, 10):
        saving.save(step)
    assert saving.steps() == [5, 10]
    assert [path.name for path in set_aside(saving.folder, after=5)] == ["step_00000010.aside"]
    assert saving.steps() == [5]
    saving.save(10)
    assert saving.steps() == [5, 10]
    set_aside(saving.folder, after=5)  # once more
    assert saving.steps() == [5]
