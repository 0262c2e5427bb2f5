"""Explains why a task waits: every reason that holds it now, with the numbers and what to do. It changes nothing.

It applies the same rules as `dispatch` to the same state. A test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from gowork.leader._core.dependents import Children
from gowork.leader._core.forms import fits, open_forms
from gowork.leader._core.holders import holders_of, holders_of_key
from gowork.leader._core.lanes import Lane
from gowork.leader._core.model import (
    BLOCKED,
    FailureKind,
    HandlerPolicy,
    HeartbeatStatus,
    LaneKey,
    Liveness,
    Now,
    Outcome,
    Standing,
    Status,
    Task,
    WaitCode,
)
from gowork.leader._core.queues import Queue
from gowork.leader._core.ranges import labels_of, range_of
from gowork.leader._core.reserved import told
from gowork.leader._core.state import Callback, State, Worker

#: How many members an explanation names, and how many tasks ahead of a task it counts.
VERDICTS_MAX = 1_000
AHEAD_MAX = 100_000
#: How many versions of a plugin an explanation names.
VERSIONS_NAMED_MAX = 5
#: How many of the tasks that a task comes after it names.
UPSTREAM_NAMED_MAX = 5

_FAILED = {FailureKind.EXPIRED: WaitCode.EXPIRED, FailureKind.QUARANTINED: WaitCode.QUARANTINED}
#: {outcome: words for it}; for other outcomes the words are "was" and the outcome's name.
_ENDED = {Outcome.FAILED: "failed", Outcome.TIMED_OUT: "ran out of time"}
_Selector = tuple[tuple[str, str], ...]


class Reason(Struct, frozen=True, gc=False):
    """One thing that keeps a task back, or has ended it."""

    code: WaitCode
    #: The reason in words, with the numbers.
    message: str
    #: What to do; empty when only time helps.
    advice: str = ""
    #: When the reason goes away by itself, in wall-clock milliseconds; 0: not known.
    until_ms: int = 0


class Verdict(Struct, frozen=True, gc=False):
    """Whether one member could run a task now, and if not, why."""

    worker: str
    #: None: it could run the task now.
    code: WaitCode | None
    message: str


class Explanation(Struct, frozen=True):
    """Everything about why a task waits."""

    reasons: tuple[Reason, ...]
    verdicts: tuple[Verdict, ...] = ()
    #: How many tasks for the same workers go before it, at least.
    ahead: int = 0


def explain(state: State, task: Task, now: Now, *, verbose: bool = False) -> Explanation:
    """Explains why this task has not started, or why it has ended.

    Args:
        state: the state.
        task: any task; one that rests in the store need not be in the state.
        now: the time.
        verbose: whether to give each member's verdict too.
    """
    standing = task.standing
    if standing.status is not Status.PENDING:
        return Explanation(_ended(standing))
    key = task.spec.lane
    reasons = []
    if task.place is BLOCKED:
        reasons.append(_upstream(state, task))
    elif standing.not_before_ms:
        reasons.append(_delay(task, now))
    queue = state.queues.get(key.queue)
    if queue is not None:
        reasons += [_held_by_key(state, queue, key, reason) for reason in _limits(queue, key, now)]
    verdicts = _verdicts(state, key, standing.unfit, binary=task.spec.binary)
    members = _members_reason(key, [verdict.code for verdict in verdicts])
    if members is not None:
        if members.code is WaitCode.NO_SLOT:
            members = _held_up(state, key, members, now)
        elif members.code is WaitCode.PLUGIN_VERSION:
            members = _out_of_range(state, key, members)
        reasons.append(members)
    told = tuple(verdicts[:VERDICTS_MAX]) if verbose else ()
    return Explanation(tuple(reasons), told, 0 if queue is None else _ahead(queue, task))


def waiting_by_reason(state: State, now: Now) -> dict[tuple[str, str], int]:
    """Counts the waiting tasks of each queue by the first reason that holds them: {(queue, reason): tasks}.

    The reason is the name of a WaitCode in lower case, or `next` for tasks that are about to be granted.
    """
    counts: dict[tuple[str, str], int] = {}
    members = _MembersReasons(state)
    for queue in state.queues:
        paused = queue.settings.paused
        for lane in queue.lanes.values():
            first = next(iter(_limits(queue, lane.key, now)), None) if paused or _is_limited(queue) else None
            held = members.of_lane(lane) if first is None else {first.code.name.lower(): len(lane)}
            for reason, tasks in held.items():
                if tasks:
                    counts[queue.name, reason] = counts.get((queue.name, reason), 0) + tasks
        if queue.delayed:
            counts[queue.name, "delayed"] = queue.delayed
    return counts


class _MembersReasons:
    """The reasons why members can't run tasks, found once for all tasks with the same needs."""

    __slots__ = ("_known", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        #: {(handler, selector, queue, forms that do not fit, whether the payload is binary): reason}
        self._known: dict[tuple[str, _Selector, str, tuple[str, ...], bool], str] = {}

    def of_lane(self, lane: Lane) -> dict[str, int]:
        """Counts the tasks of a lane by reason: {reason: tasks}.

        A task that members refuse because of its payload stays at the head of its lane while others pass it. So no task
        behind the first ordinary one needs to be looked at.
        """
        usual = self._of(lane.key)
        counts: dict[str, int] = {}
        rest = len(lane)
        for task in lane:
            if not (task.standing.unfit or task.spec.binary):
                break
            reason = self._of(lane.key, task.standing.unfit, task.spec.binary)
            if reason == usual:
                break
            counts[reason] = counts.get(reason, 0) + 1
            rest -= 1
        counts[usual] = counts.get(usual, 0) + rest
        return counts

    def _of(self, key: LaneKey, unfit: tuple[str, ...] = (), binary: bool = False) -> str:
        need = (key.handler, key.selector, self._state.reserved.need_of(key.queue), unfit, binary)
        if need not in self._known:
            codes = [verdict.code for verdict in _verdicts(self._state, key, unfit, binary=binary)]
            reason = _members_reason(key, codes)
            self._known[need] = "next" if reason is None else reason.code.name.lower()
        return self._known[need]


def _is_limited(queue: Queue) -> bool:
    settings = queue.settings
    return bool(settings.concurrency_limit or settings.key_concurrency_limit or settings.rate_limit)


def _ended(standing: Standing) -> tuple[Reason, ...]:
    failure = standing.failure
    if standing.status is Status.CANCELLED and failure is not None and failure.kind is FailureKind.UPSTREAM:
        advice = "when that one is retried, this one waits again; `gowork retry` runs it nevertheless"
        return (Reason(WaitCode.UPSTREAM_FAILED, failure.message, advice),)
    if standing.status is Status.CANCELLED:
        return (Reason(WaitCode.CANCELLED, _cancelled(standing), "`gowork retry` runs it nevertheless"),)
    if standing.status is not Status.ERROR or failure is None:
        return ()
    code = _FAILED.get(failure.kind, WaitCode.FAILED)
    advice = "" if code is WaitCode.EXPIRED else "when the cause is removed, `gowork retry` runs it again"
    if failure.kind is FailureKind.LOST:
        advice = "look whether it has done its work; if not, `gowork retry` runs it again"
    return (Reason(code, failure.message, advice),)


def _cancelled(standing: Standing) -> str:
    last = standing.attempts[-1] if standing.attempts else None
    if last is not None and last.outcome is Outcome.CANCELLED and last.reason:
        return f"it was cancelled; its attempt ended with: {last.reason}"
    return "it was cancelled"


def _upstream(state: State, task: Task) -> Reason:
    ids, id = task.spec.after, task.spec.id
    dependent = state.dependents.by_id.get(id)
    if dependent is not None and dependent.children is not None and (dependent.children.unfinished or not ids):
        return _children(id, dependent.children)
    unfinished = len(ids) if dependent is None else dependent.unfinished
    named = ", ".join(repr(id) for id in ids[:UPSTREAM_NAMED_MAX])
    more = f" and {len(ids) - UPSTREAM_NAMED_MAX} more" if len(ids) > UPSTREAM_NAMED_MAX else ""
    message = f"it comes after {named}{more}; of these {unfinished} have not ended"
    advice = f"`gowork why {ids[0]}` tells what that one waits for" if ids else ""
    return Reason(WaitCode.UPSTREAM, message, advice)


def _children(id: str, children: Children) -> Reason:
    there, expected = children.there, children.expected
    unfinished = there - children.ended
    if expected is None:
        message = f"it is an open group; children so far: {there}, unfinished: {unfinished}"
        return Reason(WaitCode.UPSTREAM, message, f"when it has all of its children, `gowork groups seal {id}`")
    message = (
        f"it is a group; children: {expected}, unfinished: {unfinished}, still to come: {max(0, expected - there)}"
    )
    return Reason(WaitCode.UPSTREAM, message, f"`gowork groups show {id}` tells how far they are")


def _delay(task: Task, now: Now) -> Reason:
    standing = task.standing
    seconds = max(0, standing.not_before_ms - now.wall_ms) / 1000
    if standing.attempts and standing.not_before_ms != task.spec.run_at_ms:
        outcome = standing.attempts[-1].ended_as
        last = _ENDED.get(outcome, f"was {outcome.name.lower()}")
        message = f"its last attempt {last}; the next one may start {_in(seconds)}"
        return Reason(WaitCode.RETRY_DELAY, message, "", standing.not_before_ms)
    return Reason(WaitCode.DELAYED, f"it may start {_in(seconds)}", "", standing.not_before_ms)


def _in(seconds: float) -> str:
    # A shorter time would read "in 0.0 s".
    return f"in {seconds:.1f} s" if seconds >= 0.05 else "now"


def _limits(queue: Queue, key: LaneKey, now: Now) -> Iterable[Reason]:
    settings, name = queue.settings, queue.name
    if settings.paused:
        yield Reason(WaitCode.QUEUE_PAUSED, f"the queue {name!r} is paused", f"`gowork queues resume {name}`")
    if settings.concurrency_limit and queue.running >= settings.concurrency_limit:
        message = f"the queue {name!r} runs {queue.running} tasks and its limit is {settings.concurrency_limit}"
        yield Reason(WaitCode.QUEUE_LIMIT, message, f"`gowork queues set {name} --concurrency N`")
    if queue.holds_back(key.concurrency_key):
        running = queue.keys.get(key.concurrency_key, 0)
        message = (
            f"{running} tasks of the concurrency key {key.concurrency_key!r} run and the limit of the queue {name!r} "
            f"for a key is {settings.key_concurrency_limit}"
        )
        yield Reason(WaitCode.KEY_LIMIT, message, f"`gowork queues set {name} --key-concurrency N`")
    if settings.rate_limit:
        missing = 1 - queue.tokens_at(now.mono)
        if missing > 1e-9:
            seconds = missing / settings.rate_limit
            message = f"the queue {name!r} starts {settings.rate_limit:g} tasks a second; the next in {seconds:.1f} s"
            until_ms = now.wall_ms + int(seconds * 1000)
            yield Reason(WaitCode.RATE_LIMIT, message, f"`gowork queues set {name} --rate N`", until_ms)


def _verdicts(state: State, key: LaneKey, unfit: tuple[str, ...] = (), *, binary: bool = False) -> list[Verdict]:
    workers = sorted(state.connections.values(), key=lambda worker: worker.name)
    if unfit and open_forms(state.workers.values(), key.handler, key.selector, key.queue).issubset(unfit):
        # The payload fits none of the forms that there are, so the next worker that gets the task rejects it.
        unfit = ()
    verdicts = [_worker_verdict(worker, key, unfit) for worker in workers]
    callbacks = sorted(state.callbacks.values(), key=lambda callback: callback.id)
    return verdicts + [_callback_verdict(callback, key.handler, key.selector, binary) for callback in callbacks]


def _worker_verdict(worker: Worker, lane: LaneKey, unfit: tuple[str, ...]) -> Verdict:
    handler, selector = lane.handler, lane.selector
    if worker.policy_for(handler) is None:
        return Verdict(worker.name, WaitCode.NO_HANDLER, f"it does not have {_handler(handler)}")
    if worker.queues and lane.queue not in worker.queues:
        what = f"it takes tasks of {told(worker.queues)} alone, and this one is in {lane.queue!r}"
        return Verdict(worker.name, WaitCode.QUEUE_NOT_TAKEN, what)
    missing = [f"{key}={value}" for key, value in labels_of(selector) if worker.labels.get(key) != value]
    if missing:
        return Verdict(worker.name, WaitCode.SELECTOR, f"it does not carry {', '.join(missing)}")
    if not worker.can_run(handler, selector, lane.queue):
        has = _version(worker.policy_for(handler))
        return Verdict(worker.name, WaitCode.PLUGIN_VERSION, f"it has {has}, and the task takes {range_of(selector)}")
    if not fits(worker.policy_for(handler), unfit):
        return Verdict(worker.name, WaitCode.UNFIT, "the task's payload does not fit its form of the handler")
    if worker.liveness is Liveness.DRAINING:
        return Verdict(worker.name, WaitCode.DRAINING, "it is draining")
    if worker.room <= 0:
        return Verdict(worker.name, WaitCode.NO_SLOT, f"it holds {len(worker.held)} tasks and has {worker.slots} slots")
    return Verdict(worker.name, None, "it has room")


def _callback_verdict(callback: Callback, handler: str, selector: _Selector, binary: bool) -> Verdict:
    if handler:
        return Verdict(callback.id, WaitCode.NO_HANDLER, "a callback worker runs only tasks that name no handler")
    if labels_of(selector):
        return Verdict(callback.id, WaitCode.SELECTOR, "a callback worker carries no labels")
    if selector:
        return Verdict(callback.id, WaitCode.PLUGIN_VERSION, "a callback worker tells no version of a plugin")
    if binary:
        return Verdict(callback.id, WaitCode.UNFIT, "a callback worker takes no binary payload")
    if callback.draining:
        return Verdict(callback.id, WaitCode.DRAINING, "it is draining")
    if callback.unreachable:
        message = f"it gets no task until its next heartbeat: {callback.unreachable}"
        return Verdict(callback.id, WaitCode.UNREACHABLE, message)
    if callback.held is not None:
        return Verdict(callback.id, WaitCode.NO_SLOT, f"it is busy with {callback.held.id!r}")
    if callback.status is HeartbeatStatus.FAILED:
        return Verdict(callback.id, WaitCode.MEMBER_FAILED, "it says that it can't work")
    if callback.status is HeartbeatStatus.BUSY:
        return Verdict(callback.id, WaitCode.NO_SLOT, "it says that it is busy, with no task of this leader")
    return Verdict(callback.id, None, "it is idle")


def _members_reason(key: LaneKey, codes: list[WaitCode | None]) -> Reason | None:
    """Returns the one reason that follows from all members' codes; None when one of them has room."""
    handler, selector = key.handler, key.selector
    if None in codes:
        return None
    busy, draining = codes.count(WaitCode.NO_SLOT), codes.count(WaitCode.DRAINING)
    if busy:
        message = f"no free slot on the {busy} member(s) that could run it"
        return Reason(WaitCode.NO_SLOT, message, "wait, or start more workers")
    unreachable, failed = codes.count(WaitCode.UNREACHABLE), codes.count(WaitCode.MEMBER_FAILED)
    if unreachable:
        message = f"the {unreachable} callback worker(s) that could run it did not take a task"
        advice = "`gowork why --verbose` shows what each one answered; check the addresses that they joined with"
        return Reason(WaitCode.UNREACHABLE, message, advice)
    if failed:
        message = f"the {failed} callback worker(s) that could run it say that they can't work"
        return Reason(WaitCode.MEMBER_FAILED, message, "repair them, or start another worker")
    if draining:
        return Reason(WaitCode.DRAINING, "every worker that could run it is draining", "start another worker")
    if WaitCode.UNFIT in codes:
        message = "its payload does not fit the handler of any connected worker; a worker that is not connected may"
        return Reason(WaitCode.UNFIT, message, "start a worker whose handler reads the payload")
    if WaitCode.PLUGIN_VERSION in codes:
        message = f"no worker has {_handler(handler)} from a plugin whose version is within {range_of(selector)}"
        advice = "start a worker with such a version, or schedule the task anew with another range"
        return Reason(WaitCode.PLUGIN_VERSION, message, advice)
    unlabelled = codes.count(WaitCode.SELECTOR)
    if unlabelled:
        wanted = ", ".join(f"{key}={value}" for key, value in labels_of(selector))
        message = f"none of the {unlabelled} worker(s) that have the handler carries the labels {wanted}"
        return Reason(WaitCode.SELECTOR, message, "start a worker with these labels: `--label KEY=VALUE`")
    elsewhere = codes.count(WaitCode.QUEUE_NOT_TAKEN)
    if elsewhere:
        message = f"none of the {elsewhere} worker(s) that have the handler takes tasks of the queue {key.queue!r}"
        return Reason(WaitCode.QUEUE_NOT_TAKEN, message, f"start a worker that does: `--queue {key.queue}`")
    what = f"no worker has {_handler(handler)}" if codes else "no worker is connected"
    advice = (
        f"start a worker that has {'it' if codes else _handler(handler)}; `gowork members` lists each worker's handlers"
    )
    return Reason(WaitCode.NO_HANDLER, what, advice)


def _held_up(state: State, key: LaneKey, reason: Reason, now: Now) -> Reason:
    """Returns the reason with the tasks that hold the slots."""
    holders = holders_of(state, key, now)
    if holders is None:
        return reason
    advice = reason.advice
    if key.handler not in holders.tasks and not holders.more:
        # The leader does not know which task waits for which. If no task of its own handler holds a slot, they may wait
        # for this one.
        advice += "; if the tasks that hold the slots wait for this one, nothing goes on: give it a worker of its own"
    return replace(reason, message=f"{reason.message}: {holders.told()}", advice=advice)


def _held_by_key(state: State, queue: Queue, key: LaneKey, reason: Reason) -> Reason:
    """Returns the reason with the tasks that run with its key, if it is the limit of a key."""
    if reason.code is not WaitCode.KEY_LIMIT:
        return reason
    holders = holders_of_key(state, key, queue.keys.get(key.concurrency_key, 0))
    return replace(reason, message=f"{reason.message}: {holders}")


def _out_of_range(state: State, key: LaneKey, reason: Reason) -> Reason:
    """Returns the reason with the versions that are connected, of workers with the labels, the most frequent first."""
    labels = labels_of(key.selector)
    counts = Counter(
        _version(worker.policy_for(key.handler))
        for worker in state.connections.values()
        if worker.can_run(key.handler, labels, key.queue)
    )
    if not counts:
        return reason
    named = [f"{version} ({workers} worker{'s' if workers > 1 else ''})" for version, workers in counts.most_common()]
    more = [f"{len(named) - VERSIONS_NAMED_MAX} more"] if len(named) > VERSIONS_NAMED_MAX else []
    return replace(reason, message=f"{reason.message}; there is {', '.join(named[:VERSIONS_NAMED_MAX] + more)}")


def _version(policy: HandlerPolicy | None) -> str:
    if policy is None or policy.plugin is None:
        return "a plugin without a version"
    return f"{policy.plugin.name} {policy.plugin.version or 'without a version'}"


def _handler(handler: str) -> str:
    return f"the handler {handler!r}" if handler else "a default handler"


def _ahead(queue: Queue, task: Task) -> int:
    """Counts the tasks for the same workers that go before this one in its queue, up to AHEAD_MAX.

    In its own priority only tasks in memory are counted.
    """
    key, ahead = task.spec.lane, 0
    for lane in queue.lanes.values():
        other = lane.key
        if (other.handler, other.selector) != (key.handler, key.selector) or other.priority < key.priority:
            continue
        ahead += len(lane) if other.priority > key.priority else _before(lane, task.seq)
        if ahead >= AHEAD_MAX:
            return AHEAD_MAX
    return ahead


def _before(lane: Lane, seq: int) -> int:
    if lane.horizon is not None and seq > lane.horizon:
        return lane.live
    return sum(1 for task in lane if task.seq < seq)
