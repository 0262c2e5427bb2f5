"""What clients ask and have done about leaders that share a log, against a scripted one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from gowork.client import (
    AsyncClient,
    Client,
    ComparedStore,
    FailedPrecondition,
    InvalidArgument,
    LeaderInfo,
    LogInfo,
    StoreVerdict,
)
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.cluster.v1 import leader_pb2_grpc
from gowork.proto.status import Refusal, status_of

LEADING = pb.Leader(
    name="one",
    store_id="aa",
    leads=True,
    term=7,
    leads_since_ms=1_000,
    applied_index=12,
    forced_index=11,
    cluster_address="c:1",
    scheduler_address="s:2",
    http_address="h:3",
    version="0.2.0",
    seen_at_ms=2_000,
)
FOLLOWING = pb.Leader(name="two", store_id="bb", applied_index=10, lag_entries=2)


class ScriptedLeaders(leader_pb2_grpc.LeaderServiceServicer):
    def __init__(self) -> None:
        self.answer = pb.LeadersResponse(leaders=[LEADING, FOLLOWING], answered_by="bb")
        self.ended: list[int] = []
        self.removed: list[str] = []
        #: With what the next calls of StepDown are refused.
        self.refusals: list[Refusal] = []

    def Leaders(self, request: pb.LeadersRequest, context: grpc.ServicerContext) -> pb.LeadersResponse:
        return self.answer

    def StepDown(self, request: pb.StepDownRequest, context: grpc.ServicerContext) -> pb.StepDownResponse:
        self.ended.append(request.term)
        if self.refusals:
            refusal = self.refusals.pop()
            details = status_of(refusal).SerializeToString()
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
            context.abort(refusal.code, refusal.message)
        return pb.StepDownResponse(leader=pb.Leader(name="two", leads=True, term=8))

    def RemoveLeader(self, request: pb.RemoveLeaderRequest, context: grpc.ServicerContext) -> pb.RemoveLeaderResponse:
        self.removed.append(request.store_id)
        return pb.RemoveLeaderResponse()

    def CompareStores(
        self, request: pb.CompareStoresRequest, context: grpc.ServicerContext
    ) -> pb.CompareStoresResponse:
        verdict = pb.STORE_VERDICT_DIFFERS if request.index else pb.STORE_VERDICT_PENDING
        newer: Any = 77
        stores = [
            pb.ComparedStore(name="one", store_id="aa", verdict=verdict),
            pb.ComparedStore(name="two", store_id="bb", verdict=newer),
        ]
        return pb.CompareStoresResponse(index=request.index or 9, stores=stores)


@pytest.fixture
def leaders() -> ScriptedLeaders:
    return ScriptedLeaders()


@pytest.fixture
def address(leaders: ScriptedLeaders) -> Iterator[str]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        leader_pb2_grpc.add_LeaderServiceServicer_to_server(leaders, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


def test_leaders_have_all_that_was_said_of_them(address: str, leaders: ScriptedLeaders) -> None:
    leaders.answer.log.MergeFrom(pb.Log(generation="g", first_index=3, last_index=12))
    with Client(address) as client:
        told = client.leaders()
    assert told.leading == told.leaders[0]
    assert told.leaders[0] == LeaderInfo(
        name="one",
        store_id="aa",
        leads=True,
        term=7,
        leads_since=datetime.fromtimestamp(1, UTC),
        applied_index=12,
        forced_index=11,
        lag_entries=0,
        cluster_address="c:1",
        scheduler_address="s:2",
        http_address="h:3",
        version="0.2.0",
        seen_at=datetime.fromtimestamp(2, UTC),
    )
    second = told.leaders[1]
    assert (second.leads, second.leads_since, second.seen_at, second.lag_entries) == (False, None, None, 2)
    assert told.log == LogInfo("g", 3, 12)
    assert told.answered_by == "bb"


def test_a_leader_without_a_log_and_a_cluster_that_nobody_leads(address: str, leaders: ScriptedLeaders) -> None:
    leaders.answer.leaders[0].leads = False
    with Client(address) as client:
        told = client.leaders()
    assert told.leading is None
    assert told.log is None


def test_step_down_that_is_repeated_ends_no_second_term(address: str, leaders: ScriptedLeaders) -> None:
    leaders.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, "LEADER_LOST", "the connection ended")]
    with Client(address) as client:
        successor = client.step_down()
    assert (successor.name, successor.term) == ("two", 8)
    assert leaders.ended == [7, 7]


def test_step_down_of_a_named_term_and_without_a_leader(address: str, leaders: ScriptedLeaders) -> None:
    with Client(address) as client:
        client.step_down(3)
        leaders.answer.leaders[0].leads = False
        client.step_down()
        with pytest.raises(InvalidArgument):
            client.step_down("x")  # type: ignore[arg-type]
    assert leaders.ended == [3, 0]


async def test_the_asyncio_client_does_all_of_it_too(address: str, leaders: ScriptedLeaders) -> None:
    leaders.refusals = [Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NO_SUCCESSOR", "no other leader can take over")]
    async with AsyncClient(address) as client:
        assert [leader.name for leader in (await client.leaders()).leaders] == ["one", "two"]
        with pytest.raises(FailedPrecondition, match="no other leader") as caught:
            await client.step_down()
        assert caught.value.reason == "NO_SUCCESSOR"
        assert (await client.step_down()).name == "two"
        await client.remove_leader("bb")
    assert leaders.removed == ["bb"]


def test_stores_are_compared_and_asked_for_again(address: str) -> None:
    with Client(address) as client:
        first = client.compare_stores()
        again = client.compare_stores(first.index)
    assert (first.index, again.index) == (9, 9)
    assert first.stores[0] == ComparedStore("one", "aa", StoreVerdict.PENDING)
    # A verdict of a newer leader.
    assert [store.verdict for store in again.stores] == [StoreVerdict.DIFFERS, StoreVerdict.UNSPECIFIED]
