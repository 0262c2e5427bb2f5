"""Series of members and queues are bounded, and go with what they are of."""

from __future__ import annotations

from collections.abc import Sequence

from gowork.leader._app.metrics import LOST_SHOWN_MS, MEMBERS_MAX, Look, registry_of
from gowork.leader._core.model import Liveness
from gowork.leader._core.queries import MemberView, QueueDepth, SchedulesView
from gowork.leader._engine.counts import OTHER, QUEUES_MAX, Counts

NOW_MS = 10_000_000


def member(name: str, liveness: Liveness = Liveness.LIVE, seen_ms: int = NOW_MS) -> MemberView:
    return MemberView(name, "", "", liveness, False, 1, 0, (), {}, "", 0, seen_ms, ())


def shown(
    name: str,
    members: Sequence[MemberView] = (),
    queues: Sequence[QueueDepth] = (),
    schedules: SchedulesView | None = None,
) -> dict[tuple[str, ...], float]:
    """The values of a metric by its label values, of a leader that sees these."""
    look = Look(list(members), {}, list(queues), 1, 0, NOW_MS, schedules=schedules or SchedulesView())
    families = registry_of(Counts(), lambda: look).collect()
    (family,) = [family for family in families if family.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_a_lost_member_is_shown_for_a_while_and_one_that_left_not_at_all() -> None:
    members = [
        member("live"),
        member("blocked", Liveness.BLOCKED),
        member("lost", Liveness.LOST, NOW_MS - LOST_SHOWN_MS),
        member("lost-long-ago", Liveness.LOST, NOW_MS - LOST_SHOWN_MS - 1),
        member("left", Liveness.LEFT),
    ]
    assert shown("gowork_member_up", members) == {("live",): 1, ("blocked",): 1, ("lost",): 0}


def test_schedules_are_shown_with_how_late_they_are() -> None:
    view = SchedulesView(3, 1, 2500)
    assert shown("gowork_schedules", schedules=view) == {("active",): 3, ("paused",): 1}
    assert shown("gowork_schedule_lag_seconds", schedules=view) == {(): 2.5}


def test_of_members_beyond_the_limit_the_worst_is_shown() -> None:
    members = [member(f"m{n:04}") for n in range(MEMBERS_MAX + 2)]
    assert shown("gowork_member_up", members)[OTHER,] == 1
    members[-2] = member(members[-2].id, Liveness.LOST)
    up = shown("gowork_member_up", members)
    assert len(up) == MEMBERS_MAX + 1
    assert up[OTHER,] == 0


def test_the_unique_keys_that_are_taken_are_shown() -> None:
    look = Look([], {}, [], 1, 0, NOW_MS, 7)
    families = {family.name: family for family in registry_of(Counts(), lambda: look).collect()}
    assert [sample.value for sample in families["gowork_unique_keys"].samples] == [7]


def test_queues_beyond_the_limit_are_added_up() -> None:
    queues = [QueueDepth(f"q{n:04}", 1, 2, 3, NOW_MS - n * 1000) for n in range(QUEUES_MAX + 3)]
    tasks = shown("gowork_queue_tasks", queues=queues)
    assert len(tasks) == 3 * (QUEUES_MAX + 1)
    assert [tasks[OTHER, state] for state in ("waiting", "delayed", "running")] == [3, 6, 9]
    assert shown("gowork_queue_oldest_seconds", queues=queues)[OTHER,] == QUEUES_MAX + 2


def test_a_leader_that_does_not_answer_does_not_lead_and_shows_what_it_has_counted() -> None:
    def look() -> Look:
        raise TimeoutError

    families = {family.name: family for family in registry_of(Counts(), look).collect()}
    (sample,) = families["gowork_leader_is_leader"].samples
    assert sample.value == 0
    assert "gowork_members" not in families
    assert families["gowork_store_commit_seconds"].samples
