"""Exceptions that do odd things when they are asked what they are: each becomes a report all the same."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Cancel, Context, Fail, Retry, Snooze, errors, handler
from gowork.worker._core.steering import Steering
from gowork.worker._runner import exceptions, outcomes

MakeRig = Callable[..., Any]


class Halt(BaseException):
    """What no `except Exception` stops."""


class SilentText(Exception):
    def __str__(self) -> str:
        raise Halt


class NoText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - what this is about


class Proxy(Exception):
    """Answers for whatever it is asked, or fails to: `__notes__`, `__cause__` and all."""

    def __init__(self, body: dict[str, str]) -> None:
        self.body = body

    def __getattr__(self, name: str) -> str:
        return self.__dict__["body"][name]


class HaltingProxy(Exception):
    def __getattribute__(self, name: str) -> object:
        raise Halt


class OddClass(Exception):
    @property
    def __class__(self) -> Any:
        raise Halt

    @__class__.setter
    def __class__(self, value: Any) -> None:
        pass


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise Halt

    @property
    def __mro__(cls) -> Any:
        raise Halt


class OfNamelessType(Exception, metaclass=Nameless):
    pass


class Text(str):
    def encode(self, *_: Any, **__: Any) -> bytes:
        raise Halt

    def __getitem__(self, _: Any) -> str:
        raise Halt

    def __bool__(self) -> bool:
        raise Halt


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


def with_notes(notes: object) -> Exception:
    error = ValueError("noted")
    error.__notes__ = notes  # type: ignore[assignment]
    return error


class HaltingNotes(list[str]):
    def __iter__(self) -> Iterator[str]:
        raise Halt


class ForgetfulRetry(Retry):
    def __init__(self, code: int) -> None:
        self.code = code


class ForgetfulSnooze(Snooze):
    def __init__(self, code: int) -> None:
        self.code = code


class ForgetfulFail(Fail):
    def __init__(self, code: int) -> None:
        self.code = code


class ForgetfulCancel(Cancel):
    def __init__(self, code: int) -> None:
        self.code = code


class OddRetry(Retry):
    @property
    def delay_ms(self) -> int:
        raise Halt

    @delay_ms.setter
    def delay_ms(self, value: object) -> None:
        pass


class SilentSnooze(Snooze):
    def __str__(self) -> str:
        raise Halt


def retry_of(delay_ms: object) -> Retry:
    error = Retry("later")
    error.delay_ms = delay_ms  # type: ignore[assignment]
    return error


def chain(length: int) -> Exception:
    error = first = ValueError("0")
    for number in range(1, length):
        error.__context__ = ValueError(str(number))
        error = error.__context__
    return first


ODD: dict[str, Callable[[], BaseException]] = {
    "a text that raises": SilentText,
    "a text that is none": NoText,
    "a text of a type of its own": OddText,
    "an attribute that raises": lambda: Proxy({"message": "no"}),
    "any attribute raises": HaltingProxy,
    "a class that raises": OddClass,
    "a type without a name": OfNamelessType,
    "notes that raise": lambda: with_notes(HaltingNotes()),
    "notes that are none": lambda: with_notes(5),
    "a syntax error of bytes": lambda: SyntaxError("bad", ("a.xml", 1, 2, b"<a>")),  # type: ignore[arg-type]  # as lxml has it
    "a syntax error of nothing": lambda: SyntaxError("bad", (None, None, None, None)),
    "a huge text": lambda: ValueError("x" * (1 << 24)),
    "surrogates": lambda: ValueError("\udcff" * 10_000),
    "a group of odd ones": lambda: BaseExceptionGroup("many", [SilentText(), Halt()]),
    "a cause that is odd": lambda: _caused(SilentText()),
    "a long chain": lambda: chain(2_000),
    "a retry that skips its base": lambda: ForgetfulRetry(503),
    "a snooze that skips its base": lambda: ForgetfulSnooze(503),
    "a fail that skips its base": lambda: ForgetfulFail(503),
    "a delay that raises": OddRetry,
    "a delay that is none": lambda: retry_of("soon"),
    "a delay without an end": lambda: retry_of(math.inf),
    "a delay below zero": lambda: retry_of(-5),
    "a delay that is too long": lambda: retry_of(1 << 80),
    "the base of all": BaseException,
    "an exit": SystemExit,
    "an interrupt": KeyboardInterrupt,
    "a generator's exit": GeneratorExit,
    "no memory": MemoryError,
}


def _caused(cause: BaseException) -> Exception:
    error = ValueError("caused")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("name", ODD)
async def test_every_exception_becomes_a_report_and_the_runner_goes_on(make_rig: MakeRig, name: str) -> None:
    @handler
    def plain() -> None:
        raise ODD[name]()

    @handler
    async def on_loop() -> None:
        raise ODD[name]()

    rig = make_rig(plain, on_loop, slots=1)
    for fence, kind in ((1, "plain"), (2, "on_loop")):
        rig.feed((fence, kind))
        report = await rig.report(fence)
        assert report.outcome == tasks.ATTEMPT_OUTCOME_FAILED
        assert report.failure.type
        assert 0 < len(report.failure.message.encode()) <= limits.FAILURE_MESSAGE_BYTES_MAX
        assert len(report.failure.traceback.encode()) <= limits.FAILURE_TRACEBACK_BYTES_MAX
        assert 0 <= report.retry_delay_ms <= limits.REPORTED_DELAY_MS_MAX
    rig.feed((3, "echo"))
    assert (await rig.report(3)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert rig.executor.idle
    assert rig.table.running() == []


@pytest.mark.parametrize("name", ["a text that raises", "any attribute raises", "a type without a name"])
def test_traceback_of_an_odd_exception_still_says_where_it_was_raised(name: str) -> None:
    try:
        raise ODD[name]()
    except BaseException as error:  # noqa: BLE001 - some of them are no more than that
        told = exceptions.trace(error)
    assert "test_worker_exceptions.py" in told
    assert "test_traceback_of_an_odd_exception" in told


def test_frames_are_dropped_only_where_they_are_the_runners_own() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def fail(): raise ValueError('here')", "/srv/my_runner/jobs.py", "exec"), namespace)
    with pytest.raises(ValueError, match="here") as raised:
        namespace["fail"]()
    raised.value.__traceback__ = raised.value.__traceback__.tb_next  # type: ignore[union-attr]
    assert "/srv/my_runner/jobs.py" in exceptions.trace(raised.value)


def test_long_chain_of_causes_is_cut() -> None:
    told = exceptions.trace(chain(2_000))
    assert 0 < told.count("ValueError") <= 21


def test_snooze_without_a_delay_fails_and_says_what_to_do() -> None:
    report = outcomes.failed(1, "t", ForgetfulSnooze(503))
    assert (report.outcome, report.HasField("retry_delay_ms")) == (tasks.ATTEMPT_OUTCOME_FAILED, False)
    assert "super().__init__" in report.failure.message


def test_retry_and_fail_that_skip_their_base_keep_their_meaning() -> None:
    retry, fail = (outcomes.failed(1, "t", error) for error in (ForgetfulRetry(1), ForgetfulFail(1)))
    assert (retry.failure.kind, retry.HasField("retry_delay_ms")) == (tasks.FAILURE_KIND_HANDLER, False)
    assert fail.failure.kind == tasks.FAILURE_KIND_NO_RETRY
    cancel = outcomes.failed(1, "t", ForgetfulCancel(1))
    assert (cancel.outcome, cancel.HasField("failure")) == (tasks.ATTEMPT_OUTCOME_CANCELLED, False)
    snooze = outcomes.failed(1, "t", SilentSnooze(delay=2))
    assert (snooze.outcome, snooze.retry_delay_ms) == (tasks.ATTEMPT_OUTCOME_SNOOZED, 2000)


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("delay", [math.nan, math.inf, -math.inf, -1, "x", timedelta(seconds=-1)])
def test_delay_that_is_no_length_of_time_is_refused_where_it_is_written(kind: Any, delay: Any) -> None:
    with pytest.raises(ValueError, match="delay|convert"):
        kind(delay=delay)


@pytest.mark.parametrize("kind", [Retry, Snooze])
@pytest.mark.parametrize("delay", [1e17, 1e300, timedelta.max, 10**40])
def test_delay_of_more_than_ten_years_is_cut(kind: Any, delay: Any) -> None:
    error = kind(delay=delay)
    assert error.delay_ms == limits.REPORTED_DELAY_MS_MAX
    assert outcomes.failed(1, "t", error).retry_delay_ms == limits.REPORTED_DELAY_MS_MAX


class OwnSnooze(Snooze):
    def __init__(self, service: str) -> None:
        super().__init__(f"{service} asks for a pause", delay=7)
        self.service = service


@pytest.mark.parametrize(
    "error",
    [Retry("r"), Retry(delay=1), Snooze("s", delay=2), Cancel("c"), Fail("f", retry=True), OwnSnooze("mail"), Fail()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_steering_comes_whole_out_of_a_process_pool(error: Steering, way: Callable[[Steering], Steering]) -> None:
    again = way(error)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_errors_of_the_worker_come_whole_out_of_a_process_pool(kind: type[errors.WorkerError]) -> None:
    error = kind("a", "b") if kind is errors.PluginError else kind("a")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


async def test_progress_that_cannot_be_written_is_its_handlers_own_error(make_rig: MakeRig) -> None:
    words: list[object] = [None, 7, Text("odd"), "plain"]

    @handler
    def tells(ctx: Context) -> None:
        for word in words:
            ctx.progress(0.5, word)

    @handler
    def cannot(ctx: Context) -> None:
        ctx.progress(0.5, SilentText())

    rig = make_rig(tells, cannot)
    said: list[str] = []
    rig.executor._attempts._progress = lambda fence, id, fraction, message: said.append(message)
    rig.feed((1, "tells"), (2, "cannot"))
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert (await rig.report(2)).failure.type == "Halt"
    assert said == ["", "7", "odd", "plain"]
    assert all(type(word) is str for word in said)
