"""The decorator @handler, and the options that it leaves on the function.

The decorated function stays what it was, so that it can be called and tested. Its attribute `__gowork_handler__` holds
the options; a client reads the name there. The signature is read later (calls.py), when every type in it exists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal, TypeVar, overload

from gowork.base.schedule_times import At, Cron, Every
from gowork.base.suggestions import meant
from gowork.proto import limits
from gowork.worker._core.bounds import duration_ms, names_of, whole, within
from gowork.worker._core.schedules import DeclaredSchedule, Schedule, declared
from gowork.worker._core.steering import Delay
from gowork.worker.errors import HandlerDefinitionError

#: The longest grace, in milliseconds: a day.
GRACE_MS_MAX = 24 * 3600 * 1000
_NOTE = "__gowork_handler__"
#: The options that @handler takes, besides the name.
OPTION_NAMES = (
    "time_limit",
    "max_attempts",
    "retry_delay",
    "retry_factor",
    "retry_delay_max",
    "retry_jitter",
    "no_retry",
    "isolation",
    "grace",
    "on_lease_lost",
    "on_lost",
    "schedule",
)
F = TypeVar("F", bound=Callable[..., Any])
Scheduled = Schedule | Cron | Every | At


class Isolation(StrEnum):
    """Where a handler runs."""

    #: On the runner's event loop: every `async def`.
    ASYNC = "async"
    #: In one of the runner's threads: every plain function.
    THREAD = "thread"
    #: Alone in a process of its own, which is ended when the task has to stop.
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """When and how often to try again, as in scheduler.v1.RetryPolicy."""

    max_attempts: int = 1
    initial_delay_ms: int = 0
    factor: float = 0.0
    max_delay_ms: int = 0
    jitter: float = 0.0
    #: Names of exception types; a subclass counts too.
    no_retry: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """The options given to @handler, checked."""

    name: str
    isolation: Isolation
    #: None when no retry option was given: the leader's default holds then.
    retry: RetryOptions | None = None
    #: 0 means none.
    time_limit_ms: int = 0
    #: How long a handler may go on after it was asked to stop.
    grace_ms: int = 5000
    #: Whether the handler is asked to stop when the worker has not heard from its leader for longer than the lease.
    stop_on_lease_lost: bool = False
    #: Whether a task ends with ERROR when an attempt of it was lost, instead of running again.
    fails_if_lost: bool = False
    #: When the leader makes tasks for it by itself.
    schedules: tuple[DeclaredSchedule, ...] = ()


@overload
def handler(function: F, /) -> F: ...


@overload
def handler(
    name: str | None = None,
    *,
    time_limit: float | timedelta | None = None,
    max_attempts: int | None = None,
    retry_delay: Delay | None = None,
    retry_factor: float | None = None,
    retry_delay_max: Delay | None = None,
    retry_jitter: float | None = None,
    no_retry: Iterable[type[BaseException] | str] = (),
    isolation: Literal["thread", "process", "async"] | None = None,
    grace: float | timedelta | None = None,
    on_lease_lost: Literal["continue", "stop"] = "continue",
    on_lost: Literal["again", "fail"] = "again",
    schedule: Scheduled | Sequence[Scheduled] | None = None,
) -> Callable[[F], F]: ...


def handler(name: Any = None, **options: Any) -> Any:
    """Makes a function a handler.

    Args:
        name: the name by which tasks ask for it; the function's own name when left out.
        **options: those that follow, by name.
        time_limit: seconds that one attempt may run, where the task has no limit of its own.
        max_attempts: how often a task is tried in all when it fails or times out, 1 to 1,000, where the task has
            no policy.
        retry_delay: seconds before the first retry.
        retry_factor: what each further delay is multiplied by, 1 to 100.
        retry_delay_max: the longest delay, in seconds.
        retry_jitter: the share of the delay that is spread at random, 0 to 1.
        no_retry: exception types, or their names, after which the task is not tried again.
        isolation: "process" runs it alone in a process of its own. Else an `async def` runs on the runner's loop
            ("async") and a plain function in one of its threads ("thread").
        grace: seconds that the handler may go on after it was asked to stop, before its process is ended. When left
            out: 5, and 0.5 with isolation="process".
        on_lease_lost: "stop" asks the handler to stop when the worker has not heard from its leader for longer than
            the lease. Its task may then already run elsewhere.
        on_lost: "fail" is for what must never run twice: a task whose attempt may have begun, and did not report how
            it ended, ends with ERROR, where the task itself does not say "again". A failure that the handler reports is
            tried again as the retry options say.
        schedule: when the leader makes tasks for the handler by itself: a Cron, an Every or an At; or a Schedule, which
            has a payload and options too; or several of these.

    Returns:
        The function itself.

    Raises:
        HandlerDefinitionError: when an option has a wrong type or is beyond its limits. The text names it.
    """
    if callable(name):
        return _decorate(name, None, {})
    return lambda function: _decorate(function, name, options)


def options_of(function: object) -> HandlerOptions | None:
    """Returns the options that @handler left on the function; None when it is no handler."""
    try:
        if isinstance(function, type):
            options = vars(function).get(_NOTE)
        elif hasattr(type(function), _NOTE):
            options = None  # An object of a class with @handler. The class itself is refused.
        else:
            options = getattr(function, _NOTE, None)
    except Exception:  # noqa: BLE001 - modules hold foreign objects, and these may raise anything
        return None
    return options if isinstance(options, HandlerOptions) else None


def make_options(function: Callable[..., Any], name: str | None = None, /, **options: Any) -> HandlerOptions:
    """Checks the options given to @handler.

    Raises:
        HandlerDefinitionError: when an option has a wrong type or is beyond its limits. The text names it.
    """
    # A class is accepted here and refused when it is loaded, so that the module's other handlers work.
    if not (inspect.isroutine(function) or isinstance(function, type)):
        raise HandlerDefinitionError(f"{function!r} is not a function; write @handler above a `def` or `async def`")
    name = function.__name__ if name is None else name
    if not isinstance(name, str):
        raise HandlerDefinitionError(f"handler {name!r}: its name is not text")
    for option in options:
        if option not in OPTION_NAMES:
            raise HandlerDefinitionError(
                f"handler {name!r}: there is no option {option!r}; the options are "
                f"{', '.join(OPTION_NAMES)}{meant(option, OPTION_NAMES)}"
            )
    try:
        return _options(function, name, **options)
    except (ValueError, TypeError) as error:
        raise HandlerDefinitionError(f"handler {name!r}: {error}") from error


def _decorate(function: F, name: str | None, options: dict[str, Any]) -> F:
    function.__gowork_handler__ = make_options(function, name, **options)  # type: ignore[attr-defined]
    return function


def _options(
    function: Callable[..., Any],
    name: str,
    *,
    time_limit: Delay | None = None,
    isolation: str | None = None,
    grace: Delay | None = None,
    on_lease_lost: str = "continue",
    on_lost: str = "again",
    schedule: object = None,
    **retry: Any,
) -> HandlerOptions:
    if not name or not name.isprintable() or len(name.encode()) > limits.NAME_BYTES_MAX:
        raise ValueError(f"a name has 1 to {limits.NAME_BYTES_MAX} printable bytes")
    if on_lease_lost not in ("continue", "stop"):
        raise ValueError(f'on_lease_lost is "continue" or "stop", not {on_lease_lost!r}')
    if on_lost not in ("again", "fail"):
        raise ValueError(f'on_lost is "again" or "fail", not {on_lost!r}')
    place = _isolation(function, isolation)
    default_grace = 500 if place is Isolation.PROCESS else 5000
    return HandlerOptions(
        name=name,
        isolation=place,
        retry=_retry(**retry),
        time_limit_ms=_limit_ms(time_limit),
        grace_ms=default_grace if grace is None else duration_ms("grace", grace, GRACE_MS_MAX),
        stop_on_lease_lost=on_lease_lost == "stop",
        fails_if_lost=on_lost == "fail",
        schedules=declared(schedule, name),
    )


def _limit_ms(time_limit: Delay | None) -> int:
    # None means no limit, which is 0 on the wire. A limit of 0 s is a limit, so it becomes 1 ms.
    return 0 if time_limit is None else max(1, duration_ms("time_limit", time_limit, limits.DURATION_MS_MAX))


def _isolation(function: Callable[..., Any], isolation: str | None) -> Isolation:
    natural = Isolation.ASYNC if inspect.iscoroutinefunction(function) else Isolation.THREAD
    if isolation is None:
        return natural
    wanted = Isolation(isolation)
    if wanted is not Isolation.PROCESS and wanted is not natural:
        kind = "an async def" if natural is Isolation.ASYNC else "a plain function"
        raise ValueError(f'isolation="{wanted}" does not go with {kind}, which runs as "{natural}"')
    return wanted


def _retry(
    *,
    max_attempts: int | None = None,
    retry_delay: Delay | None = None,
    retry_factor: float | None = None,
    retry_delay_max: Delay | None = None,
    retry_jitter: float | None = None,
    no_retry: Iterable[type[BaseException] | str] = (),
) -> RetryOptions | None:
    names = names_of(no_retry)
    given = (max_attempts, retry_delay, retry_factor, retry_delay_max, retry_jitter)
    if all(option is None for option in given) and not names:
        return None
    attempts = 1 if max_attempts is None else whole("max_attempts", max_attempts, 1, limits.ATTEMPTS_MAX)
    factor = 0.0 if retry_factor is None else float(within("retry_factor", retry_factor, 1, limits.RETRY_FACTOR_MAX))
    jitter = 0.0 if retry_jitter is None else float(within("retry_jitter", retry_jitter, 0, 1))
    whole("the number of no_retry names", len(names), 0, limits.NO_RETRY_NAMES_MAX)
    delay, delay_max = (
        0 if given is None else duration_ms(name, given, limits.RETRY_DELAY_MS_MAX)
        for name, given in (("retry_delay", retry_delay), ("retry_delay_max", retry_delay_max))
    )
    return RetryOptions(attempts, delay, factor, delay_max, jitter, names)
