"""What leaders that share a log say of one another, and how one hands over to another."""

from __future__ import annotations

import asyncio
import itertools
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving
from memory_log import MemoryLog, MemoryPlace
from several_leaders import Several, several

from gowork.leader import Leader, __version__
from gowork.leader._app import fitting, node
from gowork.leader._replication import candidacy, log_watch, registers
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.registers import PREFIX, Registration
from gowork.leader._rpc import leaders
from gowork.leader._rpc.dialer import DIAL_SECONDS
from gowork.leader.log import LogUnreachableError
from gowork.leader.log.etcd import LEASE_SECONDS
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2 as spb

pytestmark = pytest.mark.timeout(240)

#: What would be for ever otherwise, in seconds.
HANG = 20.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Several]:
    async with several(tmp_path) as house:
        yield house


async def pair(house: Several) -> tuple[ServedLeader, ServedLeader]:
    """The leader `one`, which leads, and `two`, which follows it and is registered."""
    one = await house.start("one")
    await house.leads()
    two = await house.start("two")
    # A follower answers by itself only when it has a store of its own.
    store_id = (await house.listed(two, "one", "two")).answered_by
    await register(house, "two", store_id, applied=house.place.span.last)
    return one, two


async def register(house: Several, name: str, store_id: str, *, applied: int = 0, seconds: float = 0.0) -> None:
    """Registers a store, as it was some time ago."""
    own = Announcement(name, "c:1", "s:2", "h:3", store_id, "9.9")
    seen_ms = round((time.time() - seconds) * 1000)
    value = registers.encode(Registration(own, applied, applied, seen_ms, 1))
    house.place.put_note(f"{PREFIX}{store_id}", value, float("inf"))


def leaders_of(leader: ServedLeader) -> Awaitable[pb.LeadersResponse]:
    call: Awaitable[pb.LeadersResponse] = leader.cluster.Leaders(pb.LeadersRequest(), timeout=PATIENCE)
    return call


def step_down(leader: ServedLeader, term: int = 0) -> Awaitable[pb.StepDownResponse]:
    call: Awaitable[pb.StepDownResponse] = leader.cluster.StepDown(pb.StepDownRequest(term=term), timeout=PATIENCE)
    return call


def remove(leader: ServedLeader, store_id: str) -> Awaitable[pb.RemoveLeaderResponse]:
    request = pb.RemoveLeaderRequest(store_id=store_id)
    call: Awaitable[pb.RemoveLeaderResponse] = leader.cluster.RemoveLeader(request, timeout=PATIENCE)
    return call


@pytest.mark.parametrize("asked", [0, 1])
async def test_any_leader_lists_all_and_says_which_one_leads(house: Several, asked: int) -> None:
    before_ms = round(time.time() * 1000)
    both = await pair(house)
    response = await house.listed(both[asked], "one", "two")
    first, second = response.leaders
    assert (first.name, first.leads, first.term, first.lag_entries) == ("one", True, house.term, 0)
    assert before_ms <= first.leads_since_ms <= time.time() * 1000
    assert (second.name, second.leads, second.term, second.leads_since_ms) == ("two", False, 0, 0)
    assert (response.log.first_index, response.log.last_index) == house.place.span
    assert house.place.generation is not None
    assert response.log.generation == house.place.generation.id
    assert first.applied_index == response.log.last_index
    own = both[0].addresses
    assert first.cluster_address == own.cluster
    assert first.scheduler_address == own.scheduler
    assert first.http_address == own.http
    assert first.version == __version__
    assert response.answered_by == response.leaders[asked].store_id
    assert first.store_id != second.store_id
    assert second.seen_at_ms >= before_ms


async def test_a_leader_that_is_behind_is_listed_with_its_lag_and_when_it_was_seen(house: Several) -> None:
    one = await house.start("one")
    await house.leads()
    await one.submit("a")
    await register(house, "gone", "g", applied=1, seconds=100)
    response = await house.listed(one, "one", "gone")
    gone = response.leaders[1]
    assert gone.lag_entries == response.log.last_index - 1 > 0
    assert (gone.applied_index, gone.forced_index, gone.version) == (1, 1, "9.9")
    assert 90_000 < time.time() * 1000 - gone.seen_at_ms < 200_000


async def test_a_leader_answers_also_while_none_leads(house: Several) -> None:
    one, two = await pair(house)
    house.logs["one"].is_cut = True
    async with asyncio.timeout(PATIENCE):
        while house.term:
            await house.place.change(asyncio.get_running_loop().time() + 1)
        assert (await leaders_of(two)).leaders
    assert (await refused(leaders_of(one))).reason == "LOG_UNAVAILABLE"


@pytest.mark.parametrize("asked", [0, 1])
async def test_who_waits_for_a_later_leader_is_told_when_it_leads(
    house: Several, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wait that nobody ends must be longer than the test.
    monkeypatch.setattr(limits, "LEADERS_WAIT_MS_MAX", 1_000_000)
    # Nor may the term that ends wait for whoever waits for the next one.
    monkeypatch.setattr(node, "STOP_GRACE_SECONDS", 1_000.0)
    both = await pair(house)
    term = house.term
    request = pb.LeadersRequest(wait_ms=1_000_000, after_term=term)
    waiting = asyncio.ensure_future(both[asked].cluster.Leaders(request, timeout=HANG))
    # A call that came later is answered.
    await leaders_of(both[asked])
    assert not waiting.done()
    await step_down(both[0])
    first = (await waiting).leaders[0]
    assert (first.name, first.leads) == ("two", True)
    assert first.term > term
    # It leads already.
    again = await both[asked].cluster.Leaders(request, timeout=HANG)
    assert again.leaders[0].name == "two"


async def test_a_wait_for_a_later_leader_is_over_in_time(house: Several) -> None:
    one, two = await pair(house)
    for each in (one, two):
        request = pb.LeadersRequest(wait_ms=1, after_term=house.term)
        assert (await each.cluster.Leaders(request, timeout=PATIENCE)).leaders[0].name == "one"


async def test_no_more_calls_wait_for_a_leader_than_may(house: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = await pair(house)
    monkeypatch.setattr(leaders, "WAITING_MAX", 1)
    request = pb.LeadersRequest(wait_ms=10_000, after_term=house.term)
    both = [asyncio.ensure_future(one.cluster.Leaders(request, timeout=PATIENCE)) for _ in range(2)]
    done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    await step_down(one)
    assert (await asyncio.gather(*both))[0].leaders


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.LeadersRequest(wait_ms=-1), "wait_ms: is -1; 0 to 10000 are allowed"),
        (pb.LeadersRequest(wait_ms=10_001), "wait_ms: is 10001; 0 to 10000 are allowed"),
        (pb.LeadersRequest(wait_ms=1, after_term=-1), "after_term: is -1; 0 to"),
    ],
)
async def test_a_wait_for_a_leader_out_of_its_limits_is_refused(
    house: Several, request_: pb.LeadersRequest, words: str
) -> None:
    one = await house.start("one")
    await house.leads()
    assert words in (await refused(one.cluster.Leaders(request_, timeout=PATIENCE))).message


async def test_all_who_ask_while_a_census_is_taken_share_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[asyncio.Future[Any]] = []
    more = asyncio.Condition()

    async def take(*_: object) -> Any:
        async with more:
            taken.append(asyncio.get_running_loop().create_future())
            more.notify_all()
        return await taken[-1]

    monkeypatch.setattr(leaders, "take_census", take)
    anything: Any = SimpleNamespace(applied=0)
    asked = leaders.Leaders(anything, anything, anything, lambda: 0, anything, anything)
    async with asyncio.timeout(PATIENCE), more:
        first: asyncio.Task[Any] = asyncio.create_task(asked._shared_census())
        await more.wait_for(lambda: len(taken) == 1)
        others: list[asyncio.Task[Any]] = [asyncio.create_task(asked._shared_census()) for _ in range(20)]
        await asyncio.sleep(0)
        taken[0].set_result("older than their questions")
        await more.wait_for(lambda: len(taken) == 2)
        taken[1].set_result("new")
    assert await first == "older than their questions"
    assert await asyncio.gather(*others) == ["new"] * 20
    assert len(taken) == 2


async def test_a_leader_without_a_log_lists_itself_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, name="lone", advertise="somewhere") as leader:
        response = await leaders_of(leader)
        (lone,) = response.leaders
        assert (lone.name, lone.leads, lone.version) == ("lone", True, __version__)
        assert lone.term > 0
        assert lone.leads_since_ms > 0
        assert lone.scheduler_address.startswith("somewhere:")
        assert lone.store_id == response.answered_by != ""
        assert not response.HasField("log")
        for call in (step_down(leader), remove(leader, "x")):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_LOG")
            assert "--log" in refusal.message


async def test_get_leader_names_the_leader_that_leads_whoever_is_asked(house: Several) -> None:
    for leader in await pair(house):
        answer = await leader.scheduler.GetLeader(spb.GetLeaderRequest(), timeout=PATIENCE)
        assert answer.name == "one"


@pytest.mark.parametrize("asked", [0, 1])
async def test_step_down_hands_over_and_answers_when_another_leads(house: Several, asked: int) -> None:
    both = await pair(house)
    await both[0].submit("before")
    term = house.term
    answer = await step_down(both[asked])
    assert (answer.leader.name, answer.leader.leads) == ("two", True)
    assert answer.leader.term > term
    for leader in both:
        assert (await leader.get("before")).id == "before"
        await leader.submit(f"after-{leader.addresses.http}")


async def test_step_down_again_for_a_term_that_is_over_changes_nothing(house: Several) -> None:
    one, two = await pair(house)
    term = house.term
    first = await step_down(one, term)
    for leader in (one, two):
        again = await step_down(leader, term)
        assert (again.leader.name, again.leader.term) == ("two", first.leader.term)


async def test_step_down_without_another_leader_is_refused_and_the_term_goes_on(house: Several) -> None:
    one = await house.start("one")
    await house.leads()
    term = house.term
    refusal = await refused(step_down(one))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SUCCESSOR")
    assert "no other leader is registered" in refusal.message
    await register(house, "gone", "g", applied=house.place.span.last, seconds=3600)
    assert "gone was last seen 360" in (await refused(step_down(one))).message
    house.place.span = house.place.span._replace(first=house.place.span.last)
    await register(house, "late", "l", applied=0)
    if house.place.span.last > 1:
        assert "late lacks entries" in (await refused(step_down(one))).message
    assert house.term == term
    await one.submit("still")


async def test_step_down_says_when_nobody_took_over_in_time(house: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaders, "TAKE_OVER_SECONDS", 0.05)
    one = await house.start("one")
    await house.leads()
    await register(house, "ghost", "g", applied=house.place.span.last)
    refusal = await refused(step_down(one))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "NOT_TAKEN_OVER")


async def test_a_leader_that_registers_again_lives_whatever_its_clock_says(
    house: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(leaders, "TAKE_OVER_SECONDS", 0.05)
    one = await house.start("one")
    await house.leads()
    reason = "NO_SUCCESSOR"
    async with asyncio.timeout(PATIENCE):
        while reason == "NO_SUCCESSOR":
            await register(house, "slow clock", "g", applied=house.place.span.last, seconds=3600)
            reason = (await refused(step_down(one))).reason
    assert reason == "NOT_TAKEN_OVER"
    await register(house, "slow clock", "g", seconds=3600)
    assert (await refused(remove(one, "g"))).reason == "LEADER_LIVES"


async def test_who_stepped_down_for_nobody_leads_again_before_it_has_answered(
    house: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidacy, "GIVE_WAY_SECONDS", 0.05)
    # If the end of the term waited for the answer to StepDown, that would wait for the next term in vain.
    monkeypatch.setattr(node, "STOP_GRACE_SECONDS", PATIENCE)
    one = await house.start("one")
    await house.leads()
    await register(house, "ghost", "g", applied=house.place.span.last)
    refusal = await refused(step_down(one))
    assert refusal.reason == "NOT_TAKEN_OVER"
    assert "this one leads again" in refusal.message
    await one.submit("a")


async def test_a_negative_term_is_refused(house: Several) -> None:
    one = await house.start("one")
    await house.leads()
    for term in (-1, 1 << 23):
        (violation,) = (await refused(step_down(one, term))).violations
        assert violation.field == "term"


async def test_a_leader_that_is_gone_is_removed_by_its_store(house: Several) -> None:
    one, two = await pair(house)
    await register(house, "gone", "g", seconds=61)
    await house.listed(two, "one", "gone", "two")
    await remove(two, "g")
    await house.listed(one, "one", "two")


async def test_a_leader_that_lives_is_not_removed(house: Several) -> None:
    one = await house.start("one")
    await house.leads()
    await register(house, "lives", "l", seconds=30)
    refusal = await refused(remove(one, "l"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LEADER_LIVES")
    assert "lives was seen 3" in refusal.message


async def test_the_only_registered_leader_is_not_removed(house: Several) -> None:
    one = await house.start("one")
    await house.leads()
    own = (await house.listed(one, "one")).answered_by
    # It registers when it has forced its store, and again ten seconds later.
    async with asyncio.timeout(PATIENCE):
        while not house.place.notes(PREFIX):  # noqa: ASYNC110 - a note announces itself to nobody
            await asyncio.sleep(0)
    house.place.drop_note(f"{PREFIX}{own}")
    await register(house, "last", "l", seconds=61)
    assert (await refused(remove(one, "l"))).reason == "LAST_LEADER"


async def test_an_unknown_store_is_not_removed(house: Several) -> None:
    one = await house.start("one")
    await house.leads()
    refusal = await refused(remove(one, "nobody"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "LEADER_UNKNOWN")
    (violation,) = (await refused(remove(one, ""))).violations
    assert violation.field == "store_id"


async def page(leader: ServedLeader) -> dict[str, float]:
    """The metrics without labels of a leader: {name: value}."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{leader.addresses.http}/metrics", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    rows = [line.split() for line in (await asyncio.to_thread(read)).splitlines() if "{" not in line]
    return {row[0]: float(row[1]) for row in rows if not row[0].startswith("#")}


async def test_metrics_of_a_follower_say_that_it_does_not_lead_and_where_it_stands(house: Several) -> None:
    one, two = await pair(house)
    await one.submit("a")
    span = house.place.span
    async with asyncio.timeout(PATIENCE):
        while (seen := await page(two))["gowork_log_applied_index"] < span.last:
            pass
    assert seen["gowork_leader_is_leader"] == 0
    assert seen["gowork_leader_term"] == house.term
    assert (seen["gowork_log_first_index"], seen["gowork_log_last_index"]) == span
    assert seen["gowork_log_lag_entries"] == 0
    assert seen["gowork_log_full"] == seen["gowork_log_one_copy"] == 0
    assert 0 <= seen["gowork_log_silent_seconds"] < PATIENCE
    assert "gowork_retention_oldest_seconds" not in seen
    assert seen["gowork_leader_transitions_total"] == 0


async def test_metrics_of_the_one_that_leads_say_so_and_how_long_nobody_led(house: Several) -> None:
    one, two = await pair(house)
    await one.submit("a" * 200)
    seen = await page(one)
    assert seen["gowork_leader_is_leader"] == 1
    assert seen["gowork_log_applied_index"] == house.place.span.last
    assert seen["gowork_log_bytes"] > 200
    assert seen["gowork_leader_failover_seconds_count"] == 1
    await step_down(one)
    assert (await page(one))["gowork_leader_transitions_total"] == 2
    async with asyncio.timeout(PATIENCE):
        while (seen := await page(two))["gowork_leader_is_leader"] == 0:
            pass
    assert seen["gowork_leader_transitions_total"] == seen["gowork_leader_failover_seconds_count"] == 1
    assert seen["gowork_leader_failover_seconds_sum"] < PATIENCE


async def test_metrics_of_a_leader_without_a_log_show_none_of_a_log(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        assert not [name for name in await page(leader) if name.startswith("gowork_log")]


def test_a_leader_among_several_waits_until_its_predecessor_can_no_longer_call(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    assert Leader(store)._equipment.settings.callback_adopted_grace == 0
    shared = Leader(store, log=MemoryLog(MemoryPlace()))
    assert shared._equipment.settings.callback_adopted_grace >= LEASE_SECONDS + DIAL_SECONDS


@pytest.mark.parametrize("question", ["generation", "span"])
async def test_a_leader_that_starts_while_the_log_does_not_answer_waits_for_it(
    house: Several, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    monkeypatch.setattr(fitting, "AGAIN_SECONDS", 0.01)
    answer, asked = getattr(MemoryLog, question), itertools.count()

    async def answer_each_other_time(log: MemoryLog) -> object:
        if next(asked) in (0, 2):
            raise LogUnreachableError("it does not answer")
        return await answer(log)

    monkeypatch.setattr(MemoryLog, question, answer_each_other_time)
    await house.start("one")
    assert await house.leads() == "one"
    assert next(asked) > 2
