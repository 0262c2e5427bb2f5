"""Puts the helpers of the test folders on the import path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "core"))
