"""How much memory a training step takes, from shapes alone: its state, and what the forward pass keeps."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from codetr.data.augment_config import Augment
from codetr.data.coco import CocoDataset
from codetr.data.config import DataConfig
from codetr.engine.config import TrainConfig
from codetr.ops.distributed import alone
from codetr.ops.masks import CROP_SIDE
from codetr.structures import ImageBatch, Targets


@dataclass(frozen=True)
class BatchShape:
    """images: of one piece of a rank's batch. height, width: in pixels, padding included. objects: of each image.
    federated: the number of classes, if some are drawn for each image; or None."""

    images: int
    height: int
    width: int
    objects: int
    masks: bool = False
    federated: int | None = None

    def __str__(self) -> str:
        return f"{self.images} x {self.height} x {self.width}"


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one rank. average: of the EMA. moments: of AdamW. activations: kept for the backward pass. batch: images
    and targets."""

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    batch: int

    @property
    def state(self) -> int:
        """What is there between steps, and the gradients."""
        return self.weights + self.gradients + self.moments + self.average

    @property
    def total(self) -> int:
        return self.state + self.activations + self.batch

    @property
    def checkpoint(self) -> int:
        """What a checkpoint takes on the disk."""
        return self.weights + self.moments + self.average

    def sharded(self, ranks: int) -> StepMemory:
        """With the state divided among ranks (`train.parallel=fsdp`); a layer's weights in use are left out."""
        shares = {name: -(-getattr(self, name) // ranks) for name in ("weights", "gradients", "moments", "average")}
        return replace(self, **shares)


def step_memory(model: nn.Module, shape: BatchShape, config: TrainConfig) -> StepMemory:
    """The memory of a step, estimated by one forward pass on tensors that have a shape and no numbers.

    model: on the meta device, in training mode, frozen and recomputing as it will be trained; it is used up. Left out
    are the short-lived results of single operators and what the allocator loses, some 10 % on a GPU. The pass runs the
    operators of a CPU: like the GPU's kernels, and unlike the reference, they keep their inputs alone.
    """
    trained = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    weights = sum(map(_bytes, [*model.parameters(), *model.buffers()]))
    with alone(), FakeTensorMode(), torch.device("cpu"):
        _materialise(model)
        images, targets = example_batch(shape, torch.device("cpu"))
        own = {_storage(tensor) for tensor in [*model.parameters(), *model.buffers(), *_tensors(images, targets)]}
        kept = _Kept(own)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16")
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor), autocast:
            losses = model(images, targets)
        del losses
    return StepMemory(
        weights=weights,
        gradients=trained,
        moments=2 * trained,
        average=weights if config.ema is not None else 0,
        activations=kept.total,
        batch=sum(map(_bytes, _tensors(images, targets))),
    )


def largest_batch(data: CocoDataset, config: DataConfig, images: int) -> BatchShape:
    """The largest batch that augmentation can make of the data: its height and width each as large as they get.

    With `data.group_by_shape` landscape and portrait images are not mixed; a crop may turn one into the other.
    """
    sizes = {info.size for info in data.infos}
    groups = [sizes]
    if config.group_by_shape:
        groups = [{size for size in sizes if size[0] <= size[1]}, {size for size in sizes if size[0] > size[1]}]
    extents = [_extent(group, config) for group in groups if group]
    step = config.pad_multiple or 1
    padded = [(math.ceil(height / step) * step, math.ceil(width / step) * step) for height, width in extents]
    height, width = max(padded, key=math.prod)
    federated = len(data.classes) if config.federated is not None else None
    objects = _most_objects(data.object_counts(), config.augment)
    return BatchShape(images, height, width, objects, config.masks, federated)


def example_batch(shape: BatchShape, device: torch.device) -> tuple[ImageBatch, Targets]:
    """Grey images full of objects, of one class and one size."""
    number, objects = shape.images, shape.objects
    images = ImageBatch(
        torch.zeros(number, 3, shape.height, shape.width, device=device),
        torch.zeros(number, shape.height, shape.width, dtype=torch.bool, device=device),
        torch.ones(number, 2, device=device) * torch.tensor([shape.height, shape.width], device=device),
    )
    corner = torch.zeros(number, objects, 2, device=device)
    targets = Targets(
        torch.cat([corner, corner + min(shape.height, shape.width) / 2], dim=-1),
        torch.zeros(number, objects, dtype=torch.int64, device=device),
        torch.ones(number, objects, dtype=torch.bool, device=device),
        (objects,) * number,
        torch.full((number, objects, CROP_SIDE, CROP_SIDE), 255, dtype=torch.uint8, device=device)
        if shape.masks
        else None,
        torch.zeros(number, 0, 4, device=device),
        torch.zeros(number, 0, dtype=torch.bool, device=device),
        torch.zeros(number, dtype=torch.int64, device=device),
        None if shape.federated is None else torch.ones(number, shape.federated, dtype=torch.bool, device=device),
    )
    return images, targets


def available_memory(device: torch.device) -> int | None:
    """Bytes that a process can still take: of a GPU, or of the machine and its container. None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if sys.platform != "linux":
        return None
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # no control group of version 2, or "max": no limit
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def amount(size: float) -> str:
    """Bytes for people."""
    for power, unit in ((30, "GB"), (20, "MB")):
        if size >= 0.95 * 2**power:
            return f"{size / 2**power:.{int(power == 30)}f} {unit}"
    return f"{size / 2**10:.0f} kB"


class _Kept:
    """Storages that autograd keeps, each once, without those that are there anyway."""

    def __init__(self, without: set[int]) -> None:
        self._without, self._storages = without, {}  # type: ignore[var-annotated]

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage  # held, or another one would get its address
        return tensor

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for place, storage in self._storages.items() if place not in self._without)


def _materialise(model: nn.Module) -> None:
    """Put tensors without numbers in place of those of the meta device, shared ones once. To be called in the mode."""
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty: Tensor = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            made[id(tensor)] = tensor, empty
        return made[id(tensor)][1]

    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = None if parameter is None else fake(parameter)  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else fake(buffer)


def _extent(sizes: set[tuple[int, int]], config: DataConfig) -> tuple[int, int]:
    """Largest height and largest width of images of these sizes, once transformed."""
    from codetr.data.transforms import resized  # imports torchvision, which is slow

    augment = config.augment
    if augment is None:
        plain = config.resize
        if plain.square:
            return plain.max_size, plain.max_size
        return _largest([resized(size, plain.size, plain.max_size) for size in sizes])
    if augment.jitter is not None:
        return augment.jitter.size, augment.jitter.size
    if augment.mosaic is not None:
        sizes = sizes | {(2 * augment.mosaic.size, 2 * augment.mosaic.size)}
    resize: Callable[[tuple[int, int]], tuple[int, int]]
    resize = lambda size: resized(size, max(augment.scales), augment.max_size)  # noqa: E731
    results = [resize(size) for size in sizes]
    if augment.crop is not None:
        crop = augment.crop
        for size in {resized(size, scale, crop.max_size) for size in sizes for scale in crop.scales}:
            low, high = ([min(side, bound) for side in size] for bound in (crop.low, crop.high))
            results += [resize((low[0], high[1])), resize((high[0], low[1]))]
    return _largest(results)


def _most_objects(counts: Sequence[int], augment: Augment | None) -> int:
    """Objects of the fullest image that can come about, at least 1."""
    most = max(1, *counts)
    if augment is None:
        return most
    if augment.mosaic is not None:
        most *= 4
    if augment.copy_paste is not None:
        most += min(most, augment.copy_paste.max_objects)
    return 2 * most if augment.mixup is not None else most


def _largest(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def _tensors(images: ImageBatch, targets: Targets) -> list[Tensor]:
    return [value for door in (images, targets) for value in vars(door).values() if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
