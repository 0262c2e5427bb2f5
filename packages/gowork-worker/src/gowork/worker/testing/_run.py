"""Runs a handler once, as a worker would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, TypedDict, Unpack

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core import checkpoints
from gowork.worker._core.bounds import duration_ms, utf8, whole
from gowork.worker._core.codec import encode_payload
from gowork.worker._core.context import Place
from gowork.worker._core.selection import Selection
from gowork.worker.testing._bench import Bench, HandlerStuck, Plan
from gowork.worker.testing._clock import FakeClock
from gowork.worker.testing._faults import Fault
from gowork.worker.testing._outcome import Outcome

__all__ = ["HandlerStuck", "RunOptions", "run_handler", "run_handler_async"]

#: Seconds of real time that a run may take.
_PATIENCE = 10.0
#: Where pytest's own outcomes are defined. They end a test, whoever raises them.
_PYTEST = "_pytest.outcomes"


class RunOptions(TypedDict, total=False):
    """The options of a run. What is left out is as a plain task would have it."""

    #: The task's id: "test".
    id: str
    #: The number of the attempt: 1.
    attempt: int
    #: The attempt's fence: that number.
    fence: int
    #: The queue: "default".
    queue: str
    #: The task's labels: none.
    labels: Mapping[str, str]
    #: The task's own time limit: none, so that the handler's counts.
    time_limit: float | timedelta
    #: How often the task itself says that it is tried: the handler's policy.
    max_attempts: int
    #: What the attempt before has given to `ctx.checkpoint`: nothing.
    checkpoint: object
    #: The ids of the tasks after which it runs: none.
    after: Iterable[str]
    #: Whether the task is a group: False.
    is_group: bool
    #: How often a handler of the task has returned a WaitFor before: 0.
    continued: int
    #: What `ctx.state` has before lifespans are entered: an object, or a mapping of its attributes.
    state: object
    #: Lifespans that are entered before the handler runs, and left after it.
    lifespans: Iterable[Callable[[Any], Any]]
    #: Modules that are loaded as by `gowork-worker --import`, with their handlers, lifespans and hooks.
    imports: Iterable[str]
    #: The worker's name: "test".
    worker: str
    #: The run's clock: one that jumps.
    clock: FakeClock
    #: What goes wrong, and when.
    faults: Iterable[Fault]
    #: Seconds of real time after which a handler that has not ended is given up: 10.
    patience: float


def run_handler(handler: Callable[..., Any] | str, payload: object = "", **options: Unpack[RunOptions]) -> Outcome:
    """Runs a handler once, and returns what the worker would tell its leader.

    The payload is written as a client writes it and read as the worker reads it. A plain handler runs in this thread,
    except where an event loop runs in it: then it has a thread of its own. An async handler runs on a loop of its own,
    in another thread. Neither sees context variables of the test.

    Args:
        handler: a function that a worker takes as handler, or the name of a handler of `imports`.
        payload: as for Client.schedule.
        **options: see RunOptions.

    Raises:
        HandlerDefinitionError: when it cannot be a handler.
        PluginError: when one of `imports` cannot be loaded.
        HandlerStuck: when it did not end within the patience.
        ValueError: when the payload cannot be sent, or an option is beyond its limits.
        TypeError: when there is no such option.
    """
    return _checked(run_plan(plan_of(handler, payload, options), own_thread=_is_in_loop()))


async def run_handler_async(
    handler: Callable[..., Any] | str, payload: object = "", **options: Unpack[RunOptions]
) -> Outcome:
    """Does as `run_handler`, and lets the test's own loop go on meanwhile.

    The handler has a loop of its own all the same, as it has in a worker. Give it what belongs to a loop by a lifespan.
    """
    bench = Bench(plan_of(handler, payload, options), own_thread=True)
    bench.start()
    ended = asyncio.wrap_future(bench.done)
    try:
        await asyncio.wait([ended])
    except asyncio.CancelledError:
        bench.abort()
        raise
    # Looked at here, so that asyncio does not complain that nobody has.
    ended.exception()
    return _checked(bench.outcome())


def run_plan(plan: Plan, *, own_thread: bool) -> Outcome:
    """Runs what a plan says, with a plain handler in this thread, or in its own. Raises what a run does."""
    bench = Bench(plan, own_thread=own_thread)
    bench.start()
    try:
        bench.work()
    except BaseException:
        bench.abort()
        raise
    return bench.outcome()


def plan_of(handler: Callable[..., Any] | str, payload: object, options: RunOptions) -> Plan:
    """Returns what is run, and how; see `run_handler`. Raises TypeError and ValueError as that does."""
    for name in options:
        if name not in RunOptions.__annotations__:
            raise TypeError(f"a run has no option {name!r}; it has {', '.join(sorted(RunOptions.__annotations__))}")
    text, data, form = encode_payload(payload)
    id = options.get("id", "test")
    utf8("id", id)
    attempt = whole("attempt", options.get("attempt", 1), 1, limits.ATTEMPTS_MAX)
    fence = whole("fence", options.get("fence", attempt), 1, (1 << 63) - 1)
    task = tasks.Task(id=id, payload=text, data=data, payload_form=form)  # type: ignore[arg-type] # Its number.
    task.queue = options.get("queue", "default")
    task.labels.update(options.get("labels", {}))
    task.after.extend(options.get("after", ()))
    if options.get("is_group", False):
        task.group.SetInParent()
    task.time_limit_ms = duration_ms("time_limit", options.get("time_limit", 0), limits.DURATION_MS_MAX)
    max_attempts = whole("max_attempts", options.get("max_attempts", 0), 0, limits.ATTEMPTS_MAX)
    if max_attempts:
        task.retry.max_attempts = max_attempts
    place = Place(options.get("worker", "test"))
    given = options.get("state")
    if given is not None:
        place.state = SimpleNamespace(**given) if isinstance(given, Mapping) else given  # type: ignore[assignment]
    functions = (*options.get("lifespans", ()), *(() if isinstance(handler, str) else (handler,)))
    continued = whole("continued", options.get("continued", 0), 0, limits.ATTEMPTS_MAX)
    grant = session.Grant(fence=fence, id=id, attempt=attempt, continued=continued)
    if (handed_on := options.get("checkpoint")) is not None:
        grant.checkpoint = checkpoints.written(handed_on, None)
    patience = options.get("patience", _PATIENCE)
    if not 0 < patience <= limits.DURATION_MS_MAX:
        raise ValueError(f"patience: {patience!r} is not a number of seconds above 0")
    return Plan(
        handler=handler,
        task=task,
        grant=grant,
        selection=Selection(plugins=(), imports=tuple(options.get("imports", ()))),
        functions=functions,
        place=place,
        clock=options.get("clock") or FakeClock(),
        faults=tuple(options.get("faults", ())),
        patience=patience,
    )


def _checked(outcome: Outcome) -> Outcome:
    """Returns the outcome, unless what was raised is for the test itself: Ctrl-C, or an outcome of pytest."""
    error = outcome.error
    if error is not None and (
        isinstance(error, KeyboardInterrupt) or any(base.__module__ == _PYTEST for base in type(error).__mro__)
    ):
        raise error
    return outcome


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
