"""The log in a real etcd passes the suite of all logs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from etcd_members import EtcdCluster

from gowork.leader.log import Log
from gowork.leader.log._etcd.client import EtcdClient
from gowork.leader.log._etcd.endpoints import endpoints_of
from gowork.leader.log._etcd.lease import Keeper
from gowork.leader.log.conformance import LogConformance, LogFactory, Silence
from gowork.leader.log.etcd import LEASE_SECONDS, EtcdLog
from gowork.leader.log.holding import OwnLease

pytestmark = pytest.mark.tool("etcd")

_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


class SilentClient(EtcdClient):
    """A client whose keepalives can be kept from being sent."""

    def __init__(self, url: str) -> None:
        super().__init__(endpoints_of(url, {}))
        self.is_silent = False

    def keep(self, lease: int, own: OwnLease, over: object) -> Keeper:
        keeper = super().keep(lease, own, over)  # type: ignore[arg-type]
        attempt = keeper._attempt

        def attempt_unless_silent(channel: object, seconds: float) -> int:
            return -1 if self.is_silent else attempt(channel, seconds)  # type: ignore[arg-type]

        keeper._attempt = attempt_unless_silent  # type: ignore[method-assign]
        return keeper


class TestEtcdLog(LogConformance):
    @pytest.fixture
    def make_log(self, cluster: EtcdCluster, tmp_path: Path) -> LogFactory:
        url = cluster.url(f"log-{next(_numbers)}-{uuid4().hex}")
        return lambda: EtcdLog(SilentClient(url), endpoints_of(url, {}).prefix)

    @pytest.fixture
    def silence(self) -> Silence:
        def silence(log: Log) -> None:
            assert isinstance(log, EtcdLog)
            assert isinstance(log._etcd, SilentClient)
            log._etcd.is_silent = True

        return silence

    @pytest.fixture
    def lease_seconds(self) -> float:
        return float(LEASE_SECONDS)
