"""What every test may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# No deadline: a machine under load is not a defect. Derandomised: a failure appears in every run or in none.
settings.register_profile("codetr", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("codetr")


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the interpreter, tests of Triton kernels are tests of a GPU."""
    for item in items:
        if item.get_closest_marker("kernel") is not None and not INTERPRETED:
            item.add_marker(pytest.mark.gpu)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed torch for the tests that use it, and skip those that need a GPU where there is none."""
    gpu = item.get_closest_marker("gpu") is not None
    if "torch" not in sys.modules and not gpu:
        return
    import torch

    torch.manual_seed(0)
    if gpu and not torch.cuda.is_available():
        kernel = item.get_closest_marker("kernel") is not None
        pytest.skip("needs a CUDA device" + (", or TRITON_INTERPRET=1" if kernel else ""))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and reference data beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}")
    return folder
