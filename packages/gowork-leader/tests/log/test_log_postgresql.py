"""The log in a real PostgreSQL passes the suite of all logs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from postgresql_server import PostgresqlServer

from gowork.leader.log import Log, LogUnreachableError
from gowork.leader.log.conformance import LogConformance, LogFactory, Silence
from gowork.leader.log.postgresql import LEASE_SECONDS, PostgresqlLog, postgresql_log

pytestmark = pytest.mark.tool("postgres", "initdb")

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


class TestPostgresqlLog(LogConformance):
    @pytest.fixture
    def make_log(self, server: PostgresqlServer) -> LogFactory:
        url = server.url(f"log_{next(_numbers)}")
        return lambda: postgresql_log(url)

    @pytest.fixture
    def silence(self) -> Silence:
        def silence(log: Log) -> None:
            assert isinstance(log, PostgresqlLog)
            assert log._leadership is not None

            async def unheard(seconds: float) -> bool:
                raise LogUnreachableError("a keepalive is lost")

            log._leadership._keeper._attempt = unheard  # type: ignore[method-assign]

        return silence

    @pytest.fixture
    def lease_seconds(self) -> float:
        return LEASE_SECONDS
