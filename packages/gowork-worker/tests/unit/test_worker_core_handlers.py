from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from gowork.worker import Cancel, Context, Fail, HandlerDefinitionError, Retry, Snooze, handler
from gowork.worker._core.calls import bind
from gowork.worker._core.context import Place
from gowork.worker._core.handlers import Isolation, options_of
from gowork.worker._core.steering import delay_ms


def context(payload: str = "", data: bytes = b"", progress: Any = None) -> Context:
    return Context(
        Place("w"),
        progress or (lambda *word: None),
        id="t",
        attempt=1,
        fence=9,
        handler="h",
        payload=payload,
        data=data,
        queue="default",
        labels={},
    )


def test_decorated_function_stays_callable() -> None:
    @handler("double", max_attempts=3)
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8
    options = options_of(double)
    assert options is not None
    assert (options.name, options.isolation) == ("double", Isolation.THREAD)
    assert options.retry is not None
    assert options.retry.max_attempts == 3


def test_bare_decorator_takes_the_functions_name() -> None:
    @handler
    async def fetch() -> None: ...

    options = options_of(fetch)
    assert options is not None
    assert (options.name, options.isolation, options.retry) == ("fetch", Isolation.ASYNC, None)


def test_durations_are_seconds_or_timedeltas() -> None:
    @handler(time_limit=timedelta(minutes=1), grace=0.25, retry_delay=1.5)
    def slow() -> None: ...

    options = options_of(slow)
    assert options is not None
    assert options.retry is not None
    assert (options.time_limit_ms, options.grace_ms, options.retry.initial_delay_ms) == (60_000, 250, 1500)


def test_isolated_handlers_have_little_grace() -> None:
    @handler(isolation="process")
    def apart() -> None: ...

    options = options_of(apart)
    assert options is not None
    assert (options.isolation, options.grace_ms) == (Isolation.PROCESS, 500)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"isolation": "async"}, "plain function"),
        ({"isolation": "moon"}, "moon"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1001}, "1,000"),
        ({"max_attempts": 2.5}, "max_attempts: 2.5 is no whole number"),
        ({"max_attempts": "3"}, "max_attempts"),
        ({"time_limit": math.nan}, "time_limit: nan is not finite"),
        ({"time_limit": math.inf}, "time_limit: inf is not finite"),
        ({"time_limit": 1e300}, "time_limit: 1e.300 is too long"),
        ({"time_limit": timedelta.max}, "time_limit.*316,224,000 seconds"),
        ({"time_limit": "soon"}, "time_limit"),
        ({"grace": math.inf}, "grace"),
        ({"grace": -1}, "grace: -1 is negative"),
        ({"grace": 86_401}, "86,400 seconds"),
        ({"retry_delay": math.nan}, "retry_delay: "),
        ({"retry_delay": 604_801}, "retry_delay: .* 604,800 seconds"),
        ({"retry_delay_max": 10**400}, "retry_delay_max"),
        ({"retry_factor": math.nan}, "retry_factor is 1 to 100"),
        ({"retry_jitter": math.nan}, "retry_jitter"),
        ({"retry_factor": "2"}, "retry_factor"),
        ({"no_retry": [3]}, "no_retry: each entry is an exception type"),
        ({"no_retry": "ValueError"}, r"no_retry=\[ValueError\]"),
        ({"no_retry": ValueError}, r"no_retry=\[ValueError\]"),
        ({"nonsense": 3}, "nonsense"),
        ({"retry_factor": 0.5}, "retry_factor"),
        ({"retry_jitter": 2}, "retry_jitter"),
        ({"time_limit": -1}, "negative"),
        ({"on_lease_lost": "panic"}, "panic"),
        ({"on_lost": "never"}, """on_lost is "again" or "fail", not 'never'"""),
        ({"no_retry": ["x"] * 65}, "64"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, Any], word: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=word):
        handler(**options)(lambda: None)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(HandlerDefinitionError, match="128 printable bytes"):
        handler(name)(lambda: None)


def test_class_is_no_handler() -> None:
    with pytest.raises(HandlerDefinitionError, match="not a function"):
        handler("x")(type("Callable", (), {"__call__": lambda self: None})())


def call(function: Any, **given: Any) -> Any:
    options = options_of(function)
    assert options is not None
    bound = bind(function, options, "test")
    return function(*bound.arguments(context(**given)))


def test_every_form_of_signature_is_called() -> None:
    @handler
    def nothing() -> str:
        return "nothing"

    @handler
    def only_context(ctx: Any) -> int:
        return int(ctx.fence)

    @handler
    def annotated(what_i_like: Context) -> int:
        return what_i_like.fence

    @handler
    def only_payload(payload: list[int]) -> int:
        return sum(payload)

    @handler
    def both(first, second: dict[str, int]) -> tuple[int, dict[str, int]]:
        return first.fence, second

    @handler
    def extra(ctx: Context, payload: int, more: int = 5) -> int:
        return payload + more

    assert call(nothing) == "nothing"
    assert call(only_context) == call(annotated) == 9
    assert call(only_payload, payload="[1, 2]") == 3
    assert call(both, payload='{"a": 1}') == (9, {"a": 1})
    assert call(extra, payload="1") == 6


def test_signature_of_another_form_is_refused() -> None:
    def three(a: int, b: int, c: int) -> None: ...

    def keyword(a: int, *, b: int) -> None: ...

    for function in (three, keyword):
        with pytest.raises(HandlerDefinitionError, match=r"takes \(a, b"):
            call(handler(function))


def test_annotation_that_cannot_be_resolved_is_named() -> None:
    def lost(payload: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(HandlerDefinitionError, match="Nowhere"):
        call(handler(lost))


def test_annotation_that_cannot_be_read_is_named() -> None:
    def odd(payload: list[int] | tuple[int, ...]) -> None: ...

    def custom(payload: Place) -> None: ...

    for function in (odd, custom):
        with pytest.raises(HandlerDefinitionError, match=f"{function.__name__}.*cannot be read"):
            call(handler(function))


def test_a_test_makes_a_context_of_what_its_handler_looks_at() -> None:
    made = Context(id="t", attempt=2)
    made.progress(0.5)
    made.state.pool = 1
    assert (made.id, made.attempt, made.schedule("x"), made.worker) == ("t", 2, "t/1", "test")
    assert [task.payload for task in made.follow_ups] == ["x"]
    assert not made.cancelled
    assert not made.labels


def test_progress_is_clipped() -> None:
    words: list[Any] = []
    told = context(progress=lambda *word: words.append(word))
    told.progress(2, "over")
    told.progress(-1)
    assert words == [(9, "t", 1.0, "over"), (9, "t", 0.0, "")]


def test_delays_are_whole_milliseconds() -> None:
    assert delay_ms(0.0015) == 2
    assert delay_ms(timedelta(seconds=2)) == 2000
    with pytest.raises(ValueError, match="negative"):
        delay_ms(-0.1)


def test_steering_has_words_of_its_own() -> None:
    assert all(str(steering) for steering in (Retry(), Snooze(delay=1), Cancel(), Fail()))
    assert (Retry(delay=1).delay_ms, Retry().delay_ms) == (1000, None)


def test_only_the_payload_s_annotation_has_to_exist_when_it_runs() -> None:
    def priced(ctx: Missing, item: str, more: Missing = None) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return item

    def alone(item: str) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return item

    assert call(handler(priced), payload="x") == "x"
    assert call(handler(alone), payload="x") == "x"


def test_a_handler_may_refer_to_what_is_bound_after_it() -> None:
    @handler
    def first(path: str) -> str:
        return second(path)

    options = options_of(first)
    assert options is not None
    bound = bind(first, options, "test")

    def second(path: str) -> str:
        return path

    assert first(*bound.arguments(context("a"))) == "a"
