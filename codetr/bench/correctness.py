"""Whether a candidate computes the operation: its output and every gradient against float64.

An error is stated as a share of the largest sum of absolute terms that goes into such a number: the figure that
rounding is proportional to. The limit is derived: results are rounded once to the problem's dtype, and 16-bit weights
or a saved 16-bit output once before (2 u); positions are computed in float32 with up to four roundings of numbers up to
the width W of the widest level, and a sample changes by up to twice its value for each cell (8 W u32); sums of n terms
in float32 are off by up to n u32. u and u32 are the unit roundoffs of the dtype and of float32.

Where a sampled position lies within rounding of a cell's edge, the gradient of locations has a step, and either side is
right: such points are left out of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from codetr_kernels.deform_attention import (
    deform_attention_fused_reference,
    deform_attention_reference,
    sampling_locations,
)
from torch import Tensor

from codetr.bench.candidates import Candidate
from codetr.bench.problems import Inputs
from codetr.bench.traffic import Chain

NAMES = {
    "op": ("output", "value", "locations", "weights"),
    "whole": ("output", "value", "references", "offsets", "logits"),
}
"""What is compared: the output and the gradients of these."""

_U32 = 2.0**-24


@dataclass(frozen=True)
class Check:
    """Errors and limits by name, both as shares of the largest sum of absolute terms."""

    errors: dict[str, float]
    limits: dict[str, float]

    @property
    def faults(self) -> list[str]:
        """What is beyond its limit. An error that is no number is."""
        return [
            f"{name}: error {error:.1e}, limit {self.limits[name]:.1e}"
            for name, error in self.errors.items()
            if not error <= self.limits[name]
        ]


@dataclass(frozen=True)
class Truth:
    """float64 results, the scale that an error of each is a share of, and which numbers count (None: all)."""

    results: dict[str, Tensor]
    scales: dict[str, float]
    counts: dict[str, Tensor | None]
    limits: dict[str, float]


def operands(inputs: Inputs, chain: Chain) -> dict[str, Tensor]:
    """The differentiable arguments by name."""
    names = NAMES[chain][1:]
    return {name: getattr(inputs, name) for name in names}


def call(candidate: Candidate, inputs: Inputs, chain: Chain, tensors: dict[str, Tensor]) -> Tensor:
    """Run a candidate on these tensors in the place of those of `inputs`."""
    if chain == "op":
        return candidate.op(tensors["value"], inputs.shapes, tensors["locations"], tensors["weights"])
    value, references, offsets, logits = (tensors[name] for name in NAMES["whole"][1:])
    return candidate.whole(value, inputs.shapes, references, offsets, logits, inputs.padding)


def results_of(candidate: Candidate, inputs: Inputs, chain: Chain) -> dict[str, Tensor]:
    """Output and gradients."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in operands(inputs, chain).items()}
    output = call(candidate, inputs, chain, leaves)
    gradients = torch.autograd.grad(output, list(leaves.values()), inputs.grad)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


REFERENCE = Candidate("float64", deform_attention_reference, deform_attention_fused_reference)


def find_truth(inputs: Inputs, chain: Chain) -> Truth:
    """Run the reference in float64 on the rounded inputs, one image at a time for the sake of memory."""
    parts = [_image_truth(_image(inputs, index), chain) for index in range(len(inputs.value))]
    results = {name: torch.cat([part.results[name] for part in parts]) for name in NAMES[chain]}
    scales = {name: max(part.scales[name] for part in parts) for name in NAMES[chain]}
    counts = {name: _joined([part.counts[name] for part in parts]) for name in NAMES[chain]}
    return Truth(results, scales, counts, _limits(inputs, chain))


def check(candidate: Candidate, inputs: Inputs, chain: Chain, truth: Truth) -> Check:
    """Compare a candidate's output and gradients with the truth."""
    found = results_of(candidate, inputs, chain)
    errors = {}
    for name, result in found.items():
        counts = truth.counts[name]
        difference = (result.double() - truth.results[name]).abs()
        errors[name] = float((difference if counts is None else difference[counts]).max()) / truth.scales[name]
    return Check(errors, truth.limits)


def _image_truth(inputs: Inputs, chain: Chain) -> Truth:
    wide = replace(
        inputs,
        **{name: getattr(inputs, name).double() for name in ("value", "references", "offsets", "logits", "grad")},
    )
    if chain == "op":
        locations, weights = inputs.locations.double(), inputs.weights.double()
        wide.__dict__.update(locations=locations, weights=weights)  # in the place of the cached properties
    else:
        wide = replace(wide, value=wide.value.masked_fill(inputs.padding[:, :, None, None], 0.0))
    smooth = ~_near_edges(wide)
    results = results_of(REFERENCE, wide, chain)
    counts: dict[str, Tensor | None] = dict.fromkeys(NAMES[chain])
    counts["locations" if chain == "op" else "offsets"] = smooth
    if chain == "whole":
        counts["references"] = smooth.all(4).all(2)
    return Truth(results, _scales(wide, chain), {name: counts[name] for name in NAMES[chain]}, {})


def _scales(wide: Inputs, chain: Chain) -> dict[str, float]:
    """The largest sums of absolute terms: the operation on absolute values, and its gradients."""
    absolute = replace(wide, value=wide.value.abs(), grad=wide.grad.abs())
    absolute.__dict__.update(locations=wide.locations.double(), weights=wide.weights.double())
    sums = results_of(REFERENCE, absolute, "op")
    sides = torch.tensor(wide.shapes, device=wide.value.device).flip(-1)[:, None]  # (L, 1, 2)
    # A step of one cell changes a sample by at most the sum of both: four corners, each at most fully weighted.
    along = 4 * (absolute.weights * sums["weights"])
    scales = {"output": sums["output"], "value": sums["value"]}
    if chain == "op":
        scales |= {"locations": along[..., None] * sides, "weights": sums["weights"]}
    else:
        of_references = (along[..., None] * sides).sum((2, 4))
        scales |= {"offsets": along, "logits": along, "references": of_references}
    return {name: float(scale.max()) for name, scale in scales.items()}


def _near_edges(wide: Inputs) -> Tensor:
    """(B, Q, H, L, P, 2): coordinates within rounding of a line between cell centres, where the slope changes.

    Both coordinates of a point are marked for either: at an outer line, the sample itself ends.
    """
    locations = wide.__dict__.get("locations")
    if locations is None:
        locations = sampling_locations(wide.offsets, wide.references, wide.shapes)
    sides = torch.tensor(wide.shapes, device=locations.device, dtype=torch.float64).flip(-1)[:, None]
    position = locations * sides - 0.5
    distance = (position - position.round()).abs()
    near = distance < 16 * _U32 * sides
    return near.any(-1, keepdim=True).expand_as(near)


def _limits(inputs: Inputs, chain: Chain) -> dict[str, float]:
    _, queries, heads, levels, points, _ = inputs.offsets.shape
    position = 8 * max(max(shape) for shape in inputs.shapes) * _U32
    coarsest = min(height * width for height, width in inputs.shapes)
    # Terms of a sum: of samples; of channels; of what reaches a cell of the coarsest level on average, four times over.
    terms = {"output": levels * points, "value": 16 * queries * points // coarsest, "references": heads * points}
    channels = inputs.value.shape[-1]
    # 2 u, of the type that a result has: locations and references are float32 whatever value is.
    types = {name: tensor.dtype for name, tensor in operands(inputs, chain).items()} | {"output": inputs.value.dtype}
    rounding = {name: torch.finfo(dtype).eps for name, dtype in types.items()}
    return {name: rounding[name] + position + (terms.get(name, 0) + channels) * _U32 for name in NAMES[chain]}


def _image(inputs: Inputs, index: int) -> Inputs:
    names = ("value", "references", "offsets", "logits", "padding", "grad")
    return replace(inputs, **{name: getattr(inputs, name)[index : index + 1] for name in names})


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    masks = [part for part in parts if part is not None]
    return torch.cat(masks) if masks else None
