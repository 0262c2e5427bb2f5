"""Puts the helpers of this folder, and those for calling a leader, on the import path."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "rpc")]
