"""What a case is: inputs, everyone who computes the same from them, and what makes a result wrong."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codetr.bench.candidates import OURS

__all__ = ["CPU", "CUDA", "OURS", "QUICK", "Case", "Inputs", "Maker", "Run", "always", "compiled", "needs"]

Inputs = dict[str, Any]
Run = Callable[[Inputs], Any]
Maker = Callable[[torch.device], Run]
"""Raises ImportError where the candidate cannot be measured on the device; its text is the reason."""

CPU, CUDA, QUICK = "cpu", "cuda", "quick"
"""Where a case is measured unless it is asked for by name: on a CPU, on a GPU, in a quick run."""


@dataclass(frozen=True)
class Case:
    """One size of an operation.

    op: the package of `codetr_kernels` that is measured. name: of all cases only this one's. shape: for a reader.
    people: everyone by name, ours first. peer: whom speeds are stated beside. truth: in float64, from the inputs.
    check: a result and the truth to what is wrong, None if nothing is. gradients: names of the inputs that get one, in
    which case the result that is checked is (output, *gradients), begun with `inputs["grad"]`. suits: of CPU, CUDA and
    QUICK.
    """

    op: str
    name: str
    shape: str
    make: Callable[[torch.device], Inputs]
    people: Mapping[str, Maker]
    peer: str
    truth: Callable[[Inputs], Any]
    check: Callable[[Any, Any], str | None]
    gradients: tuple[str, ...] = ()
    suits: frozenset[str] = frozenset({CPU, CUDA})


def always(run: Run) -> Maker:
    """Of what is there wherever this package is."""
    return lambda device: run


def needs(module: str, make: Callable[[Any], Run], *, package: str) -> Maker:
    """Of what is there where a module can be imported; `make` is given the module. package: what to install for it."""

    def maker(device: torch.device) -> Run:
        try:
            return make(importlib.import_module(module))
        except ModuleNotFoundError as error:
            raise ImportError(f"{error} (pip install {package})") from error

    return maker


def compiled(function: Callable[..., Tensor], call: Callable[[Callable[..., Tensor], Inputs], Tensor]) -> Maker:
    """A reference under torch.compile, static shapes; `call` gives a function its arguments."""

    def make(device: torch.device) -> Run:
        made = torch.compile(function, dynamic=False, fullgraph=True)
        return lambda inputs: call(made, inputs)

    return make
