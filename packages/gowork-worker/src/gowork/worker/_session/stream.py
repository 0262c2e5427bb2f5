"""One session: the stream to a leader, from Hello to its end.

While one frame is being sent, the content of the next one gathers.

An empty frame is a heartbeat. The leader answers each with an empty frame, in order. So the worker notices a silent
link, in either direction, long before TCP does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.proto.worker.v1 import session_pb2_grpc
from gowork.worker._core.descriptions import digest_of
from gowork.worker._runner.messages import HandlerNote
from gowork.worker._session.lease import Lease
from gowork.worker._supervisor.supervisor import Supervisor
from gowork.worker._version import __version__

logger = logging.getLogger("gowork.worker")

#: Seconds that a leader has to answer Hello.
WELCOME_TIMEOUT = 5.0
#: The bytes after which a frame takes no further batch of reports. Any single batch fits gRPC's limit of 8 MiB.
_FRAME_BYTES_MAX = 2 << 20
#: The least seconds between two heartbeats, even if the leader asks for less.
_HEARTBEAT_MIN = 0.05
#: The most seconds between two heartbeats where another leader may take over.
_HEARTBEAT_AMONG_SEVERAL = 1.5
#: Seconds that a leader has to answer a heartbeat, until others are asked whether another one leads; and how often they
#: are asked, on average.
_ANSWER_SECONDS = 1.0
_ASK_AGAIN = 0.5
#: Seconds that a leader has to refuse a call before it reads anything.
_UNREAD_SECONDS = 1.0
#: How many handlers a complaint names.
_NAMED_MAX = 5
#: Seconds that a leader has to end the stream after the goodbye.
_GOODBYE_TIMEOUT = 2.0


class SessionEnded(Exception):
    """The leader ended the session, or did not begin it; the text says how."""


class SessionStream:
    """One stream to the leader: call `open`, then `run`."""

    def __init__(self, channel: grpc.aio.Channel, supervisor: Supervisor, lease: Lease) -> None:
        self._supervisor = supervisor
        self._lease = lease
        #: When each unanswered heartbeat was sent, on the loop's clock, the oldest first.
        self._beats: deque[float] = deque()
        #: Ends the reading when no heartbeat is answered any more.
        self._silence = asyncio.timeout(None)
        #: Whether another leader leads, while this one is silent.
        self._is_succeeded = False
        #: Digests of descriptions that the leader asks for.
        self._asked: deque[str] = deque(maxlen=limits.HANDLERS_MAX)
        self._call: Any = session_pb2_grpc.SessionServiceStub(channel).Connect()

    async def open(self, seconds: float = WELCOME_TIMEOUT) -> session.ConnectResponse:
        """Sends Hello and returns the leader's first frame, the one with Welcome.

        Args:
            seconds: how long the leader has to answer.

        Raises:
            SessionEnded: when no Welcome comes within that time.
            AioRpcError: when the leader refuses, or is not there.
        """
        try:
            async with asyncio.timeout(seconds):
                try:
                    await self._call.write(session.ConnectRequest(hello=self._hello()))
                    first = await self._call.read()
                except asyncio.InvalidStateError as error:
                    # The stream is over; its status says why.
                    raise await self._status() from error
        except TimeoutError:
            self._call.cancel()
            raise SessionEnded(f"did not answer within {seconds:g} s") from None
        if first is grpc.aio.EOF:
            raise await self._status()
        if not first.HasField("welcome"):
            self._call.cancel()
            raise SessionEnded("began with another frame than Welcome")
        if self._supervisor.options.queues and not first.welcome.heeds_queues:
            # No credit was given yet, so no task was sent.
            self._call.cancel()
            raise SessionEnded(
                "is older than this worker, and would give it tasks of all queues: upgrade the leader, or name none"
            )
        if not first.welcome.heeds_on_lost and (names := self._failing_handlers()):
            self._call.cancel()
            raise SessionEnded(
                f"is older than this worker, and would run lost tasks again: upgrade the leader, or take "
                f'on_lost="fail" from the handlers {names}'
            )
        if not first.welcome.heeds_schedules and (names := self._scheduled_handlers()):
            # Its tasks run all the same, so it is no reason to leave the leader.
            logger.warning("schedules in code are not heeded", extra={"handlers": names, "next": "upgrade the leader"})
        answer: session.ConnectResponse = first
        return answer

    def _failing_handlers(self) -> str:
        """Returns the names of some handlers whose tasks must not run twice; empty: there are none."""
        return self._named(lambda note: note.fails_if_lost)

    def _scheduled_handlers(self) -> str:
        """Does so for handlers that declare schedules."""
        return self._named(lambda note: bool(note.schedules))

    def _named(self, chosen: Callable[[HandlerNote], bool]) -> str:
        names = [note.name for note in self._supervisor.handlers.handlers if chosen(note)]
        more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
        return f"{', '.join(map(repr, names[:_NAMED_MAX]))}{more}"

    async def initial_metadata(self) -> Any:
        """Returns the metadata that came before the leader's first frame. Call it after `open`."""
        return await self._call.initial_metadata()

    async def run(
        self, first: session.ConnectResponse, is_succeeded: Callable[[], Awaitable[bool]], *, has_others: bool
    ) -> None:
        """Sends and receives until the leader ends the stream.

        Args:
            first: what `open` returned.
            is_succeeded: asks whether another leader leads. It is called while the leader does not answer.
            has_others: whether there are other addresses. Heartbeats are sent more often then.

        Raises:
            AioRpcError: when the stream breaks.
            SessionEnded: when the leader does not answer any more.
        """
        self._supervisor.start_session(first)
        self._asked.extend(first.describe)
        silent = False
        async with asyncio.TaskGroup() as group:
            heartbeat = min(first.welcome.heartbeat_ms / 1000, self._lease.heartbeat_max)
            if has_others:
                heartbeat = min(heartbeat, _HEARTBEAT_AMONG_SEVERAL)
            beside = [
                group.create_task(self._look_out(is_succeeded), name="session lookout"),
                group.create_task(self._write(max(_HEARTBEAT_MIN, heartbeat)), name="session writer"),
            ]
            try:
                await self._read()
            except grpc.aio.AioRpcError:
                pass  # The status below says the same.
            except TimeoutError:
                silent = True
            finally:
                for task in beside:
                    task.cancel()
                self._call.cancel()
        if self._is_succeeded:
            raise SessionEnded("does not answer, and another leader leads")
        if silent:
            raise SessionEnded(f"has not answered for {self._lease.silence_max:g} s")
        error = await self._status()
        if isinstance(error, grpc.aio.AioRpcError):
            raise error

    async def _read(self) -> None:
        """Receives until the stream ends.

        Raises:
            TimeoutError: when no heartbeat is answered any more.
        """
        async with asyncio.timeout(self._lease.silence_max) as self._silence:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                if self._beats and not response.ByteSize():
                    sent_at = self._beats.popleft()
                    self._lease.renew(sent_at)
                    self._silence.reschedule(sent_at + self._lease.silence_max)
                else:
                    if response.describe:
                        self._asked.extend(response.describe)
                        self._supervisor.wake.set()
                    self._supervisor.receive(response)

    async def _look_out(self, is_succeeded: Callable[[], Awaitable[bool]]) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_succeeded:
            # Workers that fall silent together ask one after the other.
            await asyncio.sleep(_ASK_AGAIN * random.uniform(0.5, 1.5))
            if self._beats and loop.time() - self._beats[0] >= _ANSWER_SECONDS:
                self._is_succeeded = await is_succeeded()
        self._silence.reschedule(loop.time())

    async def _write(self, heartbeat: float) -> None:
        supervisor = self._supervisor
        loop = asyncio.get_running_loop()
        wake = supervisor.wake
        # The first is sent at once, because its answer shows that the session works.
        due = loop.time()
        timer = loop.call_at(due, wake.set)
        try:
            while not supervisor.has_left:
                await wake.wait()
                wake.clear()
                request = supervisor.take(_FRAME_BYTES_MAX)
                if request is not None:
                    await self._call.write(request)
                while self._asked:
                    # An empty frame would be a heartbeat.
                    if (told := self._descriptions()).descriptions:
                        await self._call.write(told)
                now = loop.time()
                if now >= due:
                    # Heartbeats are sent beside all other frames, because only they are answered.
                    self._beats.append(now)
                    due = now + heartbeat
                    timer = loop.call_at(due, wake.set)
                    await self._call.write(session.ConnectRequest())
            await asyncio.sleep(_GOODBYE_TIMEOUT)
            self._call.cancel()
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            # The stream is over: the reader finds out and says why.
            pass
        finally:
            timer.cancel()

    def _descriptions(self) -> session.ConnectRequest:
        """Returns a frame with descriptions that the leader asked for, and forgets that it asked for these."""
        known = {digest_of(note.description): note.description for note in self._supervisor.handlers.handlers}
        request, size = session.ConnectRequest(), 0
        while self._asked and size < _FRAME_BYTES_MAX:
            digest = self._asked.popleft()
            if text := known.get(digest, ""):
                request.descriptions.add(digest=digest, text=text)
                size += len(text)
        return request

    async def _status(self) -> Exception:
        """Returns how the stream ended, as an exception."""
        return await _status(self._call) or SessionEnded("ended the session")

    def _hello(self) -> session.Hello:
        options, known = self._supervisor.options, self._supervisor.handlers
        return session.Hello(
            name=options.name,
            instance=self._supervisor.instance,
            slots=options.slots,
            handlers=[handler_info(note, is_default=note.name == known.default_handler) for note in known.handlers],
            labels=options.told_labels,
            version=__version__,
            held=self._supervisor.hello_held(),
            plugin_errors=known.plugin_errors,
            ended_instances=self._supervisor.hello_ended(),
            queues=options.queues,
        )


async def unread_refusal(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError | None:
    """Calls without Hello, which a status can't meet. Returns how it is refused; None: not at once, or not at all."""
    call = session_pb2_grpc.SessionServiceStub(channel).Connect()
    try:
        async with asyncio.timeout(_UNREAD_SECONDS):
            return await _status(call)
    except TimeoutError:
        return None
    finally:
        call.cancel()


async def _status(call: Any) -> grpc.aio.AioRpcError | None:
    """Returns how a call ended, as an exception; None: well."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return None
    return grpc.aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
    )


def handler_info(note: HandlerNote, *, is_default: bool) -> session.HandlerInfo:
    """Returns the message that tells the leader of a handler."""
    info = session.HandlerInfo(name=note.name, is_default=is_default, form=note.form)
    info.plugin, info.plugin_version = note.plugin, note.plugin_version
    if note.fails_if_lost:
        info.on_lost = tasks.ON_LOST_FAIL
    info.description_digest = digest_of(note.description)
    info.schedules.extend(map(tasks.Schedule.FromString, note.schedules))
    if note.retry is not None:
        retry = note.retry
        info.retry.CopyFrom(
            tasks.RetryPolicy(
                max_attempts=retry.max_attempts,
                initial_delay_ms=retry.initial_delay_ms,
                factor=retry.factor,
                max_delay_ms=retry.max_delay_ms,
                jitter=retry.jitter,
                no_retry=retry.no_retry,
            )
        )
    return info
