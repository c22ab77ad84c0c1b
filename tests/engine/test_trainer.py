"""The loop: exact resume, accumulation, clipping, interruption, non-finite losses, which checkpoints are kept."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from codetr.engine import checkpoints
from codetr.engine.checkpoint import read_meta, read_weights, state_folder
from codetr.engine.config import EmaConfig, ParameterGroup, TrainConfig
from codetr.engine.report import NonFinite
from codetr.errors import UserError


def config(**changes: Any) -> TrainConfig:
    groups = (ParameterGroup(match="backbone", factor=0.1),)
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 2, "lr": 1e-2, "lr_groups": groups, "milestones": (2,)}
    return TrainConfig(**{**settings, "log_every": 2, "device": "cpu", **changes})


def records(toy: Any, kind: str) -> list[dict[str, Any]]:
    lines = toy.folder.metrics.read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def stored_state(checkpoint: Path) -> dict[str, Any]:
    return safetensors.torch.load_file(state_folder(checkpoint) / "state.safetensors")


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, dict):
            assert_equal(value, right[name])
        else:
            assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("stop", [1, 4, 6, 11])
@pytest.mark.parametrize("ema", [None, EmaConfig(decay=0.9)])
def test_resuming_is_exact(toy: Any, another_toy: Any, stop: int, ema: EmaConfig | None) -> None:
    toy.train(config(ema=ema))
    another_toy.train(config(ema=ema), max_steps=stop)
    torch.rand(7)  # another process has drawn other numbers
    outcome = another_toy.train(config(ema=ema), resume=True)
    assert outcome.finished and outcome.step == 12
    assert_equal(read_weights(toy.folder.last), read_weights(another_toy.folder.last))
    states = [stored_state(run.folder.last) for run in (toy, another_toy)]
    assert_equal(*states)
    names = {name.partition("/")[0] for name in states[0]}
    assert names == ({"optimizer"} if ema is None else {"optimizer", "model"})
    assert_equal(toy.trainer.model.state_dict(), another_toy.trainer.model.state_dict())


def test_resuming_repeats_no_line_of_the_log(toy: Any, another_toy: Any) -> None:
    toy.train(config(checkpoint_every=3), max_steps=7)
    checkpoint = read_meta(toy.folder.last).step
    with toy.folder.metrics.open("a") as file:
        file.write(json.dumps({"kind": "train", "step": checkpoint + 1, "loss": -1.0}) + "\n")
        file.write('{"kind": "train", "st')
    toy.train(config(), resume=True)
    steps = [record["step"] for record in records(toy, "train")]
    assert steps == sorted(set(steps)) and steps[-1] == 12
    another_toy.train(config())
    losses = {record["step"]: record["losses"] for record in records(another_toy, "train")}
    assert records(toy, "train")[-1]["losses"] == losses[12]


def test_an_evaluation_that_was_cut_off_is_made_up_for(toy: Any) -> None:
    toy.evaluations = [0.1, 0.2, 0.3]
    toy.train(config(), max_steps=8)
    lines = toy.folder.metrics.read_text().splitlines()
    toy.folder.metrics.write_text("\n".join(lines[:-1]) + "\n")
    assert [record["step"] for record in records(toy, "eval")] == [4]
    toy.train(config(), resume=True)
    assert [record["step"] for record in records(toy, "eval")] == [4, 8, 12]


def test_the_best_checkpoint_is_kept(toy: Any) -> None:
    toy.evaluations = [0.1, 0.3, 0.2]
    outcome = toy.train(config())
    assert outcome.figures == {"AP": 0.3, "AP50": 0.5}
    assert read_meta(toy.folder.best).step == 8
    assert read_meta(toy.folder.last).step == 12
    assert [(record["epoch"], record["AP"]) for record in records(toy, "eval")] == [(1, 0.1), (2, 0.3), (3, 0.2)]


@pytest.mark.parametrize(("every", "steps"), [(0, [12]), (2, [8, 12]), (None, [])])
def test_when_evaluation_is_due(toy: Any, every: int | None, steps: list[int]) -> None:
    toy.train(config(eval_every=every))
    assert [record["step"] for record in records(toy, "eval")] == steps


def test_the_learning_rate_falls_after_the_milestone(toy: Any) -> None:
    toy.train(config(log_every=4))
    assert [record["lr"] for record in records(toy, "train")] == pytest.approx([1e-2, 1e-2, 1e-3])
    lrs = {name: group["lr"] for group in toy.trainer.learner.optimizer.param_groups for name in group["names"]}
    assert lrs == pytest.approx(
        {"backbone.weight": 1e-4, "backbone.bias": 1e-4, "head.weight": 1e-3, "head.bias": 1e-3}
    )


def test_accumulation_is_the_mean_over_pieces(toy: Any, another_toy: Any) -> None:
    """Without dropout, two accumulated pieces have the gradient of their mean loss, as one batch of both has."""
    from codetr.structures import Batch, ImageBatch, Targets

    trainer = toy.build(config(accumulate=2, batch_size=4))
    pieces = list(trainer.loader)[:2]
    trainer.model.eval()
    losses = trainer._accumulate(pieces)
    whole = another_toy.build(config(batch_size=4))
    whole.model.eval()
    pixels = torch.cat([piece.images.pixels for piece in pieces])
    images = ImageBatch(pixels, torch.zeros(4, 4, 4, dtype=torch.bool), torch.full((4, 2), 4.0))
    targets = Targets(torch.zeros(4, 1, 4), torch.zeros(4, 1).long(), torch.zeros(4, 1).bool(), (0,) * 4)
    expected = whole._accumulate([Batch(images, targets, pieces[0].infos + pieces[1].infos)])
    # Sums of a handful of float32 numbers in another order.
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-7)
    for (name, own), (_, other) in zip(trainer.model.named_parameters(), whole.model.named_parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_the_last_group_of_an_epoch_may_be_smaller(toy: Any) -> None:
    trainer = toy.build(config(accumulate=3, batch_size=6, epochs=1))
    outcome = trainer.run()
    assert outcome.step == 2 and outcome.finished


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_the_step_and_stops(toy: Any, name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    trainer = toy.build(config())
    trainer.loader.before = lambda index: os.kill(os.getpid(), number) if index == 5 else None
    outcome = trainer.run()
    assert (outcome.step, outcome.signal, outcome.finished) == (6, number, False)
    assert read_meta(toy.folder.last).step == 6
    assert signal.getsignal(number) is before


def test_the_first_checkpoint_is_whole_before_an_evaluation_may_save_the_best(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed with `best` alone could not go on."""
    trainer = toy.build(config())
    write, found = checkpoints.save_checkpoint, []

    def slowly(*args: Any, **kwargs: Any) -> None:
        time.sleep(0.2)
        write(*args, **kwargs)

    def evaluate(model: object) -> dict[str, float]:
        found.append([folder.name for folder in toy.folder.steps])
        return {"AP": 0.5}

    monkeypatch.setattr(checkpoints, "save_checkpoint", slowly)
    trainer.judge.evaluate = evaluate
    trainer.run(max_steps=4)
    assert found == [["step_00000004"]]


def test_a_signal_during_evaluation_gives_the_evaluation_up(toy: Any) -> None:
    trainer = toy.build(config())

    def evaluate(model: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    trainer.judge.evaluate = evaluate
    outcome = trainer.run()
    assert (outcome.step, outcome.signal) == (4, signal.SIGINT)
    assert records(toy, "eval") == []
    toy.train(config(), resume=True)
    assert [record["step"] for record in records(toy, "eval")] == [4, 8, 12]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(toy: Any, poison: float) -> None:
    trainer = toy.build(config())

    def poisoned(index: int) -> None:
        trainer.model.poison = poison if index == 6 else None

    trainer.loader.before = poisoned
    with pytest.raises(NonFinite) as caught:
        trainer.run()
    message = str(caught.value)
    assert "step 7" in message and f"match.l1 = {poison}" in message and "match.cls" not in message
    assert "images/1-2-0.jpg, images/1-2-1.jpg" in message
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    assert read_meta(toy.folder.last).step == 4
    toy.train(config(), resume=True)
    assert read_meta(toy.folder.last).step == 12


def test_the_gradient_is_clipped(toy: Any) -> None:
    trainer = toy.build(config(clip_norm=1e-3, epochs=1))
    norms = []
    step = trainer.learner.optimizer.step

    def watched() -> None:
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        step()

    trainer.learner.optimizer.step = watched
    trainer.run()
    assert norms == pytest.approx([1e-3] * 4, rel=1e-3)  # the norm is divided by itself plus 1e-6
    assert all(record["grad_norm"] > 1e-2 for record in records(toy, "train"))


def test_resuming_with_epochs_of_another_length_is_refused(toy: Any) -> None:
    toy.train(config(), max_steps=1)
    trainer = toy.build(config(), batches=5)
    with pytest.raises(UserError, match="an epoch had 4 steps, now it has 5"):
        trainer.resume()


def test_plain_lines_where_there_is_no_terminal(toy: Any) -> None:
    toy.train(config(epochs=1))
    lines = toy.printed.getvalue().splitlines()
    assert lines[0].startswith("epoch 1/1  step 2/4  loss ") and " images/s  ETA 0:00:00 " in lines[0]
    assert [line.split("  ")[1] for line in lines] == ["step 2/4", "step 4/4", "step 4"]


def test_bf16_trains(toy: Any) -> None:
    toy.train(config(epochs=1, precision="bf16"))
    assert all(value.dtype == torch.float32 for value in read_weights(toy.folder.last).values())
