"""Which implementation runs, and what it says about why."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from codetr_kernels import backend, which_backend


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answers are kept for the life of a process; here the process changes."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for answer in (backend._of_device, backend.interpreted):
        answer.cache_clear()
    yield
    for answer in (backend._of_device, backend.interpreted):
        answer.cache_clear()


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None = None) -> None:
    """A GPU of some capability, as torch would report it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.version, "hip", hip)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
class TestWithTriton:
    def test_a_cpu(self) -> None:
        assert (
            str(which_backend("cpu"))
            == "reference: PyTorch operations: the kernels run on NVIDIA and AMD GPUs, not on cpu"
        )

    def test_the_interpreter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        found = which_backend("cpu")
        assert found.name == "triton"
        assert "TRITON_INTERPRET is set" in found.reason

    def test_an_apple_gpu(self) -> None:
        assert (
            str(which_backend("mps"))
            == "reference: PyTorch operations: the kernels run on NVIDIA and AMD GPUs, not on mps"
        )

    def test_a_gpu_of_the_oldest_capability(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu(monkeypatch, (8, 0))
        assert str(which_backend()) == "triton: Some GPU, compute capability 8.0"
        assert str(which_backend("cuda:0")) == "triton: Some GPU, compute capability 8.0"

    def test_a_gpu_before_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu(monkeypatch, (7, 5))
        assert str(which_backend("cuda")) == (
            "reference: Some GPU has compute capability 7.5, the kernels need 8.0 (Ampere) or newer"
        )

    def test_an_amd_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu(monkeypatch, (9, 4), hip="6.4")
        assert str(which_backend("cuda:0")) == "triton: Some GPU (ROCm 6.4)"

    def test_a_gpu_that_torch_does_not_see(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert str(which_backend("cuda")) == "reference: torch sees no GPU"


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = which_backend("cpu")
    assert found.name == "reference"
    assert found.reason.startswith("triton is not installed")


def test_a_type_that_the_kernels_do_not_take() -> None:
    found = which_backend("cpu", torch.float8_e4m3fn)
    assert found.name == "reference"
    assert found.reason.endswith("not torch.float8_e4m3fn")
