"""The state of a watch, for both clients: its token, and whether to open a stream that ended again."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from gowork.client._calls import CallSettings, Tries
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: The pause before a stream that the leader ended without an error is opened again, in seconds.
_PAUSE_AFTER_END_S = 0.05
#: The codes of a stream whose deadline ran out, or whose reader was too slow. The next stream goes on from the token.
_GOES_ON = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED})


class WatchState:
    """The state of one watch."""

    def __init__(
        self, settings: CallSettings, request: scheduler.WatchTasksRequest, on_removed: Callable[[str], object] | None
    ) -> None:
        #: The request of the next call, with the token of the last response.
        self.request = request
        self._settings = settings
        self._on_removed = on_removed
        self._tries: Tries | None = None
        #: The address of the last call.
        self._address = settings.rotation.current
        self._heard = False

    def timeout(self) -> float:
        """Returns the timeout of the next call, in seconds.

        Raises:
            ClientClosed: when the client was closed.
        """
        self._settings.check_open()
        self._address = self._settings.rotation.current
        return self._settings.timeout

    def take(self, response: scheduler.WatchTasksResponse) -> None:
        """Notes the response's token, and calls `on_removed` for each removed task."""
        self._heard, self._tries = True, None
        if self._on_removed is not None:
            for id in response.deleted:
                self._on_removed(id)
        if response.token:
            self.request.token = response.token

    def pause_after(self, error: grpc.RpcError | None) -> float:
        """Returns how long to wait before opening the stream again, in seconds.

        `error` is None when the stream ended without one.

        Raises:
            CallError: when the stream is not to be opened again.
        """
        heard, self._heard = self._heard, False
        if error is None:
            return _PAUSE_AFTER_END_S
        if heard and error.code() in _GOES_ON:
            return 0.0
        if self._tries is None:
            self._tries = Tries(self._settings)
        return self._tries.pause_after(error, self._address)
