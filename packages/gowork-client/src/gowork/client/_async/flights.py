"""Sends the batches of one schedule_many to the leader, while the next one fills."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

import grpc

from gowork.client._async.connection import StartsBatch
from gowork.client._batches import BATCH_AGE_S, BATCHES_IN_FLIGHT_MAX, UPSTREAM_UNKNOWN, Batch, Filling, span_of
from gowork.client._calls import CallSettings, Tries
from gowork.client.errors import CallError
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class _Flight:
    """A batch on its way."""

    def __init__(
        self,
        start: StartsBatch,
        settings: CallSettings,
        batch: Batch,
    ) -> None:
        self._starts = start
        self._settings = settings
        self._tries = Tries(settings)
        self._request = batch.request()
        #: It was refused because it names tasks that the leader does not know.
        self._came_early = False
        #: None where nothing is traced.
        self._span = span_of(self._request, settings)
        if self._span is not None:
            self._request += self._span.context
        self._call = self._start()
        self.batch = batch

    def landed(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        return self._call.done()

    async def wait(self) -> None:
        """Waits until the leader acknowledges the batch. Sends it again while no leader takes it.

        Raises:
            CallError: when the leader refused the batch, or could not be reached.
        """
        while True:
            try:
                response = await self._call
                # Most batches have no unique keys.
                if response.holder_ids:
                    self.batch.holder_ids = dict(response.holder_ids)
                if self._span is not None:
                    self._span.end()
                return
            except grpc.RpcError as error:
                try:
                    pause = self._tries.pause_after(error, self._address)
                except CallError as typed:
                    if typed.reason != UPSTREAM_UNKNOWN or self._came_early:
                        if self._span is not None:
                            self._span.end(typed)
                        raise self.batch.placed(typed) from None
                    # A batch before it may have the tasks that it names. All of those have landed by now.
                    self._came_early, pause = True, 0.0
            await asyncio.sleep(pause)
            self._call = self._start()

    def cancel(self) -> None:
        """Gives up waiting."""
        self._call.cancel()
        if self._span is not None:
            self._span.give_up()

    def _start(self) -> grpc.aio.UnaryUnaryCall[bytes, scheduler.ScheduleTasksResponse]:
        # gRPC begins the call here. To await it only takes the response.
        self._address = self._settings.rotation.current
        if self._span is None:
            return self._starts(self._request, timeout=self._tries.left())
        with self._span.current():
            call = self._starts(self._request, timeout=self._tries.left())
        call.add_done_callback(self._span.answered)
        return call


class Flights:
    """The batches of one schedule_many: the one that fills, and those on their way, oldest first.

    When the source is slow, a timer sends the batch that fills, unless BATCHES_IN_FLIGHT_MAX are on their way.
    """

    def __init__(
        self,
        start: StartsBatch,
        settings: CallSettings,
    ) -> None:
        self._starts = start
        self._settings = settings
        self._filling = Filling()
        self._flying: deque[_Flight] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_timer()
        for flight in self._flying:
            flight.cancel()

    def add(self, id: str, entry: bytes) -> bool:
        """Adds one task. Returns whether to call `landed`: a batch has landed, or too many are on their way."""
        batch = self._filling.add(id, entry)
        if batch is not None:
            self._send(batch)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_AGE_S, self._timer_rings)
        return bool(self._flying) and (len(self._flying) >= BATCHES_IN_FLIGHT_MAX or self._flying[0].landed())

    def send(self) -> None:
        """Sends the batch that is filling."""
        if (batch := self._filling.take()) is not None:
            self._send(batch)

    async def landed(self) -> Batch | None:
        """Returns the oldest batch if it has landed, or, after a wait, if too many are on their way; else None."""
        # The calls need the event loop to start, and a source that is not asynchronous never yields to it.
        await asyncio.sleep(0)
        if self._flying and (len(self._flying) >= BATCHES_IN_FLIGHT_MAX or self._flying[0].landed()):
            return await self.next_landed()
        return None

    async def next_landed(self) -> Batch | None:
        """Waits for the oldest batch, and returns it; None when no batch is on its way."""
        if not self._flying:
            return None
        await self._flying[0].wait()
        return self._flying.popleft().batch

    def _send(self, batch: Batch) -> None:
        self._stop_timer()
        self._flying.append(_Flight(self._starts, self._settings, batch))

    def _timer_rings(self) -> None:
        self._timer = None
        if len(self._flying) < BATCHES_IN_FLIGHT_MAX:
            self.send()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
