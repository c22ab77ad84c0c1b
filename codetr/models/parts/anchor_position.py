"""Positions in Anchor DETR: of the cells of a map and of the queries' points, embedded alike."""

from __future__ import annotations

from torch import Tensor, nn

from codetr.models.layers.mlp import MLP
from codetr.models.layers.row_column import Grid
from codetr.ops.position import sine_embedding


class AnchorPosition(nn.Module):
    """MLPs of sine embeddings: one for places in the plane, one for coordinates alone. All layers share them.

    decoupled: there is a use for coordinates alone (row-column attention).
    """

    def __init__(self, dim: int, *, decoupled: bool) -> None:
        super().__init__()
        self.dim = dim
        self.plane = MLP(dim, dim, dim, num_layers=2)
        self.axis = MLP(dim, dim, dim, num_layers=2) if decoupled else None

    def of_places(self, places: Tensor) -> Tensor:
        """(..., C) of places (..., 2), x then y, in units of the unpadded image."""
        pos: Tensor = self.plane(sine_embedding(places.flip(-1), self.dim // 2))
        return pos

    def of_coordinates(self, coordinates: Tensor) -> Tensor:
        """(..., C) of coordinates (...) along either axis."""
        assert self.axis is not None
        pos: Tensor = self.axis(sine_embedding(coordinates[..., None], self.dim))
        return pos

    def grid(self, features: Tensor, padding: Tensor) -> Grid:
        """A map (B, H, W, C) with padding (B, H, W), ready for row-column attention."""
        x, y = axis_coordinates(padding)
        return Grid(features, self.of_coordinates(x), self.of_coordinates(y), padding[:, 0], padding[:, :, 0])


def axis_coordinates(padding: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of columns (B, W) and of rows (B, H) in units of the unpadded image, float32.

    padding: (B, H, W) bool, True where padded, on the right and at the bottom: the first row and column tell. Cells of
    the padding lie where the last real one does; an axis without a real cell is at -0.5.
    """
    x, y = (filled.float().cumsum(1) for filled in (~padding[:, 0], ~padding[:, :, 0]))
    # Counts, so the clamp changes only an axis that is padded throughout.
    return (x - 0.5) / x[:, -1:].clamp(min=1), (y - 0.5) / y[:, -1:].clamp(min=1)
