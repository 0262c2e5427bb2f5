"""Puts the helpers of the test folders on the import path."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("core", "property", "store")]

# Before any test module imports it: its asserts are to tell what they have compared.
pytest.register_assert_rewrite("gowork.leader.store.conformance")
