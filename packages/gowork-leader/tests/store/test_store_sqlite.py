"""The SQLite store passes the suite of all stores."""

from pathlib import Path

import pytest

from gowork.leader.store.conformance import (
    DurabilityConformance,
    LoggedConformance,
    LoggedDurabilityConformance,
    StoreConformance,
)


class TestSqliteStore(StoreConformance, DurabilityConformance):
    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/gowork.db"


class TestLoggedSqliteStore(LoggedConformance, LoggedDurabilityConformance):
    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/gowork.db"
