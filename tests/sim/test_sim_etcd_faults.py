"""What goes wrong between a client and the simulated etcd."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from sim_etcd import SimEtcd
from sim_etcd_calls import Fault, LoopClock, SimEtcdClient, SimLink
from sim_loop import SimLoop

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.requests import delete, put
from gowork.leader.log.etcd import EtcdLog
from gowork.leader.log.holding import OwnLease
from gowork.leader.log.protocol import Candidate, Generation, LogUnreachableError

WRITE = pb.TxnRequest(success=[put(b"key", b"value")])
READ = pb.RangeRequest(key=b"key")


class Network:
    """One etcd and one client. `fault` is what goes wrong with calls of one type."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        self.loop = loop
        self.etcd = SimEtcd(LoopClock(loop))
        self.link = SimLink(self.etcd, LoopClock(loop), loop.time, delay=lambda: 0.01, fault=self._fault)
        self.client = SimEtcdClient(self.link)
        self.fault: dict[type, Fault] = {}

    def is_written(self) -> bool:
        return bool(self.etcd.do(READ).kvs)

    def _fault(self, request: Any) -> Fault | None:
        return self.fault.get(type(request))


@pytest.fixture
async def network() -> Network:
    return Network()


async def test_without_a_fault_a_call_takes_its_way_there_and_back(network: Network) -> None:
    assert (await network.client.txn(WRITE)).succeeded
    assert network.loop.now == pytest.approx(0.02)


@pytest.mark.parametrize(("fault", "is_written"), [(Fault.LOST, False), (Fault.UNANSWERED, True)])
@pytest.mark.parametrize("breaks", [False, True])
async def test_without_an_answer_it_is_open_whether_something_was_written(
    network: Network, fault: Fault, is_written: bool, breaks: bool
) -> None:
    network.fault[pb.TxnRequest], network.link.breaks = fault, breaks
    with pytest.raises(LogUnreachableError):
        await network.client.txn(WRITE)
    assert network.loop.now == pytest.approx(0.02 if breaks else 1.0)
    assert network.is_written() is is_written


async def test_a_late_request_is_done_after_its_caller_gave_up_and_asked_again(network: Network) -> None:
    network.fault[pb.TxnRequest] = Fault.LATE
    with pytest.raises(LogUnreachableError):
        await network.client.txn(WRITE)
    assert not (await network.client.range(READ)).kvs
    await network.loop.pass_time(0.5)
    assert (await network.client.range(READ)).kvs


async def test_a_request_arrives_though_its_caller_was_cancelled(network: Network) -> None:
    calling = asyncio.ensure_future(network.client.txn(WRITE))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling})
    await network.loop.pass_time(0.02)
    assert network.is_written()


async def test_a_slow_answer_comes_just_in_time(network: Network) -> None:
    network.fault[pb.TxnRequest] = Fault.SLOW
    assert (await network.client.txn(WRITE)).succeeded
    assert 0.9 < network.loop.now < 1.0


async def test_a_busy_etcd_writes_nothing(network: Network) -> None:
    network.fault[pb.TxnRequest] = Fault.BUSY
    with pytest.raises(LogUnreachableError, match="too much to do"):
        await network.client.txn(WRITE)
    assert not network.is_written()


@pytest.mark.parametrize(
    ("fault", "believed", "kept"), [(None, 11.7, True), (Fault.LOST, 2.7, False), (Fault.HOLLOW, 11.7, False)]
)
async def test_keepalives_can_be_lost_and_can_be_lies_while_calls_pass(
    network: Network, fault: Fault | None, believed: float, kept: bool
) -> None:
    granted = await network.client.grant(3)
    if fault is not None:
        network.fault[pb.LeaseKeepAliveRequest] = fault
    own, over = OwnLease(granted.TTL, 0.0), asyncio.Event()
    keeping = network.client.keep(granted.ID, own, over.set)
    await network.loop.pass_time(9.0)
    assert own.until == pytest.approx(believed, abs=0.6)
    assert over.is_set() is (own.until < network.loop.now)
    assert network.etcd.lease_holds(granted.ID) is kept
    assert (await network.client.txn(WRITE)).succeeded
    keeping.stop()


async def test_a_lease_that_is_gone_is_over_at_once(network: Network) -> None:
    granted = await network.client.grant(3)
    over = asyncio.Event()
    network.client.keep(granted.ID, OwnLease(granted.TTL, 0.0), over.set)
    network.etcd.end_lease(granted.ID)
    await over.wait()
    assert network.loop.now < 1.0


async def test_a_new_leader_of_etcd_extends_leases(network: Network) -> None:
    granted = await network.client.grant(3)
    await network.loop.pass_time(2.0)
    network.etcd.extend_leases()
    await network.loop.pass_time(2.9)
    assert network.etcd.lease_holds(granted.ID)
    await network.loop.pass_time(0.1)
    assert not network.etcd.lease_holds(granted.ID)


async def test_a_cut_client_gets_no_answer_and_its_watches_are_silent_until_they_break(network: Network) -> None:
    network.link.cut()
    with pytest.raises(LogUnreachableError):
        await network.client.txn(WRITE)
    async with aclosing(network.client.watch(pb.WatchCreateRequest(key=b"key", start_revision=2))) as answers:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0):
                await anext(answers)


async def test_a_healed_watch_tells_what_it_has_missed(network: Network) -> None:
    async with aclosing(network.client.watch(pb.WatchCreateRequest(key=b"key", start_revision=2))) as answers:
        assert (await anext(answers)).created
        network.link.cut()
        network.etcd.do(WRITE)
        network.loop.later(5.0, network.link.heal)
        answer = await anext(answers)
        assert [event.kv.value for event in answer.events] == [b"value"]
        assert network.loop.now == pytest.approx(5.0, abs=0.1)
        network.link.cut()
        with pytest.raises(LogUnreachableError):
            await anext(answers)
        assert network.loop.now == pytest.approx(13.0, abs=0.1)


async def test_a_watch_is_told_that_what_it_has_to_tell_was_forgotten(network: Network) -> None:
    async with aclosing(network.client.watch(pb.WatchCreateRequest(key=b"key", start_revision=2))) as answers:
        assert (await anext(answers)).created
        for _ in range(3):
            network.etcd.do(WRITE)
        network.etcd.do(pb.CompactionRequest(revision=4))
        answer = await anext(answers)
        assert (answer.canceled, answer.compact_revision) == (True, 4)


async def test_a_leader_that_can_not_look_at_once_why_its_watch_broke_still_finds_its_leadership_gone(
    network: Network,
) -> None:
    log = EtcdLog(network.client, "x")
    await log.begin(Generation("first"), None)
    leadership = await log.campaign(Candidate("first", 0, 0, b"a leader"))
    await network.loop.pass_time(1.0)
    network.etcd.do(pb.TxnRequest(success=[delete(b"x/leader")]))
    network.etcd.do(WRITE)
    network.etcd.do(pb.CompactionRequest(revision=network.etcd.revision))
    network.fault[pb.RangeRequest] = Fault.LOST
    await network.loop.pass_time(1.0)
    del network.fault[pb.RangeRequest]
    async with asyncio.timeout(10.0):
        await leadership.lost.wait()
