"""Dials callback members: worker.v1.WorkerService, as they serve it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AbstractContextManager
from typing import Any

import grpc

from gowork.leader.core import commands as cmd
from gowork.leader.core import effects as ef
from gowork.leader.core.model import Spec
from gowork.leader.engine.loop import Engine
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc
from gowork.rpc.channels import open_channel
from gowork.rpc.telemetry import is_traced

_log = logging.getLogger(__name__)

#: How long a member has to answer, in seconds.
DIAL_SECONDS = 5.0
#: Channels that are kept open.
CHANNELS_MAX = 1000


class Dialer:
    """Calls members, each in a task of its own, so that a slow one holds up no other."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._group: asyncio.TaskGroup | None = None
        #: {address: channel}, the one unused for longest first.
        self._channels: dict[str, grpc.aio.Channel] = {}

    def attach(self, engine: Engine) -> None:
        """Names the engine that hears of refusals; before `run`."""
        self._engine = engine

    async def run(self, stopped: asyncio.Event) -> None:
        """Dials until it is stopped, and then ends what is under way."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await stopped.wait()
                self._group = None
        finally:
            for channel in self._channels.values():
                await channel.close()

    def deliver(self, effect: ef.StartWork | ef.StopWork) -> None:
        """Starts a call.

        While nothing runs it is dropped: a task without an answer goes back with its member's lease.
        """
        if self._group is not None:
            call = self._start(effect) if isinstance(effect, ef.StartWork) else self._stop(effect)
            self._group.create_task(call)

    async def _start(self, effect: ef.StartWork) -> None:
        payload = scheduler_pb2.Task.FromString(effect.spec.body).payload
        request = worker_pb2.StartWorkRequest(id=effect.spec.id, payload=payload)
        try:
            with _of_submit(effect.spec):
                call = self._stub(effect.address).StartWork(request, timeout=DIAL_SECONDS)
            response = await call
            reason = "" if response.success else "the worker did not take it"
        except grpc.aio.AioRpcError as error:
            reason = f"the worker could not be dialled at {effect.address}: {error.code().name}"
        if reason:
            extra = {"worker": effect.member, "task_id": effect.spec.id, "fence": effect.fence, "reason": reason}
            _log.warning("start refused", extra=extra)
            self._post(cmd.RefuseStart(effect.member, effect.spec.id, effect.fence, reason))

    async def _stop(self, effect: ef.StopWork) -> None:
        request = worker_pb2.StopWorkRequest(id=effect.id)
        try:
            response = await self._stub(effect.address).StopWork(request, timeout=DIAL_SECONDS)
        except grpc.aio.AioRpcError as error:
            extra = {"worker": effect.member, "task_id": effect.id, "fence": effect.fence, "code": error.code().name}
            _log.warning("stop failed", extra=extra)
            return
        if response.success:
            self._post(cmd.ConfirmStop(effect.id, effect.fence))

    def _post(self, command: cmd.Command) -> None:
        if self._engine is not None:
            self._engine.post(command)

    def _stub(self, address: str) -> worker_pb2_grpc.WorkerServiceAsyncStub:
        channel = self._channels.pop(address, None)
        if channel is None:
            channel = open_channel([address])
            if len(self._channels) >= CHANNELS_MAX and self._group is not None:
                oldest = self._channels.pop(next(iter(self._channels)))
                self._group.create_task(oldest.close(grace=DIAL_SECONDS))
        self._channels[address] = channel
        return worker_pb2_grpc.WorkerServiceStub(channel)


def _of_submit(spec: Spec) -> AbstractContextManager[Any]:
    """While a call begins: its span is a child of the task's submit, where that is traced.

    The contract of callback members has no other way to tell them.
    """
    if not spec.trace or not is_traced():
        return contextlib.nullcontext()
    # OpenTelemetry is imported only where it is used.
    from gowork.leader.rpc.tracing import of_submit

    return of_submit(spec.traceparent)
