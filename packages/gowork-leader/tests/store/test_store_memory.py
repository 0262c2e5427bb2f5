"""The example of a store passes the suite of all stores."""

from collections.abc import Callable
from pathlib import Path

import pytest
from memory_store import MemoryStore, Shelf, read_copy

from gowork.leader.store import Store
from gowork.leader.store.conformance import LoggedConformance, LoggedFactory, StoreConformance


class TestMemoryStore(StoreConformance, LoggedConformance):
    @pytest.fixture
    def shelf(self) -> Shelf:
        return Shelf()

    @pytest.fixture
    def open_store(self, shelf: Shelf) -> LoggedFactory:
        return lambda: MemoryStore(shelf, "first")

    @pytest.fixture
    def open_restored(self, shelf: Shelf) -> LoggedFactory:
        return lambda: MemoryStore(shelf, "restored")

    @pytest.fixture
    def open_backup(self, shelf: Shelf) -> Callable[[Path], Store]:
        def open_backup(path: Path) -> Store:
            shelf.contents["copy"] = read_copy(path)
            return MemoryStore(shelf, "copy")

        return open_backup
