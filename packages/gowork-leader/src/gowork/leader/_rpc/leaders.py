"""Answers the calls of cluster.v1.LeaderService about the leaders that share a log.

The part of a leader among several belongs to the node, and not to a term: it answers who leads also while nobody does,
and says that another leader has taken over when its own term is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, NoReturn, Protocol

import grpc
from msgspec.structs import replace

from gowork.leader._engine.blocked import NotServingError, NotTakenError
from gowork.leader._engine.loop import Engine
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.census import Census, LeaderView, announced_by, take_census, unfit
from gowork.leader._replication.comparison import Verdict, judge
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader._replication.registers import PREFIX, registered
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.copies import Copies
from gowork.leader._rpc.mapping import census_message, leader_message
from gowork.leader._rpc.validation import Violations, check_id, check_term, check_wait_for_leader
from gowork.leader.log.protocol import LeadershipLostError, Log
from gowork.leader.store.protocol import StoreBlockedError
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.status import FieldViolation, Refusal, abort, invalid

#: For how long StepDown waits until another leader leads, in seconds.
TAKE_OVER_SECONDS = 10.0
#: How many calls may wait for a leader of a later term. Further ones are answered at once.
WAITING_MAX = 10_000
#: A leader that was seen so lately can't be removed, in milliseconds, because it would register again.
REMOVABLE_MS = 60_000

_Context = grpc.aio.ServicerContext[object, object]

_VERDICTS = {
    Verdict.PENDING: pb.STORE_VERDICT_PENDING,
    Verdict.EQUAL: pb.STORE_VERDICT_EQUAL,
    Verdict.DIFFERS: pb.STORE_VERDICT_DIFFERS,
    Verdict.OTHER_VERSION: pb.STORE_VERDICT_OTHER_VERSION,
}

_ALONE = "this leader shares no log with others; start it and others with --log to have several"


class OwnTerms(Protocol):
    """What this process does in the log."""

    @property
    def led(self) -> int:
        """The number of the term that leads here; 0 when none does."""
        ...

    @property
    def applied(self) -> int:
        """The index of the last entry that its store has applied."""
        ...

    async def later_than(self, term: int) -> None:
        """Returns when a leader of a later term than this leads, as far as is known here."""
        ...

    def step_down(self) -> None:
        """Ends the term that leads here, and lets the other leaders take over."""
        ...

    async def compare(self) -> int:
        """Appends a check, unless one is under way. Returns its index.

        Raises:
            LeadershipLostError: no term leads here.
            LogFullError, LogRefusedError, StoreBlockedError: nothing can be appended now.
        """
        ...


class Leaders:
    """Answers for a leader among several.

    Args:
        log: is open, and has begun.
        own: what this leader says of itself.
        terms: what it does now.
        wall_ms: returns the time in wall-clock milliseconds.
        copies: sends copies of its store.
        watch: knows how long ago the others registered.
    """

    def __init__(
        self,
        log: Log,
        own: Announcement,
        terms: OwnTerms,
        wall_ms: Callable[[], int],
        copies: Copies,
        watch: LogWatch,
    ) -> None:
        self._log = log
        self._own = own
        self._terms = terms
        self._wall_ms = wall_ms
        self._copies = copies
        self._watch = watch
        #: The asyncio tasks that serve calls which outlive the term.
        self.outliving: set[asyncio.Task[Any]] = set()
        #: How many calls wait for a leader of a later term.
        self._waiting = 0
        #: Held while a census is taken for all who have asked before it began.
        self._taking = asyncio.Lock()
        self._taken: Census | None = None
        #: How many have been begun.
        self._begun = 0

    async def Leaders(self, request: pb.LeadersRequest, context: _Context) -> pb.LeadersResponse:
        async with refusing(context):
            violations: Violations = []
            check_wait_for_leader(request, violations)
            if violations:
                raise invalid(violations)
            if request.wait_ms and self._waiting < WAITING_MAX:
                self._waiting += 1
                try:
                    with self._outliving(), suppress(TimeoutError):
                        async with asyncio.timeout(request.wait_ms / 1000):
                            await self._terms.later_than(request.after_term)
                finally:
                    self._waiting -= 1
            return census_message(await self._shared_census(), self._own.store_id)

    async def StepDown(self, request: pb.StepDownRequest, context: _Context) -> pb.StepDownResponse:
        async with refusing(context):
            violations: Violations = []
            check_term(request.term, violations)
            if violations:
                raise invalid(violations)
            with self._outliving():
                led = self._terms.led
                term = request.term or led
                if term == led:
                    self._check_successor(await self._census())
                    # Another call may have ended it meanwhile.
                    if term == self._terms.led:
                        self._terms.step_down()
                successor = await self._next_leader(term)
                if term == led and successor.store_id == self._own.store_id:
                    message = "no other leader took over, so this one leads again"
                    raise Refusal(grpc.StatusCode.ABORTED, "NOT_TAKEN_OVER", message)
                leading = (await self._census()).leading
        return pb.StepDownResponse(leader=leader_message(leading) if leading is not None else None)

    async def RemoveLeader(self, request: pb.RemoveLeaderRequest, context: _Context) -> pb.RemoveLeaderResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.store_id, "store_id", violations)
            if violations:
                raise invalid(violations)
            found = await registered(self._log)
            if request.store_id not in found:
                message = f"no leader with the store {request.store_id!r} is registered"
                raise Refusal(grpc.StatusCode.NOT_FOUND, "LEADER_UNKNOWN", message)
            removed = found[request.store_id]
            seconds = self._watch.age_seconds(request.store_id, removed.seen_ms, self._wall_ms())
            if seconds < REMOVABLE_MS / 1000:
                message = f"{removed.leader.name} was seen {seconds:.0f} s ago; stop it, and remove it a minute later"
                raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "LEADER_LIVES", message)
            if len(found) == 1:
                message = f"{removed.leader.name} is the only leader that is registered"
                raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "LAST_LEADER", message)
            await self._log.drop_note(f"{PREFIX}{request.store_id}")
        return pb.RemoveLeaderResponse()

    async def CopyStore(self, request: pb.CopyStoreRequest, context: _Context) -> AsyncIterator[pb.CopyStoreResponse]:
        async with refusing(context), aclosing(self._copies.parts(request, self._terms.applied)) as parts:
            with self._outliving():
                async for part in parts:
                    with self._copies.reading(context):
                        yield part

    async def _shared_census(self) -> Census:
        """Takes a census, or shares one that was begun after the question came.

        All clients and workers of a silent leader ask at the same time.
        """
        begun = self._begun
        async with self._taking:
            if self._taken is None or self._begun == begun:
                self._taken = None
                self._begun += 1
                self._taken = await self._census()
            return self._taken

    async def CompareStores(self, request: pb.CompareStoresRequest, context: _Context) -> pb.CompareStoresResponse:
        async with refusing(context):
            if request.index < 0:
                raise invalid([FieldViolation("index", "must not be negative")])
            index = request.index or await self._comparison_begun()
            found = await registered(self._log)
        verdicts = judge(found, index, self._own.store_id)
        stores = [
            pb.ComparedStore(name=each.leader.name, store_id=store_id, verdict=_VERDICTS[verdicts[store_id]])
            for store_id, each in sorted(found.items(), key=lambda item: (item[1].leader.name, item[0]))
        ]
        return pb.CompareStoresResponse(index=index, stores=stores)

    async def _comparison_begun(self) -> int:
        try:
            return await self._terms.compare()
        except StoreBlockedError as error:
            raise NotTakenError(error) from error
        except LeadershipLostError as error:
            raise NotServingError(str(error)) from error

    async def _census(self) -> Census:
        return await take_census(self._log, self._own, self._terms.applied, self._wall_ms())

    def _check_successor(self, census: Census) -> None:
        """Checks that another leader can take over.

        Raises:
            Refusal: FAILED_PRECONDITION: none can. It says why.
        """
        others = [view for view in census.leaders if view.announcement.store_id != self._own.store_id]
        now_ms = self._wall_ms()
        reasons: list[str] = []
        for view in others:
            seconds = self._watch.age_seconds(view.announcement.store_id, view.seen_ms, now_ms)
            if reason := unfit(view, census, seconds):
                reasons.append(reason)
        if len(reasons) == len(others):
            why = "; ".join(reasons) or "no other leader is registered"
            message = f"no other leader can take over: {why}"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NO_SUCCESSOR", message)

    async def _next_leader(self, term: int) -> Announcement:
        """Returns who leads a later term, when somebody does.

        Raises:
            Refusal: ABORTED: none does in time.
        """
        try:
            async with asyncio.timeout(TAKE_OVER_SECONDS), aclosing(self._log.leaders()) as leaders:
                async for leader in leaders:
                    if leader is not None and leader.term > term:
                        return announced_by(leader)
        except TimeoutError:
            pass
        message = f"the term has ended, and no other leader took over within {TAKE_OVER_SECONDS:g} s"
        raise Refusal(grpc.StatusCode.ABORTED, "NOT_TAKEN_OVER", message)

    @contextmanager
    def _outliving(self) -> Iterator[None]:
        """The end of a term does not wait for the call that is served within."""
        serving = asyncio.current_task()
        assert serving is not None
        self.outliving.add(serving)
        try:
            yield
        finally:
            self.outliving.discard(serving)


class LoneLeader:
    """Answers for a leader without a log.

    Args:
        engine: of the term that leads.
        own: what this leader says of itself. Its store's id is not known yet.
    """

    def __init__(self, engine: Engine, own: Announcement) -> None:
        self._engine = engine
        self._own = own
        #: See Leaders.outliving. There are none.
        self.outliving: set[asyncio.Task[Any]] = set()

    async def Leaders(self, request: pb.LeadersRequest, context: _Context) -> pb.LeadersResponse:
        async with refusing(context):
            now = await self._engine.read(lambda _: self._engine.now())
            opened = self._engine.opened
            own = replace(self._own, store_id=opened.store_id, stood_ms=self._engine.started_ms)
            view = LeaderView(own, opened.term, 0, 0, 0, now.wall_ms)
        return pb.LeadersResponse(leaders=[leader_message(view)], answered_by=opened.store_id)

    async def StepDown(self, request: pb.StepDownRequest, context: _Context) -> pb.StepDownResponse:
        return await _refuse_alone(context)

    async def RemoveLeader(self, request: pb.RemoveLeaderRequest, context: _Context) -> pb.RemoveLeaderResponse:
        return await _refuse_alone(context)

    async def CopyStore(self, request: pb.CopyStoreRequest, context: _Context) -> AsyncIterator[NoReturn]:
        yield await _refuse_alone(context)

    async def CompareStores(self, request: pb.CompareStoresRequest, context: _Context) -> pb.CompareStoresResponse:
        return await _refuse_alone(context)


async def _refuse_alone(context: _Context) -> NoReturn:
    await abort(context, Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NO_LOG", _ALONE))
