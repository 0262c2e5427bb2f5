"""What the scripted leader does to a worker, scene by scene, and what it looks for.

Each scene begins with a new session, so reconnects of the worker are tried many times. Nothing here sleeps: a scene
waits for what the worker must do, and the rule fails when the worker does not do it in time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import grpc

from gowork.leader._check.scripted import Stream
from gowork.leader._check.stage import HEARTBEAT_MS, LEASE_MS, TERM, SceneOver, Stage
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as pb

#: Field 1000 with a text, and field 1001 with a number: none of the contract's messages has them.
UNKNOWN_FIELDS = b"\xc2\x3e\x03new" + b"\xc8\x3e\x05"
#: How many tasks the scene that counts credit grants, one after the other: more than a worker's first credit.
CREDIT_TASKS = 200
#: How many grants one frame has at most.
BATCH_MAX = 100
#: How long a worker must wait, at least, before it sends again a Hello that was refused, in seconds.
PAUSE_SECONDS = 0.05
#: How many bytes the large payload has. A worker may put a little around it in its result.
LARGE_BYTES = limits.PAYLOAD_BYTES_MAX - (4 << 10)
#: How long tasks run that must be over soon, and tasks that must not end by themselves, in milliseconds.
SHORT_MS = 700
LONG_MS = 600_000


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene and the rules that it tries."""

    play: Callable[[Stage], Awaitable[None]]
    rules: tuple[str, ...]
    #: Whether it needs the handler for tasks that take long.
    sleeps: bool = False


async def refusal(stage: Stage) -> None:
    """Refuses the worker's name twice, and then takes it."""
    clock = asyncio.get_running_loop().time
    stream = await stage.arrival()
    for _ in range(2):
        refused_at = clock()
        stream.end(grpc.StatusCode.ALREADY_EXISTS, f"a live worker has the name {stream.hello.name!r}")
        process = stage.process
        try:
            stream = await stage.next_stream()
        except SceneOver:
            if process is None or process.returncode is None:
                raise
            # The worker has ended, which it may do too.
            stage.findings.passed("refusal")
            return
        pause = clock() - refused_at
        if pause < PAUSE_SECONDS:
            stage.findings.failed("refusal", f"it tried again after {1000 * pause:.0f} ms; wait 50 ms at least")
    stage.welcome(stream)
    stage.findings.passed("refusal")


async def work(stage: Stage) -> None:
    """Sends grants, one at a time and many in a frame."""
    stream = await stage.session()
    await stage.need_room(stream, "credit-given")
    stage.findings.passed("credit-given")
    first_credit = stream.credit[-1]
    await _completes(stage, stream, "report", "do some work")
    # Grants more tasks than the first credit allowed.
    while stream.granted <= first_credit:
        await stage.need_room(stream, "credit-renewed")
        grants = [stage.echo(f"payload {number}") for number in range(min(stream.room, BATCH_MAX))]
        stream.send(pb.ConnectResponse(grants=grants))
        if not await stream.until(lambda grants=grants: _all_reported(stream, grants), stage.script.patience):  # type: ignore[misc]
            missing = [grant.fence for grant in grants if stream.report_of(grant.fence) is None]
            stage.findings.failed("batch", f"{len(missing)} of {len(grants)} grants of one frame were not reported")
            return
    stage.findings.passed("batch")
    await stage.need_room(stream, "credit-renewed")
    stage.findings.passed("credit-renewed")
    _reported_once(stage, stream)


async def life(stage: Stage) -> None:
    """Waits for heartbeats, and sends pings."""
    stream = await stage.session()
    if await stream.until(lambda: stream.heartbeats >= 3, 3 * HEARTBEAT_MS / 1000 + stage.script.patience):
        stage.findings.passed("heartbeat")
    else:
        stage.findings.failed("heartbeat", f"{stream.heartbeats} empty frames came where 3 were due")
    stream.send(pb.ConnectResponse(pings=[41, 42]))
    if await stream.until(lambda: {41, 42} <= set(stream.pongs), stage.script.patience):
        stage.findings.passed("ping")
    else:
        stage.findings.failed("ping", f"pings 41 and 42 were answered by {stream.pongs or 'nothing'}")


async def unknown(stage: Stage) -> None:
    """Plays a leader that is newer than the worker."""
    stream = await stage.session()
    frame = pb.ConnectResponse()
    grant = stage.echo("from a newer leader")
    grant.MergeFromString(UNKNOWN_FIELDS)
    grant.task += UNKNOWN_FIELDS
    await stage.need_room(stream)
    frame.grants.append(grant)
    frame.MergeFromString(UNKNOWN_FIELDS)
    stream.send(frame)
    await _comes_back(stage, stream, "unknown-fields", grant, "from a newer leader")


async def large(stage: Stage) -> None:
    """Sends a payload of almost the largest size."""
    stream = await stage.session()
    await _completes(stage, stream, "large-payload", "x" * LARGE_BYTES)


async def refused_report(stage: Stage) -> None:
    """Refuses a report, and then grants another task."""
    stream = await stage.session()
    stream.acknowledging = False
    await stage.need_room(stream)
    grant = stage.echo("too late")
    stream.send(pb.ConnectResponse(grants=[grant]))
    if not await stream.until(lambda: stream.report_of(grant.fence) is not None, stage.script.patience):
        stage.findings.failed("report", f"the grant {grant.fence} was not reported")
        return
    stream.acknowledge([grant.fence], refused=True)
    stream.acknowledging = True
    await _completes(stage, stream, "refused", "in time")
    again = await stage.session()
    if grant.fence in [held.fence for held in again.hello.held]:
        stage.findings.failed("refused", f"the report of fence {grant.fence} was refused, and is still listed as held")


async def broken(stage: Stage) -> None:
    """Breaks the stream before a report is acknowledged."""
    first = await stage.session()
    first.acknowledging = False
    await stage.need_room(first)
    acknowledged, unheard = stage.echo("acknowledged"), stage.echo("unheard")
    first.send(pb.ConnectResponse(grants=[acknowledged]))
    if not await first.until(lambda: first.report_of(acknowledged.fence) is not None, stage.script.patience):
        raise SceneOver(f"the grant {acknowledged.fence} was not reported")
    first.acknowledge([acknowledged.fence])
    await stage.need_room(first)
    first.send(pb.ConnectResponse(grants=[unheard]))
    if not await first.until(lambda: first.report_of(unheard.fence) is not None, stage.script.patience):
        raise SceneOver(f"the grant {unheard.fence} was not reported")
    # The worker has read the acknowledgement, because it came before the end of the stream.
    second = await stage.arrival()
    _came_back(stage, first, second)
    held = {held.fence: held.state for held in second.hello.held}
    if held.get(unheard.fence) == pb.HELD_STATE_FINISHED:
        stage.findings.passed("held-finished")
    else:
        seen = _state(held.get(unheard.fence))
        stage.findings.failed("held-finished", f"the report of fence {unheard.fence} is listed as {seen}")
    stage.welcome(second)
    if await second.until(lambda: second.report_of(unheard.fence) is not None, stage.script.patience):
        again, before = second.report_of(unheard.fence), first.report_of(unheard.fence)
        if again == before:
            stage.findings.passed("resend")
        else:
            stage.findings.failed("resend", f"the report of fence {unheard.fence} changed on the way")
    else:
        stage.findings.failed("resend", f"the report of fence {unheard.fence} did not come again")
    # When this task is reported, all that the worker sends after a Welcome has come.
    await _completes(stage, second, "resend", "and on")
    if acknowledged.fence in held or second.report_of(acknowledged.fence) is not None:
        stage.findings.failed("forget", f"fence {acknowledged.fence} was acknowledged, and came again")
    else:
        stage.findings.passed("forget")


async def credit(stage: Stage) -> None:
    """Grants many tasks in one session, and looks at the credit of the next."""
    first = await stage.session()
    for number in range(CREDIT_TASKS):
        await _completes(stage, first, "report", f"task {number}")
    second = await stage.session()
    await stage.need_room(second)
    count = second.credit[0]
    if count < CREDIT_TASKS:
        stage.findings.passed("credit-restarts")
    else:
        seen = f"after {CREDIT_TASKS} tasks in the session before, the first credit of the next one is {count}"
        stage.findings.failed("credit-restarts", seen)


async def running(stage: Stage) -> None:
    """Breaks the stream while a task runs."""
    first = await stage.session()
    await stage.need_room(first)
    grant = stage.sleep(SHORT_MS)
    first.send(pb.ConnectResponse(grants=[grant]))
    # The worker answers in order: when the pong comes, it has taken in the grant.
    await _ponged(stage, first)
    second = await stage.arrival()
    _came_back(stage, first, second)
    if first.report_of(grant.fence) is not None:
        raise SceneOver(f"the task of fence {grant.fence} should have run for {SHORT_MS} ms, and had ended before")
    states = {held.fence: held.state for held in second.hello.held}
    # Any state will do: it may have ended meanwhile, or not have started yet on a busy machine.
    if grant.fence in states:
        stage.findings.passed("held-running")
    else:
        stage.findings.failed("held-running", f"fence {grant.fence} is not listed")
    stage.welcome(second)
    if not await second.until(lambda: second.report_of(grant.fence) is not None, stage.script.patience):
        stage.findings.failed("held-running", f"fence {grant.fence} ran on, and was not reported")
    elif second.report_of(grant.fence).outcome != tasks.ATTEMPT_OUTCOME_COMPLETED:  # type: ignore[union-attr]
        stage.findings.failed("held-running", f"fence {grant.fence} did not run on: {_told(second, grant)}")
    _reported_once(stage, second)


async def cancels(stage: Stage) -> None:
    """Cancels long tasks, before and after they start."""
    stream = await stage.session()
    await stage.need_room(stream)
    early = stage.sleep(LONG_MS)
    stream.send(pb.ConnectResponse(grants=[early], cancelled=[early.fence]))
    await _stops(stage, stream, "cancel-with-grant", early)
    await stage.need_room(stream)
    late = stage.sleep(LONG_MS)
    stream.send(pb.ConnectResponse(grants=[late]))
    await _ponged(stage, stream)
    stream.send(pb.ConnectResponse(cancelled=[late.fence]))
    await _stops(stage, stream, "cancel-running", late)


async def release(stage: Stage) -> None:
    """Releases a running task, as if another worker had it now."""
    stream = await stage.session()
    await stage.need_room(stream)
    grants = [stage.sleep(LONG_MS)]
    stream.send(pb.ConnectResponse(grants=grants))
    await _ponged(stage, stream)
    stream.send(pb.ConnectResponse(released=[grants[0].fence]))
    await _ponged(stage, stream)
    await _completes(stage, stream, "release", "after a release")
    # In a new session the worker lists what it still holds.
    again = await stage.session()
    await _completes(stage, again, "release", "in the next session")
    listed = [held.fence for held in again.hello.held]
    for seen in (stream, again):
        if seen.report_of(grants[0].fence) is not None:
            stage.findings.failed("release", f"fence {grants[0].fence} was released, and reported")
    if grants[0].fence in listed:
        stage.findings.failed("release", f"fence {grants[0].fence} was released, and is still listed as held")


async def term(stage: Stage) -> None:
    """Plays an old leader that does not know that it was replaced."""
    await stage.need_room(await stage.session())
    old = await stage.arrival()
    stage.welcome(old, term=TERM - 1)
    if await old.until(lambda: old.over, stage.script.patience):
        stage.findings.passed("term")
    else:
        stage.findings.failed("term", f"it stays with the term {TERM - 1} after it has seen {TERM}")


async def silence(stage: Stage) -> None:
    """Plays a leader that hears the worker and does not answer."""
    stream = await stage.session()
    await stage.need_room(stream)
    await stream.until(lambda: stream.heartbeats >= 1, stage.script.patience)
    stream.answering = False
    waiting = LEASE_MS / 1000 + stage.script.patience
    next_one = await stage.leader.stream(waiting)
    if next_one is None:
        stage.findings.failed("silence", f"it stayed on a silent stream for {waiting:g} s; the lease is {LEASE_MS} ms")
        return
    stage.findings.passed("silence")
    if await stream.until(lambda: stream.over, stage.script.patience):
        stage.findings.passed("one-stream")
    else:
        stage.findings.failed("one-stream", "it connected again, and kept the old stream open")
    stage.welcome(next_one)


async def drain(stage: Stage) -> None:
    """Takes the worker out of service. It is the last scene, because the worker does not come back from it."""
    stream = await stage.session()
    await stage.need_room(stream)
    slow = stage.sleep(SHORT_MS) if stage.sleeps else None
    if slow is not None:
        stream.send(pb.ConnectResponse(grants=[slow]))
        await _ponged(stage, stream)
    late = stage.echo("while it drains")
    stream.send(pb.ConnectResponse(drains=[pb.Drain(budget_ms=10_000)]))
    if not await stream.until(lambda: stream.draining, stage.script.patience):
        stage.findings.failed("drain-announced", "no condition with draining came")
        return
    if slow is not None and stream.leaving:
        stage.findings.failed("drain-announced", "it said that it drains only when it left")
    count = stream.credit[-1]
    # As if this grant had been on its way when the worker said that it drains.
    stream.send(pb.ConnectResponse(grants=[late]))
    await stream.until(lambda: stream.report_of(late.fence) is not None, stage.script.patience)
    handed_back = stream.report_of(late.fence)
    if handed_back is not None and handed_back.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED:
        stage.findings.passed("drain-hands-back")
    else:
        stage.findings.failed("drain-hands-back", f"a grant while it drains: {_told(stream, late)}")
    if slow is not None:
        await stream.until(lambda: stream.report_of(slow.fence) is not None, stage.script.patience)
        finished = stream.report_of(slow.fence)
        if finished is not None and finished.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED:
            stage.findings.passed("drain-finishes")
        else:
            stage.findings.failed("drain-finishes", f"a running task: {_told(stream, slow)}")
    left = await stream.until(lambda: stream.leaving, stage.script.patience)
    if stream.credit[-1] > count:
        stage.findings.failed(
            "drain-announced", f"its credit grew from {count} to {stream.credit[-1]} while it drained"
        )
    else:
        stage.findings.passed("drain-announced")
    if not left:
        stage.findings.failed("leave", "no condition with leaving came")
        return
    stream.end()
    await stream.until(lambda: stream.over, stage.script.patience)
    await _stays_away(stage)


_FIRST = ("hello-first", "hello-valid", "credit-given", "report", "batch", "credit-renewed", "frames-valid")
#: All scenes, in the order in which they are played. Each also checks Hello, and that all frames are valid.
SCENES: Mapping[str, Scene] = {
    "work": Scene(work, _FIRST),
    "life": Scene(life, ("heartbeat", "ping")),
    "unknown": Scene(unknown, ("unknown-fields",)),
    "large": Scene(large, ("large-payload",)),
    "refused": Scene(refused_report, ("refused",)),
    "broken": Scene(broken, ("reconnect", "held-finished", "resend", "forget")),
    "credit": Scene(credit, ("credit-restarts",)),
    "running": Scene(running, ("held-running",), sleeps=True),
    "cancels": Scene(cancels, ("cancel-with-grant", "cancel-running"), sleeps=True),
    "release": Scene(release, ("release",), sleeps=True),
    "term": Scene(term, ("term",)),
    "silence": Scene(silence, ("silence", "one-stream")),
    "refusal": Scene(refusal, ("refusal",)),
    "drain": Scene(drain, ("drain-announced", "drain-finishes", "drain-hands-back", "leave")),
}


async def _completes(stage: Stage, stream: Stream, rule: str, payload: str) -> None:
    """Grants a task, and checks that its payload comes back as its result.

    Raises:
        SceneOver: the worker has no credit for it, or does not report it.
    """
    await stage.need_room(stream)
    grant = stage.echo(payload)
    stream.send(pb.ConnectResponse(grants=[grant]))
    await _comes_back(stage, stream, rule, grant, payload)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


async def _comes_back(stage: Stage, stream: Stream, rule: str, grant: pb.Grant, payload: str) -> None:
    if not await stream.until(lambda: stream.report_of(grant.fence) is not None, stage.script.patience):
        why = "the stream ended before" if stream.over else f"none came within {stage.script.patience:g} s"
        stage.findings.failed(rule, f"a report of fence {grant.fence} with the result of {grant.id!r} was due; {why}")
        raise SceneOver(f"{grant.id!r} was not reported")
    report = stream.report_of(grant.fence)
    assert report is not None
    result = report.result or report.result_data.decode(errors="replace")
    if report.id != grant.id:
        stage.findings.failed(rule, f"the report of fence {grant.fence} has the id {report.id!r}, not {grant.id!r}")
    elif report.outcome != tasks.ATTEMPT_OUTCOME_COMPLETED:
        stage.findings.failed(rule, f"the task {grant.id!r} should have completed: {_told(stream, grant)}")
    elif payload not in result and result != payload:
        stage.findings.failed(rule, f"the result of {grant.id!r} is {result[:60]!r}, not its payload {payload[:60]!r}")
    elif report.result and not _is_json(report.result):
        words = "is no JSON, which clients read it as: write a text as a JSON string"
        stage.findings.failed(rule, f"the result of {grant.id!r}, {result[:60]!r}, {words}")
    else:
        stage.findings.passed(rule)


async def _stops(stage: Stage, stream: Stream, rule: str, grant: pb.Grant) -> None:
    await stream.until(lambda: stream.report_of(grant.fence) is not None, stage.script.patience)
    report = stream.report_of(grant.fence)
    if report is not None and report.outcome == tasks.ATTEMPT_OUTCOME_CANCELLED:
        stage.findings.passed(rule)
    else:
        stage.findings.failed(rule, f"a task that was cancelled: {_told(stream, grant)}")
        # Released, so that the task takes up no slot in later scenes.
        stream.send(pb.ConnectResponse(released=[grant.fence]))


async def _ponged(stage: Stage, stream: Stream) -> None:
    """Waits until the worker has taken in everything that was sent before.

    Raises:
        SceneOver: the worker does not answer the ping.
    """
    number = 1_000 + len(stream.pongs) + stream.granted
    stream.send(pb.ConnectResponse(pings=[number]))
    if not await stream.until(lambda: number in stream.pongs, stage.script.patience):
        stage.findings.failed("ping", f"ping {number} was not answered")
        raise SceneOver("a ping was not answered")


async def _stays_away(stage: Stage) -> None:
    """Checks that a worker that has left does not come back for two heartbeats."""
    quiet = 2 * HEARTBEAT_MS / 1000
    again = await stage.leader.stream(quiet)
    if again is None:
        stage.findings.passed("leave")
    else:
        stage.findings.failed("leave", "it had left, and came back")


def _came_back(stage: Stage, before: Stream, after: Stream) -> None:
    for what in ("name", "instance"):
        was, now = getattr(before.hello, what), getattr(after.hello, what)
        if was != now:
            stage.findings.failed(
                "reconnect", f"its {what} was {was!r} and is {now!r}, although the process is the same"
            )
            return
    stage.findings.passed("reconnect")


def _reported_once(stage: Stage, stream: Stream) -> None:
    seen: set[int] = set()
    for report in stream.reports:
        if report.fence in seen:
            stage.findings.failed("report", f"fence {report.fence} was reported twice in one session")
        seen.add(report.fence)


def _all_reported(stream: Stream, grants: list[pb.Grant]) -> bool:
    seen = {report.fence for report in stream.reports}
    return all(grant.fence in seen for grant in grants)


def _state(state: int | None) -> str:
    names = {int(number): name.removeprefix("HELD_STATE_") for name, number in pb.HeldState.items()}
    return "not held" if state is None else names.get(state, str(state))


def _told(stream: Stream, grant: pb.Grant) -> str:
    """Says in words how the worker reported a grant."""
    report = stream.report_of(grant.fence)
    if report is None:
        return "no report of it came"
    names = {number: name.removeprefix("ATTEMPT_OUTCOME_") for name, number in tasks.AttemptOutcome.items()}
    outcome = names.get(report.outcome, f"the unknown outcome {report.outcome}")
    why = report.failure.message or report.reason
    return f"it was reported as {outcome}{f' ({why[:200]})' if why else ''}"
