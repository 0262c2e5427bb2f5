"""The log in a simulated etcd passes the suite of all logs, in simulated time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from sim_etcd import SimEtcd
from sim_etcd_calls import Fault, LoopClock, SimEtcdClient, SimLink

from gowork.leader.log import Log
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log.conformance import LogConformance, LogFactory, Silence
from gowork.leader.log.etcd import LEASE_SECONDS, EtcdLog


class TestSimEtcdLog(LogConformance):
    @pytest.fixture
    def links(self) -> dict[EtcdLog, SimLink]:
        return {}

    @pytest.fixture
    def make_log(self, links: dict[EtcdLog, SimLink]) -> LogFactory:
        etcds: list[SimEtcd] = []
        rng = Random(1)

        def make() -> Log:
            loop = asyncio.get_running_loop()
            clock = LoopClock(loop)
            etcds.append(etcds[0] if etcds else SimEtcd(clock))
            link = SimLink(etcds[0], clock, loop.time, delay=lambda: rng.uniform(0.0001, 0.003))
            log = EtcdLog(SimEtcdClient(link), "gowork")
            links[log] = link
            return log

        return make

    @pytest.fixture
    def silence(self, links: dict[EtcdLog, SimLink]) -> Silence:
        def silence(log: Log) -> None:
            assert isinstance(log, EtcdLog)
            links[log].fault = _lost_keepalive

        return silence

    @pytest.fixture
    def lease_seconds(self) -> float:
        return float(LEASE_SECONDS)


def _lost_keepalive(request: Any) -> Fault | None:
    return Fault.LOST if isinstance(request, pb.LeaseKeepAliveRequest) else None
