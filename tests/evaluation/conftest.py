"""Makes `evaluation_cases.py` and `two_ranks.py` importable from the tests beside them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
