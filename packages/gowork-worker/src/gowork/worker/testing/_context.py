"""A context that a test makes, to call a handler's function or its parts directly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace

from gowork.worker._core.cancellation import CancelToken
from gowork.worker._core.context import NO_LABELS, Context, Place
from gowork.worker.testing._clock import FakeClock
from gowork.worker.testing._outcome import Notes, Progress


class FakeContext(Context):
    """The context of an attempt that no worker runs. It decides nothing: the test cancels it, and loses its lease.

        ctx = FakeContext(attempt=2)
        assert brew(ctx, Order("Ada")) == {...}
        assert [word.message for word in ctx.told] == ["grinding"]

    `run_handler` is what to use where payload, result, errors or limits matter.
    """

    __slots__ = ("_notes", "clock")

    def __init__(
        self,
        *,
        id: str = "test",
        attempt: int = 1,
        fence: int | None = None,
        handler: str = "",
        payload: str = "",
        data: bytes = b"",
        queue: str = "default",
        labels: Mapping[str, str] = NO_LABELS,
        worker: str = "test",
        state: object = None,
        clock: FakeClock | None = None,
        checkpoint: object = None,
        after: Iterable[str] = (),
        is_group: bool = False,
    ) -> None:
        """Args:
        id: the task's id.
        attempt: the number of the attempt.
        fence: the attempt's fence; None for that number.
        handler: the name of the handler.
        payload: the payload as text.
        data: the payload as bytes.
        queue: the queue.
        labels: the task's labels.
        worker: the worker's name.
        state: what `ctx.state` is: an object, or a mapping of its attributes. None: an object without attributes.
        clock: moved by `ctx.cancelled.wait`, which does not wait; None for one of its own.
        checkpoint: what `ctx.last_checkpoint` is at first.
        after: the ids of the tasks after which it runs.
        is_group: whether the task is a group.
        """
        self.clock = clock or FakeClock()
        self._notes = Notes()
        place = Place(worker)
        if state is not None:
            place.state = SimpleNamespace(**state) if isinstance(state, Mapping) else state  # type: ignore[assignment]
        number = attempt if fence is None else fence
        super().__init__(place, self._note, id, attempt, number, handler, payload, data, queue, labels)
        self._after = tuple(after)
        self._is_group = is_group
        self.cancelled = _UnwaitingToken(self.clock)
        if checkpoint is not None:
            self.checkpoint(checkpoint)

    @property
    def told(self) -> tuple[Progress, ...]:
        """Every word of progress so far."""
        return tuple(self._notes.progress)

    def cancel(self, reason: str = "the task was cancelled") -> None:
        """Sets `ctx.cancelled`."""
        self.cancelled.set(reason)

    def lose_lease(self) -> None:
        """Makes `ctx.lease_valid` False."""
        self._place.lease_valid = False

    def _note(self, fence: int, id: str, fraction: float, message: str) -> None:
        self._notes.progressed(fraction, message, self.clock.now)


class _UnwaitingToken(CancelToken):
    """A token whose waits move a clock, and end at once."""

    __slots__ = ("_clock",)

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        """Moves the clock.

        Raises:
            RuntimeError: when it would wait for ever.
        """
        if not self:
            if timeout is None:
                raise RuntimeError("ctx.cancelled.wait() would wait for ever: cancel the context first")
            self._clock.advance(max(0.0, timeout))
        return bool(self)
