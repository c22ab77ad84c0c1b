"""The peer of a training step: Deformable DETR of transformers, of the same sizes and with its own loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from codetr.bench.step.instruments import Place, timed_places
from codetr.bench.step.recorder import BACKBONE, DECODER, ENCODER, LOSSES, MATCHING, Recorder
from codetr.bench.step.subjects import TRANSFORMERS, Subject
from codetr.errors import UserError
from codetr.models.build import ModelSpec, build
from codetr.ops.boxes import normalise
from codetr.spec import Spec
from codetr.structures import Batch
from codetr.weights.transformers_rules.deformable_detr import DEFORMABLE_DETR

_WHERE = f"--peer {TRANSFORMERS}"


def transformers_subject(spec: Spec, classes: int, device: torch.device) -> Subject:
    """`DeformableDetrForObjectDetection` with the sizes of a spec; what it cannot take over is in the note.

    Raises: UserError if transformers is not installed, or has no model of these sizes.
    """
    _check(spec)
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"{_WHERE}: it is not installed. Try: pip install transformers") from error
    config = transformers.DeformableDetrConfig(**_settings(spec, classes))
    model: Any = transformers.DeformableDetrForObjectDetection(config)
    _freeze_as_ours(model, spec, classes)
    model.to(device).train()
    # The groups name parameters of ours; how many there are matters little to the time of the optimizer.
    train = spec.train.model_copy(update={"lr_groups": (), "layer_decay": None, "freeze": ()})

    def losses(batch: Batch) -> Mapping[str, Tensor]:
        output = model(
            pixel_values=batch.images.pixels, pixel_mask=(~batch.images.padding).long(), labels=_labels(batch)
        )
        return {"loss": output.loss}

    return Subject(
        TRANSFORMERS, model, losses, lambda recorder: _instruments(model, recorder), train, _note(spec, config)
    )


def _check(spec: Spec) -> None:
    """Raises: UserError if transformers builds no model of these sizes."""
    if spec.base.name != "deformable_detr" or spec.base.settings.learned_anchors:  # type: ignore[attr-defined]
        raise UserError(
            f"{_WHERE}: it is measured beside the base deformable_detr without learned_anchors, which it has too; "
            f"the base here is {spec.base.name}."
        )
    if spec.backbone.name != "resnet":
        raise UserError(f"{_WHERE}: it is built with a timm ResNet; the backbone here is {spec.backbone.name}.")
    options = spec.backbone.settings.options  # type: ignore[attr-defined]
    if set(options) - {"output_stride"}:
        raise UserError(
            f"{_WHERE}: it cannot build a backbone with backbone.options of {', '.join(options)}. "
            "Compare without them: add backbone.options={}"
        )


def _settings(spec: Spec, classes: int) -> dict[str, Any]:
    """The arguments of their configuration."""
    base: Any = spec.base.settings
    neck: Any = spec.neck.settings
    backbone: Any = spec.backbone.settings
    return {
        "num_labels": classes,
        "d_model": neck.dim,
        "num_feature_levels": neck.num_levels,
        "num_queries": base.num_queries,
        "two_stage_num_proposals": base.num_queries,
        "encoder_layers": base.encoder_layers,
        "decoder_layers": base.decoder_layers,
        "encoder_attention_heads": base.num_heads,
        "decoder_attention_heads": base.num_heads,
        "encoder_ffn_dim": base.ffn_dim,
        "decoder_ffn_dim": base.ffn_dim,
        "encoder_n_points": base.num_points,
        "decoder_n_points": base.num_points,
        "dropout": base.dropout,
        "with_box_refine": base.box_refine,
        "two_stage": base.two_stage,
        "auxiliary_loss": True,
        "backbone_config": {
            "model_type": "timm_backbone",
            "backbone": backbone.model,
            "out_indices": list(backbone.stages),
            "features_only": True,
            "output_stride": backbone.options.get("output_stride"),
        },
    }


def _freeze_as_ours(model: nn.Module, spec: Spec, classes: int) -> None:
    """No gradients for the stages of the backbone that the spec freezes."""
    with torch.device("meta"):
        ours: Any = build(spec.model_copy(update={"heads": {}}), classes, pretrained=False)
    for name, child in _backbone(model).named_children():
        if name in ours.base.backbone.frozen:
            child.requires_grad_(False)


def _backbone(model: Any) -> nn.Module:
    encoder: nn.Module = model.model.backbone
    return next(module for module in encoder.modules() if "conv1" in dict(module.named_children()))


def _note(spec: Spec, config: Any) -> str:
    """What of the spec their model does not have, from what their configuration says of ours."""
    theirs, ours = ModelSpec.model_validate(DEFORMABLE_DETR.model(config)), spec
    differing = []
    for section, skipped in (("base", ()), ("neck", ()), ("backbone", ("pretrained", "frozen_stages"))):
        their_settings = getattr(theirs, section).settings.model_dump()
        for name, value in getattr(ours, section).settings.model_dump().items():
            if name not in skipped and value != their_settings[name]:
                differing.append(f"{section}.{name}={their_settings[name]}")
    parts = ["its own loss" + (", without a term of the proposals" if config.two_stage else "")]
    if differing:
        parts.append(f"built with {', '.join(differing)}".lower())
    if spec.train.compile or spec.train.recompute:
        parts.append("train.compile and train.recompute are not applied to it")
    return "; ".join(parts)


def _labels(batch: Batch) -> list[dict[str, Tensor]]:
    """Their targets: boxes cxcywh in units of the image without its padding."""
    boxes = normalise(batch.targets.boxes, batch.images.sizes)
    return [
        {"class_labels": labels[:count], "boxes": own[:count]}
        for labels, own, count in zip(batch.targets.labels, boxes, batch.targets.counts, strict=True)
    ]


@contextmanager
def _instruments(model: Any, recorder: Recorder) -> Iterator[None]:
    from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher

    places: list[Place] = [
        (model.model.backbone, "forward", BACKBONE),
        (model.model.encoder, "forward", ENCODER),
        (model.model.decoder, "forward", DECODER),
        (DeformableDetrHungarianMatcher, "forward", MATCHING),
    ]
    loss = model.loss_function  # a property, which cannot be patched as the others
    with timed_places(places, recorder):
        model.loss_function = recorder.timed(loss, LOSSES)
        try:
            yield
        finally:
            model.loss_function = loss
