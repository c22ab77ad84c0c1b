"""Group DETR (Chen et al., arXiv 2207.13085): K groups of queries, each matched one-to-one, share a decoder."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.errors import UserError
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Base, Wrapper
from codetr.models.necks.contract import Neck
from codetr.registry import BaseSpec, find
from codetr.structures import DecoderOutput, EncoderPrediction, Memory, Proposal, Targets


class GroupDETR(Wrapper):
    """The queries of `inner` and, in training only, `groups` - 1 further groups `group1`, `group2`, ... like them.

    What is learned for each query is each group's own, and so are the proposal heads of a two-stage base (as in
    LW-DETR). The loss is the mean over the groups.
    """

    class Config(Section):
        inner: BaseSpec = Field(description="the base whose queries are to have company")
        groups: int = Field(11, ge=1, description="groups of queries in training, K")

    def __init__(self, config: Config, *, backbone: Backbone, neck: Neck, num_classes: int) -> None:
        inner = find("bases", config.inner.name)
        super().__init__(inner(config.inner.settings, backbone=backbone, neck=neck, num_classes=num_classes))
        self.sources = nn.ModuleList(_another_source(self.inner, config.inner.name) for _ in range(config.groups - 1))

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """With targets, the further groups follow `match`, before `inner`'s other groups."""
        own = self.inner.propose(memory, targets)
        if targets is None or not len(self.sources):
            return own
        further = [self.inner.propose_from(memory, source) for source in self._sources()]
        share = 1 / (1 + len(further))
        match, *others = own.groups
        groups = [replace(match, weight=share * match.weight)]
        for index, proposal in enumerate(further, start=1):
            (group,) = proposal.groups
            groups.append(replace(group, name=f"group{index}", weight=share * group.weight))
        return Proposal((*groups, *others), _stacked([proposal.encoder for proposal in (own, *further)]))

    def _sources(self) -> list[dict[str, nn.Module]]:
        return [dict(source.items()) for source in self.sources if isinstance(source, nn.ModuleDict)]


def _another_source(base: Base, name: str) -> nn.ModuleDict:
    """Copies of what makes the base's queries, with other initial values.

    Raises: UserError if the base does not say what that is.
    """
    own = {part: base.get_submodule(part) for part in base.query_source if getattr(base, part, None) is not None}
    if not own:
        raise UserError(f"base {name} cannot have further groups: its class names no `query_source`")
    source = nn.ModuleDict(copy.deepcopy(own))
    with torch.no_grad():
        for parameter in source.parameters():
            if parameter.ndim > 1:
                parameter.copy_(_shuffled(parameter))
    return source


def _shuffled(matrix: Tensor) -> Tensor:
    """Each column in an order of its own: another draw from the initial distribution, whatever that is."""
    return matrix.gather(0, torch.rand_like(matrix).argsort(0))


def _stacked(predictions: list[EncoderPrediction | None]) -> EncoderPrediction | None:
    """One prediction with a layer for each; None if the base is not two-stage."""
    found = [prediction for prediction in predictions if prediction is not None]
    if not found:
        return None
    output = DecoderOutput(
        torch.cat([prediction.output.logits for prediction in found]),
        torch.cat([prediction.output.boxes for prediction in found]),
    )
    return replace(found[0], output=output, valid=torch.cat([prediction.valid for prediction in found]))
