"""A detector with two heads that takes a step in milliseconds, and a clock that is told what time it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetr.spec import Spec, load_spec

SPEC = """
extends: [bases/deformable_detr_pp, backbones/resnet50]
base: {num_queries: 24, encoder_layers: 1, decoder_layers: 2, num_heads: 2, num_points: 2, ffn_dim: 16}
backbone: {model: resnet10t, pretrained: false, frozen_stages: -1, options: {channels: [8, 8, 8, 8], stem_width: 8}}
neck: {dim: 32, num_groups: 4, num_levels: 3}
heads: {atss: {}, other: {name: fcos}}
collaborative: {max_positives: 8}
data: {workers: 0, resize: {size: 64, max_size: 96}}
train: {batch_size: 2, device: cpu, threads: 1, milestones: []}
"""


class FakeClock:
    """Shows one millisecond more at each mark; `advance` lets further time pass."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, 0

    def advance(self, milliseconds: float) -> None:
        self.now += milliseconds

    def mark(self) -> float:
        self.now += 1
        return self.now

    def wait(self) -> None:
        self.waits += 1

    def milliseconds(self, start: float, end: float) -> float:
        return end - start


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    return tmp_path / "tiny.yaml"


@pytest.fixture
def spec(spec_file: Path) -> Spec:
    return load_spec(spec_file)
