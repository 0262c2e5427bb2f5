"""Leaders that share a log have their stores compared, and one that differs is replaced by a copy."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving
from sharing_leaders import Sharing, sharing

from gowork.leader._app import standby
from gowork.leader._replication import log_watch, upkeep
from gowork.leader._replication.announcement import decode
from gowork.proto.cluster.v1 import leader_pb2 as pb

EQUAL, DIFFERS = pb.STORE_VERDICT_EQUAL, pb.STORE_VERDICT_DIFFERS


@pytest.fixture(autouse=True)
def all_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "REGISTER_SECONDS", 0.2)
    monkeypatch.setattr(log_watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(standby, "JUDGE_SECONDS", 0.05)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Sharing]:
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        yield crew


async def three(crew: Sharing) -> dict[str, ServedLeader]:
    """The leader `a`, which leads, and `b` and `c`, with a task each in all stores."""
    served = {"a": await crew.start("a")}
    await crew.says("a", 200, "ready")
    for name in ("b", "c"):
        served[name] = await crew.start(name)
        await crew.says(name, 200, "follows")
    await crew.submitted("a", "one", "two")
    await crew.registered("a", "b", "c")
    # Followers apply a task after it was taken.
    await crew.applied("a", "b", "c")
    return served


def spoil(crew: Sharing, name: str) -> None:
    """Changes what a store holds behind its back, as a defect of a disk or of gowork would."""
    connection = apsw.Connection(str(crew.store_path(name)))
    with connection:
        connection.execute("UPDATE specs SET body = x'00' WHERE id = 'one'")
        assert connection.changes() == 1
    connection.close()


async def compared(leader: ServedLeader, index: int = 0) -> pb.CompareStoresResponse:
    """Asks until every store has a verdict."""
    while True:
        request = pb.CompareStoresRequest(index=index)
        response: pb.CompareStoresResponse = await leader.cluster.CompareStores(request, timeout=PATIENCE)
        index = response.index
        if pb.STORE_VERDICT_PENDING not in [each.verdict for each in response.stores]:
            return response
        await asyncio.sleep(0.02)


def leading(crew: Sharing) -> str:
    leader, _ = crew.place.leader()
    return "" if leader is None else decode(leader.announcement).name


@pytest.mark.parametrize("asked", ["a", "b"])
async def test_stores_that_hold_the_same_are_equal_whoever_is_asked(crew: Sharing, asked: str) -> None:
    served = await three(crew)
    before = crew.place.span.last
    response = await compared(served[asked])
    assert response.index > before
    assert [(each.name, each.verdict) for each in response.stores] == [("a", EQUAL), ("b", EQUAL), ("c", EQUAL)]
    assert len({each.store_id for each in response.stores}) == 3
    again = await compared(served[asked], response.index)
    assert again == response
    assert [crew.asides(name) for name in "abc"] == [[], [], []]


async def test_a_store_that_differs_is_set_aside_and_copied_anew(
    crew: Sharing, caplog: pytest.LogCaptureFixture
) -> None:
    served = await three(crew)
    spoil(crew, "b")
    response = await served["a"].cluster.CompareStores(pb.CompareStoresRequest(), timeout=PATIENCE)
    await crew.replaced("b")
    assert leading(crew) == "a"
    assert crew.asides("a") == crew.asides("c") == []
    (record,) = [
        each for each in caplog.records if each.message == "store can't follow the log, and is replaced by a copy"
    ]
    assert (
        record.__dict__["reason"] == f"it differs from the other leaders' stores at entry {response.index} of the log"
    )
    verdicts = {each.verdict for each in (await compared(served["c"])).stores}
    assert verdicts == {EQUAL}
    page = await asyncio.to_thread(_metrics, served["b"])
    assert "gowork_log_diverged_total 1.0" in page


async def test_a_leader_that_differs_from_two_equal_ones_resigns_and_is_replaced(crew: Sharing) -> None:
    served = await three(crew)
    spoil(crew, "a")
    await served["a"].cluster.CompareStores(pb.CompareStoresRequest(), timeout=PATIENCE)
    await crew.replaced("a")
    assert leading(crew) in ("b", "c")
    assert crew.asides("b") == crew.asides("c") == []
    assert {each.verdict for each in (await compared(served["a"])).stores} == {EQUAL}


async def test_a_leader_without_a_log_has_nothing_to_compare(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        refusal = await refused(leader.cluster.CompareStores(pb.CompareStoresRequest(), timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_LOG")


async def test_a_negative_index_is_refused(crew: Sharing) -> None:
    served = await crew.start("a")
    await crew.says("a", 200, "ready")
    (violation,) = (
        await refused(served.cluster.CompareStores(pb.CompareStoresRequest(index=-1), timeout=PATIENCE))
    ).violations
    assert violation.field == "index"


def _metrics(leader: ServedLeader) -> str:
    with urllib.request.urlopen(f"http://{leader.addresses.http}/metrics", timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text
