from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from codetr.data.augment_config import Augment, Crop
from codetr.data.batches import sample_seed
from codetr.data.coco import CocoDataset, Sample, open_split
from codetr.data.collate import collate
from codetr.data.config import DataConfig, Resize
from codetr.data.layout import SplitName
from codetr.data.loader import Loader, SkippedImage, build_loader
from codetr.data.pack import pack
from codetr.errors import UserError
from codetr.structures import Batch, ImageInfo

AUGMENT = Augment(scales=(24, 32), max_size=64, crop=Crop(scales=(20, 30), low=16, high=24))
RESIZE = Resize(size=24, max_size=64)
Opener = Callable[..., tuple[CocoDataset, DataConfig]]


@pytest.fixture
def opener(write_coco, entries) -> Opener:
    """Opens eleven tiny images, the last without boxes, the third with a crowd."""
    image, annotation = entries
    sizes = [(40, 30), (30, 40), (44, 30)]
    images = [image(index + 1, f"{index}.png", *sizes[index % 3]) for index in range(11)]
    boxes = [annotation(index + 1, index + 1, 3 + 4 * (index % 2), [2, 3, 10 + index, 12]) for index in range(10)]
    boxes.append(annotation(50, 3, 3, [0, 0, 20, 20], iscrowd=1))

    def opened(**settings: Any) -> tuple[CocoDataset, DataConfig]:
        root = write_coco(images, boxes)
        chosen = {"dir": root, "augment": AUGMENT, "resize": RESIZE, "workers": 0, **settings}
        config = DataConfig(**chosen)
        return open_split(config, "train"), config

    return opened


def _same(left: list[Batch], right: list[Batch]) -> bool:
    def tensors(batch: Batch) -> list[torch.Tensor]:
        targets = batch.targets
        assert targets.ignore_boxes is not None
        images = [batch.images.pixels, batch.images.padding, batch.images.sizes]
        return [*images, targets.boxes, targets.labels, targets.valid, targets.ignore_boxes]

    return len(left) == len(right) and all(
        a.infos == b.infos and a.targets.counts == b.targets.counts and all(map(torch.equal, tensors(a), tensors(b)))
        for a, b in zip(left, right, strict=True)
    )


def _ids(batches: list[Batch]) -> list[int]:
    return [info.image_id for batch in batches for info in batch.infos]


def _sample(height: int, width: int, boxes: list[list[float]], crowds: int = 0, masks: bool = False) -> Sample:
    return Sample(
        torch.ones(3, height, width),
        torch.tensor(boxes).reshape(-1, 4),
        torch.arange(len(boxes)) + 1,
        torch.ones(crowds, 4),
        torch.ones(len(boxes), height, width, dtype=torch.bool) if masks else None,
        ImageInfo(height, "x.jpg", (height, width)),
    )


def test_collate_pads_images_and_targets() -> None:
    batch = collate([_sample(2, 3, [[0, 0, 1, 1], [1, 1, 2, 2]], masks=True), _sample(4, 2, [], crowds=1, masks=True)])
    assert batch.images.pixels.shape == (2, 3, 4, 3)
    assert batch.images.pixels[0, 0].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert batch.images.padding[1].tolist() == [[False, False, True]] * 4
    assert batch.images.sizes.tolist() == [[2, 3], [4, 2]]
    assert batch.targets.boxes.tolist() == [[[0, 0, 1, 1], [1, 1, 2, 2]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
    assert batch.targets.labels.tolist() == [[1, 2], [0, 0]]
    assert batch.targets.valid.tolist() == [[True, True], [False, False]]
    assert batch.targets.counts == (2, 0)
    assert batch.targets.ignore_boxes is not None and batch.targets.ignore_valid is not None
    assert batch.targets.ignore_boxes.tolist() == [[[0, 0, 0, 0]], [[1, 1, 1, 1]]]
    assert batch.targets.ignore_valid.tolist() == [[False], [True]]
    crops = batch.targets.mask_crops
    assert crops is not None and crops.shape == (2, 2, 112, 112) and crops.dtype == torch.uint8
    assert (crops[0] == 255).all() and not crops[1].any()
    assert [info.image_id for info in batch.infos] == [2, 4]


@pytest.mark.parametrize(("multiple", "size"), [(None, (5, 3)), (1, (5, 3)), (4, (8, 4)), (5, (5, 5))])
def test_collate_pads_to_multiples(multiple: int | None, size: tuple[int, int]) -> None:
    batch = collate([_sample(5, 2, []), _sample(4, 3, [])], pad_multiple=multiple)
    assert batch.images.pixels.shape[2:] == batch.images.padding.shape[1:] == size
    assert (~batch.images.padding).sum((1, 2)).tolist() == [10, 12]
    assert batch.images.pixels.sum((1, 2, 3)).tolist() == [30, 36]
    assert batch.images.sizes.tolist() == [[5, 2], [4, 3]]


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_are_padded_to_multiples(opener: Opener, split: SplitName) -> None:
    dataset, config = opener(pad_multiple=16)
    for batch in build_loader(dataset, config, split=split, batch_size=2, seed=0):
        needed = batch.images.sizes.amax(0).tolist()
        assert list(batch.images.pixels.shape[2:]) == [-(-int(side) // 16) * 16 for side in needed]


def test_seeds_are_those_of_the_images_in_the_epoch(opener: Opener) -> None:
    """Whatever the batch is; image 1 is the first of the data set."""
    dataset, config = opener()
    for size, world, pieces in ((2, 1, 1), (1, 2, 1), (2, 2, 2)):
        loader = build_loader(
            dataset, config, split="train", batch_size=size, seed=6, world_size=world, accumulate=pieces
        )
        for epoch in (0, 3):
            loader.set_epoch(epoch)
            for batch in loader:
                assert batch.targets.seeds is not None and batch.targets.seeds.dtype == torch.int64
                expected = [sample_seed(6, epoch, info.image_id - 1) for info in batch.infos]
                assert batch.to("cpu").targets.seeds.tolist() == expected  # type: ignore[union-attr]


def test_a_step_in_pieces_is_resumed_at_its_first_piece(opener: Opener) -> None:
    dataset, config = opener()
    whole = build_loader(dataset, config, split="train", batch_size=4, seed=2)
    pieces = build_loader(dataset, config, split="train", batch_size=2, seed=2, accumulate=2)
    assert (len(whole), len(pieces)) == (2, 4)
    steps = [_ids([batch]) for batch in whole]
    assert [_ids(list(pieces)[start : start + 2]) for start in (0, 2)] == steps
    pieces.set_epoch(0, start_batch=2)
    assert _ids(list(pieces)) == steps[1]


def test_collate_without_any_object_has_one_invalid_place() -> None:
    targets = collate([_sample(2, 2, []), _sample(2, 2, [])]).targets
    assert targets.boxes.shape == (2, 1, 4) and not targets.valid.any()
    assert targets.counts == (0, 0)
    assert targets.mask_crops is None
    assert targets.ignore_boxes is not None and targets.ignore_boxes.shape == (2, 0, 4)


def test_evaluation_yields_every_image_once(opener: Opener) -> None:
    dataset, config = opener()
    loader = build_loader(dataset, config, split="val", batch_size=4, seed=0)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert sorted(_ids(batches)) == list(range(1, 12))
    first = next(batch for batch in batches if batch.infos[0].image_id == 2)
    assert first.images.sizes[0].tolist() == [32, 24]
    assert first.targets.boxes[0, 0].tolist() == pytest.approx([2 * 0.8, 3 * 0.8, 13 * 0.8, 15 * 0.8], abs=1e-4)


def test_batches_do_not_depend_on_the_number_of_workers(opener: Opener) -> None:
    epochs = []
    for workers in (0, 2):
        dataset, config = opener(workers=workers)
        loader = build_loader(dataset, config, split="train", batch_size=3, seed=5)
        batches = []
        for epoch in (0, 1):  # the second with the same, persistent workers
            loader.set_epoch(epoch)
            batches.append(list(loader))
        epochs.append(batches)
    assert _same(epochs[0][0], epochs[1][0]) and _same(epochs[0][1], epochs[1][1])
    assert not _same(epochs[0][0], epochs[0][1])


def test_the_same_image_looks_different_in_another_epoch(opener: Opener) -> None:
    dataset, config = opener()
    loader = build_loader(dataset, config, split="train", batch_size=1, seed=0)
    looks = []
    for epoch in range(6):
        loader.set_epoch(epoch)
        looks.append(next(batch.images.pixels for batch in loader if batch.infos[0].image_id == 1))
    assert len({(tuple(look.shape), round(look.sum().item(), 2)) for look in looks}) >= 5


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_yields_exactly_the_batches_that_remain(opener: Opener, workers: int) -> None:
    dataset, config = opener(workers=workers)
    loader = build_loader(dataset, config, split="train", batch_size=2, seed=1)
    loader.set_epoch(3)
    whole = list(loader)
    resumed = build_loader(dataset, config, split="train", batch_size=2, seed=1)
    resumed.set_epoch(3, start_batch=2)
    assert len(resumed) == len(whole) == 5
    assert _same(list(resumed), whole[2:])
    resumed.set_epoch(3, start_batch=5)
    assert list(resumed) == []
    resumed.set_epoch(3)
    assert _same(list(resumed), whole)
    with pytest.raises(ValueError, match="start_batch is 6, but the epoch has 5"):
        resumed.set_epoch(3, start_batch=6)


def test_ranks_share_an_epoch(opener: Opener) -> None:
    dataset, config = opener()
    loaders = [build_loader(dataset, config, split="train", batch_size=2, seed=1, rank=r, world_size=2) for r in (0, 1)]
    ids = [_ids(list(loader)) for loader in loaders]
    assert [len(own) for own in ids] == [4, 4]
    assert len(set(ids[0] + ids[1])) == 8
    loaders = [build_loader(dataset, config, split="val", batch_size=2, seed=1, rank=r, world_size=3) for r in range(3)]
    assert sorted(identity for loader in loaders for identity in _ids(list(loader))) == list(range(1, 12))


def test_an_epoch_left_early_does_not_leak_into_the_next(opener: Opener) -> None:
    dataset, config = opener(workers=2)
    loader = build_loader(dataset, config, split="train", batch_size=2, seed=1)
    loader.set_epoch(1)
    expected = list(loader)
    loader.set_epoch(0)
    next(iter(loader))
    loader.set_epoch(1)
    assert _same(list(loader), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_generator_is_untouched(opener: Opener, workers: int) -> None:
    dataset, config = opener(workers=workers)
    loader = build_loader(dataset, config, split="train", batch_size=4, seed=0)
    before = torch.get_rng_state()
    for _ in loader:
        pass
    assert torch.equal(torch.get_rng_state(), before)


def _truncate(dataset: CocoDataset, *image_ids: int) -> None:
    for info in dataset.infos:
        if info.image_id in image_ids:
            file = Path(info.file)
            file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_stops_the_run_and_is_named(opener: Opener, workers: int) -> None:
    dataset, config = opener(workers=workers)
    _truncate(dataset, 4)
    with pytest.raises(UserError) as caught:
        list(build_loader(dataset, config, split="train", batch_size=11, seed=0))
    assert "3.png: truncated" in str(caught.value)
    assert "data.on_bad_image=skip" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_replaces_in_training_and_warns_once_a_file(opener: Opener, workers: int) -> None:
    dataset, config = opener(workers=workers, on_bad_image="skip")
    _truncate(dataset, 4, 5)
    loader = build_loader(dataset, config, split="train", batch_size=11, seed=0)
    with pytest.warns(SkippedImage) as caught:
        batches = list(loader)
    assert len(caught) == 2
    assert sorted(Path(file).name for file in loader.skipped) == ["3.png", "4.png"]
    assert all("truncated" in reason for reason in loader.skipped.values())
    assert sorted(_ids(batches)) == sorted([1, 2, 3, 6, 6, 6, 7, 8, 9, 10, 11])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _same(list(loader), batches)


def test_skipping_leaves_out_in_evaluation(opener: Opener) -> None:
    dataset, config = opener(on_bad_image="skip")
    _truncate(dataset, 2, 5, 8, 11)  # the four upright ones: a batch of their own
    loader = build_loader(dataset, config, split="val", batch_size=4, seed=0)
    with pytest.warns(SkippedImage):
        batches = list(loader)
    assert sorted(_ids(batches)) == [1, 3, 4, 6, 7, 9, 10]
    assert len(batches) == 2


def test_nothing_but_bad_images_is_an_error(opener: Opener) -> None:
    dataset, config = opener(on_bad_image="skip")
    _truncate(dataset, *range(1, 12))
    with pytest.warns(SkippedImage), pytest.raises(UserError, match="no image can be used"):
        list(build_loader(dataset, config, split="train", batch_size=2, seed=0))


def test_loader_takes_masks(write_coco, entries) -> None:
    image, annotation = entries
    polygon = [[2, 2, 12, 2, 12, 7, 2, 7]]  # the upper half of its box
    root = write_coco([image(1, "a.png")], [annotation(1, 1, 3, [2, 2, 10, 10], segmentation=polygon)])
    config = DataConfig(dir=root, masks=True, workers=0, resize=Resize(size=30))
    loader: Loader = build_loader(open_split(config, "train"), config, split="val", batch_size=1, seed=0)
    (batch,) = loader
    assert batch.targets.mask_crops is not None
    crop = batch.targets.mask_crops[0, 0]
    # A pixel is 11.2 cells wide; within half a pixel of its outline the object fades.
    assert (crop[6:50, 6:106] == 255).all() and not crop[62:].any()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who sent a signal")
def test_workers_outlive_a_signal_to_the_process_group(opener: Opener) -> None:
    """Launchers end a run by SIGTERM to all of its processes; the training process must still be able to save."""
    dataset, config = opener(workers=2)
    others = set(multiprocessing.active_children())
    batches = iter(build_loader(dataset, config, split="val", batch_size=1, seed=0))
    found = [next(batches), next(batches)]  # one of each worker: both are set up
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    subprocess.run(["kill", "-TERM", *(str(worker.pid) for worker in workers)], check=True)  # another one's signal
    found += batches
    assert sorted(_ids(found)) == list(range(1, 12))


def test_workers_obey_their_parent(opener: Opener) -> None:
    """It ends by SIGTERM those that did not notice in time that the loader was given up."""
    dataset, config = opener(workers=1)
    others = set(multiprocessing.active_children())
    batches = iter(build_loader(dataset, config, split="val", batch_size=1, seed=0))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    # While the loader still lives it would call the death of a worker an error, if it was not an exit with code 0.
    worker.terminate()
    worker.join(60)  # many times what it takes; a worker that does not obey never ends
    assert not worker.is_alive()


def test_workers_do_not_outlive_a_process_that_ends_by_an_exception(write_coco, entries) -> None:
    """At exit, multiprocessing ends its children by SIGTERM, and waits for them."""
    image, annotation = entries
    root = write_coco([image(n, f"{n}.png") for n in (1, 2)], [annotation(n, n, 3, [2, 3, 11, 12]) for n in (1, 2)])
    code = f"""
from codetr.data.coco import open_split
from codetr.data.config import DataConfig, Resize
from codetr.data.loader import build_loader

config = DataConfig(dir={str(root)!r}, workers=1, augment=None, resize=Resize(size=24))
loader = build_loader(open_split(config, "train"), config, split="train", batch_size=1, seed=0)
next(iter(loader))
raise RuntimeError("in the middle of an epoch")
"""
    # The limit ends a process that hangs; it is many times what this takes.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: in the middle of an epoch\n")


@pytest.fixture
def packed(opener: Opener, tmp_path: Path) -> Opener:
    """The same images in shards of two."""

    def opened(**settings: Any) -> tuple[CocoDataset, DataConfig]:
        _, config = opener(**settings)
        pack(config, "train", tmp_path / "packed", shard_bytes=15_000)
        config = config.model_copy(update={"dir": tmp_path / "packed"})
        return open_split(config, "train"), config

    return opened


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_two_epochs_over_shards_and_over_files_see_the_same_images(
    opener: Opener, packed: Opener, world: int, workers: int
) -> None:
    """Each once, with the same augmentation, but in another order: 3 of the 6 shards are read at a time."""

    def looks(opened: Opener, epoch: int) -> list[tuple[int, float]]:
        dataset, config = opened(workers=workers, shuffle_shards=3, drop_last=False)
        found = []
        for rank in range(world):
            loader = build_loader(dataset, config, split="train", batch_size=1, seed=4, rank=rank, world_size=world)
            loader.set_epoch(epoch)
            found += [(batch.infos[0].image_id, batch.images.pixels.sum().item()) for batch in loader]
        return found

    for epoch in (0, 1):
        files, shards = looks(opener, epoch), looks(packed, epoch)
        assert set(files) == set(shards) and len({image for image, _ in files}) == 11
        assert len(files) == len(shards) == -(-11 // world) * world
        assert files != shards


def test_shards_are_the_files_where_all_are_shuffled_and_in_evaluation(opener: Opener, packed: Opener) -> None:
    for split in ("train", "val"):
        epochs = []
        for opened in (opener, packed):
            dataset, config = opened(shuffle_shards=None if split == "train" else 1)
            batches = build_loader(dataset, config, split=split, batch_size=2, seed=4)  # type: ignore[arg-type]
            epochs.append([replace(b, infos=tuple(replace(i, file="") for i in b.infos)) for b in batches])
        assert _same(*epochs)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_resumed_where_they_stopped(packed: Opener, workers: int) -> None:
    dataset, config = packed(workers=workers, shuffle_shards=2)
    loader = build_loader(dataset, config, split="train", batch_size=2, seed=1)
    loader.set_epoch(3)
    whole = list(loader)
    resumed = build_loader(dataset, config, split="train", batch_size=2, seed=1)
    resumed.set_epoch(3, start_batch=2)
    assert _same(list(resumed), whole[2:])


def test_reading_stays_within_a_window_of_shards(packed: Opener) -> None:
    dataset, config = packed(shuffle_shards=1, group_by_shape=False)
    shards = [
        Path(batch.infos[0].file).parent.name
        for batch in build_loader(dataset, config, split="train", batch_size=1, seed=0)
    ]
    assert len(set(shards)) == 6
    assert sum(a != b for a, b in pairwise(shards)) == 5  # each of them is read to its end


@pytest.mark.parametrize("opened", ["opener", "packed"])
def test_rare_classes_come_several_times(opened: str, request: pytest.FixtureRequest) -> None:
    """All objects of five of the eleven images are dogs (id 7): t = 1 gives them sqrt(11 / 5), or 1.48 places."""
    dataset, config = request.getfixturevalue(opened)(repeat={"threshold": 1.0}, drop_last=False, shuffle_shards=2)
    dogs = {info.image_id for info, labels in zip(dataset.infos, dataset.image_classes(), strict=True) if 1 in labels}
    assert len(dogs) == 5
    counts: Counter[int] = Counter()
    seeds = set()
    for epoch in range(4):
        loader = build_loader(dataset, config, split="train", batch_size=1, seed=2)
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == 15  # 10 images with objects have 1.48 places each, one has one
        counts.update(_ids(batches))
        seeds |= {b.targets.seeds.item() for b in batches if b.targets.seeds is not None}
        assert {1, 2} >= set(Counter(_ids(batches)).values())
    assert counts[11] == 4
    assert len(seeds) == 60  # an image that comes twice in an epoch does not look the same
    assert len(list(build_loader(dataset, config, split="val", batch_size=1, seed=2))) == 11
