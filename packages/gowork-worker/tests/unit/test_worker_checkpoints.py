"""What a handler hands on to the next attempt of its task: how it is written, sent, and read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gowork.base.codecs import load_codec
from gowork.base.encryption import Encryption
from gowork.base.key_files import write_file
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Context, Retry, handler
from gowork.worker._core import checkpoints
from gowork.worker._core.context import Place
from gowork.worker._runner import outbox
from gowork.worker._runner.encrypting import Encrypting
from gowork.worker._runner.outbox import Outbox
from gowork.worker.testing import FakeContext, Status, run_handler

MakeRig = Callable[..., Any]


@handler(max_attempts=3)
def counts(ctx: Context) -> int:
    """Counts its attempts, by what they hand on."""
    done = (ctx.last_checkpoint or {"done": 0})["done"] + 1
    ctx.checkpoint({"done": done})
    if done < 3:
        raise Retry(delay=0)
    return done


def test_an_attempt_goes_on_where_the_one_before_stopped() -> None:
    first = run_handler(counts)
    assert (first.status, first.checkpoint) == (Status.FAILED, {"done": 1})
    second = run_handler(counts, attempt=2, checkpoint=first.checkpoint)
    assert run_handler(counts, attempt=3, checkpoint=second.checkpoint).result == 3


@pytest.mark.parametrize("state", [b"raw", b"", "text", "", None, 0, [1, {"a": None}]])
def test_a_state_is_read_as_it_was_written(state: object) -> None:
    ctx = FakeContext(checkpoint=state)
    ctx.checkpoint(state)
    assert ctx.last_checkpoint == state
    assert FakeContext().last_checkpoint is None


def test_each_look_reads_the_state_anew() -> None:
    ctx = FakeContext(checkpoint=[1])
    ctx.last_checkpoint.append(2)
    assert ctx.last_checkpoint == [1]


def test_a_state_beyond_its_bounds_is_refused_and_the_earlier_one_stays() -> None:
    ctx = FakeContext(checkpoint="earlier")
    ctx.checkpoint(b"x" * (limits.CHECKPOINT_BYTES_MAX - 1))
    with pytest.raises(ValueError, match="state: it takes 65,537 bytes and the limit is 65,536"):
        ctx.checkpoint(b"x" * limits.CHECKPOINT_BYTES_MAX)
    assert len(ctx.last_checkpoint) == limits.CHECKPOINT_BYTES_MAX - 1
    with pytest.raises(ValueError, match="state: "):
        ctx.checkpoint(object())


@pytest.mark.parametrize(("found", "words"), [(b"?x", "not made by"), (b"ex", "is encrypted")])
def test_what_cannot_be_read_is_no_state(found: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checkpoints.read(found, None)


def test_the_state_of_an_encrypted_task_is_encrypted_with_its_key(tmp_path: Path) -> None:
    write_file(tmp_path / "keys", {"k1": b"k" * 32})
    codec = load_codec("", str(tmp_path / "keys"))
    payload = Encryption(codec).payload("a", "h", "text", b"", 0)
    sent: list[bytes] = []

    def opened(id: str = "a") -> Context:
        place = Place("w")
        place.keep_checkpoint = lambda fence, id, state: sent.append(state)
        ctx = Context(place, id=id, data=payload)
        Encrypting("w", codec).open(ctx, tasks.Task(handler="h", data=payload))
        return ctx

    opened().checkpoint("a secret")
    assert b"secret" not in sent[0]
    after = opened()
    after._checkpoint = sent[0]
    assert after.last_checkpoint == "a secret"
    plain = Context(id="a")
    plain._checkpoint = sent[0]
    with pytest.raises(ValueError, match="is encrypted"):
        _ = plain.last_checkpoint


async def test_a_report_of_an_attempt_that_another_may_follow_has_its_last_checkpoint(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that is sent before its attempt ends is not in the report.
    monkeypatch.setattr(outbox, "_CHECKPOINT_INTERVAL", 1e9)

    @handler
    def fails(ctx: Context) -> None:
        ctx.checkpoint("one")
        ctx.checkpoint("two")
        raise ValueError

    @handler
    def completes(ctx: Context) -> int:
        ctx.checkpoint("one")
        return 1

    rig = make_rig(fails, completes)
    rig.feed((1, "fails"), (2, "completes"))
    assert (await rig.report(1)).checkpoint == checkpoints.written("two", None)
    assert (await rig.report(2)).checkpoint == b""


async def test_the_grant_says_what_the_attempt_before_has_handed_on(make_rig: MakeRig) -> None:
    @handler
    def tells(ctx: Context) -> Any:
        return ctx.last_checkpoint

    rig = make_rig(tells)
    task = tasks.Task(id="t", handler="tells").SerializeToString()
    handed_on = checkpoints.written("one", None)
    rig.executor.feed([session.Grant(fence=1, id="t", attempt=2, task=task, checkpoint=handed_on)])
    rig.executor.feed([session.Grant(fence=2, id="t", attempt=1, task=task)])
    assert [(await rig.report(fence)).result for fence in (1, 2)] == ['"one"', "null"]


async def test_the_latest_of_each_task_is_sent_in_frames_of_bounded_size(eventually: Any) -> None:
    frames: list[list[session.ProgressReport]] = []
    outbox = Outbox(lambda reports, size, words: frames.append(words), lambda executed: None)
    for fence in range(1, 34):
        outbox.checkpoint(fence, f"task-{fence}", b"j0")
        outbox.checkpoint(fence, f"task-{fence}", b"b" * limits.CHECKPOINT_BYTES_MAX)
    await eventually(lambda: sum(map(len, frames)) == 33)
    assert [len(words) for words in frames] == [16, 16, 1]
    assert all(word.is_checkpoint_alone and len(word.checkpoint) > 2 for words in frames for word in words)
    await eventually(lambda: len(frames) == 3)
