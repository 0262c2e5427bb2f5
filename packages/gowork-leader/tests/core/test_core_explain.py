"""Every reason that holds a task is named; and where none is named, the task is granted next."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.explain import Explanation, explain, waiting_by_reason
from gowork.leader._core.model import HeartbeatStatus, Outcome, Priority, RetryPolicy, Status, WaitCode


def codes(core: Core, id: str) -> list[WaitCode]:
    return [reason.code for reason in explained(core, id).reasons]


def explained(core: Core, id: str) -> Explanation:
    return explain(core.state, core.task(id), core.now, verbose=True)


def test_no_worker_has_the_handler():
    core = Core()
    core.submit(spec("a"))
    assert codes(core, "a") == [WaitCode.NO_HANDLER]
    assert explained(core, "a").reasons[0].advice.startswith("start a worker that has the handler 'work'; ")
    core.connect(handlers=("other",))
    assert codes(core, "a") == [WaitCode.NO_HANDLER]
    assert "'work'" in explained(core, "a").reasons[0].message


def test_no_worker_carries_the_labels():
    core = Core()
    core.submit(spec("a", selector=(("zone", "b"),)))
    core.connect(labels={"zone": "a"})
    assert codes(core, "a") == [WaitCode.SELECTOR]
    assert "zone=b" in explained(core, "a").reasons[0].message


def test_no_free_slot_and_how_many_are_before_it():
    core = Core()
    core.connect(slots=1)
    core.submit(spec("a"), spec("b"), spec("c"), spec("h", priority=Priority.HIGH), spec("x", handler="other"))
    core.dispatch()
    assert codes(core, "c") == [WaitCode.NO_SLOT]
    assert explained(core, "c").ahead == 2
    assert codes(core, "h") == []


def test_every_worker_drains():
    core = Core()
    connection = core.connect()
    core.do(cmd.ReceiveFrame(connection, draining=True))
    core.submit(spec("a"))
    assert codes(core, "a") == [WaitCode.DRAINING]


def test_all_that_holds_it_is_named_at_once():
    core = Core()
    core.do(cmd.ConfigureQueue("default", concurrency_limit=1, key_concurrency_limit=1, rate_limit=0.5, rate_burst=1))
    core.connect(slots=1)
    core.submit(spec("a", key="k"), spec("b", key="k", run_in_ms=9000))
    core.dispatch()
    core.do(cmd.PauseQueue("default", True))
    assert codes(core, "b") == [
        WaitCode.DELAYED,
        WaitCode.QUEUE_PAUSED,
        WaitCode.QUEUE_LIMIT,
        WaitCode.KEY_LIMIT,
        WaitCode.RATE_LIMIT,
        WaitCode.NO_SLOT,
    ]
    reasons = {reason.code: reason for reason in explained(core, "b").reasons}
    assert reasons[WaitCode.DELAYED].until_ms == core.wall_ms + 9000
    assert reasons[WaitCode.RATE_LIMIT].until_ms == core.wall_ms + 2000
    assert "gowork queues resume default" in reasons[WaitCode.QUEUE_PAUSED].advice


def test_who_runs_with_the_key_is_named_except_tasks_of_other_handlers() -> None:
    core = Core()
    core.do(cmd.ConfigureQueue("default", key_concurrency_limit=8))
    connection = core.connect(slots=20, handlers=("work", "other"))
    core.submit(*[spec(f"t{number}", key="k") for number in range(6)], spec("elsewhere", key="k", queue="mail"))
    core.submit(*[spec(f"o{number}", key="k", handler="other") for number in range(2)], spec("plain"))
    core.dispatch()
    core.submit(spec("waits", key="k"), spec("others", key="k", handler="other"), spec("else", key="l"))
    (reason,) = explained(core, "waits").reasons
    assert reason.message == (
        "8 tasks of the concurrency key 'k' run and the limit of the queue 'default' for a key is 8: "
        "'t0', 't1', 't2', 't3', 't4' and 3 more"
    )
    assert explained(core, "others").reasons[0].message.endswith(" is 8: 'o0', 'o1' and 6 more")
    core.report(connection, "o0")
    core.report(connection, "o1")
    core.do(cmd.ConfigureQueue("default", key_concurrency_limit=6))
    assert explained(core, "others").reasons[0].message.endswith(" is 6: 6 of other handlers")
    core.do(cmd.ConfigureQueue("default", key_concurrency_limit=3))
    core.report(connection, "t0")
    for number in range(1, 3):
        core.report(connection, f"t{number}")
    assert explained(core, "waits").reasons[0].message.endswith(" is 3: 't3', 't4', 't5'")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [(Outcome.FAILED, "its last attempt failed;"), (Outcome.TIMED_OUT, "its last attempt ran out of time;")],
)
def test_the_words_for_a_retry_tell_how_the_last_attempt_ended_and_when_the_next_may_start(outcome, words):
    core = Core()
    connection = core.connect()
    core.submit(spec("a", retry=RetryPolicy(max_attempts=2, initial_delay_ms=4000)))
    core.dispatch()
    core.report(connection, "a", outcome)
    (reason,) = explained(core, "a").reasons
    assert reason.message == f"{words} the next one may start in 4.0 s"
    core.wall_ms += 3990
    (reason,) = explained(core, "a").reasons
    assert reason.message == f"{words} the next one may start now"


def test_a_retry_waits_for_its_delay():
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.report(connection, "a", Outcome.SNOOZED, retry_delay_ms=4000)
    assert codes(core, "a") == [WaitCode.RETRY_DELAY]
    assert "snoozed" in explained(core, "a").reasons[0].message


def test_what_has_ended_says_why():
    core = Core()
    core.submit(spec("late", expires_in_ms=1000), spec("gone"), spec("failed"), spec("done"), spec("guilty"))
    core.do(cmd.Cancel("gone"))
    core.pass_time(2)
    connection = core.connect(slots=9)
    core.dispatch()
    core.report(connection, "failed", Outcome.FAILED)
    core.report(connection, "done")
    for _ in range(4):
        core.report(connection, "guilty", Outcome.LOST, reason="killed by signal 11")
        core.do(cmd.ReceiveFrame(connection, credit=100))
        core.dispatch()
    assert codes(core, "late") == [WaitCode.EXPIRED]
    assert codes(core, "gone") == [WaitCode.CANCELLED]
    assert codes(core, "failed") == [WaitCode.FAILED]
    assert codes(core, "guilty") == [WaitCode.QUARANTINED]
    assert "signal 11" in explained(core, "guilty").reasons[0].message
    assert codes(core, "done") == []


def test_a_task_that_its_handler_has_cancelled_says_why():
    core = Core()
    core.submit(spec("a"), spec("b"))
    connection = core.connect(slots=1)
    core.dispatch()
    core.report(connection, "a", Outcome.CANCELLED, reason="nobody wants it")
    core.do(cmd.Cancel("b"))
    assert "nobody wants it" in explained(core, "a").reasons[0].message
    assert explained(core, "b").reasons[0].message == "it was cancelled"


def test_each_member_says_what_keeps_it():
    core = Core()
    core.connect("busy", slots=1)
    core.connect("other", handlers=("other",))
    core.connect("plain", handlers=("work",), labels={"gpu": "0"})
    core.do(cmd.Join("old", "10.0.0.1:1"))
    core.do(cmd.Heartbeat("old", HeartbeatStatus.IDLE))
    core.submit(spec("a", selector=(("gpu", "1"),)))
    verdicts = {verdict.worker: verdict.code for verdict in explained(core, "a").verdicts}
    assert verdicts == {
        "busy": WaitCode.SELECTOR,
        "other": WaitCode.NO_HANDLER,
        "plain": WaitCode.SELECTOR,
        "old": WaitCode.NO_HANDLER,
    }


def test_waiting_tasks_are_counted_by_what_holds_them():
    core = Core()
    core.do(cmd.PauseQueue("mail", True))
    core.submit(*(spec(f"m{n}", queue="mail") for n in range(3)), spec("d", run_in_ms=1000), spec("a"), spec("b"))
    core.connect(slots=1)
    core.dispatch()
    counts = waiting_by_reason(core.state, core.now)
    assert counts == {("mail", "queue_paused"): 3, ("default", "delayed"): 1, ("default", "no_slot"): 1}


def test_tasks_whose_payload_no_free_member_takes_are_counted_apart_from_those_behind_them():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(spec("bytes", handler="", binary=True), spec("text", handler=""))
    assert codes(core, "bytes") == [WaitCode.UNFIT]
    assert "binary payload" in explained(core, "bytes").verdicts[0].message
    assert codes(core, "text") == []
    assert waiting_by_reason(core.state, core.now) == {("default", "unfit"): 1, ("default", "next"): 1}
    core.connect(handlers=())
    assert codes(core, "bytes") == [WaitCode.UNFIT]
    core.connect("other", handlers=("echo",), default="echo")
    assert codes(core, "bytes") == []
    assert waiting_by_reason(core.state, core.now) == {("default", "next"): 2}


def test_what_a_form_does_not_fit_is_counted_apart_until_a_worker_with_another_form_has_room():
    core = Core()
    old = core.connect("old", form="1", slots=2)
    core.connect("new", form="2", slots=1, credit=0)
    core.submit(spec("a"))
    core.dispatch()
    core.report(old, "a", Outcome.INTERRUPTED, unfit=True, reason="payload: no such field")
    core.submit(spec("b"))
    assert waiting_by_reason(core.state, core.now) == {("default", "no_slot"): 1, ("default", "next"): 1}
    assert core.dispatch() == {old: ["b"]}


def test_where_no_reason_is_named_the_task_is_granted_next():
    core = Core()
    core.do(cmd.ConfigureQueue("mail", concurrency_limit=1, key_concurrency_limit=1))
    core.connect(slots=2, handlers=("work", "other"), labels={"zone": "a"})
    core.submit(
        spec("a", queue="mail"),
        spec("b", queue="mail", key="k"),
        spec("c", selector=(("zone", "a"),)),
        spec("d", handler="other"),
        spec("e", handler="nobody"),
    )
    while True:
        pending = [id for id, (_, _, standing) in core.stored.items() if standing.status is Status.PENDING]
        free = {id for id in pending if not codes(core, id)}
        granted = {id for ids in core.dispatch().values() for id in ids}
        assert granted <= free
        assert bool(free) == bool(granted)
        if not granted:
            break


def test_what_holds_the_slots_is_named():
    core = Core()
    core.connect(slots=2, handlers=("parent", "child", "work"))
    core.connect("w2", slots=1, handlers=("parent", "child"))
    core.connect("elsewhere", slots=1, handlers=("work",))
    core.submit(spec("p1", handler="parent"), spec("p2", handler="parent"), spec("c1", handler="child"))
    core.submit(spec("w", handler="work"))
    core.dispatch()
    core.submit(spec("c2", handler="child"), spec("x", handler="parent"))
    core.wall_ms += 125_000
    (child,) = explained(core, "c2").reasons
    assert child.message == (
        "no free slot on the 2 member(s) that could run it: 3 slots are held by parent x2, child x1, "
        "the oldest for 2 min"
    )
    assert "wait for this one" not in child.advice


def test_where_only_other_handlers_hold_the_slots_it_is_told_that_they_may_wait_for_each_other():
    core = Core()
    core.connect(slots=2, handlers=("parent", "child"))
    core.submit(spec("p1", handler="parent"), spec("p2", handler="parent"))
    core.dispatch()
    core.submit(spec("c", handler="child"))
    (reason,) = explained(core, "c").reasons
    assert reason.code is WaitCode.NO_SLOT
    assert reason.message.endswith(": 2 slots are held by parent x2, the oldest for 0 s")
    assert "wait for this one, nothing goes on" in reason.advice


def test_what_a_callback_worker_holds_is_named():
    core = Core()
    core.do(cmd.Join("m", "127.0.0.1:1"))
    core.do(cmd.Heartbeat("m", HeartbeatStatus.IDLE))
    core.submit(spec("a", handler=""), spec("b", handler=""))
    core.dispatch()
    (reason,) = explained(core, "b").reasons
    assert reason.message.endswith(": 1 slot is held by the default handler x1, the oldest for 0 s")
