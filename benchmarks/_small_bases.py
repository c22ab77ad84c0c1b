"""Every base of the zoo at a size that trains on a CPU in minutes, with its own criterion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from codetr.document import open_document
from codetr.models.build import ModelSpec


@dataclass(frozen=True)
class Size:
    """dim: width of the transformer, a multiple of 32. queries: of the matched group. channels: of the backbone."""

    dim: int = 64
    queries: int = 30
    encoder_layers: int = 1
    decoder_layers: int = 3
    channels: tuple[int, int, int, int] = (16, 32, 64, 96)
    norm: str = "batch"


def small_spec(base: str, *, heads: bool, size: Size) -> ModelSpec:
    """The fragment `bases/<base>` of the zoo, made small, alone or with ATSS and Faster-RCNN heads.

    A base on one map takes that of stride 16, as in the DC5 form, since the pictures are small as well.
    """
    fragment = open_document({"extends": [f"bases/{base}"]}).plain()
    one_map = fragment["neck"]["name"] == "projection"
    groups = 8 if fragment["neck"].get("num_groups") else 0
    levels = {} if one_map else {"num_levels": 3}
    return ModelSpec.model_validate(
        {
            "base": _smaller(fragment["base"], size),
            "backbone": {
                "name": "resnet",
                "model": "resnet10t",
                "stages": [3] if one_map else [2, 3, 4],
                "pretrained": False,
                "frozen_stages": -1,
                "norm": size.norm,
                "options": {"channels": size.channels, "stem_width": size.channels[0] // 2},
            },
            "neck": {**fragment["neck"], "dim": size.dim, "num_groups": groups, **levels},
            "criterion": fragment["criterion"],
            "heads": small_heads(("faster_rcnn", "atss") if heads else (), size=size),
            "collaborative": {"max_positives": size.queries},
        }
    )


def _smaller(base: dict[str, Any], size: Size) -> dict[str, Any]:
    """A base's settings, and those of the base inside it."""
    wanted = {
        "num_queries": size.queries,
        "num_positions": size.queries // 2,
        "num_patterns": min(2, base.get("num_patterns", 0)),
        "encoder_layers": size.encoder_layers,
        "decoder_layers": size.decoder_layers,
        "num_heads": 4,
        "ffn_dim": 2 * size.dim,
        "dropout": 0.0,
        "one_to_one": size.queries,
        "groups": 3,
    }
    smaller = {key: wanted.get(key, value) for key, value in base.items()}
    if "inner" in base:
        smaller["inner"] = _smaller(base["inner"], size)
    if "one_to_one" in base:
        smaller["inner"]["num_queries"] = 3 * size.queries
    return smaller


def small_heads(names: Iterable[str], *, size: Size) -> dict[str, Any]:
    """Heads of the zoo by name, the stages of the two-stage ones made small."""
    rpn = {"channels": size.dim, "train_candidates": 200, "train_proposals": 100, "test_proposals": 100}
    stages: dict[str, Any] = {"rpn": rpn, "roi": {"hidden": 2 * size.dim, "samples": 32}}
    mask = {"channels": size.dim, "stacked_convs": 2}
    smaller = {"faster_rcnn": stages, "mask_rcnn": {**stages, "mask": mask}}
    return {name: smaller.get(name, {}) for name in names}
