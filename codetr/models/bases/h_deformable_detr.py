"""H-DETR (Jia et al., arXiv 2207.13080): beside the matched queries, a second group learns with repeated objects.

Its published form is on Deformable-DETR++ (`inner`); any base whose `match` group has queries to spare will do.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, model_validator

from codetr.config import Section
from codetr.models.backbones.contract import Backbone
from codetr.models.bases.contract import Wrapper
from codetr.models.necks.contract import Neck
from codetr.registry import BaseSpec, find
from codetr.structures import Match, Memory, Proposal, QueryGroup, Targets


class HDeformableDETR(Wrapper):
    """The first `one_to_one` queries of `inner`, its best proposals if it is two-stage, are matched as ever.

    The others, in training only, are the group `hybrid`: matched with every object `repeat` times. Copies of objects
    beyond the number of queries stay unmatched.
    """

    class Config(Section):
        inner: BaseSpec = Field(description="the base; its queries beyond `one_to_one` are the one-to-many ones")
        one_to_one: int = Field(300, gt=0, description="queries of the matched group")
        repeat: int = Field(6, ge=1, description="times that an object is matched in the one-to-many group, K")
        weight: float = Field(1.0, ge=0, description="weight of the one-to-many losses, lambda")

        @model_validator(mode="after")
        def _queries_are_left(self) -> HDeformableDETR.Config:
            queries = getattr(self.inner.settings, "num_queries", None)
            if queries is not None and queries <= self.one_to_one:
                raise ValueError(
                    f"inner.num_queries is {queries}; it must exceed one_to_one ({self.one_to_one}): the rest are the "
                    "one-to-many queries"
                )
            return self

    def __init__(self, config: Config, *, backbone: Backbone, neck: Neck, num_classes: int) -> None:
        inner = find("bases", config.inner.name)
        super().__init__(inner(config.inner.settings, backbone=backbone, neck=neck, num_classes=num_classes))
        self.config = config

    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """With targets, `hybrid` follows `match`. An image that is too small offers its last query to both.

        The group is never left out: every rank takes part in as many reductions.
        """
        proposal = self.inner.propose(memory, targets)
        match, *others = proposal.groups
        first = self.config.one_to_one
        groups = [_part(match, slice(first))]
        if targets is not None:
            rest = _part(match, slice(min(first, len(match) - 1), None))
            groups.append(
                replace(rest, name="hybrid", supervision=Match(self.config.repeat), weight=self.config.weight)
            )
        return replace(proposal, groups=(*groups, *others))


def _part(group: QueryGroup, queries: slice) -> QueryGroup:
    """A run of a group's queries."""
    return replace(
        group,
        content=group.content[:, queries],
        pos=None if group.pos is None else group.pos[:, queries],
        reference=group.reference[:, queries],
        valid=None if group.valid is None else group.valid[:, queries],
    )
