"""What becomes of a drain when another leader takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from leader_serving import PATIENCE, ServedLeader
from several_leaders import Several, several

from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.worker.v1 import session_pb2 as spb

DRAINS = "every worker that could run it is draining"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Several]:
    async with several(tmp_path) as house:
        yield house


async def pair(house: Several) -> tuple[ServedLeader, ServedLeader]:
    """The leader `one`, which leads, and `two`, which follows it."""
    one = await house.start("one")
    await house.leads()
    two = await house.start("two")
    await house.listed(two, "one", "two")
    return one, two


async def drain(leader: ServedLeader, id: str) -> None:
    await leader.cluster.Drain(cpb.DrainRequest(id=id), timeout=PATIENCE)


async def hand_over(house: Several, leader: ServedLeader) -> None:
    """Has the other one lead."""
    term = house.term
    await leader.cluster.StepDown(cpb.StepDownRequest(), timeout=PATIENCE)
    await house.leads(term)
    # It waits until the other one answers.
    await liveness(leader)


async def liveness(leader: ServedLeader) -> dict[str, cpb.MemberLiveness.ValueType]:
    members = (await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
    return {member.id: member.liveness for member in members}


async def test_a_callback_worker_stays_drained_until_it_joins_again_whoever_leads(house: Several) -> None:
    one, two = await pair(house)
    await one.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
    # The follower hands it on.
    await drain(two, "m")
    await hand_over(house, one)
    for leader in (one, two):
        assert await liveness(leader) == {"m": cpb.MEMBER_LIVENESS_DRAINING}
    await two.submit("a", handler="", payload="p")
    assert (await two.get("a")).waiting_reason == DRAINS
    await two.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
    assert await liveness(one) == {"m": cpb.MEMBER_LIVENESS_LIVE}
    await hand_over(house, two)
    assert await liveness(one) == {"m": cpb.MEMBER_LIVENESS_LIVE}


async def test_a_worker_that_was_told_to_drain_gets_nothing_from_the_next_leader(house: Several) -> None:
    one, two = await pair(house)
    async with one.worker("w", credit=2) as session:
        await one.submit("runs")
        runs = await session.grant()
        await drain(two, "w")
        await session.drain()
        await hand_over(house, one)
    again = two.session()
    await again.hello("w", held=[spb.Held(fence=runs.fence, id="runs")])
    await again.welcome()
    # As a worker does that was told.
    await again.send(conditions=[spb.Condition(draining=True)])
    async with asyncio.timeout(PATIENCE):
        while await liveness(two) != {"w": cpb.MEMBER_LIVENESS_DRAINING}:
            pass
    await two.submit("a")
    assert (await two.get("a")).waiting_reason == DRAINS
    await again.report(runs)
    assert set(await two.finished("runs")) == {"runs"}
    again.call.cancel()
