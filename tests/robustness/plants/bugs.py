"""All bugs, at least one for each guarantee: what a slip in the broker would look like."""

from __future__ import annotations

from tests.robustness.plants import elsewhere, told
from tests.robustness.plants.plant import PLANTS

MODULES = (told, elsewhere)
"""Where they are written."""
BUGS = PLANTS
