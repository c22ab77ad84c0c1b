"""Settings against long tails: which images an epoch has, and which classes of an image count."""

from __future__ import annotations

from pydantic import Field

from codetr.config import Section


class RepeatFactor(Section):
    """Images of rare classes come several times in an epoch (Gupta et al., arXiv 1908.03195, section 5).

    threshold: a class in a smaller share of the images than this is repeated.
    """

    threshold: float = Field(0.001, gt=0, le=1)


class FederatedClasses(Section):
    """The classes of an image whose class loss counts: its own, and others drawn by their frequency.

    classes: how many in all, at least. power: others are drawn in proportion to their number of images to this power.
    """

    classes: int = Field(50, ge=1)
    power: float = Field(0.5, ge=0)
