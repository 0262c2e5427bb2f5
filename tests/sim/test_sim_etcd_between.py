"""What the log in etcd does when something changes between two of its own calls, and what it leaves in etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from sim_etcd import SimEtcd
from sim_etcd_calls import LoopClock, SimEtcdClient, SimLink

from gowork.leader.log import (
    GenerationError,
    LeadershipLostError,
    LogEntry,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
    PrunedError,
)
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.requests import delete, put
from gowork.leader.log._etcd.values import PART_BYTES
from gowork.leader.log.conformance import FIRST, candidate, lead
from gowork.leader.log.etcd import LEASE_SECONDS, EtcdLog
from gowork.leader.log.protocol import Generation, NotElectedError

PATIENCE = 30.0
LARGE = bytes(PART_BYTES + 1)


def nothing(request: object) -> None:
    """Nothing comes between."""


class Client(SimEtcdClient):
    """A client that can have something happen just before or after a call of its own."""

    def __init__(self, link: SimLink) -> None:
        super().__init__(link)
        self.link = link
        self.before_watch: Callable[[pb.WatchCreateRequest], None] = nothing
        self.before_range: Callable[[pb.RangeRequest], None] = nothing
        self.before_txn: Callable[[pb.TxnRequest], None] = nothing
        self.after_txn: Callable[[pb.TxnRequest], None] = nothing

    async def watch(self, request: pb.WatchCreateRequest) -> AsyncGenerator[pb.WatchResponse, None]:
        between, self.before_watch = self.before_watch, nothing
        between(request)
        async with aclosing(super().watch(request)) as answers:
            async for answer in answers:
                yield answer

    async def range(self, request: pb.RangeRequest, seconds: float = 1.0) -> pb.RangeResponse:
        self.before_range(request)
        return await super().range(request, seconds)

    async def txn(self, request: pb.TxnRequest, seconds: float = 1.0) -> pb.TxnResponse:
        self.before_txn(request)
        answer = await super().txn(request, seconds)
        self.after_txn(request)
        return answer


class Cluster:
    """An etcd with clients."""

    def __init__(self) -> None:
        self.clock = LoopClock(asyncio.get_running_loop())
        self.etcd = SimEtcd(self.clock)

    def client(self) -> Client:
        return Client(SimLink(self.etcd, self.clock, asyncio.get_running_loop().time, delay=lambda: 0.001))

    def do(self, *operations: pb.RequestOp) -> Any:
        return self.etcd.do(pb.TxnRequest(success=operations))

    def keys(self, prefix: bytes) -> list[bytes]:
        found = self.etcd.do(pb.RangeRequest(key=prefix, range_end=prefix + b"\xff"))
        return [each.key for each in found.kvs]


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


async def test_who_comes_to_lead_between_the_look_and_the_watch_is_told(cluster: Cluster) -> None:
    client, log = cluster.client(), EtcdLog(cluster.client(), "x")
    watched = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    client.before_watch = lambda request: cluster.do(put(b"x/leader", b"1\none"))
    async with asyncio.timeout(PATIENCE), aclosing(watched.leaders()) as leaders:
        assert await anext(leaders) is None
        leader = await anext(leaders)
        assert leader is not None
        assert leader.announcement == b"one"
        client.before_watch = lambda request: cluster.do(delete(b"x/leader"))
        client.link.break_streams()
        assert await anext(leaders) is None

        # What changes while the watch is broken is told, too.
        def succeeded(request: pb.RangeRequest) -> None:
            client.before_range = nothing
            cluster.do(put(b"x/leader", b"2\ntwo"))

        client.before_range = succeeded
        client.link.break_streams()
        leader = await anext(leaders)
        assert leader is not None
        assert leader.announcement == b"two"


async def test_an_entry_that_comes_between_the_look_and_the_watch_is_read(cluster: Cluster) -> None:
    client, log = cluster.client(), EtcdLog(cluster.client(), "x")
    following = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    client.before_watch = lambda request: cluster.do(put(b"x/log/%016x" % 1, b"\0one"))
    async with asyncio.timeout(PATIENCE), aclosing(following.follow(0)) as pages:
        assert await anext(pages) == [LogEntry(1, b"one")]
        client.before_watch = lambda request: cluster.do(put(b"x/log/%016x" % 2, b"\0two"))
        client.link.break_streams()
        assert await anext(pages) == [LogEntry(2, b"two")]


@pytest.mark.parametrize("breaks", [False, True])
async def test_who_is_deposed_just_before_it_watches_its_leadership_finds_out(cluster: Cluster, breaks: bool) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    if not breaks:
        client.before_watch = lambda request: cluster.do(delete(b"x/leader"))
    leadership = await lead(log)
    if breaks:
        await asyncio.sleep(0.1)
        client.before_watch = lambda request: cluster.do(delete(b"x/leader"))
        client.link.break_streams()
    async with asyncio.timeout(PATIENCE):
        await leadership.lost.wait()


async def test_who_is_deposed_and_succeeded_while_its_watch_is_broken_finds_out(cluster: Cluster) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)
    await asyncio.sleep(0.1)

    def succeeded(request: pb.RangeRequest) -> None:
        client.before_range = nothing
        cluster.do(delete(b"x/leader"))
        cluster.do(put(b"x/leader", b"2\ntwo"))

    client.before_range = succeeded
    client.link.break_streams()
    async with asyncio.timeout(PATIENCE):
        await leadership.lost.wait()


@pytest.mark.parametrize("call", ["range", "watch"])
async def test_who_is_deposed_while_etcd_refuses_it_finds_out_when_it_is_let_in_again(
    cluster: Cluster, call: str
) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    leadership = await log.campaign(candidate())
    await asyncio.sleep(0.1)

    def refused(request: object) -> None:
        client.before_range = nothing
        cluster.do(delete(b"x/leader"))
        raise LogRefusedError("user name is empty")

    if call == "range":
        client.before_range = refused
    else:
        client.before_watch = refused
    client.link.break_streams()
    async with asyncio.timeout(PATIENCE):
        await leadership.lost.wait()


async def test_no_lease_is_left_of_who_lost_an_election_and_of_who_resigned(cluster: Cluster) -> None:
    late = cluster.client()
    one, two = EtcdLog(cluster.client(), "x"), EtcdLog(late, "x")
    await one.begin(FIRST, None)
    won = asyncio.ensure_future(lead(one))

    async def grant(seconds: int) -> pb.LeaseGrantResponse:
        # Another one is elected after this one has looked whether somebody leads.
        await won
        return await SimEtcdClient.grant(late, seconds)

    late.grant = grant  # type: ignore[method-assign]
    with pytest.raises(NotElectedError, match="another candidate was elected"):
        await lead(two)
    await two.close()
    assert list(cluster.etcd.leases().values()) == [{b"x/leader"}]
    await (await won).resign()
    assert cluster.etcd.leases() == {}


async def test_the_parts_of_an_entry_go_with_it_and_stay_with_it(cluster: Cluster) -> None:
    log = EtcdLog(cluster.client(), "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)
    for index in (1, 2, 3):
        await leadership.append(index, LARGE)
    await leadership.prune(3)
    assert [key[:23] for key in cluster.keys(b"x/part/")] == [b"x/part/%016x" % 3]
    await leadership.resign()
    # The next leader removes the parts of unfinished entries, and this one is finished.
    await lead(log, applied=3)
    async with aclosing(log.follow(2)) as pages:
        assert await anext(pages) == [LogEntry(3, LARGE)]
    await log.begin(Generation("second", 3), FIRST.id)
    assert cluster.keys(b"x/part/") == []


async def test_a_generation_that_was_begun_without_an_answer_was_begun_and_another_ones_was_not(
    cluster: Cluster,
) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")

    def unanswered(request: pb.TxnRequest) -> None:
        client.after_txn = nothing
        raise LogUnreachableError("no answer")

    client.after_txn = unanswered
    await log.begin(FIRST, None)
    assert await log.generation() == FIRST
    with pytest.raises(GenerationError):
        await log.begin(FIRST, None)


async def test_a_generation_that_begins_between_the_look_and_the_change_is_not_replaced(cluster: Cluster) -> None:
    client, other = cluster.client(), EtcdLog(cluster.client(), "x")
    log = EtcdLog(client, "x")
    await other.begin(FIRST, None)
    begun = [b'{"id":"second"}']

    def another(request: pb.TxnRequest) -> None:
        if begun:
            cluster.do(put(b"x/generation", begun.pop()))

    client.before_txn = another
    with pytest.raises(GenerationError, match="second"):
        await log.begin(Generation("third"), FIRST.id)
    found = await other.generation()
    assert found is not None
    assert found.id == "second"


async def test_an_entry_that_was_written_without_an_answer_counts_though_the_log_is_full_afterwards(
    cluster: Cluster,
) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)
    failures: list[Exception] = [LogFullError("no room"), LogUnreachableError("no answer")]

    def fails(request: pb.TxnRequest) -> None:
        if failures:
            raise failures.pop()

    # The first attempt writes it, and is in doubt. What the second one meets says nothing of the first.
    client.after_txn = fails
    await leadership.append(1, b"one")
    assert not failures
    async with aclosing(log.follow(0)) as pages:
        assert await anext(pages) == [LogEntry(1, b"one")]


async def test_a_confirmation_that_comes_after_the_own_lease_is_none(cluster: Cluster) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)

    async def late(request: pb.RangeRequest, seconds: float = 1.0) -> pb.RangeResponse:
        answer = await SimEtcdClient.range(client, request, seconds)
        # As a process that was stopped: etcd keeps the lease that was renewed last.
        leadership._holding._own.until = log._etcd.now()  # type: ignore[attr-defined]
        return answer

    client.range = late  # type: ignore[method-assign]
    with pytest.raises(LeadershipLostError):
        await leadership.confirm()


async def test_a_note_for_some_seconds_stays_at_least_so_long(cluster: Cluster) -> None:
    log = EtcdLog(cluster.client(), "x")
    await log.begin(FIRST, None)
    await log.put_note("pin", b"1", 2.5)
    await asyncio.sleep(2.4)
    assert await log.notes() == {"pin": b"1"}
    await asyncio.sleep(5.0)
    assert await log.notes() == {}


def writes(request: pb.TxnRequest, key: bytes) -> bool:
    """Whether a transaction writes a key that begins so."""
    return any(each.request_put.key.startswith(key) for each in request.success)


@pytest.mark.parametrize(
    "change",
    [
        put(b"x/generation", b'{"id":"second"}'),
        put(b"x/term", b"7"),
        put(b"x/leader", b"1\nanother"),
        delete(b"x/log/%016x" % 1),
    ],
    ids=["generation", "term", "leader", "first entry"],
)
async def test_nobody_is_elected_by_what_has_changed_since_it_looked(cluster: Cluster, change: pb.RequestOp) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    cluster.do(put(b"x/log/%016x" % 1, b"\0one"))
    cluster.do(put(b"x/log/%016x" % 2, b"\0two"))

    def changed(request: pb.TxnRequest) -> None:
        if writes(request, b"x/leader"):
            cluster.do(change)

    client.before_txn = changed
    with pytest.raises(NotElectedError, match="or the log has changed meanwhile"):
        await lead(log)


async def test_who_was_succeeded_while_it_appends_leads_no_more_and_does_not_take_that_for_damage(
    cluster: Cluster,
) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)

    def succeeded(request: pb.TxnRequest) -> None:
        if writes(request, b"x/log/"):
            cluster.do(delete(b"x/leader"))
            cluster.do(put(b"x/leader", b"2\ntwo"), put(b"x/log/%016x" % 1, b"\0two"))

    client.before_txn = succeeded
    with pytest.raises(LeadershipLostError):
        await leadership.append(1, b"one")


async def test_who_was_deposed_writes_no_parts(cluster: Cluster) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)
    client.before_txn = lambda request: cluster.do(delete(b"x/leader"))
    with pytest.raises(LeadershipLostError):
        await leadership.append(1, LARGE)
    assert cluster.keys(b"x/part/") == []


async def test_who_was_deposed_prunes_nothing_and_who_leads_compacts_what_it_has_pruned(cluster: Cluster) -> None:
    client = cluster.client()
    log = EtcdLog(client, "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)
    for index in (1, 2, 3):
        await leadership.append(index, b"entry")
    await leadership.prune(2)
    compacted = cluster.etcd.compacted
    assert compacted > 0

    def deposed(request: pb.TxnRequest) -> None:
        if any(each.HasField("request_delete_range") for each in request.success):
            cluster.do(delete(b"x/leader"))

    client.before_txn = deposed
    with pytest.raises(LeadershipLostError):
        await leadership.prune(3)
    assert await log.span() == (2, 3)
    assert cluster.etcd.compacted == compacted


async def test_who_is_before_a_generation_without_entries_needs_a_copy(cluster: Cluster) -> None:
    log = EtcdLog(cluster.client(), "x")
    await log.begin(Generation("restored", 5), None)
    async with aclosing(log.follow(2)) as pages:
        with pytest.raises(PrunedError, match="begins with entry 6"):
            await anext(pages)


async def test_an_entry_that_is_pruned_while_its_parts_are_read_is_no_damage(cluster: Cluster) -> None:
    client, other = cluster.client(), EtcdLog(cluster.client(), "x")
    log = EtcdLog(client, "x")
    await other.begin(FIRST, None)
    leadership = await lead(other)
    await leadership.append(1, LARGE)
    await leadership.append(2, b"two")

    def pruned(request: pb.RangeRequest) -> None:
        if request.key.startswith(b"x/part/"):
            cluster.do(delete(b"x/part/", b"x/part0"), delete(b"x/log/%016x" % 1))

    client.before_range = pruned
    async with aclosing(log.follow(0)) as pages:
        with pytest.raises(PrunedError, match="begins with entry 2"):
            await anext(pages)


async def test_the_lease_of_who_was_deposed_is_kept_no_more(cluster: Cluster) -> None:
    log = EtcdLog(cluster.client(), "x")
    await log.begin(FIRST, None)
    leadership = await lead(log)
    cluster.do(delete(b"x/leader"))
    async with asyncio.timeout(PATIENCE):
        await leadership.lost.wait()
    await asyncio.sleep(2 * LEASE_SECONDS)
    assert cluster.etcd.leases() == {}
