"""ListHandlers: what workers have now, in which versions, with the descriptions that the leader was told."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, Session, refused

from gowork.leader._rpc import handlers
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def info(name: str, text: str = "", version: str = "1.0") -> spb.HandlerInfo:
    told = digest(text) if text else ""
    return spb.HandlerInfo(name=name, plugin="images", plugin_version=version, description_digest=told)


async def asked(session: Session) -> list[str]:
    """The digests that the leader asks this worker for."""
    while not (frame := await session.frame()).describe:
        pass
    return list(frame.describe)


async def tell(leader: ServedLeader, session: Session, *texts: str) -> None:
    await session.send(descriptions=[spb.HandlerDescription(digest=digest(text), text=text) for text in texts])
    # The heartbeat is answered after what came before it was read.
    await session.send()
    while (await session.frame()).ByteSize():
        pass


async def listed(leader: ServedLeader, **fields: Any) -> cpb.ListHandlersResponse:
    return await leader.cluster.ListHandlers(cpb.ListHandlersRequest(**fields), timeout=PATIENCE)


async def test_handlers_are_listed_with_what_their_workers_tell(leader: ServedLeader) -> None:
    async with leader.worker("w1", handlers=[info("resize", "one"), info("crop")]) as first:
        assert await asked(first) == [digest("one")]
        await tell(leader, first, "one")
        async with leader.worker("w2", handlers=[info("resize", "one")]):
            async with leader.worker("w3", handlers=[info("resize", "two", "2.0")]) as third:
                assert await asked(third) == [digest("two")]
                crop, resize = (await listed(leader)).handlers
                assert (crop.name, crop.versions[0].description_digest, crop.versions[0].workers) == ("crop", "", 1)
                one, two = resize.versions
                assert (one.plugin, one.plugin_version, one.workers) == ("images", "1.0", 2)
                assert (one.description, list(one.worker_names)) == ("one", ["w1", "w2"])
                assert (two.plugin_version, two.description, list(two.worker_names)) == ("2.0", "", ["w3"])
            assert [each.name for each in (await listed(leader, name="resize")).handlers] == ["resize"]
            assert not (await listed(leader, name="nobody")).handlers


async def test_a_member_tells_each_plugin_of_its_handlers_once(leader: ServedLeader) -> None:
    infos = [info("a"), info("b"), info("c", version="2.0"), spb.HandlerInfo(name="d")]
    async with leader.worker("w", handlers=infos):
        (member,) = (await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
    assert [(each.name, each.version) for each in member.plugins] == [("images", "1.0"), ("images", "2.0")]


async def test_attempts_tell_by_which_plugin_they_run_and_were_run(leader: ServedLeader) -> None:
    async with leader.worker("w", handlers=[info("h")]) as session:
        await leader.submit("a")
        grant = await session.grant()
        (running,) = (await leader.get("a")).attempts
        await session.report(grant, outcome=pb.ATTEMPT_OUTCOME_SNOOZED)
        await session.report(await session.grant())
    attempts = (await leader.get("a")).attempts
    told = [(each.outcome, each.plugin, each.plugin_version) for each in (running, *attempts)]
    outcomes = pb.ATTEMPT_OUTCOME_UNSPECIFIED, pb.ATTEMPT_OUTCOME_SNOOZED, pb.ATTEMPT_OUTCOME_COMPLETED
    assert told == [(outcome, "images", "1.0") for outcome in outcomes]


async def test_a_task_is_granted_within_its_range_and_shows_it_as_it_was_asked(leader: ServedLeader) -> None:
    fields: dict[str, Any] = {"plugin_version": ">=1.2, <2", "selector": {"gpu": "yes"}}
    await leader.submit("a", **fields)
    assert (await leader.submit("a", **fields)).existing == 1
    changed = await refused(leader.submit("a", **fields | {"plugin_version": ">=1.2"}))
    assert changed.reason == "TASK_EXISTS"
    async with leader.worker("old", handlers=[info("h", version="1.1")], labels={"gpu": "yes"}):
        explained = await leader.scheduler.ExplainTask(pb.ExplainTaskRequest(id="a"), timeout=PATIENCE)
        (waits,) = explained.reasons
        assert (waits.code, "there is images 1.1 (1 worker)" in waits.message) == (pb.WAIT_CODE_PLUGIN_VERSION, True)
        async with leader.worker("new", handlers=[info("h", version="1.10")], labels={"gpu": "yes"}) as new:
            await new.report(await new.grant())
    kept = await leader.get("a")
    assert (kept.plugin_version, dict(kept.selector)) == (">=1.2, <2", {"gpu": "yes"})
    assert [each.plugin_version for each in kept.attempts] == ["1.10"]


async def test_a_version_that_is_too_long_is_not_taken_for_its_beginning(leader: ServedLeader) -> None:
    long = "1." + "0" * limits.PLUGIN_NAME_BYTES_MAX
    async with leader.worker("w", handlers=[info("h", version=long)]) as session:
        await leader.submit("a", plugin_version=">=1")
        await leader.submit("b")
        assert (await session.grant()).id == "b"
    (attempt,) = (await leader.get("b")).attempts
    assert (attempt.plugin, attempt.plugin_version) == ("images", "")


async def test_follow_ups_ask_for_ranges_too(leader: ServedLeader) -> None:
    async with leader.worker("w", handlers=[info("h", version="1.1")]) as session:
        await leader.submit("a", "b")
        first, second = await session.grants(2)
        await session.report(first, follow_ups=[pb.Task(id="c", handler="h", plugin_version=">=2")])
        await session.report(second, follow_ups=[pb.Task(id="d", handler="h", plugin_version="2")])
    assert (await leader.get("c")).plugin_version == ">=2"
    assert "follow_ups[0].plugin_version: is '2'" in (await leader.get("b")).failure.message


async def test_another_worker_is_asked_when_the_first_one_goes(leader: ServedLeader) -> None:
    async with leader.worker("w1", handlers=[info("h", "text")]) as first:
        assert await asked(first) == [digest("text")]
        async with leader.worker("w2", handlers=[info("h", "text")]) as second:
            first.call.cancel()
            assert await asked(second) == [digest("text")]


async def test_a_list_goes_on_from_its_token(leader: ServedLeader) -> None:
    async with leader.worker("w", handlers=[info(name) for name in "abc"]):
        page = await listed(leader, page_size=2)
        assert [each.name for each in page.handlers] == ["a", "b"]
        page = await listed(leader, page_size=2, page_token=page.next_page_token)
        assert ([each.name for each in page.handlers], page.next_page_token) == (["c"], "")


async def test_a_page_has_a_bound_of_bytes(leader: ServedLeader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers.limits, "PAGE_BYTES_MAX", 60)
    async with leader.worker("w", handlers=[info("a", "x" * 100), info("b")]) as session:
        await asked(session)
        await tell(leader, session, "x" * 100)
        page = await listed(leader)
        assert ([each.name for each in page.handlers], page.handlers[0].versions[0].description) == (["a"], "")
        assert page.next_page_token


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "n" * (limits.NAME_BYTES_MAX + 1)}, "name"),
        ({"page_size": -1}, "page_size"),
        ({"page_size": limits.PAGE_ITEMS_MAX + 1}, "page_size"),
        ({"page_token": "nonsense"}, "page_token"),
    ],
)
async def test_a_bad_request_is_refused(leader: ServedLeader, fields: dict[str, Any], field: str) -> None:
    refusal = await refused(leader.cluster.ListHandlers(cpb.ListHandlersRequest(**fields), timeout=PATIENCE))
    assert (refusal.code, [violation.field for violation in refusal.violations]) == (INVALID, [field])
