from __future__ import annotations

import pytest
import torch

from codetr.bench.step.batches import CLASSES, open_source
from codetr.bench.step.peer import transformers_subject
from codetr.bench.step.recorder import HostClock, Recorder
from codetr.bench.step.subjects import WITHOUT, make_subject
from codetr.bench.step.training import TrainingStep
from codetr.errors import UserError
from codetr.spec import load_spec
from codetr.weights import from_transformers

pytest.importorskip("transformers")
CPU = torch.device("cpu")
PLAIN = ["backbone.options={}", "backbone.frozen_stages=1", "train.batch_size=1"]


def test_the_peer_has_our_sizes_and_trains(spec_file) -> None:
    spec = load_spec(spec_file, [*PLAIN, "base.two_stage=false", "base.mixed_selection=false"])
    source = open_source(spec, (64, 64), pinned=False)
    peer = transformers_subject(spec, CLASSES, CPU)
    ours = make_subject(WITHOUT, spec, CLASSES, CPU).model
    assert numbers(from_transformers(peer.model)) == numbers(ours)
    assert trained(peer.model) == trained(ours) - 80 * 33  # their two layers share a class head
    assert peer.note == "its own loss; built with base.look_forward_twice=false, neck.num_groups=32"
    training, recorder, batches = TrainingStep(peer, CPU), Recorder(HostClock()), source.batches(0)
    before = peer.model.loss_function
    with peer.instruments(recorder):
        losses = training.run(batches, recorder)
    assert peer.model.loss_function is before
    assert torch.isfinite(losses["loss"])
    (step,) = recorder.read()
    assert set(step.parts) == {
        "data", "transfer", "backbone", "encoder", "decoder", "matching", "losses", "backward",
        "clipping and optimizer", "rest",
    }  # fmt: skip
    assert sum(step.parts.values()) == pytest.approx(step.total)


def test_its_loss_is_its_own_on_our_targets(spec_file) -> None:
    """Targets are boxes in units of the image without its padding, as its image processor gives them."""
    from transformers.models.deformable_detr import DeformableDetrImageProcessor

    spec = load_spec(spec_file, [*PLAIN, "base.dropout=0"])
    source = open_source(spec, (64, 96), pinned=False)
    batch = next(source.batches(0))
    peer = transformers_subject(spec, CLASSES, CPU)
    boxes = batch.targets.boxes[0, : batch.targets.counts[0]]
    annotations = [
        {"bbox": [x, y, right - x, bottom - y], "category_id": label, "area": 1.0, "iscrowd": 0, "image_id": 0}
        for (x, y, right, bottom), label in zip(boxes.tolist(), batch.targets.labels[0].tolist(), strict=False)
    ]
    processor = DeformableDetrImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, do_convert_annotations=True
    )
    inputs = processor(
        images=batch.images.pixels[0],
        annotations={"image_id": 0, "annotations": annotations},
        return_tensors="pt",
        input_data_format="channels_first",
    )
    peer.model.eval()
    with torch.no_grad():
        expected = peer.model(**inputs).loss
        found = peer.losses(batch)["loss"]
    torch.testing.assert_close(found, expected)  # the same numbers but for the rounding of boxes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "cannot build a backbone with backbone.options of channels, stem_width. .* add backbone.options="),
        (["base={name: conditional_detr}", *PLAIN], "the base here is conditional_detr"),
    ],
)
def test_what_it_has_no_model_for(spec_file, overrides, message) -> None:
    with pytest.raises(UserError, match=message):
        transformers_subject(load_spec(spec_file, overrides), CLASSES, CPU)


def numbers(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def trained(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
