"""The layouts of published state dicts, and which of them a file has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from codetr.errors import UserError
from codetr.weights import mmdetection, originals
from codetr.weights.anchor import convert_anchor_detr
from codetr.weights.anchor import num_classes_of as anchor_classes_of
from codetr.weights.conversion import Conversion, Rule, convert_state
from codetr.weights.dab import dab_rules, dn_deformable_rules
from codetr.weights.deformable import rules_deformable, rules_mmdetection_deformable
from codetr.weights.dino import rules_dino, with_spare_label
from codetr.weights.official import convert_official, num_classes_of


@dataclass(frozen=True)
class Layout:
    """How some published code names its tensors.

    name: for messages. spec: the zoo's, of its published weights. signs: patterns, each the whole name of some tensor
    of such a state dict. unless: a pattern that no name of it matches. convert: from their names to ours.
    num_classes: of a state dict, without a class for no object. by_category_id: classes are numbered as the categories
    of the annotation file are, with gaps, so that COCO has 91. any_object_first: class 0 of the proposals' head stands
    for any object, whatever category 0 is.
    """

    name: str
    spec: str
    signs: tuple[str, ...]
    convert: Callable[[Mapping[str, Tensor]], Conversion]
    num_classes: Callable[[Mapping[str, Tensor]], int]
    by_category_id: bool = False
    any_object_first: bool = False
    unless: str | None = None

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a state dict of these names is of this layout."""
        found = all(any(re.fullmatch(sign, name) for name in names) for sign in self.signs)
        return found and not (self.unless and any(re.fullmatch(self.unless, name) for name in names))


def recognise(state: Mapping[str, Tensor]) -> Layout:
    """The layout of a state dict.

    Raises: UserError, with the layouts that are known, if it has none of them.
    """
    names = list(state)
    for layout in LAYOUTS:
        if layout.fits(names):
            return layout
    known = "; ".join(layout.name for layout in LAYOUTS)
    some = ", ".join(names[:3])
    raise UserError(f"tensors named such as {some} are of no known layout; known are: {known}")


def _by_rules(rules: Sequence[Rule]) -> Callable[[Mapping[str, Tensor]], Conversion]:
    return lambda state: convert_state(state, rules)


def _rows(name: str, *, without: int = 0) -> Callable[[Mapping[str, Tensor]], int]:
    """The length of the tensor `name`; without: classes that stand for no object."""

    def count(state: Mapping[str, Tensor]) -> int:
        if name not in state:
            raise UserError(f"no {name} in the file: it is incomplete")
        return len(state[name]) - without

    return count


def _deformable(state: Mapping[str, Tensor]) -> Conversion:
    return convert_state(state, rules_deformable(state))


def _dino(state: Mapping[str, Tensor]) -> Conversion:
    return convert_state(state, rules_dino(state))


def _mmdetection_deformable(state: Mapping[str, Tensor]) -> Conversion:
    state = with_spare_label(state, "dn_query_generator.label_embedding.weight")
    return convert_state(state, rules_mmdetection_deformable(state))


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "Co-DINO by its authors",
        "co_dino_5scale_r50",
        (r"query_head\.cls_branches\..*", r"query_head\.transformer\.query_embed\.weight"),
        convert_official,
        num_classes_of,
    ),
    Layout(
        "Co-Deformable-DETR by its authors",
        "co_deformable_r50",
        (r"query_head\.cls_branches\..*",),
        convert_official,
        num_classes_of,
    ),
    Layout(
        "DETR by its authors",
        "detr_r50",
        (r"transformer\.decoder\.layers\.0\.multihead_attn\.in_proj_weight", r"query_embed\.weight"),
        _by_rules(originals.detr_rules()),
        _rows("class_embed.bias", without=1),
        by_category_id=True,
    ),
    Layout(
        "Conditional DETR by its authors",
        "conditional_detr_r50",
        (r"transformer\.decoder\.layers\.0\.ca_qpos_sine_proj\.weight", r"query_embed\.weight"),
        _by_rules(originals.conditional_detr_rules()),
        _rows("class_embed.bias"),
        by_category_id=True,
    ),
    Layout(
        "Anchor DETR by its authors",
        "anchor_detr_r50",
        (r"transformer\.pattern\.weight", r"transformer\.encoder_layers\.0\.self_attn\.in_proj_weight"),
        convert_anchor_detr,
        anchor_classes_of,
        by_category_id=True,
    ),
    Layout(
        "DAB-DETR by its authors",
        "dab_detr_r50",
        (r"refpoint_embed\.weight", r"transformer\.decoder\.ref_anchor_head\..*"),
        _by_rules(dab_rules()),
        _rows("class_embed.bias"),
        by_category_id=True,
        unless=r"label_enc\.weight",
    ),
    Layout(
        "DN-DETR by its authors",
        "dn_detr_r50",
        (r"refpoint_embed\.weight", r"transformer\.decoder\.ref_anchor_head\..*", r"label_enc\.weight"),
        _by_rules(dab_rules()),
        _rows("class_embed.bias"),
        by_category_id=True,
    ),
    Layout(
        "DN-Deformable-DETR by its authors",
        "dn_deformable_r50",
        (r"refpoint_embed\.weight", r"transformer\.level_embed", r"label_enc\.weight"),
        lambda state: convert_state(state, dn_deformable_rules(state)),
        _rows("class_embed.0.bias"),
        by_category_id=True,
    ),
    Layout(
        "DAB-Deformable-DETR by its authors",
        "dab_deformable_r50",
        (r"refpoint_embed\.weight", r"transformer\.level_embed"),
        _deformable,
        _rows("class_embed.0.bias"),
        by_category_id=True,
        unless=r"label_enc\.weight",
    ),
    Layout(
        "Deformable DETR by its authors, one-stage",
        "deformable_r50",
        (r"transformer\.reference_points\.weight", r"transformer\.level_embed"),
        _deformable,
        _rows("class_embed.0.bias"),
        by_category_id=True,
    ),
    Layout(
        "Deformable DETR by its authors, two-stage",
        "deformable_two_stage_r50",
        (r"transformer\.pos_trans\.weight", r"transformer\.level_embed"),
        _deformable,
        _rows("class_embed.0.bias"),
        by_category_id=True,
        any_object_first=True,
        unless=r"query_embed\.weight",
    ),
    Layout(
        "H-Deformable-DETR by its authors",
        "h_deformable_r50",
        (r"transformer\.pos_trans\.weight", r"transformer\.level_embed", r"query_embed\.weight"),
        _deformable,
        _rows("class_embed.0.bias"),
        by_category_id=True,
        any_object_first=True,
    ),
    Layout(
        "DINO by its authors, five levels",
        "dino_5scale_r50",
        (r"transformer\.enc_out_class_embed\.weight", r"transformer\.tgt_embed\.weight", r"input_proj\.4\..*"),
        _dino,
        _rows("class_embed.0.bias"),
        by_category_id=True,
    ),
    Layout(
        "DINO by its authors, four levels",
        "dino_r50",
        (r"transformer\.enc_out_class_embed\.weight", r"transformer\.tgt_embed\.weight"),
        _dino,
        _rows("class_embed.0.bias"),
        by_category_id=True,
    ),
    Layout(
        "Deformable DETR by mmdetection, one-stage",
        "deformable_r50",
        (r"bbox_head\.cls_branches\..*", r"reference_points_fc\.weight"),
        _mmdetection_deformable,
        _rows("bbox_head.cls_branches.0.bias"),
    ),
    Layout(
        "Deformable DETR by mmdetection, two-stage",
        "deformable_two_stage_r50",
        (r"bbox_head\.cls_branches\..*", r"pos_trans_fc\.weight"),
        _mmdetection_deformable,
        _rows("bbox_head.cls_branches.0.bias"),
    ),
    Layout(
        "DINO by mmdetection",
        "dino_r50",
        (r"bbox_head\.cls_branches\..*", r"dn_query_generator\.label_embedding\.weight"),
        _mmdetection_deformable,
        _rows("bbox_head.cls_branches.0.bias"),
    ),
    Layout(
        "DETR by mmdetection",
        "detr_r50",
        (r"decoder\.layers\.0\.cross_attn\.attn\.in_proj_weight", r"query_embedding\.weight"),
        _by_rules(mmdetection.detr_rules()),
        _rows("bbox_head.fc_cls.bias", without=1),
    ),
    Layout(
        "Conditional DETR by mmdetection",
        "conditional_detr_r50",
        (r"decoder\.layers\.0\.cross_attn\.qpos_sine_proj\.weight", r"query_embedding\.weight"),
        _by_rules(mmdetection.conditional_detr_rules()),
        _rows("bbox_head.fc_cls.bias"),
        unless=r"decoder\.ref_anchor_head\..*",  # DAB-DETR's
    ),
)
