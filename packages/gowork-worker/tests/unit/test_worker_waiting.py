"""A handler that returns WaitFor: what is reported, and what may be asked for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from gowork.base.codecs import load_codec
from gowork.base.encryption import Encryption, envelope_of
from gowork.base.key_files import write_file
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Cancel, Context, WaitFor, handler
from gowork.worker._runner import outcomes
from gowork.worker._runner.encrypting import Encrypting
from gowork.worker.testing import FailureKind, NotCompleted, Status, cancel, drain, run_handler


@handler("add-up")
def add_up(ctx: Context, number: int) -> int:
    """Runs next."""
    return number


@handler
def splits(ctx: Context, number: int) -> int:
    return WaitFor(ctx.schedule_many(range(number), handler="part"), then=add_up)


@handler
async def splits_async(ctx: Context, number: int) -> Any:
    return WaitFor([ctx.schedule(number, handler="part"), "other"], "add-up", {"n": number}, after_rule="any_failed")


def test_a_handler_may_have_its_task_go_on_after_others() -> None:
    outcome = run_handler(splits, 2)
    assert (outcome.status, str(outcome)) == (Status.WAITING, "waiting: waits for 2 tasks; then add-up")
    assert [task.id for task in outcome.follow_ups] == ["test/1", "test/2"]
    assert outcome.wait is not None
    assert (outcome.wait.after, outcome.wait.then, outcome.wait.after_rule) == (("test/1", "test/2"), "add-up", "")
    # Without a payload of its own, the next handler gets that of this one.
    assert outcome.wait.payload == ("2", b"", 0)
    with pytest.raises(NotCompleted, match="waiting"):
        outcome.result  # noqa: B018 - it raises


def test_an_async_handler_may_give_the_next_one_a_payload_and_a_rule() -> None:
    outcome = run_handler(splits_async, 5)
    assert outcome.wait is not None
    assert outcome.wait.after == ("test/1", "other")
    assert outcome.wait.payload == ('{"n":5}', b"", 0)
    assert outcome.wait.after_rule == "any_failed"


@pytest.mark.parametrize("payload", ["text", b"bytes", b"", ""])
def test_the_next_handler_gets_what_this_one_got_whatever_its_form(payload: str | bytes) -> None:
    @handler
    def passes_on(ctx: Context) -> Any:
        return WaitFor([], then="next")

    @handler
    def names_it(ctx: Context) -> Any:
        return WaitFor([], "next", payload)

    def following(function: Any) -> tasks.Task:
        return run_handler(function, payload)._report.continuation

    assert following(passes_on) == following(names_it)
    assert following(passes_on).data == (payload if isinstance(payload, bytes) else b"")


def test_follow_ups_of_a_handler_that_runs_after_a_wait_have_ids_of_their_own() -> None:
    outcome = run_handler(splits, 1, continued=2)
    assert [task.id for task in outcome.follow_ups] == ["test/then-2/1"]
    outcome = run_handler(splits, 1, is_group=True)
    assert [task.id for task in outcome.follow_ups] == ["test/then/1"]


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((["a"], ""), {}, "then: it is empty"),
        ((["a"], print), {}, "then: <built-in function print> is neither a name nor a function"),
        ((["a"], "x" * 129), {}, "then: 'xxx"),
        (("a", "x"), {}, "after: 'a' is no list of ids"),
        (([""], "x"), {}, "after: '' is not text"),
        ((map(str, range(limits.AFTER_MAX + 1)), "x"), {}, "after: at most 1000 ids"),
        ((["a"], "x"), {"after_rule": "some"}, "after_rule: 'some' is not"),
        ((["a"], "x", object()), {}, "payload: "),
        ((["a"], "x", "p" * (limits.PAYLOAD_BYTES_MAX + 1)), {}, "payload: "),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(arguments: Any, options: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        WaitFor(*arguments, **options)
    assert words in str(raised.value)


def test_a_wait_comes_whole_out_of_a_process() -> None:
    wait = pickle.loads(pickle.dumps(WaitFor(["a"], "x", {"n": 1}, after_rule="all_finished")))
    assert (wait.after, wait.then, wait.payload, wait.after_rule) == (("a",), "x", ('{"n":1}', b"", 0), "all_finished")
    assert repr(wait) == "<Wait tasks=1 then='x'>"


def test_a_handler_that_returns_a_wait_although_it_was_asked_to_stop_has_ended_by_itself() -> None:
    @handler
    async def goes_on(ctx: Context) -> Any:
        ctx.progress(0.5)
        return WaitFor([], then="next")

    assert run_handler(goes_on, faults=[cancel(at_progress=1)]).status is Status.WAITING

    @handler
    def stops(ctx: Context) -> Any:
        ctx.cancelled.wait()
        return WaitFor([], then="next")

    assert run_handler(stops, faults=[drain(after=1)]).status is Status.INTERRUPTED


def test_a_handler_that_raises_after_it_made_a_wait_does_not_wait() -> None:
    @handler
    def changes_its_mind(ctx: Context) -> Any:
        WaitFor([ctx.schedule("x", handler="part")], then="next")
        raise Cancel

    outcome = run_handler(changes_its_mind)
    assert (outcome.status, outcome.wait, outcome.follow_ups) == (Status.CANCELLED, None, ())


def test_a_wait_within_a_result_is_no_result() -> None:
    @handler
    def hides_it(ctx: Context) -> list[Any]:
        return [WaitFor([], then="next")]

    outcome = run_handler(hides_it)
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.NO_RETRY


def test_the_next_handler_has_a_payload_with_the_key_of_the_first_one(tmp_path: Path) -> None:
    write_file(tmp_path / "client", {"k1": b"k" * 32})
    write_file(tmp_path / "worker", {"k2": b"j" * 32, "k1": b"k" * 32})
    data = Encryption(load_codec("", str(tmp_path / "client"))).payload("a", "h", "text", b"", 0)
    encrypting = Encrypting("w", load_codec("", str(tmp_path / "worker")))
    context = Context(id="a", data=data)
    encrypting.open(context, tasks.Task(handler="h", data=data))
    report = session.Report(id="a", outcome=tasks.ATTEMPT_OUTCOME_WAITING)
    report.continuation.id, report.continuation.handler, report.continuation.payload = "a", "then", "text"
    encrypting.close(context, report)
    envelope = envelope_of(report.continuation.data)
    assert envelope is not None
    assert envelope.key_id == "k1"


def test_its_outcome_has_a_word() -> None:
    assert outcomes.STATUS[tasks.ATTEMPT_OUTCOME_WAITING] == "waiting"
    # Each outcome has one.
    assert set(outcomes.STATUS) == set(tasks.AttemptOutcome.values()) - {tasks.ATTEMPT_OUTCOME_UNSPECIFIED}
