"""What a handler is told about the attempt that it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from gowork.worker._core import checkpoints
from gowork.worker._core.cancellation import CancelToken
from gowork.worker._core.checkpoints import Seal
from gowork.worker._core.follow_ups import FollowUps
from gowork.worker._core.new_tasks import FollowUp, TaskOptions

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


NO_LABELS: Mapping[str, str] = MappingProxyType({})


def _told_to_nobody(fence: int, id: str, fraction: float, message: str) -> None:
    """Drops progress, where no runner takes it."""


def _kept_by_nobody(fence: int, id: str, state: bytes) -> None:
    """Drops a checkpoint, where no runner takes it."""


def _is_first(fence: int) -> bool:
    """Says that no runner has ended before, where no runner knows."""
    return False


class SlotLender(Protocol):
    """Gives slots to attempts, and lends them while attempts wait. May be called from any thread."""

    def begin_wait(self, fence: int) -> None:
        """Notes that an attempt begins to wait for other tasks. An attempt may have several waits at once."""

    def end_wait(self, fence: int) -> None:
        """Notes that one wait of an attempt is over."""

    def keeps(self, fence: int) -> bool:
        """Whether an attempt has waited for long and keeps its slot, because too many others lend theirs."""


class Place:
    """What all attempts of one runner share."""

    __slots__ = (
        "is_after_crash",
        "keep_checkpoint",
        "lease_valid",
        "lender",
        "log_failures",
        "state",
        "trace_parent",
        "worker",
    )

    def __init__(self, worker: str, *, trace_parent: bool = False, log_failures: str = "traceback") -> None:
        #: The worker's name.
        self.worker = worker
        #: Whether the span of an attempt is a child of the span that scheduled its task, instead of a linked trace.
        self.trace_parent = trace_parent
        #: How much the log tells of a failed attempt: "type", "message" or "traceback".
        self.log_failures = log_failures
        #: False once the worker has not heard from its leader for longer than the lease. The executor writes it.
        self.lease_valid = True
        #: The executor's Lending; None outside of a runner.
        self.lender: SlotLender | None = None
        #: Says of a fence whether a runner ended while an attempt of its task ran there before. The executor sets it.
        self.is_after_crash: Callable[[int], bool] = _is_first
        #: Takes (fence, id, state) of a checkpoint. The executor sets it.
        self.keep_checkpoint: Callable[[int, str, bytes], None] = _kept_by_nobody
        #: What handlers see as `ctx.state`. Lifespans fill it.
        self.state = SimpleNamespace()


class Context:
    """One attempt of a task. Every attribute may be read from any thread."""

    __slots__ = (
        "_after",
        "_checkpoint",
        "_continued",
        "_follow_ups",
        "_is_group",
        "_outcome",
        "_place",
        "_progress",
        "_seals",
        "attempt",
        "cancelled",
        "data",
        "fence",
        "handler",
        "hides",
        "id",
        "key_id",
        "labels",
        "payload",
        "payload_form",
        "queue",
    )

    #: None of these is there before somebody asks for it, because they would cost every attempt.
    _outcome: str
    _after: tuple[str, ...]
    _is_group: bool
    _continued: int
    _checkpoint: bytes
    _seals: tuple[Seal, Seal]

    def __init__(
        self,
        place: Place | None = None,
        progress: Callable[[int, str, float, str], None] | None = None,
        id: str = "test",
        attempt: int = 1,
        fence: int = 1,
        handler: str = "",
        payload: str = "",
        data: bytes = b"",
        queue: str = "default",
        labels: Mapping[str, str] = NO_LABELS,
        payload_form: int = 0,
    ) -> None:
        """The runner makes one for each attempt. A test of a handler makes one with the values that the handler reads:
        `Context(id="a", attempt=2)`. It may fill `state`, and finds in `follow_ups` what the handler scheduled.
        """
        self._place = Place("test") if place is None else place
        self._progress = _told_to_nobody if progress is None else progress
        #: Made with the first follow-up, because few handlers schedule anything.
        self._follow_ups: FollowUps | None = None
        #: The task's id.
        self.id = id
        #: The number of this attempt, from 1.
        self.attempt = attempt
        #: A number that grows with each attempt of the task, on whatever worker. Store it with what the handler
        #: writes, and refuse smaller ones there.
        self.fence = fence
        #: The name of the handler that runs.
        self.handler = handler
        #: The payload as it was scheduled: text.
        self.payload = payload
        #: The payload as it was scheduled, when it is binary.
        self.data = data
        #: scheduler.v1.PayloadForm: what the payload was before it was sent, where the payload does not show it.
        self.payload_form = payload_form
        #: The id of the key with which the payload was encrypted; empty where it was not.
        self.key_id = ""
        #: Encrypts a message of progress; None where nothing is encrypted. The runner sets it.
        self.hides: Callable[[str], str] | None = None
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
    def outcome(self) -> str:
        """How the attempt has ended, for hooks around tasks, while they are left: "completed", "failed", "timed_out",
        "cancelled", "interrupted", "snoozed" or "waiting". Empty before that, and where no hook is around the attempt.
        """
        return getattr(self, "_outcome", "")

    @property
    def after(self) -> tuple[str, ...]:
        """The ids of the tasks after which this one runs. They are kept until this one has ended, so that a client
        finds their results.
        """
        return getattr(self, "_after", ())

    @property
    def is_group(self) -> bool:
        """Whether the task is a group, which runs after its children."""
        return getattr(self, "_is_group", False)

    @property
    def after_crash(self) -> bool:
        """Whether an attempt before this one was lost, or may be to blame, because its runner ended while it ran."""
        return self._place.is_after_crash(self.fence)

    @property
    def lease_valid(self) -> bool:
        """False once the worker has not heard from its leader for longer than the lease. Then the task may already
        run elsewhere.
        """
        return self._place.lease_valid

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Lends the handler's slot while it only waits for other tasks, as soon as the wait has lasted 0.1 s.

            with ctx.waiting():
                done.wait()

        The client's own waits do so by themselves. After the wait the handler goes on at once, and the next slot that
        becomes free stays empty. Time limit, cancel and grace hold during the wait.
        """
        lender, fence = self._place.lender, self.fence
        if lender is None:
            yield
            return
        lender.begin_wait(fence)
        try:
            yield
        finally:
            lender.end_wait(fence)

    @property
    def keeps_slot(self) -> bool:
        """Whether the handler waits for other tasks but keeps its slot, because too many others lend theirs."""
        lender = self._place.lender
        return lender is not None and lender.keeps(self.fence)

    @property
    def tracer(self) -> Tracer:
        """An opentelemetry.trace.Tracer. Its spans are children of the attempt's span.

            with ctx.tracer.start_as_current_span("grind"): ...

        Where tracing is not set up, its spans go nowhere and cost next to nothing.
        """
        # Imported here, because only handlers that trace need it.
        from opentelemetry.trace import get_tracer

        return get_tracer("gowork.worker.handler")

    def progress(self, fraction: float, message: object = "") -> None:
        """Tells the leader how far the handler has come. Cheap: only the latest progress is sent, a few times a second.

        Args:
            fraction: 0 to 1; other values are clipped.
            message: cut to 1 KiB. What is no text is written as `str` writes it, and None as an empty text.
        """
        # Written here and not where it is sent, so that a message that `str` cannot write fails this handler alone.
        words = "" if message is None else message if type(message) is str else str.__str__(str(message))
        if self.hides is not None:
            words = self.hides(words)
        self._progress(self.fence, self.id, min(1.0, max(0.0, float(fraction))), words)

    def checkpoint(self, state: object) -> None:
        """Hands a state on to the next attempt of this task, which finds it in `last_checkpoint`.

        It returns at once. The worker sends the latest state once a second, and with the report of an attempt that does
        not complete. The leader keeps it with the task, on disk, until the task ends. If the worker is lost within that
        second, the next attempt finds the state before.

        Args:
            state: bytes, or anything that can be written as JSON; at most 64 KiB as it travels.

        Raises:
            ValueError: when it cannot be written as JSON, or is too long.
            CodecError: when the task is encrypted, and its key is gone.
        """
        seals = getattr(self, "_seals", None)
        found = checkpoints.written(state, None if seals is None else seals[0])
        self._checkpoint = found
        self._place.keep_checkpoint(self.fence, self.id, found)

    @property
    def last_checkpoint(self) -> Any:
        """The state that `checkpoint` was given last, in this attempt or the one before: bytes, or what its JSON says.
        None when there is none. Each look reads it anew.
        """
        found = getattr(self, "_checkpoint", b"")
        if not found:
            return None
        seals = getattr(self, "_seals", None)
        return checkpoints.read(found, None if seals is None else seals[1])

    def schedule(self, payload: object = "", *, id: str | None = None, **options: Unpack[TaskOptions]) -> str:
        """Schedules a task together with this one's completion: both are recorded in one commit.

        Nothing is scheduled when the attempt fails, is cancelled, or is reported too late. When the task is tried
        again, nothing is scheduled twice.

        Args:
            payload: text and bytes are sent as they are, everything else as JSON; at most 1 MiB. A NewTask has options
                of its own.
            id: the new task's id; None for "ID/N": this task's id and the number of the task, from 1. For a handler
                that runs after others have waited (WaitFor), it is "ID/then-K/N" the K-th time.
            options: the handler and how to run the task, as for the client's `schedule`; see TaskOptions. `delay` and
                `expires_in` count from this task's completion, by the leader's clock.

        Returns:
            The new task's id. No task has it if another one has the key when this task completes.

        Raises:
            ValueError: when a value breaks a limit, or 1,000 tasks or 4 MiB of payload are scheduled already.
            TypeError: when there is no such option.
        """
        (key,) = self._gathered().add([payload], options, id)
        return key

    def schedule_many(self, payloads: Iterable[object], **options: Unpack[TaskOptions]) -> list[str]:
        """Schedules tasks as `schedule` does: all of them, or none if one is at fault.

        Args:
            payloads: each as for `schedule`, or a NewTask with options of its own.
            options: the handler and how to run the tasks; see TaskOptions.

        Returns:
            The ids of the new tasks, in their order.

        Raises:
            ValueError: when a value breaks a limit, or 1,000 tasks or 4 MiB of payload would be scheduled. Nothing of
                the call is scheduled then.
            TypeError: when there is no such option, or `payloads` is one text or one bytes object.
        """
        if isinstance(payloads, str | bytes | bytearray):
            raise TypeError(
                "payloads: a list, or another iterable of payloads, is needed; `schedule` takes a single one"
            )
        return self._gathered().add(payloads, options)

    def _gathered(self) -> FollowUps:
        if self._follow_ups is None:
            continued = getattr(self, "_continued", 0)
            self._follow_ups = FollowUps(self.id, is_group=self.is_group, continued=continued)
        return self._follow_ups

    @property
    def follow_ups(self) -> Sequence[FollowUp]:
        """The tasks that this attempt has scheduled so far."""
        return () if self._follow_ups is None else tuple(self._follow_ups.tasks)
