"""Tuning, as far as it goes without a GPU."""

from __future__ import annotations

import pytest
import torch

from codetr.bench.tuning import Choice, grid, tune
from codetr.errors import UserError


def test_it_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="--tune measures on a GPU"):
        list(tune(torch.device("cpu"), quick=True))


def test_the_grid_is_valid_and_holds_tiles_for_many_queries_alone() -> None:
    pytest.importorskip("triton")
    for many in (False, True):
        configs = grid(many_queries=many)
        assert len(set(configs)) == len(configs) >= 30
        assert all(not config.tile_w or config.block_q % config.tile_w == 0 for config in configs)
        assert any(config.tile_w for config in configs) is many


def test_a_gain_within_the_noise_changes_nothing() -> None:
    pytest.importorskip("triton")
    present, best = grid(many_queries=False)[:2]
    assert not Choice("key", present, 1.0, best, 0.99, 2, 0).is_better
    assert Choice("key", present, 1.0, best, 0.9, 2, 0).is_better
