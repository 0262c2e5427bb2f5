"""Decides on submits and cancels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.decision import Decision
from gowork.leader._core.model import Failure, FailureKind, Now, Spec, Standing, Status, Task
from gowork.leader._core.ranges import RANGES_MAX, range_of
from gowork.leader._core.schedules import is_reserved
from gowork.leader._core.state import State
from gowork.leader._core.unique import Keys
from gowork.leader._core.upstream import blocked, fault_of

#: How many wrong tasks an error names.
_VIOLATIONS_MAX = 20
_DIGEST_BYTES = 16


def submit(state: State, command: cmd.Submit, now: Now) -> Decision:
    """Adds all new tasks whose unique keys are free. Refuses all if one differs from the stored task with its id."""
    decision = Decision()
    names = state.agenda.names
    if names:
        reserved = [
            (f"tasks[{place}].id", reserved_words(spec.id))
            for place, spec in enumerate(command.specs)
            if is_reserved(names, spec.id)
        ]
        if reserved:
            message = f"{reserved[0][0]}: {reserved[0][1]}"
            return _refused(command, cmd.Refused(cmd.ID_RESERVED, message, tuple(reserved[:_VIOLATIONS_MAX])))
    keys = _keys_of(state, command.specs, now)
    made: dict[str, Spec] = {}
    submitted, taken = new_tasks(state, command.specs, made, keys, now)
    if taken:
        message = f"{taken[0][0]}: {taken[0][1]}; use another id, or the same content to repeat a submit"
        return _refused(command, cmd.Refused(cmd.TASK_EXISTS, message, tuple(taken[:_VIOLATIONS_MAX])))
    specs = [change.spec for change in submitted]
    refusal = no_room(state, specs) or no_room_in_queues(state, specs, command.queue_pending_max)
    if refusal is None and keys is not None:
        refusal = keys.too_many()
    if refusal is None:
        refusal = fault_of(state, command.specs, made)
    if refusal is not None:
        return _refused(command, refusal)
    decision.changes.extend(submitted)
    held: tuple[tuple[int, str], ...] = ()
    if keys is not None:
        decision.changes.extend(keys.taken())
        held = tuple(keys.held)
    if len(submitted) < len(command.specs):
        _count_others(command.specs, submitted, dict(held), decision)
    decision.answer = cmd.Submitted(len(submitted), len(command.specs) - len(submitted) - len(held), held)
    return decision


def reserved_words(id: str) -> str:
    """Returns what is wrong with an id that only a schedule may give."""
    return f"{id!r} is for the tasks of schedule {id.partition('/')[0]!r}; use another id"


def _keys_of(state: State, specs: Sequence[Spec], now: Now) -> Keys | None:
    """Returns the unique keys as a decision on these tasks sees them; None when none of them has one."""
    for spec in specs:
        if spec.unique_key:
            return Keys(state, now)
    return None


def _count_others(
    specs: Sequence[Spec], submitted: Sequence[ch.TaskSubmitted], held: Mapping[int, str], decision: Decision
) -> None:
    """Has the tasks counted that a submit does not add. `held` has the places of those whose key is taken."""
    if held:
        decision.effects.append(ef.CountNotSubmitted([specs[place] for place in held], ef.UNIQUE))
    # Of two equal tasks in one batch only the first is new.
    new = {change.spec.id for change in submitted}
    known = []
    for place, spec in enumerate(specs):
        if spec.id in new:
            new.remove(spec.id)
        elif place not in held:
            known.append(spec)
    if known:
        decision.effects.append(ef.CountNotSubmitted(known, ef.DUPLICATE))


def _refused(command: cmd.Submit, refusal: cmd.Refused) -> Decision:
    decision = Decision(refusal)
    decision.effects.append(ef.CountNotSubmitted(command.specs, ef.REFUSED))
    return decision


def no_room_in_queues(state: State, specs: Sequence[Spec], most: int | None) -> cmd.Refused | None:
    """Returns which queue has too many pending tasks for whoever submits these."""
    if most is None:
        return None
    for name, number in Counter(spec.lane.queue for spec in specs).items():
        queue = state.queues.get(name)
        pending = 0 if queue is None else queue.waiting + queue.delayed
        if pending + number > most:
            message = (
                f"{pending} tasks are pending in queue {name!r} and the limit of its caller is {most}; try again when "
                "some have run"
            )
            return cmd.Refused(cmd.CALLER_LIMIT, message)
    return None


def no_room(state: State, specs: Sequence[Spec]) -> cmd.Refused | None:
    """Returns why there is no room for these tasks; None when there is."""
    settings, queues = state.settings, state.queues
    pending = queues.waiting + queues.delayed
    if specs and pending + len(specs) > settings.pending_max:
        message = f"{pending} tasks are pending and the limit is {settings.pending_max}; try again when some have run"
        return cmd.Refused(cmd.TOO_MANY_TASKS, message)
    if specs and state.finished_tasks > settings.finished_full:
        # Tasks that finished a moment ago are kept for clients that wait for them. Without a bound they could fill the
        # disk.
        message = (
            f"{state.finished_tasks} finished tasks are kept and the limit is {settings.finished_full}; try again "
            f"later, or remove some with `gowork purge`"
        )
        return cmd.Refused(cmd.TOO_MANY_FINISHED, message)
    return no_lanes(state, specs)


def no_lanes(state: State, specs: Sequence[Spec]) -> cmd.Refused | None:
    """Returns why there is no room for the lanes of these tasks; None when there is."""
    settings, queues = state.settings, state.queues
    if queues.lanes + len(specs) > settings.lanes_max:
        new = {spec.lane: None for spec in specs if queues.lane(spec.lane) is None}
        if queues.lanes + len(new) > settings.lanes_max:
            message = (
                f"tasks wait under {queues.lanes} combinations of queue, priority, handler, selector and "
                f"concurrency_key, and the limit is {settings.lanes_max}; try again when some have run"
            )
            return cmd.Refused(cmd.TOO_MANY_LANES, message)
    if len(queues.ranges) + len(specs) > RANGES_MAX:
        ranges = {range_of(spec.lane.selector) for spec in specs if spec.lane.selector}
        new_ranges = len(ranges - queues.ranges.keys() - {""})
        if new_ranges and len(queues.ranges) + new_ranges > RANGES_MAX:
            message = (
                f"plugin_version: the tasks that wait ask for {len(queues.ranges)} ranges, these for {new_ranges} "
                f"more, and the limit is {RANGES_MAX}; use fewer ranges, or try again when some have run"
            )
            return cmd.Refused(cmd.TOO_MANY_RANGES, message)
    return None


def new_tasks(
    state: State, specs: Sequence[Spec], seen: dict[str, Spec], keys: Keys | None, now: Now
) -> tuple[list[ch.TaskSubmitted], list[tuple[str, str]]]:
    """Returns the new ones among these tasks, and (field, what is wrong) for each id that another task has.

    Args:
        state: the state.
        specs: the tasks.
        seen: the new tasks of the same decision so far, {id: spec}; the new ones among `specs` are added.
        keys: the unique keys as the same decision sees them; None when none of the tasks has one. Those of the new
            tasks are taken, and tasks whose key another one has are noted there.
        now: the time.
    """
    submitted: list[ch.TaskSubmitted] = []
    taken: list[tuple[str, str]] = []
    seq, known = state.next_seq + len(seen), state.tasks
    standing = Standing(Status.PENDING, now.wall_ms)
    for place, spec in enumerate(specs):
        id = spec.id
        task = known.get(id)
        earlier = seen.get(id) if task is None else task.spec
        if earlier is None:
            if spec.unique_key and keys is not None and (holder := keys.take(spec.unique_key, id)):
                keys.held.append((place, holder))
                continue
            if spec.delay_ms or spec.expires_in_ms:
                spec = spec.reckoned(now.wall_ms)
            seen[id] = spec
            at = _delayed(standing, spec) if spec.run_at_ms > now.wall_ms else standing
            submitted.append(
                ch.TaskSubmitted(seq, spec, blocked(standing) if spec.after or spec.group is not None else at)
            )
            seq += 1
        elif earlier.body != spec.body and (task is None or not was_asked_as(task.standing, spec.body)):
            where = "earlier in this batch" if task is None else "already scheduled"
            taken.append((f"tasks[{place}].id", f"{id!r} is {where} with other content"))
    return submitted, taken


def digest_of(body: bytes) -> bytes:
    """Returns what is kept of the body with which a task was submitted, when it is changed."""
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()


def was_asked_as(standing: Standing, body: bytes) -> bool:
    """Whether a task was submitted with this body and has been changed since."""
    return standing.edit is not None and standing.edit.asked == digest_of(body)


def _delayed(standing: Standing, spec: Spec) -> Standing:
    return replace(standing, not_before_ms=spec.run_at_ms)


def due(standing: Standing) -> Standing:
    """Returns where a delayed task stands when its time has come."""
    return replace(standing, not_before_ms=0)


def cancel(state: State, command: cmd.Cancel, now: Now) -> Decision:
    """Cancels a pending task. Has a running one asked to stop."""
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    standing = task.standing
    decision = Decision()
    if not cancel_unfinished(state, task, now, decision) and standing.status is not Status.CANCELLED:
        message = f"task {command.id!r} has finished with {standing.status.name}; it can't be cancelled any more"
        decision.answer = cmd.Refused(cmd.TASK_FINISHED, message)
    return decision


def cancel_tasks(state: State, command: cmd.CancelTasks, now: Now) -> Decision:
    """Does so to each of these tasks that is still selected, and leaves the others alone."""
    decision = Decision()
    pending = running = 0
    for id, seq in command.tasks:
        task = state.tasks.get(id)
        if task is None or task.seq != seq or not command.selects(task.spec, task.standing):
            continue
        if cancel_unfinished(state, task, now, decision):
            pending += task.standing.status is Status.PENDING
            running += task.standing.status is Status.RUNNING
    decision.answer = cmd.Cancelled(pending, running)
    return decision


def cancel_unfinished(state: State, task: Task, now: Now, decision: Decision) -> bool:
    """Cancels a task that has not finished. Returns whether it had not."""
    id, standing = task.spec.id, task.standing
    if standing.status is Status.PENDING:
        decision.changes.append(ch.TaskMoved(id, ended(standing, Status.CANCELLED, None, now)))
        return True
    if standing.status is Status.RUNNING:
        if not standing.cancel_requested:
            decision.changes.append(ch.TaskMoved(id, cancelling(standing)))
        request_stop(state, task, now, decision)
        return True
    return False


def task_unknown(id: str) -> cmd.Refused:
    """Returns the refusal for an id that no task has."""
    return cmd.Refused(cmd.TASK_UNKNOWN, f"no task has the id {id!r}")


def has_expired(spec: Spec, now: Now) -> bool:
    """Whether a task has expired, so that it must not be started any more."""
    return 0 < spec.expires_at_ms <= now.wall_ms


def expired(standing: Standing, now: Now) -> Standing:
    """Returns where a task stands that was not started before its expiry."""
    failure = Failure(FailureKind.EXPIRED, "not started by its expiry")
    return ended(standing, Status.ERROR, failure, now)


def ended(standing: Standing, status: Status, failure: Failure | None, now: Now) -> Standing:
    """Returns where a pending task stands that ends without another attempt."""
    return replace(
        standing,
        status=status,
        finished_ms=now.wall_ms,
        failure=failure or standing.failure,
        not_before_ms=0,
        checkpoint=b"",
    )


def cancelling(standing: Standing) -> Standing:
    """Returns where a running task stands that is to be cancelled."""
    return replace(standing, cancel_requested=True)


def request_stop(state: State, task: Task, now: Now, decision: Decision) -> None:
    """Asks the worker that holds a running task to stop it: now, or when it reconnects."""
    standing = task.standing
    if standing.instance:
        worker = state.workers.get(standing.instance)
        if worker is not None and worker.connection is not None:
            decision.effects.append(ef.CancelTasks(worker.connection, (standing.fence,)))
    else:
        callback = state.callbacks.get(standing.worker)
        if callback is not None:
            decision.changes.append(ch.CallbackStopping(callback.id, now.mono))
            decision.effects.append(ef.StopWork(callback.id, callback.address, standing.fence, task.spec.id))
