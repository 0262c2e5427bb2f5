"""What a handler is told about the attempt that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from gowork.worker._core.cancellation import CancelToken


class Place:
    """What all attempts of one runner share."""

    __slots__ = ("lease_valid", "state", "worker")

    def __init__(self, worker: str) -> None:
        #: The worker's name.
        self.worker = worker
        #: Whether the worker is in touch with its leader, or was within the lease.
        self.lease_valid = True
        #: Filled by lifespans.
        self.state = SimpleNamespace()


class Context:
    """One attempt of a task. Every attribute may be read from any thread."""

    __slots__ = (
        "_place",
        "_progress",
        "attempt",
        "cancelled",
        "data",
        "fence",
        "handler",
        "id",
        "labels",
        "payload",
        "queue",
    )

    def __init__(
        self,
        place: Place,
        progress: Callable[[int, str, float, str], None],
        *,
        id: str,
        attempt: int,
        fence: int,
        handler: str,
        payload: str,
        data: bytes,
        queue: str,
        labels: Mapping[str, str],
    ) -> None:
        """Made by the runner for each attempt."""
        self._place = place
        self._progress = progress
        #: The task's id.
        self.id = id
        #: The number of this attempt, from 1.
        self.attempt = attempt
        #: A number that only grows from attempt to attempt, over all workers: let whatever the handler writes to
        #: refuse smaller ones.
        self.fence = fence
        #: The name of the handler that runs.
        self.handler = handler
        #: The payload as it was scheduled: text.
        self.payload = payload
        #: The payload as it was scheduled, when it is binary.
        self.data = data
        #: The queue that the task waited in.
        self.queue = queue
        #: The task's labels.
        self.labels = labels
        #: True once the task is to stop: cancelled, past its time limit, or handed back. Threaded handlers should
        #: look at it.
        self.cancelled = CancelToken()

    def __repr__(self) -> str:
        return f"<Context id={self.id!r} attempt={self.attempt} fence={self.fence}>"

    @property
    def worker(self) -> str:
        """The name of the worker."""
        return self._place.worker

    @property
    def state(self) -> Any:
        """What the lifespans of this runner have set up: an object with attributes of their choosing."""
        return self._place.state

    @property
    def lease_valid(self) -> bool:
        """Whether the worker still holds this task rightfully as far as it knows: False once it has lost its leader
        for longer than the lease.
        """
        return self._place.lease_valid

    def progress(self, fraction: float, message: str = "") -> None:
        """Tells how far the handler has come. Cheap: only the latest word is sent, a few times a second.

        Args:
            fraction: 0 to 1; other values are clipped.
            message: at most 1 KiB, longer ones are cut.
        """
        self._progress(self.fence, self.id, min(1.0, max(0.0, float(fraction))), message)
