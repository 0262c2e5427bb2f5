"""The log in a real etcd passes the suite of all logs."""

from __future__ import annotations

import asyncio
import itertools
import math
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import pytest
from etcd_members import EtcdCluster

from gowork.leader.log import Log, LogDamagedError, LogUnreachableError
from gowork.leader.log._etcd import client as etcd_client
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import EtcdClient
from gowork.leader.log._etcd.endpoints import endpoints_of
from gowork.leader.log._etcd.lease import Keeper
from gowork.leader.log._etcd.requests import put
from gowork.leader.log.conformance import FIRST, LogConformance, LogFactory, Silence, follow, lead
from gowork.leader.log.etcd import LEASE_SECONDS, EtcdLog, etcd_log
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


class FailingClient(EtcdClient):
    """A client whose transactions fail for as often as a test says."""

    def __init__(self, url: str) -> None:
        super().__init__(endpoints_of(url, {}))
        self.failures = 0.0

    async def txn(self, request: pb.TxnRequest, seconds: float = 1.0) -> pb.TxnResponse:
        if self.failures > 0:
            self.failures -= 1
            raise LogUnreachableError("etcd: the member was just killed")
        return await super().txn(request, seconds)


async def test_who_resigns_tells_it_until_etcd_answers(cluster: EtcdCluster) -> None:
    url = cluster.url(f"log-{next(_numbers)}")
    client = FailingClient(url)
    log, other = EtcdLog(client, endpoints_of(url, {}).prefix), etcd_log(url)
    for each in (log, other):
        await each.open()
    await log.begin(FIRST, None)
    leadership = await lead(log)
    client.failures = 3
    await leadership.resign()
    # Nobody waits for the lease.
    await lead(other)
    for each in (log, other):
        await each.close()


async def test_who_resigns_waits_for_no_longer_than_its_lease(cluster: EtcdCluster) -> None:
    url = cluster.url(f"log-{next(_numbers)}")
    client = FailingClient(url)
    log = EtcdLog(client, endpoints_of(url, {}).prefix)
    await log.open()
    await log.begin(FIRST, None)
    leadership = await lead(log)
    client.failures = math.inf
    async with asyncio.timeout(10 * LEASE_SECONDS):
        await leadership.resign()
    assert not leadership.holds()
    await log.close()


@pytest.mark.parametrize("below", ["log", "part"])
async def test_a_log_whose_prefix_is_below_another_ones_keys_disturbs_none(cluster: EtcdCluster, below: str) -> None:
    above = f"log-{next(_numbers)}"
    inner, outer = etcd_log(cluster.url(f"{above}/{below}")), etcd_log(cluster.url(above))
    for log in (inner, outer):
        await log.open()
    await inner.begin(FIRST, None)
    inside = await lead(inner)
    await inside.append(1, b"inside")
    # This one would have removed it.
    await outer.begin(FIRST, None)
    outside = await lead(outer)
    for index in (1, 2):
        await outside.append(index, b"outside")
    await outside.prune(2)
    assert (await outer.span(), await inner.span()) == ((2, 2), (1, 1))
    for log, after, data in ((outer, 1, b"outside"), (inner, 0, b"inside")):
        async with aclosing(log.follow(after)) as pages:
            assert [entry.data for entry in await anext(pages)] == [data]
    for log in (inner, outer):
        await log.close()


@pytest.mark.parametrize("name", ["generation", "term", "leader", f"log/{3:016x}"])
@pytest.mark.parametrize("value", [b"", b"garbage"])
async def test_a_value_that_no_leader_has_written_is_named(cluster: EtcdCluster, name: str, value: bytes) -> None:
    prefix = f"log-{next(_numbers)}"
    log, client = etcd_log(cluster.url(prefix)), EtcdClient(endpoints_of(cluster.url(prefix), {}))
    await log.open()
    await log.begin(FIRST, None)
    leadership = await lead(log)
    for index in (1, 2):
        await leadership.append(index, b"x")
    if name != "leader":
        await leadership.resign()
    await client.txn(pb.TxnRequest(success=[put(f"{prefix}/{name}".encode(), value)]))
    asked: dict[str, list[Callable[[], Awaitable[object]]]] = {
        "generation": [log.generation, lambda: lead(log, applied=2), lambda: follow(log, 2, 3)],
        "term": [lambda: lead(log, applied=2)],
        "leader": [lambda: anext(log.leaders())],
    }
    for ask in asked.get(name, [lambda: follow(log, 2, 3)]):
        with pytest.raises(LogDamagedError, match=f"{prefix}/{name}' in etcd has what no leader has written"):
            await ask()
    await client.close()
    await log.close()


async def test_a_key_that_is_no_entry_is_named(cluster: EtcdCluster) -> None:
    url = cluster.url(f"log-{next(_numbers)}")
    client = EtcdClient(endpoints_of(url, {}))
    log = EtcdLog(client, prefix := endpoints_of(url, {}).prefix)
    await log.open()
    await log.begin(FIRST, None)
    await client.txn(pb.TxnRequest(success=[put(f"{prefix}/log/7x".encode(), b"")]))
    with pytest.raises(LogDamagedError, match=f"{prefix}/log/7x"):
        await log.span()
    await log.close()


class LateClient(EtcdClient):
    """A client whose first transaction that removes parts is sent again just before the next entry is."""

    def __init__(self, url: str) -> None:
        super().__init__(endpoints_of(url, {}))
        self.late: pb.TxnRequest | None = None

    async def txn(self, request: pb.TxnRequest, seconds: float = 1.0) -> pb.TxnResponse:
        keys = [each.request_put.key for each in request.success if each.HasField("request_put")]
        removed = [each.request_delete_range.key for each in request.success if each.HasField("request_delete_range")]
        if self.late is None and any(b"/part/0" in key for key in removed):
            self.late = request
        elif self.late is not None and any(b"/log/" in key for key in keys):
            await super().txn(self.late, seconds)
        return await super().txn(request, seconds)


async def test_parts_of_a_dead_leader_that_are_removed_late_take_none_of_the_next_one_along(
    cluster: EtcdCluster,
) -> None:
    url = cluster.url(f"log-{next(_numbers)}")
    prefix = endpoints_of(url, {}).prefix
    client = LateClient(url)
    log = EtcdLog(client, prefix)
    await log.open()
    await log.begin(FIRST, None)
    # Two leaders have each written a part of the first entry.
    for nonce in ("00", "ff"):
        await client.txn(pb.TxnRequest(success=[put(f"{prefix}/part/{1:016x}/{nonce * 8}/{0:08x}".encode(), b"void")]))
    data = b"data" * (1 << 19)
    await (await lead(log)).append(1, data)
    assert client.late is not None
    async with aclosing(log.follow(0)) as pages:
        assert [(entry.index, entry.data) for entry in await anext(pages)] == [(1, data)]
    found = await client.range(pb.RangeRequest(key=f"{prefix}/part/".encode(), range_end=f"{prefix}/part0".encode()))
    assert not [part.key for part in found.kvs if part.value == b"void"]
    await log.close()


async def test_a_watch_leaves_a_member_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_client, "ASK_SECONDS", 0.3)
    with EtcdCluster(tmp_path) as own:
        member = own.members[0]
        client = EtcdClient(endpoints_of(own.url("silent"), {}))
        async with aclosing(client.watch(pb.WatchCreateRequest(key=b"key"))) as watch:
            assert (await anext(watch)).created
            member.signal(signal.SIGSTOP)
            try:
                async with asyncio.timeout(60):
                    with pytest.raises(LogUnreachableError, match="the watch is not answered any more"):
                        await anext(watch)
            finally:
                member.signal(signal.SIGCONT)
        await client.close()


async def test_a_watch_stays_where_nothing_happens_for_long(
    cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_client, "ASK_SECONDS", 0.02)
    client = EtcdClient(endpoints_of(cluster.url("quiet"), {}))
    async with aclosing(client.watch(pb.WatchCreateRequest(key=b"key"))) as watch:
        assert (await anext(watch)).created
        # Answers to questions have no events.
        for _ in range(20):
            assert not (await anext(watch)).events
        # Nobody reads for longer than ten questions take, so nobody is missed.
        loop = asyncio.get_running_loop()
        end = loop.time() + 10 * etcd_client.ASK_SECONDS
        while loop.time() < end:
            await client.range(pb.RangeRequest(key=b"key"))
        await client.txn(pb.TxnRequest(success=[put(b"key", b"value")]))
        while not (answer := await anext(watch)).events:
            pass
        assert answer.events[0].kv.value == b"value"
    await client.close()


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
