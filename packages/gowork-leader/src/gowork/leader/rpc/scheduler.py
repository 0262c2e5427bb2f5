"""scheduler.v1.SchedulerService over the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing

import grpc

from gowork.leader.core import commands as cmd
from gowork.leader.core.model import FINISHED, Liveness, Progress, Spec, Standing, Status, Task
from gowork.leader.core.queries import members
from gowork.leader.core.state import State
from gowork.leader.engine.loop import Engine
from gowork.leader.engine.subscriptions import WAITER_BYTES_MAX, Snapshot, Waiter, Watcher, bytes_of
from gowork.leader.rpc.admission import Admission
from gowork.leader.rpc.boundary import refusal_from, refusing, unknown_tasks
from gowork.leader.rpc.filters import parse_filter, predicate_of
from gowork.leader.rpc.keeping import KeepingMethods
from gowork.leader.rpc.mapping import failure_text, fill_result, fit, progress_from, spec_from, task_message
from gowork.leader.rpc.queues import QueueMethods
from gowork.leader.rpc.tokens import make_token, read_token
from gowork.leader.rpc.validation import Violations, check_fraction, check_id, check_page_size, check_task, check_view
from gowork.leader.store.codec import restore, spec_of
from gowork.leader.store.protocol import Query, Record, Store
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc
from gowork.rpc import limits
from gowork.rpc.status import FieldViolation, Refusal, invalid

#: Most violations that are gathered before a batch is given up.
_VIOLATIONS_MAX = 20
#: Tasks of one WaitTasks or WatchTasks response.
_CHUNK_TASKS = 1_000

#: What a result takes in a response besides its texts, at most; and where a response of WaitTasks is ended. One result
#: beyond that, of up to 4 bytes a character, stays within a message.
_RESULT_BYTES = 512
_WAIT_BYTES = 1 << 20
#: Tasks that are looked up at once for a wait: many while they are small, few when they have long results. In tasks,
#: and in the bytes of one look-up that make the next one small.
_LOOK_TASKS_MAX, _LOOK_TASKS_MIN = 1_000, 16
_LOOK_BYTES = 4 << 20

#: (id, body, standing)
_Finished = tuple[str, bytes, Standing]
_Context = grpc.aio.ServicerContext[object, object]


class SchedulerService(QueueMethods, KeepingMethods, scheduler_pb2_grpc.SchedulerServiceServicer):
    """The client's side of the leader."""

    def __init__(self, engine: Engine, store: Store, version: str) -> None:
        self._engine = engine
        self._store = store
        self._version = version
        self._admission = Admission()

    async def ScheduleTask(self, request: pb.ScheduleTaskRequest, context: _Context) -> pb.ScheduleTaskResponse:
        async with refusing(context):
            if not request.HasField("task"):
                raise invalid([FieldViolation("task", "is missing")])
            violations: Violations = []
            check_task(request.task, "task.", violations)
            if violations:
                raise invalid(violations)
            with self._admission.taking(request.ByteSize()):
                await self._ask(cmd.Submit((spec_from(request.task),)), {"tasks[0].": "task."})
        return pb.ScheduleTaskResponse()

    async def ScheduleTasks(self, request: pb.ScheduleTasksRequest, context: _Context) -> pb.ScheduleTasksResponse:
        async with refusing(context):
            with self._admission.taking(_check_batch(request)):
                answer = await self._ask(cmd.Submit([spec_from(task) for task in request.tasks]))
        return pb.ScheduleTasksResponse(created=answer.created, existing=answer.existing)

    async def CancelTask(self, request: pb.CancelTaskRequest, context: _Context) -> pb.CancelTaskResponse:
        async with refusing(context):
            _require_id(request.id)
            await self._ask(cmd.Cancel(request.id))
        return pb.CancelTaskResponse()

    async def TaskComplete(self, request: pb.TaskCompleteRequest, context: _Context) -> pb.TaskCompleteResponse:
        async with refusing(context):
            _require_id(request.id)
            error = failure_text(request.error) if request.HasField("error") else None
            await self._ask(cmd.CompleteTask(request.id, error))
        return pb.TaskCompleteResponse()

    async def TaskProgress(self, request: pb.TaskProgressRequest, context: _Context) -> pb.TaskProgressResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            check_fraction(request.fraction, violations)
            if violations:
                raise invalid(violations)
            await self._ask(progress_from(request))
        return pb.TaskProgressResponse()

    async def GetTask(self, request: pb.GetTaskRequest, context: _Context) -> pb.GetTaskResponse:
        async with refusing(context):
            _require_id(request.id)

            def look(state: State) -> tuple[Spec, Standing, Progress | None] | None:
                task = state.tasks.get(request.id)
                return None if task is None else (task.spec, task.standing, task.progress)

            found = await self._engine.read(look)
            if found is None:
                records = await self._store.load([request.id])
                if not records:
                    raise unknown_tasks([request.id])
                task = restore(records[0])
                found = task.spec, task.standing, None
            spec, standing, progress = found
            message = task_message(spec, standing, pb.TASK_VIEW_FULL, progress)
            if standing.status is Status.PENDING:
                _, explanation = await self._explained(request.id)
                message.waiting_reason = explanation.reasons[0].message if explanation.reasons else ""
        return pb.GetTaskResponse(task=message)

    async def GetTasks(self, request: pb.GetTasksRequest, context: _Context) -> pb.GetTasksResponse:
        async with refusing(context):
            await self._engine.read(_barrier)
            fitting: list[pb.Task] = []
            complete, left = True, limits.PAGE_BYTES_MAX
            for statuses in (frozenset(Status) - FINISHED, FINISHED):
                if not complete:
                    break
                # One more than may be answered tells whether there is more.
                limit = limits.PAGE_ITEMS_MAX - len(fitting) + 1
                query = Query(statuses, newest_first=statuses is FINISHED)
                records = await self._store.page(query, None, limit, left)
                messages = [_message(restore(record), pb.TASK_VIEW_FULL) for record in records]
                more, complete = fit(messages[: limit - 1], left)
                # A page that the store ended at its bytes may not be the last one.
                if complete and records:
                    complete = not await self._store.page(query, records[len(more) - 1].seq, 1, left)
                fitting += more
                left -= sum(message.ByteSize() + 5 for message in more)
            if not complete:
                context.set_trailing_metadata((("gowork-truncated", "true"),))
        return pb.GetTasksResponse(tasks=fitting)

    async def ListTasks(self, request: pb.ListTasksRequest, context: _Context) -> pb.ListTasksResponse:
        async with refusing(context):
            violations: Violations = []
            check_page_size(request.page_size, violations)
            check_view(request.view, violations)
            if violations:
                raise invalid(violations)
            query = parse_filter(request.filter, newest_first=request.newest_first)
            scope = (self._engine.opened.identity, "tasks", request.filter, str(request.newest_first))
            after = read_token(request.page_token, "page_token", *scope) if request.page_token else None
            await self._engine.read(_barrier)
            limit = request.page_size or limits.PAGE_ITEMS_DEFAULT
            records = await self._store.page(query, after, limit, limits.PAGE_BYTES_MAX)
            messages = [_message(restore(record), request.view) for record in records]
            fitting, _ = fit(messages, limits.PAGE_BYTES_MAX)
            # A task is never larger than a page may be, so that each page has at least one.
            fitting = fitting or messages[:1]
            last = records[len(fitting) - 1].seq if fitting else 0
            more = bool(fitting) and bool(await self._store.page(query, last, 1, 1))
        return pb.ListTasksResponse(tasks=fitting, next_page_token=make_token(last, *scope) if more else "")

    async def WaitTasks(self, request: pb.WaitTasksRequest, context: _Context) -> AsyncIterator[pb.WaitTasksResponse]:
        async with refusing(context):
            _require_view(request.view)
            view = request.view or pb.TASK_VIEW_RESULT
            _check_ids(request.ids)
            async with aclosing(self._as_they_finish(request.ids)) as finishing:
                async for done in finishing:
                    for response in _wait_responses(done, view):
                        yield response

    async def WaitTask(self, request: pb.WaitTaskRequest, context: _Context) -> pb.WaitTaskResponse:
        async with refusing(context):
            _require_view(request.view)
            if not request.id:
                raise invalid([FieldViolation("id", "is empty")])
            id, body, standing = await self._once_finished(request.id)
            response = pb.WaitTaskResponse()
            if not request.view or request.view == pb.TASK_VIEW_RESULT:
                fill_result(response.task, id, standing)
            else:
                response.task.MergeFrom(_finished_message(body, standing, request.view))
        return response

    async def WatchTasks(
        self, request: pb.WatchTasksRequest, context: _Context
    ) -> AsyncIterator[pb.WatchTasksResponse]:
        async with refusing(context):
            _require_view(request.view)
            selects = predicate_of(parse_filter(request.filter))
            scope = (self._engine.opened.identity, "watch", request.filter)
            since = read_token(request.token, "token", *scope) if request.token else None
            watcher = Watcher(selects)

            def subscribe(state: State) -> int:
                self._engine.subscriptions.add_watcher(watcher)
                return self._engine.changed

            try:
                current = await self._engine.read(subscribe)
                if since is not None and since < await self._store.watch_floor():
                    message = "removals since this token are no longer known; list the tasks anew and watch from there"
                    raise Refusal(grpc.StatusCode.OUT_OF_RANGE, "TOKEN_TOO_OLD", message)
                yield pb.WatchTasksResponse(token=make_token(current if since is None else since, *scope))
                # Before the changes: another task may have taken a removed one's id.
                async for removed in self._removed_between(since, current):
                    yield pb.WatchTasksResponse(deleted=removed)
                while since is not None and since < current:
                    records = await self._store.changed_since(since, _CHUNK_TASKS)
                    if not records:
                        break
                    since = records[-1].changed
                    tasks = [task for task in map(restore, records) if selects(task.spec, task.standing)]
                    for chunk in _chunks(_message(task, request.view) for task in tasks):
                        yield pb.WatchTasksResponse(tasks=chunk)
                    yield pb.WatchTasksResponse(token=make_token(since, *scope))
                while True:
                    snapshots, removed, changed = await watcher.take()
                    for place in range(0, len(removed), _CHUNK_TASKS):
                        yield pb.WatchTasksResponse(deleted=removed[place : place + _CHUNK_TASKS])
                    for chunk in _chunks(_snapshot_message(snapshot, request.view) for snapshot in snapshots):
                        yield pb.WatchTasksResponse(tasks=chunk)
                    yield pb.WatchTasksResponse(token=make_token(changed, *scope))
            finally:
                self._engine.subscriptions.drop_watcher(watcher)

    async def _removed_between(self, since: int | None, current: int) -> AsyncIterator[list[str]]:
        """The ids of the tasks that were removed since a batch."""
        while since is not None and since < current:
            removals = await self._store.deleted_since(since, _CHUNK_TASKS)
            if not removals:
                return
            since = removals[-1][0]
            ids = [id for _, id in removals]
            for place in range(0, len(ids), _CHUNK_TASKS):
                yield ids[place : place + _CHUNK_TASKS]

    async def Stats(self, request: pb.StatsRequest, context: _Context) -> pb.StatsResponse:
        async with refusing(context):
            views = await self._engine.read(members)
            counts = await self._store.counts()
            response = pb.StatsResponse(
                version=self._version, term=self._engine.opened.term, started_at_ms=self._engine.started_ms
            )
            for (queue, handler, status), tasks in sorted(counts.items()):
                response.queues.add(queue=queue, handler=handler, status=int(status), tasks=tasks)
            for liveness in Liveness:
                alike = [view for view in views if view.liveness is liveness]
                if alike:
                    response.members.add(
                        liveness=liveness.name,
                        members=len(alike),
                        slots=sum(view.slots for view in alike),
                        running=sum(view.running for view in alike),
                    )
        return response

    async def _once_finished(self, id: str) -> _Finished:
        """The task, once it has finished."""
        subscriptions, waiter = self._engine.subscriptions, Waiter()
        # The hot path of whoever waits for one task: it needs no batch of its own, and does not wait for the one in
        # hand.
        if self._engine.will_tell(id):
            subscriptions.add_waiter(waiter, (id,))
            try:
                return _finished((await waiter.take())[0][0])
            finally:
                subscriptions.drop_waiter(waiter, (id,))
        if (recent := subscriptions.recent(id)) is not None:
            return _finished(recent)
        async with aclosing(self._as_they_finish([id])) as finishing:
            async for done in finishing:
                if done:
                    return done[0]
        raise AssertionError("a wait ends with its last task")

    async def _as_they_finish(self, ids: Iterable[str]) -> AsyncGenerator[list[_Finished], None]:
        """Each of these tasks once."""
        outstanding = dict.fromkeys(ids)
        waiter = Waiter()

        def subscribe(state: State) -> list[str]:
            self._engine.subscriptions.add_waiter(waiter, outstanding)
            # Finished ones are in memory by chance: nothing more will be published of them.
            tasks, finished = state.tasks, Status.COMPLETED
            return [id for id in outstanding if id not in tasks or tasks[id].standing.status >= finished]

        try:
            absent = await self._engine.read(subscribe)
            # Whoever waits for a short task often finds it done: that should not take a look into the store.
            recent = [new for id in absent if (new := self._engine.subscriptions.recent(id)) is not None]
            done = [_finished(snapshot) for snapshot in recent]
            if len(recent) < len(absent):
                known = {snapshot.spec.id for snapshot in recent}
                absent = [id for id in absent if id not in known]
            else:
                absent = []
            # Before anything is told all must be known; what does not fit in memory meanwhile is looked up again.
            unknown: list[str] = []
            again: list[str] = []
            size = 0
            async for asked, records in self._looked_up(absent):
                known = {record.id for record in records}
                unknown += [id for id in asked if id not in known]
                for record in records:
                    if record.standing.status in FINISHED:
                        size += bytes_of(record.body, record.standing)
                        if size > WAITER_BYTES_MAX:
                            again.append(record.id)
                        else:
                            done.append((record.id, record.body, record.standing))
            if unknown:
                raise unknown_tasks(unknown)
            told = [*(id for id, _, _ in done), *again]
            self._engine.subscriptions.drop_waiter(waiter, told)
            for id in told:
                del outstanding[id]
            yield done
            async for some in self._stored(again):
                yield some
            while outstanding:
                # One that finishes as this call begins may be found in the store and be published too.
                gathered, again = await waiter.take()
                yield [_finished(new) for new in gathered if outstanding.pop(new.spec.id, 0) is None]
                async for some in self._stored([id for id in again if outstanding.pop(id, 0) is None]):
                    yield some
        finally:
            self._engine.subscriptions.drop_waiter(waiter, outstanding)

    async def _stored(self, ids: Sequence[str]) -> AsyncGenerator[list[_Finished], None]:
        """These finished tasks, a few at a time; one that was removed meanwhile is left out."""
        async for _, records in self._looked_up(ids):
            yield [(record.id, record.body, record.standing) for record in records]

    async def _looked_up(self, ids: Sequence[str]) -> AsyncGenerator[tuple[Sequence[str], list[Record]], None]:
        """Parts of these ids and what the store has of them."""
        place, number = 0, _LOOK_TASKS_MIN
        while place < len(ids):
            asked = ids[place : place + number]
            records = await self._store.load(asked)
            size = sum(bytes_of(record.body, record.standing) for record in records)
            place += len(asked)
            number = _LOOK_TASKS_MIN if size > _LOOK_BYTES else _LOOK_TASKS_MAX
            yield asked, records

    async def _ask(self, command: cmd.Command, rename: dict[str, str] | None = None) -> cmd.Submitted:
        answer = await self._engine.ask(command)
        if isinstance(answer, cmd.Refused):
            refusal = refusal_from(answer)
            for inner, outer in (rename or {}).items():
                violations = [FieldViolation(v.field.replace(inner, outer), v.description) for v in refusal.violations]
                refusal = Refusal(
                    refusal.code, refusal.reason, refusal.message.replace(inner, outer), violations, refusal.metadata
                )
            raise refusal
        submitted: cmd.Submitted = answer
        return submitted


def _barrier(state: State) -> None:
    """Asks nothing: the answer comes when everything before is durable."""


def _check_batch(request: pb.ScheduleTasksRequest) -> int:
    """Answers how many bytes it has."""
    tasks, size = request.tasks, request.ByteSize()
    if not tasks:
        raise invalid([FieldViolation("tasks", f"is empty; 1 to {limits.BATCH_TASKS_MAX} are needed")])
    if len(tasks) > limits.BATCH_TASKS_MAX:
        raise invalid(
            [FieldViolation("tasks", f"has {len(tasks)} tasks; the limit is {limits.BATCH_TASKS_MAX} in one call")]
        )
    if size > limits.BATCH_BYTES_MAX:
        raise invalid([FieldViolation("tasks", f"has {size} bytes; the limit is {limits.BATCH_BYTES_MAX} in one call")])
    violations: Violations = []
    for place, task in enumerate(tasks):
        before = len(violations)
        # The path is made only where there is something to say: most batches have no fault.
        check_task(task, "", violations)
        if len(violations) > before:
            violations[before:] = [
                FieldViolation(f"tasks[{place}].{violation.field}", violation.description)
                for violation in violations[before:]
            ]
            if len(violations) >= _VIOLATIONS_MAX:
                break
    if violations:
        raise invalid(violations)
    return size


def _check_ids(ids: Sequence[str]) -> None:
    # Ids that break a limit are those of no task: only what would cost is checked here.
    if not ids:
        raise invalid([FieldViolation("ids", f"is empty; 1 to {limits.BATCH_TASKS_MAX} are needed")])
    if len(ids) > limits.BATCH_TASKS_MAX:
        raise invalid([FieldViolation("ids", f"has {len(ids)} ids; the limit is {limits.BATCH_TASKS_MAX} in one call")])
    if "" in ids:
        raise invalid([FieldViolation(f"ids[{list(ids).index('')}]", "is empty")])


def _require_id(id: str) -> None:
    violations: Violations = []
    check_id(id, "id", violations)
    if violations:
        raise invalid(violations)


def _require_view(view: int) -> None:
    violations: Violations = []
    check_view(view, violations)
    if violations:
        raise invalid(violations)


def _message(task: Task, view: int) -> pb.Task:
    return task_message(task.spec, task.standing, view, task.progress)


def _snapshot_message(snapshot: Snapshot, view: int) -> pb.Task:
    return task_message(snapshot.spec, snapshot.standing, view, snapshot.progress)


def _finished(snapshot: Snapshot) -> _Finished:
    return snapshot.spec.id, snapshot.spec.body, snapshot.standing


def _finished_message(body: bytes, standing: Standing, view: int) -> pb.Task:
    return task_message(spec_of(pb.Task.FromString(body), body), standing, view)


def _wait_responses(finished: Iterable[_Finished], view: int) -> Iterator[pb.WaitTasksResponse]:
    # The hot path of everyone who waits: results are filled in where they are sent from, since a message that is put
    # into another one is copied.
    response, size = pb.WaitTasksResponse(), 0
    for id, body, standing in finished:
        if view == pb.TASK_VIEW_RESULT:
            fill_result(response.tasks.add(), id, standing)
            size += _RESULT_BYTES + len(standing.result) + len(standing.result_data)
            if standing.failure is not None:
                size += len(standing.failure.message) + len(standing.failure.traceback)
        else:
            message = _finished_message(body, standing, view)
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
