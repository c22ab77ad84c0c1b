from __future__ import annotations

import itertools

import pytest
import torch

from codetr.bench.step.batches import CLASSES, DISTINCT, open_source
from codetr.data.synthetic import generate
from codetr.errors import UserError
from codetr.spec import load_spec


def first(source, start, count):
    return list(itertools.islice(source.batches(start), count))


def test_rendered_images(spec_file) -> None:
    source = open_source(load_spec(spec_file, ["data.masks=true"]), (40, 72), pinned=False)
    batches = first(source, 0, DISTINCT + 1)
    assert batches[0] is batches[DISTINCT]
    assert first(source, 2, 1)[0] is batches[2]
    assert not torch.equal(batches[0].images.pixels, batches[1].images.pixels)
    assert source.classes == CLASSES
    for batch in batches:
        targets = batch.targets
        assert batch.images.pixels.shape == (2, 3, 40, 72)
        assert not batch.images.padding.any()
        assert targets.boxes[..., 0::2].max() <= 72
        assert targets.boxes[..., 1::2].max() <= 40
        sides = targets.boxes[..., 2:] - targets.boxes[..., :2]
        assert (sides[targets.valid] >= 1).all()
        assert (targets.labels < CLASSES).all()
        assert targets.mask_crops is not None
    assert sum(sum(batch.targets.counts) for batch in batches) > 10


def test_the_data_of_the_spec_go_on_from_any_batch_through_the_epochs(spec_file, tmp_path) -> None:
    generate(tmp_path / "data", train=6, val=1, size=64, workers=1)
    spec = load_spec(spec_file, [f"data.dir={tmp_path / 'data'}", "data.augment=null"])
    source = open_source(spec, None, pinned=False)
    assert source.classes == 10
    assert "6 images" in source.note
    seen = [[info.image_id for info in batch.infos] for batch in first(source, 0, 7)]
    for epoch in (seen[:3], seen[3:6]):
        assert sorted(itertools.chain(*epoch)) == [1, 2, 3, 4, 5, 6]
    assert [[info.image_id for info in batch.infos] for batch in first(source, 2, 5)] == seen[2:]


def test_a_batch_that_cannot_be_divided(spec_file) -> None:
    spec = load_spec(spec_file, ["train.batch_size=3", "train.accumulate=2"])
    with pytest.raises(UserError, match="3 images cannot be divided"):
        open_source(spec, (64, 64), pinned=False)
