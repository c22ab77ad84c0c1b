"""A model small enough to train in milliseconds, and batches that depend on (epoch, index) alone.

Makes `ranks.py` importable from the tests beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from codetr.engine.checkpoint import Meta
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.progress import TrainingProgress
from codetr.engine.run_folder import RunFolder
from codetr.engine.trainer import Outcome, Trainer
from codetr.structures import Batch, ImageBatch, ImageInfo, Targets

sys.path.insert(0, str(Path(__file__).parent))


class ToyDetector(nn.Module):
    """A backbone with dropout, and two heads that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 1)
        self.second = self.head
        self.poison: float | None = None

    def forward(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        features = self.dropout(self.backbone(images.pixels.mean((2, 3))).relu())
        box = (self.second(features) - 1).square().mean()
        return {"match.cls": self.head(features).square().mean(), "match.l1": box * (self.poison or 1.0)}


class ToyLoader:
    """Batches of two 4x4 images."""

    def __init__(self, batches: int) -> None:
        self.batches, self.epoch, self.start = batches, 0, 0
        self.before: Callable[[int], None] = lambda index: None

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.epoch, self.start = epoch, start_batch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.start, self.batches):
            self.before(self.epoch * self.batches + index)
            yield toy_batch(self.epoch, index)


def toy_batch(epoch: int, index: int) -> Batch:
    generator = torch.Generator().manual_seed(1000 * epoch + index)
    images = ImageBatch(
        pixels=torch.rand(2, 3, 4, 4, generator=generator),
        padding=torch.zeros(2, 4, 4, dtype=torch.bool),
        sizes=torch.full((2, 2), 4.0),
    )
    targets = Targets(
        boxes=torch.zeros(2, 1, 4),
        labels=torch.zeros(2, 1, dtype=torch.int64),
        valid=torch.zeros(2, 1, dtype=torch.bool),
        counts=(0, 0),
    )
    infos = tuple(ImageInfo(10 * index + i, f"images/{epoch}-{index}-{i}.jpg", (4, 4)) for i in range(2))
    return Batch(images, targets, infos)


class Toy:
    """A run of the toy detector in a folder. `train` starts it, or resumes it in a new process's stead."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.evaluations: list[float] = []
        self.trainer: Trainer | None = None
        self.printed = StringIO()

    def build(self, config: TrainConfig, *, batches: int = 4, world: World | None = None) -> Trainer:
        torch.manual_seed(0)
        meta = Meta(("cat",), (7,), {}, steps_per_epoch=-(-batches // config.accumulate))
        (self.folder.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.trainer = Trainer(
            ToyDetector(),
            ToyLoader(batches),
            config=config,
            world=world or World(0, 1, torch.device("cpu")),
            folder=self.folder,
            meta=meta,
            progress=TrainingProgress(Console(file=self.printed, width=200), epochs=config.epochs),
            evaluate=self._evaluate,
        )
        return self.trainer

    def train(self, config: TrainConfig, *, resume: bool = False, max_steps: int | None = None) -> Outcome:
        trainer = self.build(config)
        if resume:
            trainer.resume()
        return trainer.run(max_steps=max_steps)

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"AP": self.evaluations.pop(0) if self.evaluations else 0.0, "AP50": 0.5}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "run")


@pytest.fixture
def another_toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "another")
