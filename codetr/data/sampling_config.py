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


class LongTail(Section):
    """A synthetic set like LVIS v1: many classes, most of them rare, in federated annotations.

    classes: how many; up to a hundred differ in silhouette and colour. exponent: the class of rank n is in a number of
    images in proportion to n to the power of minus it. least, val_least: images that show the rarest class, as far as
    there is room. rare, common: a class in at most so many training images is of group r, or else c, or else f. Other
    limits than LVIS's, 10 and 100, make a small set's tail count as one; its figures are no LVIS figures then.
    """

    classes: int = Field(1203, ge=1, le=1600)
    exponent: float = Field(1.5, ge=0)
    least: int = Field(1, ge=0)
    val_least: int = Field(1, ge=0)
    rare: int = Field(10, ge=0)
    common: int = Field(100, ge=0)

    def group(self, images: int) -> str:
        """r, c or f of a class in so many training images."""
        return "r" if images <= self.rare else "c" if images <= self.common else "f"
