"""Calls of scheduler.v1.SchedulerService that do something to all tasks that a filter selects: cancels and retries.

Each call selects a page of tasks in the store and has the core look at each of them again, because some may have
changed since. The token of the next page says where it begins and up to where the first call selects. So a client
that repeats a call, or goes on with another leader, does nothing twice.
"""

from __future__ import annotations

import asyncio

import grpc
from msgspec.structs import replace

from gowork.leader._access.loads import count_more_tasks
from gowork.leader._access.rights import pending_max
from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Status
from gowork.leader._core.retention import RETRIED
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.filters import parse_filter, predicate_of
from gowork.leader._rpc.tokens import make_span_token, read_span_token
from gowork.leader.store.protocol import Query, Record, Store
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import FieldViolation, invalid

#: How many tasks one call looks at.
PAGE_TASKS_MAX = 1_000
#: How many pages all callers together have in memory, each of up to PAGE_BYTES_MAX and a task.
PAGES_MAX = 4
_UNFINISHED = frozenset({Status.PENDING, Status.RUNNING})

_Context = grpc.aio.ServicerContext[object, object]


class Selecting:
    """Cancels tasks, or has them run again, by a filter."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._pages = asyncio.Semaphore(PAGES_MAX)

    async def CancelTasks(self, request: pb.CancelTasksRequest, context: _Context) -> pb.CancelTasksResponse:
        async with refusing(context):
            query = _selection(request.filter, _UNFINISHED, _UNFINISHED, "status != COMPLETED")
            scope = (self._engine.opened.identity, "cancel", request.filter)
            after, last = _read(request.page_token, scope)
            now_last = await self._engine.read(lambda state: state.next_seq - 1)
            last = last or now_last
            response = pb.CancelTasksResponse()
            async with self._pages:
                records = [] if query is None else await self._page(query, after)
                chosen = [cmd.Chosen(record.id, record.seq) for record in records if record.seq <= last]
                if query is not None and chosen:
                    answer = await self._engine.ask(cmd.CancelTasks(chosen, predicate_of(query)))
                    response.cancelled, response.asked = answer.pending, answer.running
                    if await self._has_more(query, chosen[-1].seq, last):
                        response.next_page_token = make_span_token(chosen[-1].seq, last, *scope)
        return response

    async def RetryTasks(self, request: pb.RetryTasksRequest, context: _Context) -> pb.RetryTasksResponse:
        async with refusing(context):
            query = _selection(request.filter, RETRIED, frozenset({Status.ERROR}), "status = ERROR")
            scope = (self._engine.opened.identity, "retry", request.filter)
            after, changed = _read(request.page_token, scope)
            await self._engine.read(lambda state: None)
            if query is None:
                return pb.RetryTasksResponse()
            if not request.page_token:
                return pb.RetryTasksResponse(next_page_token=make_span_token(0, self._engine.changed, *scope))
            response = pb.RetryTasksResponse()
            async with self._pages:
                chosen = [cmd.Chosen(record.id, record.seq) for record in await self._page(query, after)]
                if chosen:
                    command = cmd.RetryTasks(chosen, predicate_of(query), changed, pending_max())
                    answer = await self._engine.ask(command)
                    response.retried, response.left = answer.tasks, answer.left
                    count_more_tasks(answer.tasks - 1)
                    if await self._has_more(query, answer.last_seq):
                        response.next_page_token = make_span_token(answer.last_seq, changed, *scope)
        return response

    async def _page(self, query: Query, after: int) -> list[Record]:
        return await self._store.page(query, after, PAGE_TASKS_MAX, limits.PAGE_BYTES_MAX)

    async def _has_more(self, query: Query, after: int, last: int | None = None) -> bool:
        """Whether the query selects a task after this seq, and up to `last`."""
        more = await self._store.page(query, after, 1, 1)
        return bool(more) and (last is None or more[0].seq <= last)


def _selection(text: str, among: frozenset[Status], default: frozenset[Status], example: str) -> Query | None:
    """Reads a filter that has to be given. Returns None if it selects no task with one of the statuses `among`.

    Args:
        text: the filter.
        among: the statuses of tasks that may be selected at all.
        default: those of the tasks that a filter without a term for the status selects.
        example: the filter that selects all of them.

    Raises:
        Refusal: INVALID_ARGUMENT on the field `filter`.
    """
    if not text.strip():
        raise invalid([FieldViolation("filter", f"is empty; `{example}` selects all")])
    query = parse_filter(text)
    statuses = query.statuses & among if query.statuses else default
    return replace(query, statuses=statuses) if statuses else None


def _read(token: str, scope: tuple[str, ...]) -> tuple[int, int]:
    """Returns where a page begins, and up to where the first call selects; zeros for the first call."""
    return read_span_token(token, "page_token", *scope) if token else (0, 0)
