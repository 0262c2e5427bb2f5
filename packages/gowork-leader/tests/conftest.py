"""Puts the helpers of the test folders on the import path, has engines look at their seams, and spares the disk."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("core", "log", "property", "replication", "store")]

# Before any test module imports it: its asserts are to tell what they have compared.
pytest.register_assert_rewrite("gowork.leader.log.conformance", "gowork.leader.store.conformance")


@pytest.fixture(autouse=True)
def seams_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that a test makes looks at what passes between it, the core and the store."""
    # Imported here: the line above must come before any of the leader's modules.
    from gowork.leader._engine import seams

    monkeypatch.setattr(seams, "ON", True)


@pytest.fixture(autouse=True)
def reserves_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with a log keeps 1 MiB of room in place of 64."""
    from gowork.leader.store import _sqlite_reserve

    monkeypatch.setattr(_sqlite_reserve, "RESERVE_BYTES", 1 << 20)
