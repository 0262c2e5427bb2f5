"""Puts the helpers of the test folders on the import path."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("core", "property", "sim", "store")]
