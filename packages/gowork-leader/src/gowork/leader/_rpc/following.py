"""Calls of scheduler.v1.SchedulerService that tell when something happens: waits for tasks, and watches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from gowork.base.outgoing import Later
from gowork.leader._core.model import FINISHED, Status, Task
from gowork.leader._core.state import State
from gowork.leader._engine.loop import Engine
from gowork.leader._engine.subscriptions import WAITER_BYTES_MAX, Ended, Waiter
from gowork.leader._engine.watching import Snapshot, Watcher, bytes_of
from gowork.leader._rpc.boundary import refusing, unknown_tasks
from gowork.leader._rpc.filters import selection_of
from gowork.leader._rpc.mapping import fill_result, task_message
from gowork.leader._rpc.tokens import make_token, read_token
from gowork.leader._rpc.validation import Violations, check_view
from gowork.leader._wire.specs import stored_spec
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Store
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import FieldViolation, Refusal, invalid

#: How many tasks or ids one WatchTasks response has at most.
_CHUNK_TASKS = 1_000
#: How many bytes of tasks a watcher is sent at once; a single task may have more.
_WATCH_BYTES = 256 << 10
#: About how many bytes a task takes in such a response besides its body and result.
_TASK_BYTES = 256
#: How many bytes a result takes in a response besides its texts, at most.
_RESULT_BYTES = 512
#: A WaitTasks response is sent when it has this size, with texts counted in characters. The last result, of up to 4
#: bytes a character, still fits into a message.
_WAIT_BYTES = 1 << 20
#: How many tasks are looked up at once for a wait or a watch: the maximum, or the minimum after a look-up that brought
#: more than _LOOK_BYTES.
_LOOK_TASKS_MAX, _LOOK_TASKS_MIN = 1_000, 16
_LOOK_BYTES = 4 << 20

#: How many ids may be waited for, over all calls. In memory each takes about 300 bytes.
WAITED_IDS_MAX = 1_000_000

_Context = grpc.aio.ServicerContext[Any, Any]


class Following:
    """Answers waits and watches."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store

    async def WaitTasks(self, request: pb.WaitTasksRequest, context: _Context) -> AsyncIterator[pb.WaitTasksResponse]:
        async with refusing(context):
            _require_view(request.view)
            view = request.view or pb.TASK_VIEW_RESULT
            _check_ids(request.ids)
            async with aclosing(self._as_they_finish(request.ids, with_bodies=_shows_body(view))) as finishing:
                async for done in finishing:
                    for response in _wait_responses(done, view):
                        yield response

    async def WaitTask(self, request: pb.WaitTaskRequest, context: _Context) -> pb.WaitTaskResponse:
        async with refusing(context):
            _require_view(request.view)
            if not request.id:
                raise invalid([FieldViolation("id", "is empty")])
            view = request.view or pb.TASK_VIEW_RESULT
            ended = await self._once_finished(request.id, with_body=_shows_body(view))
            response = pb.WaitTaskResponse()
            if view == pb.TASK_VIEW_RESULT:
                fill_result(response.task, ended.id, ended.standing)
            else:
                response.task.MergeFrom(_finished_message(ended, view))
        return response

    async def _require_known(self, since: int | None) -> None:
        """Refuses to go on from batch `since` if later removals have been forgotten."""
        if since is not None and since < await self._store.watch_floor():
            message = "removals since this token are no longer known; list the tasks again and watch from there"
            raise Refusal(grpc.StatusCode.OUT_OF_RANGE, "TOKEN_TOO_OLD", message)

    async def WatchTasks(self, request: pb.WatchTasksRequest, context: _Context) -> AsyncIterator[Any]:
        async with refusing(context):
            _require_view(request.view)
            selection = selection_of(request.filter)
            selects = selection.task
            scope = (self._engine.opened.identity, "watch", request.filter)
            since = read_token(request.token, "token", *scope) if request.token else None
            watcher = Watcher(selection)

            def subscribe(state: State) -> int:
                self._engine.subscriptions.watchers.add(watcher)
                return self._engine.changed

            try:
                current = await self._engine.read(subscribe)
                if since is not None and since > current:
                    # As after the log was restored from a backup. Silence would pass for "nothing new".
                    message = "this leader has not come as far as this token; list the tasks again and watch from there"
                    raise Refusal(grpc.StatusCode.OUT_OF_RANGE, "TOKEN_UNKNOWN", message)
                await self._require_known(since)
                yield pb.WatchTasksResponse(token=make_token(current if since is None else since, *scope))
                # Removals come before changes, because a new task may have the id of a removed one.
                async for ids in self._removed_between(since, current):
                    yield pb.WatchTasksResponse(deleted=ids)
                # Some removals may have been forgotten between two pages of them.
                await self._require_known(since)
                number = _LOOK_TASKS_MIN
                while since is not None and since < current:
                    records = await self._store.changed_since(since, number)
                    if not records:
                        break
                    since = min(records[-1].changed, current)
                    size = sum(bytes_of(record.body, record.standing) for record in records)
                    number = _LOOK_TASKS_MIN if size > _LOOK_BYTES else _LOOK_TASKS_MAX
                    # What has changed since the watcher was added comes by the watcher.
                    missed = [restore(record) for record in records if record.changed <= current]
                    tasks = [task for task in missed if selects(task.spec, task.standing)]
                    for chunk in _chunks(_message(task, request.view) for task in tasks):
                        yield pb.WatchTasksResponse(tasks=chunk)
                    yield pb.WatchTasksResponse(token=make_token(since, *scope))
                while True:
                    snapshots, removed, changed = await watcher.take(_CHUNK_TASKS, _WATCH_BYTES)
                    if removed:
                        yield pb.WatchTasksResponse(deleted=removed)
                    if snapshots:
                        yield _shown_later(snapshots, request.view)
                    # Freed before the wait for the next changes.
                    del snapshots, removed
                    if changed is not None:
                        yield pb.WatchTasksResponse(token=make_token(changed, *scope))
            finally:
                self._engine.subscriptions.watchers.drop(watcher)

    async def _removed_between(self, since: int | None, current: int) -> AsyncIterator[list[str]]:
        """Yields the ids of the tasks that were removed after batch `since`, in chunks."""
        while since is not None and since < current:
            removals = await self._store.deleted_since(since, _CHUNK_TASKS)
            if not removals:
                return
            since = removals[-1][0]
            ids = [id for _, id in removals]
            for place in range(0, len(ids), _CHUNK_TASKS):
                yield ids[place : place + _CHUNK_TASKS]

    async def _once_finished(self, id: str, *, with_body: bool) -> Ended:
        """Waits until the task has finished, and returns it."""
        subscriptions = self._engine.subscriptions
        waiter = Waiter(subscriptions.waiting, with_bodies=with_body)
        # The hot path of a wait for one task: it needs no batch of its own, and does not wait for the current one.
        if self._engine.will_tell(id):
            subscriptions.add_waiter(waiter, (id,))
            try:
                return (await waiter.take())[0][0]
            finally:
                subscriptions.drop_waiter(waiter, (id,))
                waiter.end()
        if (recent := subscriptions.recent(id, with_body=with_body)) is not None:
            return recent
        async with aclosing(self._as_they_finish([id], with_bodies=with_body)) as finishing:
            async for done in finishing:
                if done:
                    return done[0]
        raise AssertionError("a wait ends with its last task")

    async def _as_they_finish(self, ids: Iterable[str], *, with_bodies: bool) -> AsyncGenerator[list[Ended], None]:
        """Yields each of these tasks once, when it has finished.

        Args:
            ids: which.
            with_bodies: whether with what was asked for.
        """
        outstanding = dict.fromkeys(ids)
        waiting = self._engine.subscriptions.waiting
        waiter, number = Waiter(waiting, with_bodies=with_bodies), len(outstanding)
        if waiting.ids and waiting.ids + number > WAITED_IDS_MAX:
            message = f"{waiting.ids} tasks are waited for and the limit is {WAITED_IDS_MAX}; wait for fewer at once"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WAITS", message)
        waiting.ids += number

        def subscribe(state: State) -> list[str]:
            self._engine.subscriptions.add_waiter(waiter, outstanding)
            # A finished task is in memory by chance, and nothing more will be published about it.
            tasks, finished = state.tasks, Status.COMPLETED
            return [id for id in outstanding if id not in tasks or tasks[id].standing.status >= finished]

        try:
            absent = await self._engine.read(subscribe)
            # A short task is often done before the wait begins. That should not take a look into the store.
            recent = self._engine.subscriptions.recent
            done = [new for id in absent if (new := recent(id, with_body=with_bodies)) is not None]
            if len(done) < len(absent):
                known = {ended.id for ended in done}
                absent = [id for id in absent if id not in known]
            else:
                absent = []
            # All ids must be known before any result is sent. Tasks that do not fit in memory until then are looked up
            # again.
            unknown: list[str] = []
            again: list[str] = []
            size = 0
            async for asked, found in self._looked_up(absent, with_bodies):
                known = {each.id for each in found}
                unknown += [id for id in asked if id not in known]
                for each in found:
                    if each.standing.status in FINISHED:
                        size += bytes_of(each.body or b"", each.standing)
                        if size > WAITER_BYTES_MAX:
                            again.append(each.id)
                        else:
                            done.append(each)
            if unknown:
                raise unknown_tasks(unknown)
            told = [*(ended.id for ended in done), *again]
            self._engine.subscriptions.drop_waiter(waiter, told)
            for id in told:
                del outstanding[id]
            yield done
            async for _, found in self._looked_up(again, with_bodies):
                # A task that was removed meanwhile is left out.
                yield found
            while outstanding:
                # A task that finishes as this call begins may be found in the store and be published as well.
                gathered, again = await waiter.take()
                yield [ended for ended in gathered if outstanding.pop(ended.id, 0) is None]
                left = [id for id in again if outstanding.pop(id, 0) is None]
                async for _, found in self._looked_up(left, with_bodies):
                    yield found
        finally:
            self._engine.subscriptions.drop_waiter(waiter, outstanding)
            waiter.end()
            waiting.ids -= number

    async def _looked_up(
        self, ids: Sequence[str], with_bodies: bool
    ) -> AsyncGenerator[tuple[Sequence[str], list[Ended]], None]:
        """Yields (some of these ids, what the store has of them, finished or not)."""
        place, number = 0, _LOOK_TASKS_MIN
        while place < len(ids):
            asked = ids[place : place + number]
            if with_bodies:
                found = [Ended(each.id, each.body, each.standing) for each in await self._store.load(asked)]
            else:
                found = [Ended(id, None, standing) for id, standing in await self._store.standings(asked)]
            size = sum(bytes_of(each.body or b"", each.standing) for each in found)
            place += len(asked)
            number = _LOOK_TASKS_MIN if size > _LOOK_BYTES else _LOOK_TASKS_MAX
            yield asked, found


def _check_ids(ids: Sequence[str]) -> None:
    # An id that breaks a limit is unknown anyway, so only what would be costly is checked here.
    if not ids:
        raise invalid([FieldViolation("ids", f"is empty; 1 to {limits.BATCH_TASKS_MAX} are needed")])
    if len(ids) > limits.BATCH_TASKS_MAX:
        raise invalid([FieldViolation("ids", f"has {len(ids)} ids; the limit is {limits.BATCH_TASKS_MAX} in one call")])
    if "" in ids:
        raise invalid([FieldViolation(f"ids[{list(ids).index('')}]", "is empty")])


def _require_view(view: int) -> None:
    violations: Violations = []
    check_view(view, violations)
    if violations:
        raise invalid(violations)


def _message(task: Task, view: int) -> pb.Task:
    return task_message(task.spec, task.standing, view, task.progress)


def _shown_later(snapshots: Sequence[Snapshot], view: int) -> Later:
    """Returns responses with these tasks, to be made when they are sent.

    A task is serialized once for all watchers, because messages merge by concatenation.
    """

    def make() -> list[bytes]:
        responses: list[bytes] = []
        parts: list[bytes] = []
        size = 0
        for snapshot in snapshots:
            shown = _shown(snapshot, view)
            if parts and size + len(shown) > limits.PAGE_BYTES_MAX:
                responses.append(b"".join(parts))
                parts, size = [], 0
            parts.append(shown)
            size += len(shown)
        return [*responses, b"".join(parts)]

    bodies = sum(bytes_of(new.spec.body, new.standing, new.spec.trace) for new in snapshots)
    return Later(bodies + _TASK_BYTES * len(snapshots), make)


def _shown(snapshot: Snapshot, view: int) -> bytes:
    """Returns a serialized response with this task alone."""
    if snapshot.shown[0] != view:
        message = task_message(snapshot.spec, snapshot.standing, view, snapshot.progress)
        snapshot.shown = view, pb.WatchTasksResponse(tasks=[message]).SerializeToString()
    return snapshot.shown[1]


def _shows_body(view: int) -> bool:
    """Whether a view shows more of a task than how it ended."""
    return view != pb.TASK_VIEW_RESULT


def _finished_message(ended: Ended, view: int) -> pb.Task:
    assert ended.body is not None, "it was asked for, because the view shows it"
    return task_message(stored_spec(ended.body, ended.standing.created_ms), ended.standing, view)


def _wait_responses(finished: Iterable[Ended], view: int) -> Iterator[pb.WaitTasksResponse]:
    # The hot path of waits: results are filled in inside the response, because a message that is put into another one
    # is copied.
    response, size = pb.WaitTasksResponse(), 0
    for ended in finished:
        standing = ended.standing
        if view == pb.TASK_VIEW_RESULT:
            fill_result(response.tasks.add(), ended.id, standing)
            size += _RESULT_BYTES + len(standing.result) + len(standing.result_data)
            if standing.failure is not None:
                size += len(standing.failure.message) + len(standing.failure.traceback)
        else:
            message = _finished_message(ended, view)
            response.tasks.append(message)
            size += message.ByteSize()
        if size >= _WAIT_BYTES:
            yield response
            response, size = pb.WaitTasksResponse(), 0
    if response.tasks:
        yield response


def _chunks(messages: Iterable[pb.Task]) -> Iterable[list[pb.Task]]:
    chunk: list[pb.Task] = []
    size = 0
    for message in messages:
        bytes_ = message.ByteSize()
        if chunk and (len(chunk) >= _CHUNK_TASKS or size + bytes_ > limits.PAGE_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += bytes_
    if chunk:
        yield chunk
