"""What an attempt hands on to the next one is kept with its task until the task ends, within bounds."""

from __future__ import annotations

import msgspec
import pytest
from leader_core import Core, spec

from gowork.leader._core import checkpoints
from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import GrantTasks
from gowork.leader._core.model import Outcome, RetryPolicy, Standing, Status
from gowork.leader.store.codec import decode_standing, encode_standing

TWICE = RetryPolicy(max_attempts=2, initial_delay_ms=0)


def granted(*ids: str) -> tuple[Core, int]:
    core = Core()
    connection = core.connect(slots=9)
    core.submit(*(spec(id, retry=TWICE) for id in ids or ("a",)))
    core.dispatch()
    return core, connection


def tell(core: Core, connection: int, state: bytes, id: str = "a", fence: int | None = None) -> None:
    fence = core.standing(id).fence if fence is None else fence
    core.do(cmd.ReceiveFrame(connection, checkpoints=[cmd.Checkpoint(fence, id, state)]))


def handed_on(core: Core) -> list[bytes]:
    """What the grants of the next round carry."""
    decision = core.do(cmd.Dispatch())
    return [
        grant.checkpoint for effect in decision.effects if isinstance(effect, GrantTasks) for grant in effect.grants
    ]


def test_the_next_attempt_gets_the_last_checkpoint():
    core, connection = granted()
    tell(core, connection, b"one")
    tell(core, connection, b"two")
    assert core.stored["a"][2].checkpoint == b"two"
    core.report(connection, "a", Outcome.FAILED)
    assert handed_on(core) == [b"two"]
    core.report(connection, "a", Outcome.FAILED)
    assert (core.status("a"), core.standing("a").checkpoint) == (Status.ERROR, b"")


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST, Outcome.INTERRUPTED, Outcome.SNOOZED])
def test_a_report_may_have_the_last_checkpoint(outcome: Outcome):
    core, connection = granted()
    tell(core, connection, b"one")
    core.report(connection, "a", outcome, checkpoint=b"two")
    assert handed_on(core) == [b"two"]


def test_a_checkpoint_outlives_the_leader_and_the_worker():
    core, connection = granted()
    tell(core, connection, b"one")
    core.restart()
    core.pass_time(11)
    core.connect(instance="w1-2")
    assert handed_on(core) == [b"one"]


def test_only_the_holder_of_a_task_hands_something_on():
    core, connection = granted()
    other = core.connect("w2")
    tell(core, other, b"of another worker")
    tell(core, connection, b"of another grant", fence=core.standing("a").fence - 1)
    tell(core, connection, b"unknown", id="b", fence=7)
    assert core.standing("a").checkpoint == b""
    core.report(connection, "a", Outcome.COMPLETED)
    tell(core, connection, b"late")
    assert core.standing("a").checkpoint == b""


def test_a_checkpoint_that_comes_with_its_report_does_not_undo_it():
    core, connection = granted()
    fence = core.standing("a").fence
    checkpoint = cmd.Checkpoint(fence, "a", b"one")
    for columns in (True, False):
        core, connection = granted()
        report = cmd.Report(fence, "a", Outcome.COMPLETED)
        completions = [cmd.Completions(["a"], [fence], [0], [""], [b""], [""])] if columns else []
        reports = [] if columns else [report]
        core.do(cmd.ReceiveFrame(connection, reports, completions=completions, checkpoints=[checkpoint]))
        assert core.status("a") is Status.COMPLETED


def test_nothing_is_kept_of_a_task_that_has_ended():
    core, connection = granted("a", "b", "c")
    for id in "abc":
        tell(core, connection, b"one", id)
    core.report(connection, "a", Outcome.COMPLETED)
    core.report(connection, "b", Outcome.INTERRUPTED)
    core.do(cmd.Cancel("b"))
    core.do(cmd.Cancel("c"))
    core.do(cmd.ReceiveFrame(connection, leaving=True))
    assert [core.standing(id).checkpoint for id in "abc"] == [b""] * 3
    assert [core.status(id) for id in "bc"] == [Status.CANCELLED] * 2


def test_all_that_running_tasks_hand_on_is_bounded_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS_BYTES_MAX", 10)
    core, connection = granted("a", "b", "c")
    tell(core, connection, b"123456", "a")
    tell(core, connection, b"123456", "b")
    assert core.standing("b").checkpoint == b""
    tell(core, connection, b"1234567890", "a")
    assert core.standing("a").checkpoint == b"1234567890", "it replaces the earlier one"
    core.report(connection, "a")
    # It is found out that the task has ended when there is no room, and not more than once a second.
    tell(core, connection, b"1", "b")
    assert core.standing("b").checkpoint == b""
    core.pass_time(1)
    tell(core, connection, b"1", "b")
    tell(core, connection, b"123456", "b")
    assert core.standing("b").checkpoint == b"123456"
    frame = [cmd.Checkpoint(core.standing(id).fence, id, b"12345") for id in "bc"]
    core.do(cmd.ReceiveFrame(connection, checkpoints=frame))
    assert [core.standing(id).checkpoint for id in "bc"] == [b"12345", b"12345"]
    core.restart()
    assert core.state.checkpoints.bytes == 10, "the next leader counts them too"


def test_the_number_of_checkpoints_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS_MAX", 1)
    core, connection = granted("a", "b")
    for id in "aba":
        tell(core, connection, id.encode(), id)
    assert [core.standing(id).checkpoint for id in "ab"] == [b"a", b""]


def test_records_from_before_checkpoints_are_read_as_without():
    whole = Standing(Status.RUNNING, 1, fence=3)
    fields = msgspec.msgpack.decode(encode_standing(whole))
    assert decode_standing(msgspec.msgpack.encode(fields[:-1])) == whole
