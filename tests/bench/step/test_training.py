"""The measured step is the training step: with and without instruments it gives the same losses and weights."""

from __future__ import annotations

import pytest
import torch

from codetr.bench.step.batches import open_source
from codetr.bench.step.measuring import run
from codetr.bench.step.recorder import HostClock, Recorder
from codetr.bench.step.subjects import TRANSFORMERS, WITH, WITHOUT, make_subject, subject_names
from codetr.bench.step.training import TrainingStep
from codetr.engine.optim import build_optimizer, clip_gradients
from codetr.engine.seed import seed_all
from codetr.models.build import build
from codetr.spec import load_spec

CPU = torch.device("cpu")
SIZE = (64, 96)
STEPS = 3
WRAPPED = """base={name: h_deformable_detr, one_to_one: 24, repeat: 2, inner: {name: deformable_detr, box_refine: true,
    two_stage: true, encoder_layers: 1, decoder_layers: 1, num_heads: 2, ffn_dim: 16, num_queries: 40}}"""


def plain_losses(spec, source):
    """The steps written out, with nothing around them."""
    seed_all(spec.train.seed)
    model = build(spec, source.classes, pretrained=False).train()
    optimizer = build_optimizer(model, spec.train, device=CPU)
    batches = source.batches(0)
    found = []
    for number in range(STEPS):
        seed_all(spec.train.seed, 0, number)
        for _ in range(spec.train.accumulate):
            batch = next(batches)
            losses = model(batch.images, batch.targets)
            (torch.stack(list(losses.values())).sum() / spec.train.accumulate).backward()
        clip_gradients(model.parameters(), spec.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append({name: loss.detach() for name, loss in losses.items()})
    return found, model


@pytest.mark.parametrize("accumulate", [1, 2])
def test_measuring_changes_nothing(spec_file, accumulate) -> None:
    spec = load_spec(spec_file, [f"train.accumulate={accumulate}"])
    source = open_source(spec, SIZE, pinned=False)
    expected, model = plain_losses(spec, source)
    subject = make_subject(WITH, spec, source.classes, CPU)
    names = [name for name, _ in subject.model.named_parameters()]
    training, recorder, batches = TrainingStep(subject, CPU), Recorder(HostClock()), source.batches(0)
    with subject.instruments(recorder):
        found = [training.run(batches, recorder) for _ in range(STEPS)]
    assert found == expected  # to the bit
    assert [name for name, _ in subject.model.named_parameters()] == names
    for ours, theirs in zip(subject.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    steps = recorder.read()
    assert {"data", "transfer", "backbone", "encoder", "proposals", "adapter, positive queries", "head atss"} | {
        "head other", "decoder", "matching", "losses", "backward", "clipping and optimizer", "rest"
    } == set(steps[0].parts)  # fmt: skip
    for step in steps:
        assert sum(step.parts.values()) == pytest.approx(step.total)
        assert all(value > 0 for value in step.parts.values())


def test_nothing_stays_behind(spec) -> None:
    source = open_source(spec, SIZE, pinned=False)
    subject = make_subject(WITH, spec, source.classes, CPU)
    before = {name: dict(vars(module)) for name, module in subject.model.named_modules()}
    with subject.instruments(Recorder(HostClock())):
        assert "encode" in vars(subject.model.base)
    after = {name: dict(vars(module)) for name, module in subject.model.named_modules()}
    assert {name: list(found) for name, found in before.items()} == {name: list(found) for name, found in after.items()}


def test_the_parts_of_a_wrapped_base(spec_file) -> None:
    """What is patched is the wrapper; the backbone is the inner base's."""
    spec = load_spec(spec_file, [WRAPPED])
    source = open_source(spec, SIZE, pinned=False)
    expected, _ = plain_losses(spec, source)
    subject = make_subject(WITH, spec, source.classes, CPU)
    training, recorder, batches = TrainingStep(subject, CPU), Recorder(HostClock()), source.batches(0)
    with subject.instruments(recorder):
        assert [training.run(batches, recorder) for _ in range(STEPS)] == expected
    assert recorder.read()[0].parts["backbone"] > 0


def test_without_heads_and_with_an_average(spec_file) -> None:
    overrides = ["train.ema={decay: 0.9}", "train.freeze=[heads.atss]", "train.lr_groups=[{match: heads, factor: 0.1}]"]
    spec = load_spec(spec_file, overrides)
    source = open_source(spec, SIZE, pinned=False)
    makers = [lambda name=name: make_subject(name, spec, source.classes, CPU) for name in subject_names(spec, None)]
    without, with_heads = run(makers, source, steps=2, warmup=1, clock=HostClock(), device=CPU)
    assert (without.name, with_heads.name) == (WITHOUT, WITH)
    assert set(with_heads.parts) - set(without.parts) == {"adapter, positive queries", "head atss", "head other"}
    assert without.parts["EMA"] > 0
    assert 0 < without.parameters < with_heads.parameters
    for result in (without, with_heads):
        assert sum(result.parts.values()) == pytest.approx(result.mean)
        assert result.times.runs == 2


def test_who_is_measured(spec) -> None:
    bare = spec.model_copy(update={"heads": {}})
    assert subject_names(spec, TRANSFORMERS) == [WITHOUT, WITH, TRANSFORMERS]
    assert subject_names(bare, None) == [WITHOUT]
