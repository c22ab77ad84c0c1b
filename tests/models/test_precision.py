"""Under bfloat16 autocast, what is numerically delicate runs in float32: in every base and every head."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from every_base import BASES, tiny_spec
from small import HEADS, OTHER_HEADS, batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Targets

NUM_CLASSES = 4
ALL_HEADS = {**HEADS["mask_rcnn"], **HEADS["both"], **{name: {} for name in OTHER_HEADS}}

DELICATE = {
    *("sigmoid", "log_sigmoid_forward", "binary_cross_entropy_with_logits", "softplus"),
    *("_softmax", "_log_softmax", "exp", "expm1", "log", "log1p", "log2", "pow", "sqrt", "rsqrt"),
    *("sin", "cos", "cumsum", "cumprod", "prod", "div", "reciprocal", "sum", "var", "std"),
    *("minimum", "maximum", "clamp", "clamp_min", "clamp_max", "abs", "smooth_l1_loss", "sub", "rsub", "neg"),
    *("grid_sampler_2d", "embedding_bag", "_embedding_bag", "roi_align", "scatter_add", "index_add"),
}
"""Operators of box codes, sine embeddings, sampling, overlaps, costs and losses. Attention between queries has a
softmax of its own within an operator that sums in float32; layers, norms, sums of residuals and ranking take bfloat16.
"""


class Watch(TorchDispatchMode):
    """Notes each delicate operator that is given or gives 16 bits, with the line that calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        if name in DELICATE:
            self.seen.add(name)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            if any(tensor.dtype == torch.bfloat16 for tensor in tensors):
                self.found.add(f"{name}: {_line()}")
        return result


def _line() -> str:
    """The innermost line of the package, without its path."""
    ours = [frame for frame in traceback.extract_stack() if "/codetr" in frame.filename]
    return f"{ours[-1].filename.rpartition('/')[2]}: {ours[-1].line}" if ours else "elsewhere"


def with_all_heads(base: str) -> Collaborative:
    spec = tiny_spec(base, heads=False).model_dump()
    torch.manual_seed(0)
    model = build(ModelSpec.model_validate({**spec, "heads": ALL_HEADS}), NUM_CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.train()


def losses(model: Collaborative, given: tuple[ImageBatch, Targets], *, low: bool) -> dict[str, Tensor]:
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        return model(*given)


@pytest.mark.parametrize("base", BASES)
def test_what_is_delicate_runs_in_float32(base: str) -> None:
    """Whole training steps with seven heads and masks."""
    model, given = with_all_heads(base), batch(masks=True)
    with Watch() as watch:
        found = losses(model, given, low=True)
    assert watch.found == set()
    assert {"sigmoid", "_softmax", "sin", "cos", "exp", "log", "div", "cumsum"} <= watch.seen
    expected = losses(model, given, low=False)
    assert set(found) == set(expected)
    for name, loss in found.items():
        assert loss.dtype == torch.float32 and loss.isfinite(), name
    torch.stack(list(found.values())).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    total, wanted = (float(sum(loss.detach() for loss in values.values())) for values in (found, expected))
    # 2^-9 is a rounding to bfloat16; about 30 layers lie one after the other, whose errors add up to a few of the
    # square root of that: 2^-9 * sqrt(30) * 3 = 3 %. Single losses may move further: assignments are decided anew.
    assert total == pytest.approx(wanted, rel=0.03)


def test_the_watch_sees_sixteen_bits() -> None:
    low = torch.ones(2, dtype=torch.bfloat16)
    with Watch() as watch:
        low.sigmoid()
        low.float().exp()
        low + low
    assert {entry.partition(":")[0] for entry in watch.found} == {"sigmoid"} and watch.seen == {"sigmoid", "exp"}
