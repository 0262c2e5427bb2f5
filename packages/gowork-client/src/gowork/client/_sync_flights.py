"""Batches on their way to the leader, for the blocking client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc

from gowork.client._batches import Batch, span_of
from gowork.client._calls import CallSettings, Tries
from gowork.client.errors import CallError
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

if TYPE_CHECKING:
    from grpc import _CallFuture


class Flight:
    """A batch on its way."""

    def __init__(
        self,
        method: grpc.UnaryUnaryMultiCallable[bytes, scheduler.ScheduleTasksResponse],
        settings: CallSettings,
        batch: Batch,
    ) -> None:
        self._method = method
        self._tries = Tries(settings)
        self._request = batch.request()
        #: None where nothing is traced.
        self._span = span_of(self._request, settings)
        if self._span is not None:
            self._request += self._span.context
        self._call = self._start()
        self.batch = batch

    def landed(self) -> bool:
        """Whether wait returns, or raises, at once."""
        return bool(self._call.done())

    def wait(self) -> None:
        """Waits for the acknowledgement, and sends the batch again where that may help."""
        while True:
            try:
                self._call.result()
                if self._span is not None:
                    self._span.end()
                return
            except grpc.RpcError as error:
                try:
                    pause = self._tries.pause_after(error)
                except CallError as typed:
                    if self._span is not None:
                        self._span.end(typed)
                    raise self.batch.placed(typed) from None
            time.sleep(pause)
            self._call = self._start()

    def cancel(self) -> None:
        """Gives up waiting."""
        self._call.cancel()
        if self._span is not None:
            self._span.give_up()

    def _start(self) -> _CallFuture[scheduler.ScheduleTasksResponse]:
        if self._span is None:
            return self._method.future(self._request, timeout=self._tries.left())
        with self._span.current():
            call = self._method.future(self._request, timeout=self._tries.left())
        call.add_done_callback(self._span.answered)
        return call
