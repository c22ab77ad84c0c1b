"""Operations of a training step, part by part."""

from __future__ import annotations

from codetr.inference_trace import IMAGE
from codetr.inspection.step_cost import step_cost
from codetr.spec import load_spec

SMALL = {
    "base": {"name": "detr", "num_queries": 9, "encoder_layers": 1, "decoder_layers": 1, "num_heads": 2, "ffn_dim": 16},
    "backbone": {
        "name": "resnet",
        "model": "resnet10t",
        "pretrained": False,
        "stages": [4],
        "options": {"channels": [8, 8, 8, 8], "stem_width": 8},
    },
    "neck": {"name": "projection", "dim": 32},
    "criterion": {"cost": {"kind": "softmax"}},
    "heads": {"atss": {}},
}
CELLS = (IMAGE[0] // 32) * (IMAGE[1] // 32)


def linear(rows: int, width_in: int, width_out: int) -> int:
    return 2 * rows * width_in * width_out


def test_what_positive_queries_add_to_a_decoder_of_one_layer() -> None:
    """300 queries of width 32: their own projections, attention among them and to the image."""
    cost = step_cost(load_spec(SMALL), num_classes=5)
    assert cost.slots == {"atss": 300}
    attention = 4 * linear(300, 32, 32) + 2 * linear(300, 32, 300)  # query, key, value, output; scores, weighted sum
    crossing = 2 * linear(300, 32, 32) + 2 * linear(300, 32, CELLS)  # keys and values of the image are there already
    block = 2 * linear(300, 32, 16)
    predictions = linear(300, 32, 6) + 2 * linear(300, 32, 32) + linear(300, 32, 4)
    assert cost.decoder == attention + crossing + block + predictions
    assert cost.parts["positive_queries.atss"] == linear(300, 64, 64) + linear(300, 32, 32)
    assert cost.total == cost.base + cost.decoder + sum(cost.parts.values())


def test_without_positive_queries_the_decoder_has_no_more_to_do() -> None:
    spec = load_spec({**SMALL, "collaborative": {"positive_queries": False}})
    cost = step_cost(spec, num_classes=5)
    assert cost.decoder == 0 and list(cost.parts) == ["adapter", "heads.atss"]


def test_a_step_without_heads_is_the_base() -> None:
    cost = step_cost(load_spec({**SMALL, "heads": {}}), num_classes=5)
    assert cost.total == cost.base > 0 and cost.parts == {} == cost.slots
    assert cost.base == step_cost(load_spec(SMALL), num_classes=5).base
