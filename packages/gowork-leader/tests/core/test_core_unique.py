"""While a task has a unique key, no other task of that key is made; every end of the task frees the key."""

from __future__ import annotations

from typing import Any

import pytest
from leader_core import WALL_MS, Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core import kept_keys
from gowork.leader._core.changes import KeyTaken
from gowork.leader._core.kinds import UNIQUE_KEYS, UniqueKey
from gowork.leader._core.model import FactKey, FailureKind, Outcome, Spec, Status

HOUR_MS = 3_600_000
FACT = FactKey("unique", "k")


def unique(id: str, key: str = "k", *, for_ms: int = 0, **fields: Any) -> Spec:
    return spec(id, unique=key, unique_for_ms=for_ms, **fields)


def holder(core: Core, key: str = "k") -> str:
    """The id of the task that has a key, as a submit is told it; it also has the facts compared with the store's."""
    facts = core.state.facts.of(UNIQUE_KEYS)
    assert {FactKey("unique", name): UNIQUE_KEYS.encode(fact) for name, fact in facts.items()} == core.facts
    answer = core.submit(unique(f"asks{core.state.next_seq}", key))
    assert isinstance(answer, cmd.Submitted)
    if answer.held:
        return answer.held[0][1]
    core.do(cmd.Cancel(f"asks{core.state.next_seq - 1}"))
    return ""


def started(*specs: Spec, compares: bool = False) -> tuple[Core, int]:
    core = Core(compares=compares)
    connection = core.connect(slots=10, credit=100)
    core.submit(*specs)
    core.dispatch()
    return core, connection


def test_a_submit_with_a_taken_key_makes_no_task_and_is_told_whose_it_is() -> None:
    core = Core()
    assert core.submit(unique("a")) == cmd.Submitted(1, 0)
    assert core.submit(unique("b")) == cmd.Submitted(0, 0, ((0, "a"),))
    assert list(core.stored) == ["a"]
    assert core.submit(unique("c", "another")) == cmd.Submitted(1, 0)


def test_of_two_tasks_of_one_key_in_one_batch_the_first_is_made() -> None:
    core = Core()
    core.submit(unique("old", "taken"))
    answer = core.submit(unique("a"), spec("plain"), unique("b"), unique("c", "taken"), unique("a"), spec("plain"))
    assert answer == cmd.Submitted(2, 2, ((2, "a"), (3, "old")))
    assert list(core.stored) == ["old", "a", "plain"]


def test_a_repeated_submit_of_the_same_id_stays_the_same_task_whatever_became_of_the_key() -> None:
    core, connection = started(unique("a"))
    assert core.submit(unique("a")) == cmd.Submitted(0, 1)
    core.report(connection, "a")
    assert core.submit(unique("a")) == cmd.Submitted(0, 1)
    core.submit(unique("b"))
    assert core.submit(unique("a")) == cmd.Submitted(0, 1)
    assert core.submit(unique("c")) == cmd.Submitted(0, 0, ((0, "b"),))


def test_a_batch_that_is_refused_takes_no_key() -> None:
    core = Core()
    core.submit(spec("x"))
    assert isinstance(core.submit(unique("a"), spec("x", body=b"other")), cmd.Refused)
    assert not core.facts
    assert holder(core) == ""


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED])
def test_an_attempt_that_ends_the_task_frees_its_key(outcome: Outcome) -> None:
    core, connection = started(unique("a"))
    assert holder(core) == "a"
    core.report(connection, "a", outcome)
    assert core.status("a") >= Status.COMPLETED
    assert not core.facts
    assert holder(core) == ""


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.INTERRUPTED, Outcome.SNOOZED])
def test_an_attempt_after_which_the_task_goes_on_keeps_its_key(outcome: Outcome) -> None:
    core, connection = started(unique("a"))
    core.report(connection, "a", outcome)
    assert core.status("a") is Status.PENDING
    assert holder(core) == "a"


def test_a_run_of_completions_frees_the_keys_in_it() -> None:
    core, connection = started(unique("a"), spec("b"), unique("c", "l"), spec("d"), compares=True)
    assert len(core.facts) == 2
    reports = [cmd.Report(core.standing(id).fence, id, Outcome.COMPLETED) for id in "bacd"]
    core.do(cmd.ReceiveFrame(connection, reports))
    assert not core.facts
    assert (holder(core), holder(core, "l")) == ("", "")


def test_completions_by_columns_free_keys() -> None:
    core, connection = started(unique("a"))
    columns = cmd.Completions(["a"], [core.standing("a").fence], [0], [""], [b""], [""])
    core.do(cmd.ReceiveFrame(connection, completions=[columns]))
    assert not core.facts


def test_a_cancelled_an_expired_and_a_quarantined_task_free_their_keys() -> None:
    core = Core()
    core.submit(unique("a", "cancelled"), unique("b", "expired", expires_in_ms=500), unique("c", "quarantined"))
    core.do(cmd.Cancel("a"))
    core.pass_time(1)
    connection = core.connect(slots=5, credit=100)
    for _ in range(4):
        core.dispatch()
        core.report(connection, "c", Outcome.LOST)
    assert [core.status(id) for id in "abc"] == [Status.CANCELLED, Status.ERROR, Status.ERROR]
    assert not core.facts


def test_a_key_that_is_kept_stays_taken_after_the_end_until_its_time_is_over() -> None:
    core, connection = started(unique("a", for_ms=HOUR_MS))
    core.pass_time(5)
    core.report(connection, "a")
    assert core.state.facts.of(UNIQUE_KEYS)["k"] == UniqueKey("a", WALL_MS + HOUR_MS)
    core.pass_time(3600 - 6)
    assert holder(core) == "a"
    core.pass_time(1)
    assert not core.facts
    assert not core.state.kept_keys
    assert holder(core) == ""


def test_a_task_that_runs_for_longer_has_its_key_until_its_end() -> None:
    core, connection = started(unique("a", for_ms=1000))
    for _ in range(3):
        core.pass_time(1)
        core.do(cmd.ReceiveFrame(connection))
    assert holder(core) == "a"
    core.report(connection, "a")
    assert not core.facts


def test_the_time_of_a_key_is_over_although_no_tick_has_looked_at_it() -> None:
    core, connection = started(unique("a", for_ms=HOUR_MS))
    core.report(connection, "a")
    core.wall_ms += HOUR_MS
    assert core.submit(unique("b")) == cmd.Submitted(1, 0)
    core.tick()
    assert holder(core) == "b"


def test_retention_leaves_a_key_taken_and_a_removal_by_id_frees_it() -> None:
    core, connection = started(unique("a", for_ms=HOUR_MS))
    core.report(connection, "a")
    core.do(cmd.Purge(["a"], finished_by_ms=core.wall_ms))
    assert holder(core) == "a"
    core, connection = started(unique("a", for_ms=HOUR_MS))
    core.report(connection, "a")
    core.do(cmd.Purge(["a"], strict=True))
    assert not core.facts
    assert holder(core) == ""
    core.pass_time(3600)
    assert not core.state.kept_keys


def test_a_removal_by_id_leaves_a_key_alone_that_another_task_has_by_now() -> None:
    core, connection = started(unique("a", for_ms=1000))
    core.report(connection, "a")
    core.wall_ms += 1000
    core.submit(unique("b"))
    core.do(cmd.Purge(["a"], strict=True))
    assert holder(core) == "b"


def test_a_task_that_runs_again_takes_its_key_again_or_is_refused_with_the_holders_id() -> None:
    core, connection = started(unique("a"))
    core.report(connection, "a", Outcome.FAILED)
    core.submit(unique("b"))
    refused = core.refusal(cmd.RetryTask("a"))
    assert refused.code is cmd.KEY_TAKEN
    assert "'b'" in refused.message
    assert core.status("a") is Status.ERROR
    core.do(cmd.Cancel("b"))
    core.do(cmd.RetryTask("a"))
    assert core.status("a") is Status.PENDING
    assert holder(core) == "a"


def retried(core: Core, *ids: str) -> object:
    chosen = [cmd.Chosen(id, core.task(id).seq) for id in ids]
    return core.do(cmd.RetryTasks(chosen, lambda spec, standing: True, 0)).answer


def test_of_the_tasks_that_run_again_together_each_key_has_one() -> None:
    core, connection = started(unique("a"), spec("plain"))
    for id in ("a", "plain"):
        core.report(connection, id, Outcome.FAILED)
    for id in ("b", "c"):
        core.submit(unique(id))
        core.do(cmd.Cancel(id))
    core.submit(unique("other", "k2"))
    core.do(cmd.Cancel("other"))
    core.submit(unique("holder", "k2"))
    last = core.task("other").seq
    assert retried(core, "a", "plain", "b", "c", "other") == cmd.Retried(tasks=2, left=3, last_seq=last)
    statuses = [core.status(id).name for id in ("a", "plain", "b", "c", "other")]
    assert statuses == ["PENDING", "PENDING", "CANCELLED", "CANCELLED", "CANCELLED"]
    assert (holder(core), holder(core, "k2")) == ("a", "holder")


def test_as_many_run_again_together_as_there_is_room_for_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    core, connection = started(unique("a", "k1"), unique("b", "k2"))
    for id in ("a", "b"):
        core.report(connection, id, Outcome.FAILED)
    monkeypatch.setattr(UNIQUE_KEYS, "rows_max", 1)
    assert retried(core, "a", "b") == cmd.Retried(tasks=1, left=0, last_seq=core.task("a").seq)
    assert holder(core, "k1") == "a"
    assert "k2" not in core.state.facts.of(UNIQUE_KEYS)


def test_a_task_whose_key_is_kept_for_it_may_run_again() -> None:
    core, connection = started(unique("a", for_ms=HOUR_MS))
    core.report(connection, "a", Outcome.FAILED)
    core.do(cmd.RetryTask("a"))
    assert core.state.facts.of(UNIQUE_KEYS)["k"] == UniqueKey("a")
    assert not core.state.kept_keys
    # Its time is over while it waits, which frees no key of an unfinished task.
    core.pass_time(3700)
    assert holder(core) == "a"


def test_a_follow_up_whose_key_is_taken_is_not_made_and_the_attempt_completes() -> None:
    core, connection = started(spec("a"), unique("x"))
    core.report(connection, "a", follow_ups=(unique("a/1"), spec("a/2"), unique("a/3", "l"), unique("a/4", "l")))
    assert core.status("a") is Status.COMPLETED
    assert sorted(core.stored) == ["a", "a/2", "a/3", "x"]
    assert (holder(core), holder(core, "l")) == ("x", "a/3")


def test_a_task_may_schedule_its_own_successor_under_its_key() -> None:
    core, connection = started(unique("a"))
    core.report(connection, "a", follow_ups=(unique("a/1"),))
    assert core.status("a/1") is Status.PENDING
    assert holder(core) == "a/1"
    core, connection = started(unique("a", for_ms=HOUR_MS))
    core.report(connection, "a", follow_ups=(unique("a/1"),))
    assert "a/1" not in core.stored


def test_a_task_that_ended_earlier_in_the_same_frame_frees_its_key_for_a_follow_up() -> None:
    core, connection = started(unique("a"), spec("b"))
    core.do(
        cmd.ReceiveFrame(
            connection,
            [
                cmd.Report(core.standing("a").fence, "a", Outcome.COMPLETED),
                cmd.Report(core.standing("b").fence, "b", Outcome.COMPLETED, follow_ups=(unique("b/1"),)),
            ],
        )
    )
    assert holder(core) == "b/1"


def test_follow_ups_that_cannot_be_scheduled_take_no_key() -> None:
    core, connection = started(spec("a"), spec("b"), spec("taken"))
    bad = (unique("a/1"), spec("taken", body=b"other"))
    core.do(
        cmd.ReceiveFrame(
            connection,
            [
                cmd.Report(core.standing("a").fence, "a", Outcome.COMPLETED, follow_ups=bad),
                cmd.Report(core.standing("b").fence, "b", Outcome.COMPLETED, follow_ups=(unique("b/1"),)),
            ],
        )
    )
    assert core.failure("a").kind is FailureKind.REJECTED
    assert holder(core) == "b/1"


def test_there_is_a_limit_to_the_keys_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    core, connection = started(spec("runs"), unique("a", "k1"), unique("b", "k2"))
    monkeypatch.setattr(UNIQUE_KEYS, "rows_max", 3)
    refused = core.submit(unique("c", "k3"), unique("d", "k4"))
    assert isinstance(refused, cmd.Refused)
    assert refused.code is cmd.TOO_MANY_KEYS
    assert "2 keys are taken, here are 2 more, and the limit is 3" in refused.message
    assert core.submit(unique("c", "k3"), unique("e", "k1")) == cmd.Submitted(1, 0, ((1, "a"),))
    assert core.submit(spec("f")) == cmd.Submitted(1, 0)
    core.report(connection, "runs", follow_ups=(unique("runs/1", "k5"),))
    assert "the limit is 3" in core.failure("runs").message
    assert "runs/1" not in core.stored
    # One that becomes free makes room for another one in the same decision.
    core.dispatch()
    core.report(connection, "a", follow_ups=(unique("a/1", "k1"),))
    assert core.status("a/1") is Status.PENDING


def test_a_task_does_not_run_again_when_too_many_keys_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    core, connection = started(unique("a"))
    core.report(connection, "a", Outcome.FAILED)
    monkeypatch.setattr(UNIQUE_KEYS, "rows_max", 0)
    assert core.refusal(cmd.RetryTask("a")).code is cmd.TOO_MANY_KEYS


def test_keys_outlive_the_leader() -> None:
    core, connection = started(unique("a"), unique("b", "kept", for_ms=HOUR_MS))
    core.report(connection, "b")
    core.restart()
    assert (holder(core), holder(core, "kept")) == ("a", "b")
    core.pass_time(3601)
    assert FactKey("unique", "kept") not in core.facts
    assert holder(core, "kept") == ""


@pytest.mark.parametrize("stored", ["nobody", "finished", "other"])
def test_a_fact_whose_task_has_no_such_key_any_more_is_not_believed(stored: str) -> None:
    core, connection = started(unique("finished"), spec("other"))
    core.report(connection, "finished")
    core.facts[FACT] = UNIQUE_KEYS.encode(UniqueKey(stored))
    core.restart()
    assert core.submit(unique("b")) == cmd.Submitted(1, 0)
    assert core.facts[FACT] == UNIQUE_KEYS.encode(UniqueKey("b"))


def test_the_end_of_a_task_leaves_a_key_alone_that_another_one_has() -> None:
    """An older leader records tasks without taking their keys."""
    core, _ = started(unique("a"))
    core.facts[FACT] = UNIQUE_KEYS.encode(UniqueKey("b"))
    core.restart()
    core.do(cmd.Cancel("a"))
    core.report(core.connect(held=(cmd.HeldTask("a", core.standing("a").fence, False),)), "a")
    assert core.status("a") >= Status.COMPLETED
    assert core.facts[FACT] == UNIQUE_KEYS.encode(UniqueKey("b"))


def test_tasks_that_are_not_made_are_counted_as_such() -> None:
    core = Core()
    core.submit(unique("a"), spec("x"))
    core.take_effects()
    core.submit(unique("b"), spec("x"), spec("y"))
    counted = [effect for effect in core.take_effects() if isinstance(effect, ef.CountNotSubmitted)]
    assert [([each.id for each in effect.specs], effect.outcome) for effect in counted] == [
        (["b"], "unique"),
        (["x"], "duplicate"),
    ]


def test_a_task_without_a_key_takes_none() -> None:
    core = Core()
    assert not any(isinstance(change, KeyTaken) for change in core.do(cmd.Submit([spec("a")])).changes)


def test_the_index_of_kept_keys_does_not_grow_with_keys_that_were_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_keys, "STALE_MAX", 4)
    core, connection = started()
    for number in range(12):
        core.submit(unique(f"t{number}", for_ms=HOUR_MS))
        core.dispatch()
        core.report(connection, f"t{number}")
        core.do(cmd.ReceiveFrame(connection, credit=100 + number))
        if number < 11:
            core.do(cmd.Purge([f"t{number}"], strict=True))
    assert len(core.state.kept_keys) == 1
    assert len(core.state.kept_keys._timers) <= 2 + 4
    assert core.state.kept_keys.next_ms() == WALL_MS + HOUR_MS
    core.pass_time(3600)
    assert not core.facts


def test_kept_keys_of_tasks_with_the_same_id_become_free_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_keys, "STALE_MAX", -6)
    core, connection = started()
    for key in ("k1", "k2", "k3", "k4"):
        core.submit(unique("again", key, for_ms=HOUR_MS))
        core.dispatch()
        core.report(connection, "again")
        core.do(cmd.Purge(["again"], finished_by_ms=core.wall_ms))
    assert len(core.facts) == len(core.state.kept_keys) == 4
    core.pass_time(3600)
    assert not core.facts
    assert not core.state.kept_keys
