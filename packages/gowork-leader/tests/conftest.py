"""Puts the helpers of the test folders on the import path, and has engines look at their seams."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("core", "log", "property", "store")]

# Before any test module imports it: its asserts are to tell what they have compared.
pytest.register_assert_rewrite("gowork.leader.log.conformance", "gowork.leader.store.conformance")


@pytest.fixture(autouse=True)
def seams_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that a test makes looks at what passes between it, the core and the store."""
    # Imported here: the line above must come before any of the leader's modules.
    from gowork.leader._engine import seams

    monkeypatch.setattr(seams, "ON", True)
