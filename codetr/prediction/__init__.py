"""A trained detector that takes pictures, and what it finds in them."""

from __future__ import annotations

from codetr.prediction.detector import Detector
from codetr.prediction.prediction import Prediction
from codetr.prediction.reading import Picture

__all__ = ["Detector", "Picture", "Prediction"]
