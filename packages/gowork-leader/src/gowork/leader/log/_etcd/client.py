"""Calls etcd: which member is asked, for how long, and what its errors mean."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd import etcd_pb2_grpc as rpc
from gowork.leader.log._etcd.endpoints import Endpoints
from gowork.leader.log._etcd.lease import Keeper
from gowork.leader.log.holding import PAUSE_SECONDS, OwnLease, boot_seconds
from gowork.leader.log.protocol import LogError, LogFullError, LogRefusedError, LogUnreachableError

_T = TypeVar("_T")

#: How long one attempt may take, in seconds. Time-outs must be well below a lease.
CALL_SECONDS = 1.0
#: How long a page of entries may be under way, in seconds.
PAGE_SECONDS = 5.0
#: How often the member that serves a watch is asked whether it is still there, while nothing comes, in seconds. When
#: two of these questions in a row have no answer, another member is watched.
ASK_SECONDS = 0.7
_UNANSWERED_MAX = 2
#: How often an attempt is repeated because etcd has too much to do.
_BUSY_MAX = 10
#: What gRPC says when a member ended a connection that was to begin.
_ENDED = ("Socket closed", "Connection reset", "andshake", "Unwrap failed", "Secure read failed")
#: Streams end when the member that serves them has lost its leader.
_STREAM_METADATA = (("hasleader", "true"),)


class Etcd(Protocol):
    """What the log asks of etcd. Each call is one attempt.

    Raises:
        LogUnreachableError: there was no answer, or one that leaves open whether something was written. The next
            attempt goes to another member.
        LogFullError, LogRefusedError: nothing was written.
    """

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def range(self, request: pb.RangeRequest, seconds: float = CALL_SECONDS) -> pb.RangeResponse: ...

    async def txn(self, request: pb.TxnRequest, seconds: float = CALL_SECONDS) -> pb.TxnResponse: ...

    async def compact(self, revision: int) -> None: ...

    async def grant(self, seconds: int) -> pb.LeaseGrantResponse: ...

    async def revoke(self, lease: int) -> None: ...

    def watch(self, request: pb.WatchCreateRequest) -> AsyncGenerator[pb.WatchResponse, None]:
        """Yields answers until the watch breaks, which raises LogUnreachableError."""
        ...

    def keep(self, lease: int, own: OwnLease, over: Callable[[], None]) -> Keeping:
        """Keeps a lease alive until it is stopped, and calls `over`, on the loop, when that has failed."""
        ...

    def now(self) -> float:
        """Returns seconds of a clock that also counts the time that the machine sleeps."""
        ...


class Keeping(Protocol):
    """Keeps a lease alive."""

    def stop(self) -> None:
        """Keeps it no more. Harmless when repeated."""
        ...


class Answers(Protocol):
    """The answers of a watch."""

    async def next(self) -> object:
        """Returns the next one.

        Raises:
            AioRpcError: the watch has ended.
            TimeoutError: the member is silent.
        """
        ...

    def end(self) -> None:
        """Reads no more."""
        ...


class _BusyError(Exception):
    """The member has too much to do. Nothing was written."""


class _OldTokenError(Exception):
    """The token is no longer taken. Nothing was written."""


class EtcdClient:
    """The members of one etcd.

    Args:
        endpoints: where they are, and how they are called.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._current = 0
        self._token = ""
        #: Whether a member has answered. Then a connection that ends says nothing of how members are called.
        self._was_reached = False

    async def open(self) -> None:
        """Asks each member in turn for its version, until one answers.

        Raises:
            LogError: none answers, or it is no etcd from version 3.4 on.
        """
        said: list[str] = []
        for _ in self._endpoints.addresses:
            address = self._address()
            try:
                answer = await self._call(lambda channel: rpc.MaintenanceStub(channel).Status, pb.StatusRequest())
            except LogUnreachableError as error:
                said.append(str(error))
                continue
            _check_version(address, answer.version)
            self._was_reached = True
            return
        raise LogUnreachableError("; ".join(said))

    async def close(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    async def range(self, request: pb.RangeRequest, seconds: float = CALL_SECONDS) -> pb.RangeResponse:
        answer: pb.RangeResponse = await self._call(lambda channel: rpc.KVStub(channel).Range, request, seconds)
        return answer

    async def txn(self, request: pb.TxnRequest, seconds: float = CALL_SECONDS) -> pb.TxnResponse:
        answer: pb.TxnResponse = await self._call(lambda channel: rpc.KVStub(channel).Txn, request, seconds)
        return answer

    async def compact(self, revision: int) -> None:
        await self._call(
            lambda channel: rpc.KVStub(channel).Compact, pb.CompactionRequest(revision=revision), PAGE_SECONDS
        )

    async def grant(self, seconds: int) -> pb.LeaseGrantResponse:
        request = pb.LeaseGrantRequest(TTL=seconds)
        answer: pb.LeaseGrantResponse = await self._call(lambda channel: rpc.LeaseStub(channel).LeaseGrant, request)
        return answer

    async def revoke(self, lease: int) -> None:
        await self._call(lambda channel: rpc.LeaseStub(channel).LeaseRevoke, pb.LeaseRevokeRequest(ID=lease))

    async def watch(self, request: pb.WatchCreateRequest) -> AsyncGenerator[pb.WatchResponse, None]:
        address = self._address()
        request.progress_notify = request.fragment = True
        try:
            metadata = (*_STREAM_METADATA, *await self._metadata())
            call = rpc.WatchStub(self._channel(address)).Watch(metadata=metadata)
            answers = self.answers_of(call)
            try:
                await call.write(pb.WatchRequest(create_request=request))
                while isinstance(answer := await answers.next(), pb.WatchResponse):
                    yield answer
                    if answer.canceled:
                        return
            finally:
                answers.end()
                call.cancel()
        except grpc.aio.AioRpcError as error:
            failed = self._failed(address, error)
            if isinstance(failed, LogError):
                raise failed from error
            self._token = ""
            raise LogUnreachableError(f"etcd at {address}: {failed}") from error
        except TimeoutError:
            self._go_on(address)
            raise LogUnreachableError(f"etcd at {address}: the watch is not answered any more") from None
        self._go_on(address)
        raise LogUnreachableError(f"{address}: the watch ended")

    def answers_of(self, call: Any) -> Answers:
        """Reads the answers of a watch."""
        return _WatchedAnswers(call)

    def keep(self, lease: int, own: OwnLease, over: Callable[[], None]) -> Keeper:
        return Keeper(self._endpoints, lease, own, over, self._token)

    def now(self) -> float:
        return boot_seconds()

    async def _call(
        self, method: Callable[[grpc.aio.Channel], Any], request: object, seconds: float = CALL_SECONDS
    ) -> Any:
        """Makes one attempt. What is known to have changed nothing is tried again within it."""
        address = self._address()

        async def attempt() -> Any:
            return await method(self._channel(address))(request, timeout=seconds, metadata=await self._metadata())

        for _ in range(_BUSY_MAX):
            try:
                return await self._told(address, attempt)
            except _BusyError:
                await asyncio.sleep(PAUSE_SECONDS)
            except _OldTokenError:
                self._token = ""
        raise LogUnreachableError(f"{address}: etcd has too much to do")

    async def _told(self, address: str, attempt: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await attempt()
        except grpc.aio.AioRpcError as error:
            raise self._failed(address, error) from error

    def _failed(self, address: str, error: grpc.aio.AioRpcError) -> Exception:
        """Returns what an error of gRPC means, and has another member asked next where that may help."""
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "database space exceeded" in details:
            return LogFullError(
                f"etcd at {address} has used up its quota: make room with `etcdctl defrag`, raise "
                f"--quota-backend-bytes, and then `etcdctl alarm disarm`"
            )
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "too many requests" in details:
            return _BusyError(details)
        if self._endpoints.has_old_token(details):
            return _OldTokenError(details)
        if code is grpc.StatusCode.INVALID_ARGUMENT and "request is too large" in details:
            return LogRefusedError(
                f"etcd at {address} takes no request as large as this: set its --max-request-bytes to 1572864 or more"
            )
        if code is grpc.StatusCode.OUT_OF_RANGE and "has been compacted" in details:
            return LogRefusedError(f"etcd at {address} has forgotten that revision ({details})")
        if code is grpc.StatusCode.PERMISSION_DENIED or "user name is empty" in details:
            return LogRefusedError(
                f"etcd at {address} refuses this user ({details}): it must be able to read and write everything below "
                f"the log's prefix; set GOWORK_ETCD_USER and GOWORK_ETCD_PASSWORD"
            )
        if code is grpc.StatusCode.UNAUTHENTICATED or "authentication failed" in details:
            return LogRefusedError(
                f"etcd at {address} does not know this user ({details}): check GOWORK_ETCD_USER and "
                f"GOWORK_ETCD_PASSWORD"
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return LogRefusedError(f"{address} is no etcd with the version 3 API ({details})")
        self._go_on(address)
        hint = "" if self._was_reached else _hint(details, encrypts=bool(self._endpoints.ca))
        return LogUnreachableError(f"etcd at {address}: {details or code.name}{hint}")

    def _address(self) -> str:
        return self._endpoints.addresses[self._current]

    def _go_on(self, failed: str) -> None:
        """Has another member asked next, unless that has happened already."""
        if self._address() == failed:
            self._current = (self._current + 1) % len(self._endpoints.addresses)

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._endpoints.channel(address)
        return channel

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        if not self._endpoints.user:
            return ()
        if not self._token:
            request = pb.AuthenticateRequest(name=self._endpoints.user, password=self._endpoints.password)
            stub = rpc.AuthStub(self._channel(self._address()))
            self._token = (await stub.Authenticate(request, timeout=CALL_SECONDS)).token
        return (("token", self._token),)


class _WatchedAnswers:
    """Reads the answers of a watch, and ends it when the member that serves it is silent.

    A member whose machine is gone closes no connection. gRPC's own pings would find that out after more than five
    seconds only, because etcd allows no more of them.

    Args:
        call: the watch.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._is_silent = False
        #: How many questions in a row had no answer, and whether somebody waits for one.
        self._unanswered = 0
        self._is_reading = False
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def next(self) -> object:
        """See Answers.next."""
        self._is_reading = True
        try:
            answer: object = await self._call.read()
        except asyncio.CancelledError:
            reader = asyncio.current_task()
            if self._is_silent and reader is not None and not reader.cancelling():
                raise TimeoutError from None
            raise
        finally:
            self._is_reading = False
            self._unanswered = 0
        return answer

    def end(self) -> None:
        """See Answers.end."""
        self._asking.cancel()

    async def _ask(self) -> None:
        # The watch may have ended meanwhile. Who reads it learns why.
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            while True:
                await asyncio.sleep(ASK_SECONDS)
                if self._unanswered == _UNANSWERED_MAX:
                    self._is_silent = True
                    self._call.cancel()
                    return
                if not self._is_reading:
                    # What has come is not read.
                    continue
                # Counted, and not timed, because this process may have stood still.
                self._unanswered += 1
                await self._call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))


def _hint(details: str, *, encrypts: bool) -> str:
    """Returns what may be wrong, when what was said of a connection looks as if only one side encrypts or trusts."""
    if not any(sign in details for sign in _ENDED):
        return ""
    if encrypts:
        return (
            "; check that etcd encrypts, that its certificate is from GOWORK_ETCD_CA and names this address, and "
            "whether it asks for GOWORK_ETCD_CERT and GOWORK_ETCD_KEY"
        )
    return "; if etcd encrypts, set GOWORK_ETCD_CA"


def _check_version(address: str, version: str) -> None:
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if numbers < [3, 4]:
        raise LogError(f"etcd at {address} has version {version or 'unknown'}: version 3.4 or newer is needed")
