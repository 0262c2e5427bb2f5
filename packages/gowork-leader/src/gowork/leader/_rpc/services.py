"""The registry of the leader's services: which object answers which call, and whether any answers it now.

A service is composed of parts. A part is an object with methods that have the names of RPCs, so each part keeps only
what it needs itself. The parts belong to a term, and the servers belong to the process. The switchboard connects them.
While no term leads, it may connect the servers with what forwards calls to the leader instead.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from gowork.base.decoding import Called
from gowork.base.identities import Role
from gowork.leader._access.access import Access
from gowork.leader._access.audit import RECORDER, Audit
from gowork.leader._access.loads import Loads
from gowork.leader._access.rights import ADMINISTERS, CALLER, Identity
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.endings import Endings
from gowork.leader._rpc.hops import NOT_LEADER, is_forwarded, peer_of
from gowork.leader._rpc.submissions import SCHEDULE_TASK, SUBMIT_TASKS, WAIT_TASK, OpenWaits, Submissions
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from gowork.proto.status import Refusal
from gowork.proto.worker.v1 import session_pb2, session_pb2_grpc

#: Answers a call. Its arguments are the request, or the iterator of requests, and the context.
Method: TypeAlias = "Callable[[Any, Any], Any]"

#: Calls that are treated apart.
HEARTBEAT = "cluster.v1.LeaderService/Heartbeat"
SESSION = "worker.v1.SessionService/Connect"
LEADERS = "cluster.v1.LeaderService/Leaders"
LEAVE = "cluster.v1.LeaderService/Leave"
REMOVE_LEADER = "cluster.v1.LeaderService/RemoveLeader"
COPY_STORE = "cluster.v1.LeaderService/CopyStore"

_DESCRIPTORS = (
    leader_pb2.DESCRIPTOR.services_by_name["LeaderService"],
    scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
)
#: {service: the function that adds it to a server}
_ADDERS: dict[str, Callable[[Any, grpc.aio.Server], None]] = {
    "cluster.v1.LeaderService": leader_pb2_grpc.add_LeaderServiceServicer_to_server,
    "scheduler.v1.SchedulerService": scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server,
    "worker.v1.SessionService": session_pb2_grpc.add_SessionServiceServicer_to_server,
}
#: {service: {method: whether it answers with a stream}}. A call is named `service/method`.
SERVICES: dict[str, dict[str, bool]] = {
    service.full_name: {method.name: method.server_streaming for method in service.methods} for service in _DESCRIPTORS
}
#: {call: the type of its requests}
REQUESTS: dict[str, Any] = {
    f"{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for service in _DESCRIPTORS
    for method in service.methods
}


#: Calls with one answer, which may come late.
_WAITS = {WAIT_TASK, LEADERS}
#: What the caller of a stream is told whose rights are others than when it began.
_RIGHTS_CHANGED = Refusal(grpc.StatusCode.UNAVAILABLE, "RIGHTS_CHANGED", "the caller's rights have changed; call again")


class Port(enum.Enum):
    """A port for gRPC. Both serve all services."""

    #: For workers.
    CLUSTER = "cluster"
    #: For clients.
    SCHEDULER = "scheduler"


def compose(parts: Mapping[str, Sequence[object]]) -> dict[str, Method]:
    """Returns what answers each call except SubmitTasks: {call: a part's method}.

    Args:
        parts: {service: the parts that it is composed of}.

    Raises:
        ValueError: no part answers a call, or more than one does.
    """
    methods: dict[str, Method] = {}
    for service, names in SERVICES.items():
        for name in names:
            if f"{service}/{name}" == SUBMIT_TASKS:
                # The switchboard makes it of ScheduleTask and WaitTask.
                continue
            found = [method for part in parts.get(service, ()) if (method := getattr(part, name, None)) is not None]
            if len(found) != 1:
                raise ValueError(f"{service}/{name} must be answered by one part; {len(found)} have it")
            methods[f"{service}/{name}"] = found[0]
    return methods


class _Stream(NamedTuple):
    """A stream, or another long call, that was put through."""

    call: str
    caller: Identity | None
    context: grpc.aio.ServicerContext[Any, Any]


class Switchboard:
    """Receives the calls of all terms. It puts each call through to the current term, forwards it, or refuses it.

    Args:
        refusal: the refusal of calls until `connect`.
        access: says who may make which call; None: everybody may make each.
        called: called when a submission or a wait of SubmitTasks is answered.
    """

    def __init__(
        self,
        refusal: Refusal,
        access: Access | None = None,
        called: Called = lambda method, code, seconds: None,
    ) -> None:
        self._access = access
        self._audit = Audit() if access is None else access.audit
        self._loads = Loads()
        #: {port: {call: what answers it now}}
        self._methods: dict[Port, dict[str, Method]] = {port: {} for port in Port}
        #: Whether calls are answered by methods that take requests, and return answers, as bytes.
        self.forwards = False
        self._refusal = refusal
        #: How many calls were not put through so far.
        self.refused = 0
        #: {the asyncio task that serves a stream that was put through: the stream}
        self._streams: dict[asyncio.Task[Any], _Stream] = {}
        #: The same for calls with one answer that wait, where callers have identities.
        self._waits: dict[asyncio.Task[Any], _Stream] = {}
        self._endings = Endings()
        #: {port: what serves SubmitTasks while a term leads}
        waits = OpenWaits()
        self._submissions = {
            port: Submissions(self._submitted(SCHEDULE_TASK, port), self._submitted(WAIT_TASK, port), called, waits)
            for port in Port
        }
        self.disconnect(refusal)

    def connect(self, methods: Mapping[str, Method]) -> None:
        """Puts calls through to these methods from now on."""
        self.forwards = False
        for port, table in self._methods.items():
            table.update({SUBMIT_TASKS: self._submissions[port].serve, **methods})

    def forward(self, methods: Mapping[Port, Mapping[str, Method]]) -> None:
        """Puts calls through to methods that take requests, and return answers, as bytes: {port: {call: method}}."""
        self.forwards = True
        self._end_submissions()
        for port, table in self._methods.items():
            table.update(methods[port])

    def disconnect(self, refusal: Refusal) -> None:
        """Refuses calls from now on. Calls that were put through before go on."""
        self._refusal = refusal
        self._end_submissions()
        self.connect(
            {
                f"{service}/{name}": self._refuse_stream if streams else self._refuse
                for service, names in SERVICES.items()
                for name, streams in names.items()
            }
        )

    def add_to(self, server: grpc.aio.Server, service: str, port: Port) -> None:
        """Adds a service to the server of a port, which has not started."""
        through = {
            name: self._through(f"{service}/{name}", port, streams=streams)
            for name, streams in SERVICES[service].items()
        }
        _ADDERS[service](SimpleNamespace(**through), server)

    def end_streams(self, among: AbstractSet[asyncio.Task[Any]], refusal: Refusal) -> list[asyncio.Task[Any]]:
        """Ends streams that were put through and are still under way. Their callers are told why when they read.

        Args:
            among: the asyncio tasks that serve those that are to end.
            refusal: what their callers are told.

        Returns: the asyncio tasks that serve them, which end soon.
        """
        streams = [(serving, stream) for serving, stream in self._streams.items() if serving in among]
        for serving, stream in streams:
            self._endings.end(serving, stream.context, refusal)
        return [serving for serving, _ in streams]

    async def end_denied(self) -> None:
        """Ends the streams and waits of callers who may no longer make them, or who have other rights now."""
        assert self._access is not None, "it is called when rights have changed"
        for number, (serving, stream) in enumerate([*self._streams.items(), *self._waits.items()]):
            assert stream.caller is not None, "callers have identities where there is an access"
            try:
                caller = self._access.admit_again(stream.call, stream.context, stream.caller)
                refusal = None if caller.has_rights_of(stream.caller) else _RIGHTS_CHANGED
            except Refusal as denial:
                refusal = denial
                self._audit.note(stream.call, denial, stream.context.peer())
            if refusal is not None and not serving.done():
                self._endings.end(serving, stream.context, refusal)
            if number % 100 == 99:
                # There may be thousands of them, and other calls wait.
                await asyncio.sleep(0)

    def _end_submissions(self) -> None:
        for submissions in self._submissions.values():
            submissions.end()

    def _record(self, call: str, context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
        # Of somebody who is not known yet it is not believed that their call was forwarded.
        self._audit.note(call, refusal, context.peer() if CALLER.get() is None else peer_of(context))

    def _through(self, call: str, port: Port, *, streams: bool, is_submitted: bool = False) -> Method:
        methods = self._methods[port]
        access, administers, leaves = self._access, call in ADMINISTERS, call == LEAVE

        # Not a coroutine, because each call would pay for one. It returns what the method returns.
        def put_through(request: Any, context: Any) -> Any:
            if access is None:
                return go_on(None, request, context)
            # gRPC serves each call in a context of its own.
            RECORDER.set(partial(self._record, call, context))
            before = CALLER.get() if is_submitted else None
            try:
                if before is not None:
                    # Who opened the stream. The file may say something else of them by now.
                    return enter(access.admit_again(call, context, before), request, context)
                caller = access.admit(call, context)
            except Refusal as refusal:
                if before is None and access.has_to_ask(refusal):
                    ask = partial(access.ask, call, context, refusal)
                    return (
                        _asked_stream(ask, enter, request, context) if streams else _asked(ask, enter, request, context)
                    )
                return _deny_stream(refusal, context) if streams else _deny(refusal, context)
            return enter(caller, request, context)

        def enter(caller: Identity, request: Any, context: Any) -> Any:
            try:
                self._loads.enter(caller, call, request, streams=streams)
            except Refusal as refusal:
                return _deny_stream(refusal, context) if streams else _deny(refusal, context)
            CALLER.set(caller)
            return go_on(caller, request, context)

        def go_on(caller: Identity | None, request: Any, context: Any) -> Any:
            # Where nobody asks who callers are, anybody may say that a call was forwarded.
            peer = context.peer() if caller is None else peer_of(context)
            # A worker leaves as it likes. An administrator has others leave.
            is_recorded = administers or (leaves and caller is not None and Role.ADMIN in caller.roles)
            if is_recorded and not self.forwards:
                self._audit.done(call, caller, peer, request)
            elif call == REMOVE_LEADER:
                # Each node answers it itself.
                self._audit.done(call, caller, peer, _decoded(call, request))
            if streams or (call in _WAITS and caller is not None):
                serving = asyncio.current_task()
                assert serving is not None
                under_way = self._streams if streams else self._waits
                under_way[serving] = _Stream(call, caller, context)
                serving.add_done_callback(under_way.pop)
            return methods[call](request, context)

        return put_through

    def _submitted(self, call: str, port: Port) -> Method:
        through = self._through(call, port, streams=False, is_submitted=True)

        def put_through(request: Any, context: Any) -> Any:
            # One that was read just before its stream was ended begins only now. It is no bytes to forward.
            return self._refuse(request, context) if self.forwards else through(request, context)

        return put_through

    async def _refuse(self, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        self.refused += 1
        refusal = self._refusal
        if is_forwarded(context):
            refusal = Refusal(refusal.code, NOT_LEADER, refusal.message)
        async with refusing(context):
            raise Refusal(refusal.code, refusal.reason, refusal.message)

    async def _refuse_stream(
        self, request: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[NoReturn]:
        yield await self._refuse(request, context)


async def _asked(
    ask: Callable[[], Awaitable[Identity]],
    enter: Callable[..., Any],
    request: object,
    context: grpc.aio.ServicerContext[Any, Any],
) -> Any:
    """Serves a call of somebody whom the authenticator has to know first."""
    async with refusing(context):
        caller = await ask()
    return await enter(caller, request, context)


async def _asked_stream(
    ask: Callable[[], Awaitable[Identity]],
    enter: Callable[..., Any],
    request: object,
    context: grpc.aio.ServicerContext[Any, Any],
) -> AsyncIterator[Any]:
    """Does so for a call that is answered by a stream."""
    async with refusing(context):
        caller = await ask()
    async for answer in enter(caller, request, context):
        yield answer


def _decoded(call: str, request: bytes) -> object:
    try:
        return REQUESTS[call].FromString(request)
    except DecodeError:
        return ""


async def _deny(refusal: Refusal, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    async with refusing(context):
        raise refusal


async def _deny_stream(refusal: Refusal, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[NoReturn]:
    yield await _deny(refusal, context)
