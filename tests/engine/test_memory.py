"""What a step keeps, on shapes alone: against literal sums, and against the same count on real tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_distributed import SPEC, write_data
from torch import Tensor, nn

from codetr.data.augment_config import Augment, CopyPaste, Crop, Jitter, MixUp, Mosaic
from codetr.data.coco import CocoDataset, open_split
from codetr.data.config import DataConfig, Resize
from codetr.engine.config import EmaConfig, TrainConfig
from codetr.engine.memory import BatchShape, StepMemory, amount, example_batch, largest_batch, step_memory
from codetr.engine.plan import planned_model
from codetr.spec import Spec, load_spec
from codetr.structures import ImageBatch, ImageInfo, Targets

SHAPE = BatchShape(2, 96, 128, 3)


class Toy(nn.Module):
    """Keeps the pixels' means (2, 3), what follows the ReLU (2, 8) and what is squared (2, 1): 2 * 12 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 1)
        self.first.weight.requires_grad_(False)
        self.register_buffer("scale", torch.ones(5))

    def forward(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        features = self.first(images.pixels.mean((2, 3)) + targets.boxes.new_zeros(3)).relu()
        return {"loss": self.second(features).square().mean()}


def test_a_toy_is_counted_exactly() -> None:
    """8 x 3 + 8 + 8 + 1 = 41 parameters, 24 of them frozen, which therefore need no means kept, and 5 buffers."""
    with torch.device("meta"):
        toy = Toy()
    memory = step_memory(toy, BatchShape(2, 4, 4, 1), TrainConfig(ema=EmaConfig()))
    pixels, padding, sizes = 2 * 3 * 16 * 4, 2 * 16, 2 * 2 * 4
    targets = 2 * (4 * 4 + 8 + 1 + 8)  # boxes, labels, validity, seeds
    assert memory == StepMemory(
        weights=46 * 4,
        gradients=17 * 4,
        moments=34 * 4,
        average=46 * 4,
        activations=2 * (8 + 1) * 4,
        batch=pixels + padding + sizes + targets,
    )
    assert memory.state == (46 + 17 + 34 + 46) * 4
    assert memory.total == memory.state + 72 + memory.batch
    assert memory.checkpoint == (46 + 34 + 46) * 4


def test_shards_divide_the_state_alone() -> None:
    memory = StepMemory(weights=10, gradients=8, moments=16, average=10, activations=100, batch=7)
    assert memory.sharded(4) == StepMemory(3, 2, 4, 3, 100, 7)


def tiny(tmp_path: Path, *settings: str) -> Spec:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    return load_spec(tmp_path / "tiny.yaml", ["data=nowhere", "heads={atss: {}}", *settings])


def really_kept(spec: Spec) -> int:
    """By a forward pass on real tensors."""
    from codetr.models.build import build

    model = build(spec, 2, pretrained=False).train()
    images, targets = example_batch(SHAPE, torch.device("cpu"))
    own = [*model.parameters(), *model.buffers(), *vars(images).values(), *vars(targets).values()]
    known = {tensor.untyped_storage().data_ptr() for tensor in own if isinstance(tensor, Tensor)}
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda tensor: tensor
    ):
        losses = model(images, targets)
    del losses
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in known)


def test_shapes_say_what_a_real_step_keeps(tmp_path: Path) -> None:
    spec = tiny(tmp_path)
    estimate = step_memory(planned_model(spec, 2), SHAPE, spec.train).activations
    # Real operators keep some kilobytes elsewhere: indices that a shape alone lays out in another way.
    assert estimate == pytest.approx(really_kept(spec), rel=0.02)


def test_what_saves_memory_is_seen(tmp_path: Path) -> None:
    plain = tiny(tmp_path)
    usual = step_memory(planned_model(plain, 2), SHAPE, plain.train)
    less = ["train.recompute=[encoder.layers]", "train.precision=bf16", "train.freeze=[base.backbone]"]
    for setting in less:
        spec = tiny(tmp_path, setting, "train.lr_groups=[]")
        memory = step_memory(planned_model(spec, 2), SHAPE, spec.train)
        assert memory.activations < 0.95 * usual.activations, setting
        assert memory.weights == usual.weights


def test_an_example_is_a_batch(tmp_path: Path) -> None:
    images, targets = example_batch(replace(SHAPE, masks=True), torch.device("cpu"))
    assert images.pixels.shape == (2, 3, 96, 128) and images.sizes.tolist() == [[96, 128]] * 2
    assert targets.boxes.tolist() == [[[0, 0, 48, 48]] * 3] * 2
    assert targets.counts == (3, 3) and bool(targets.valid.all()) and targets.mask_crops is not None


def data_of(tmp_path: Path, *sizes: tuple[int, int]) -> CocoDataset:
    """Images of these heights and widths; only the sizes are looked at."""
    data = open_split(DataConfig(dir=write_data(tmp_path / "data", (2, 4))), "train")
    data.infos = tuple(ImageInfo(number, "", size) for number, size in enumerate(sizes))
    return data


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"augment": None}, (1000, 1000)),
        ({"augment": None, "group_by_shape": True}, (500, 1000)),
        ({"augment": None, "group_by_shape": True, "pad_multiple": 64}, (512, 1024)),
        ({"augment": Augment(scales=(400, 600), max_size=1000, crop=None)}, (1000, 1000)),
        ({"augment": Augment(scales=(400, 600), max_size=1000, crop=None), "group_by_shape": True}, (600, 1000)),
        # Crops of 384 to 600 pixels a side have a ratio of 1.5625 at most, and can be upright: 600 x 1.5625 = 938.
        ({"augment": Augment(scales=(600,), max_size=1000, crop=Crop()), "group_by_shape": True}, (938, 1000)),
    ],
)
def test_the_largest_batch(tmp_path: Path, settings: dict[str, object], expected: tuple[int, int]) -> None:
    data = data_of(tmp_path, (300, 600), (300, 400), (600, 300))
    config = DataConfig.model_validate({"resize": Resize(size=500, max_size=1000), "group_by_shape": False, **settings})
    assert largest_batch(data, config, 3) == BatchShape(3, *expected, objects=4)


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        (Augment(jitter=Jitter(size=256)), (256, 256, 4)),
        # At most the objects of the fullest image again, or two of them.
        (Augment(jitter=Jitter(size=256), copy_paste=CopyPaste()), (256, 256, 8)),
        (Augment(jitter=Jitter(size=256), copy_paste=CopyPaste(max_objects=2)), (256, 256, 6)),
        (Augment(jitter=Jitter(size=256), mixup=MixUp()), (256, 256, 8)),
        # Four times the fullest image, on a canvas of 1280 x 1280 whose sides become 400.
        (Augment(scales=(400,), crop=None, mosaic=Mosaic()), (400, 800, 16)),
    ],
)
def test_the_largest_batch_of_several_images(tmp_path: Path, augment: Augment, expected: tuple[int, int, int]) -> None:
    data = data_of(tmp_path, (300, 600), (300, 400), (300, 600))
    config = DataConfig(augment=augment, masks=True)
    height, width, objects = expected
    assert largest_batch(data, config, 3) == BatchShape(3, height, width, objects, masks=True)


def test_amounts() -> None:
    assert [amount(size) for size in (0, 2000, 3 * 2**20, 1020 * 2**20, 2.5 * 2**30)] == [
        "0 kB",
        "2 kB",
        "3 MB",
        "1.0 GB",
        "2.5 GB",
    ]


def test_classes_count_in_the_example_as_in_training() -> None:
    targets = example_batch(BatchShape(2, 64, 64, 3, federated=7), torch.device("cpu"))[1]
    assert targets.counted_classes is not None and targets.counted_classes.shape == (2, 7)
    assert example_batch(SHAPE, torch.device("cpu"))[1].counted_classes is None
