"""Dials callback workers, which serve worker.v1.WorkerService."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AbstractContextManager
from typing import Any

import grpc

from gowork.base.channels import open_channel
from gowork.base.telemetry import is_traced
from gowork.base.tls import Tls
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.model import Spec
from gowork.leader._engine.loop import Engine
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc

_log = logging.getLogger(__name__)

#: How long a member has to answer whether it takes a task, in seconds, with the look-up of its name and connecting.
DIAL_SECONDS = 5.0
#: How long a member has to stop a task, in seconds. It is less than 15, because workers of gowork 0.1.0 answer after
#: that time that they do not have a task that they still run.
STOP_SECONDS = 10.0
#: How many channels are kept open.
CHANNELS_MAX = 1000
#: How many bytes of a member's error message are kept.
DETAILS_BYTES_MAX = 200

_NOT_REACHED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


class Dialer:
    """Calls members, each in a task of its own, so that a slow one holds up no other."""

    def __init__(self, tls: Tls | None = None, name: str = "") -> None:
        """Args:
        tls: the certificates with which members are called; None: plain text.
        name: the name that their certificates have; empty: their address.
        """
        self._tls = tls
        self._options = (("grpc.ssl_target_name_override", name),) if name else ()
        self._generation = 0
        self._engine: Engine | None = None
        self._group: asyncio.TaskGroup | None = None
        #: {address: channel}, the one that was unused for longest first.
        self._channels: dict[str, grpc.aio.Channel] = {}
        #: The calls that are under way, and among them {fence: the call that starts the task}.
        self._calls: set[asyncio.Task[None]] = set()
        self._starting: dict[int, asyncio.Task[None]] = {}

    @property
    def channels(self) -> list[str]:
        """The addresses that channels are open to; the one that was unused for longest comes first."""
        return list(self._channels)

    def attach(self, engine: Engine) -> None:
        """Sets the engine that is told of refusals. Call it before `run`."""
        self._engine = engine

    async def run(self, stopped: asyncio.Event) -> None:
        """Dials until `stopped` is set, and then ends the calls that are under way."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await stopped.wait()
                self._group = None
                # The next leader learns from heartbeats what came of these calls.
                for call in self._calls:
                    call.cancel()
        finally:
            for channel in self._channels.values():
                await channel.close()

    def deliver(self, effect: ef.StartWork | ef.StopWork) -> None:
        """Starts a call.

        Drops the call when `run` is not running. A task whose member gives no answer goes back when its lease runs out.
        """
        group = self._group
        if group is None:
            return
        if isinstance(effect, ef.StartWork):
            call = self._starting[effect.fence] = group.create_task(self._start(effect))
        else:
            call = group.create_task(self._stop(effect))
        self._calls.add(call)
        call.add_done_callback(lambda ended: self._forget(effect.fence, ended))

    def _forget(self, fence: int, ended: asyncio.Task[None]) -> None:
        self._calls.discard(ended)
        # Another call may have begun for the same grant by now.
        if self._starting.get(fence) is ended:
            del self._starting[fence]

    async def _start(self, effect: ef.StartWork) -> None:
        spec = effect.spec
        payload = scheduler_pb2.Task.FromString(spec.body).payload
        request = worker_pb2.StartWorkRequest(id=spec.id, payload=payload, fence=effect.fence, attempt=effect.attempt)
        if effect.delay:
            await asyncio.sleep(effect.delay)
        if self._engine is not None and not self._engine.leads:
            # Another leader may have given the task to somebody else by now.
            return
        answered, declined = True, False
        try:
            with _of_submit(spec):
                call = self._stub(effect.address).StartWork(request, timeout=DIAL_SECONDS)
            response = await call
            declined = not response.success
            reason = "the worker did not take it" if declined else ""
        except Exception as error:  # noqa: BLE001 - however the call fails, the task must not stay with the member
            answered, words = self._failed(effect.address, error)
            reason = f"the worker answered {words}" if answered else f"the worker could not be dialled at {words}"
        if reason:
            extra = {"worker": effect.member, "task_id": spec.id, "fence": effect.fence, "reason": reason}
            _log.log(logging.DEBUG if answered else logging.WARNING, "start refused", extra=extra)
            self._post(cmd.RefuseStart(effect.member, spec.id, effect.fence, reason, answered, declined))

    async def _stop(self, effect: ef.StopWork) -> None:
        starting = self._starting.get(effect.fence)
        if starting is not None:
            # Without this wait the member could get the stop first, and answer that it has no such task.
            await asyncio.wait({starting})
        try:
            request = worker_pb2.StopWorkRequest(id=effect.id)
            response = await self._stub(effect.address).StopWork(request, timeout=STOP_SECONDS)
            stopped = response.success
        except Exception as error:  # noqa: BLE001 - however it fails, the member is called again after a heartbeat
            _, words = self._failed(effect.address, error)
            extra = {"worker": effect.member, "task_id": effect.id, "fence": effect.fence, "reason": words}
            _log.warning("stop failed", extra=extra)
            if not isinstance(error, grpc.aio.AioRpcError) or error.code() is not grpc.StatusCode.NOT_FOUND:
                return
            stopped = False
        self._post(cmd.ConfirmStop(effect.id, effect.fence) if stopped else cmd.DenyStop(effect.id, effect.fence))

    def _post(self, command: cmd.AnyCommand) -> None:
        if self._engine is not None:
            self._engine.post(command)

    def _stub(self, address: str) -> worker_pb2_grpc.WorkerServiceAsyncStub:
        if self._tls is not None and self._generation != self._tls.generation:
            self._generation = self._tls.generation
            for known in list(self._channels):
                self._drop(known)
        channel = self._channels.pop(address, None)
        if channel is None:
            channel = open_channel([address], self._options, tls=self._tls)
            if len(self._channels) >= CHANNELS_MAX:
                self._drop(next(iter(self._channels)))
        self._channels[address] = channel
        return worker_pb2_grpc.WorkerServiceStub(channel)

    def _failed(self, address: str, error: Exception) -> tuple[bool, str]:
        """Returns whether a failed call has reached its member, and what to say about the failure."""
        if not isinstance(error, grpc.aio.AioRpcError):
            _log.error("call of a member failed", exc_info=error, extra={"address": address})
            return False, f"{address}: {type(error).__name__}"
        code = error.code()
        details = (error.details() or "").encode()[:DETAILS_BYTES_MAX].decode(errors="ignore")
        words = f"{code.name}: {details}" if details else code.name
        if code not in _NOT_REACHED:
            return True, words
        # A channel to a member that is gone would try to connect for ever.
        self._drop(address)
        return False, f"{address}: {words}"

    def _drop(self, address: str) -> None:
        channel = self._channels.pop(address, None)
        if channel is not None and self._group is not None:
            self._group.create_task(channel.close(grace=STOP_SECONDS))


def _of_submit(spec: Spec) -> AbstractContextManager[Any]:
    """Returns a context in which the span of a new call is a child of the task's submit, if that is traced.

    The contract of callback workers has no other way to tell them of the trace.
    """
    if not spec.trace or not is_traced():
        return contextlib.nullcontext()
    # OpenTelemetry is imported only where it is used.
    from gowork.leader._rpc.tracing import of_submit

    return of_submit(spec.traceparent)
