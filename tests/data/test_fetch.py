from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from codetr.data.coco import CocoDataset, Sample, open_split
from codetr.data.config import DataConfig
from codetr.data.fetch import Fetcher
from codetr.data.loader import build_loader
from codetr.data.transforms import build_transform

COPY_PASTE = {"jitter": {"size": 48}, "copy_paste": {}}
RECIPES = [COPY_PASTE, {"scales": [32], "crop": None, "mosaic": {"size": 24}, "mixup": {"probability": 0.5}}]
Opener = Callable[..., tuple[CocoDataset, DataConfig]]


@pytest.fixture
def opener(write_coco, entries) -> Opener:
    """Opens six tiny images, each with two objects with masks."""
    image, annotation = entries

    def opened(augment: dict[str, Any], **settings: Any) -> tuple[CocoDataset, DataConfig]:
        objects = []
        for index in range(6):
            for number, (x, y) in enumerate([(2, 3), (20, 10)]):
                polygon = [x, y, x + 12, y, x + 12, y + 9, x, y + 9]
                entry = annotation(2 * index + number + 1, index + 1, 3 + 4 * number, [x, y, 12, 9])
                objects.append({**entry, "segmentation": [polygon]})
        root = write_coco([image(index + 1, f"{index}.png") for index in range(6)], objects)
        chosen = {"dir": root, "masks": True, "augment": augment, "workers": 0, **settings}
        config = DataConfig.model_validate(chosen)
        return open_split(config, "train"), config

    return opened


class Recorder:
    """A transform that asks for so many companions, and notes the images that it is given."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.given: list[list[int]] = []

    def companions(self, seed: int) -> int:
        return self.count

    def __call__(self, sample: Sample, others: Sequence[Sample] = (), *, seed: int) -> Sample:
        self.given.append([entry.info.image_id for entry in (sample, *others)])
        return sample


def _fetcher(dataset: CocoDataset, transform: Any, *, skip: bool = False) -> Fetcher:
    return Fetcher(dataset, transform, seed=5, skip=skip, stand_in=True)


def test_companions_follow_from_the_seed_and_are_even(opener: Opener) -> None:
    dataset, _ = opener(COPY_PASTE)
    recorder = Recorder(2)
    fetcher = _fetcher(dataset, recorder)
    for epoch in range(50):
        for index in range(6):
            fetcher[(epoch, index)]
    firsts = [ids[0] for ids in recorder.given]
    assert firsts == [1, 2, 3, 4, 5, 6] * 50
    others = [identity for ids in recorder.given for identity in ids[1:]]
    assert all(70 < others.count(identity) < 130 for identity in range(1, 7))  # 100 expected, deviation 9.1
    again = Recorder(2)
    assert _fetcher(dataset, again)[(7, 3)].error is None
    assert again.given[0] == recorder.given[7 * 6 + 3]


def test_an_index_past_the_end_is_an_image_again_with_another_seed(opener: Opener) -> None:
    dataset, _ = opener(COPY_PASTE)
    recorder = Recorder(0)
    first, second = (_fetcher(dataset, recorder)[(0, index)] for index in (1, 7))
    assert recorder.given == [[2], [2]]
    assert first.seed != second.seed


def test_a_bad_companion_stops_or_is_replaced(opener: Opener) -> None:
    dataset, _ = opener(COPY_PASTE)
    recorder = Recorder(1)
    whole = _fetcher(dataset, recorder)
    pairs = []
    for index in range(6):
        whole[(0, index)]
        pairs.append(recorder.given[-1])
    own, other = next(pair for pair in pairs if pair[0] != pair[1])
    file = Path(dataset.infos[other - 1].file)
    file.write_bytes(file.read_bytes()[:60])
    item = _fetcher(dataset, Recorder(1))[(0, own - 1)]
    assert item.sample is None and item.error is not None
    assert str(file) in item.error and item.error.endswith("data.on_bad_image=skip leaves such images out")
    after = Recorder(1)
    item = _fetcher(dataset, after, skip=True)[(0, own - 1)]
    assert item.error is None and [name for name, _ in item.skipped] == [str(file)]
    assert after.given[0][0] == own
    assert after.given[0][1] == other % 6 + 1


def test_if_no_companion_can_be_used_there_is_one_message(opener: Opener) -> None:
    dataset, _ = opener(COPY_PASTE)
    for info in dataset.infos:
        Path(info.file).write_bytes(b"")
    item = _fetcher(dataset, Recorder(1), skip=True)[(0, 0)]
    assert item.error == f"{dataset.annotations}: no image can be used"
    assert len(item.skipped) == 6


@pytest.mark.parametrize("augment", RECIPES)
def test_the_same_for_any_workers_ranks_and_place_to_resume(opener: Opener, augment: dict[str, Any]) -> None:
    dataset, config = opener(augment)

    def images(workers: int, ranks: int, start: int = 0) -> dict[int, tuple[torch.Tensor, ...]]:
        found: dict[int, tuple[torch.Tensor, ...]] = {}
        chosen = config.model_copy(update={"workers": workers, "group_by_shape": False})
        for rank in range(ranks):
            loader = build_loader(
                dataset, chosen, split="train", batch_size=2 // ranks, seed=3, rank=rank, world_size=ranks
            )
            loader.set_epoch(1, start)
            for batch in loader:
                crops = batch.targets.mask_crops
                assert crops is not None
                for index, info in enumerate(batch.infos):
                    height, width = batch.images.sizes[index].int().tolist()
                    count = batch.targets.counts[index]
                    pixels = batch.images.pixels[index, :, :height, :width]
                    boxes = batch.targets.boxes[index, :count]
                    found[info.image_id] = (pixels, boxes, batch.targets.labels[index, :count], crops[index, :count])
        return found

    expected = images(0, 1)
    assert len(expected) == 6
    for found in (images(2, 1), images(0, 2)):
        assert found.keys() == expected.keys()
        assert all(all(map(torch.equal, found[key], expected[key])) for key in expected)
    resumed = images(0, 1, start=2)
    assert len(resumed) == 2
    assert all(all(map(torch.equal, resumed[key], expected[key])) for key in resumed)


def test_an_object_without_a_mask_is_named(opener: Opener) -> None:
    dataset, config = opener(COPY_PASTE)
    content = json.loads(dataset.annotations.read_text())
    content["annotations"][4].pop("segmentation")
    dataset.annotations.write_text(json.dumps(content))
    with pytest.raises(Exception, match="annotation id 5: it has no segmentation"):
        open_split(config, "train")


def test_boxes_alone_are_enough_for_jitter_mosaic_and_mixup(opener: Opener) -> None:
    augment = {"jitter": {"size": 48}, "mosaic": {"size": 24, "probability": 1}, "mixup": {"probability": 1}}
    dataset, config = opener(augment, masks=False)
    for index in range(6):
        sample = _fetcher(dataset, build_transform(config, "train"))[(0, index)].sample
        assert sample is not None and sample.masks is None
        assert (sample.boxes >= 0).all() and (sample.boxes <= 48).all()
        assert len(sample.boxes) == len(sample.labels)
