"""The worker's attempts and tokens, which tell a bench what the handler does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.cancellation import CancelToken
from gowork.worker._core.context import Context, Place
from gowork.worker._runner.attempt import Attempts
from gowork.worker._runner.encrypting import Encrypting
from gowork.worker._runner.job import Job

if TYPE_CHECKING:
    from gowork.worker.testing._bench import Bench


class NotingAttempts(Attempts):
    """The worker's attempts, which tell a bench what happens."""

    def __init__(
        self,
        bench: Bench,
        place: Place,
        hooks: Any,
        progress: Callable[[int, str, float, str], None],
        encrypting: Encrypting | None,
    ) -> None:
        super().__init__(place, hooks, partial(bench.progressed, progress), encrypting)
        self._bench = bench

    def context_of(self, job: Job) -> Context:
        context = super().context_of(job)
        context.cancelled = Token(self._bench)
        self._bench.begins(job)
        return context

    def note(self, job: Job, report: session.Report) -> None:
        super().note(job, self._bench.reported(report))

    def _failed(self, job: Job, error: BaseException, *, not_started: bool) -> session.Report:
        self._bench.failed(error)
        return super()._failed(job, error, not_started=not_started)


class Token(CancelToken):
    """The worker's token. Its waits go by the run's clock."""

    __slots__ = ("_bench",)

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench

    @property
    def is_set(self) -> bool:
        """Whether it is set; this is no look of the handler's."""
        return self._set

    def __bool__(self) -> bool:
        self._bench.checked(self)
        return super().__bool__()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits as its base class does, on the run's clock."""
        self._bench.checked(self)
        if not self._set:
            self._bench.wait(self, timeout)
        return super().__bool__()

    def set(self, reason: str) -> None:
        """Sets it, and wakes those that wait."""
        super().set(reason)
        self._bench.wake()
