"""The bookkeeping of a watch, the same for the blocking and the asyncio client: where it stands, and whether a stream
that ended is opened again.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

from gowork.client._calls import CallSettings, Tries
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: Before a stream that the leader ended in good order is opened again, in seconds.
_PAUSE_AFTER_END_S = 0.05
#: The leader ends a stream like this when its deadline has come, or when its reader was too slow; both go on from the
#: token.
_GOES_ON = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED})


class WatchState:
    """Where a watch stands."""

    def __init__(
        self, settings: CallSettings, request: scheduler.WatchTasksRequest, on_removed: Callable[[str], object] | None
    ) -> None:
        #: For the next call; its token is that of the last response.
        self.request = request
        self._settings = settings
        self._on_removed = on_removed
        self._tries: Tries | None = None
        self._heard = False

    def timeout(self) -> float:
        """The deadline of the next call, in seconds.

        Raises:
            ClientClosed: when the client was closed.
        """
        self._settings.check_open()
        return self._settings.timeout

    def take(self, response: scheduler.WatchTasksResponse) -> None:
        """Notes how far the watch has come, and tells of removed tasks."""
        self._heard, self._tries = True, None
        if self._on_removed is not None:
            for id in response.deleted:
                self._on_removed(id)
        if response.token:
            self.request.token = response.token

    def pause_after(self, error: grpc.RpcError | None) -> float:
        """How long to wait before the stream is opened again, in seconds; error is None when it ended in good order.

        Raises:
            CallError: when it is not to be opened again.
        """
        heard, self._heard = self._heard, False
        if error is None:
            return _PAUSE_AFTER_END_S
        if heard and error.code() in _GOES_ON:
            return 0.0
        if self._tries is None:
            self._tries = Tries(self._settings)
        return self._tries.pause_after(error)
