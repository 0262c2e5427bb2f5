from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest

from gowork.worker import Fail, Retry, hookimpl, hookspecs
from gowork.worker._core.around import FAULTS_MAX, AroundTasks

Hook = Callable[[Any], Any]


def around(**hooks: Hook) -> AroundTasks:
    """The hooks of these plugins, in this order."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name, function in hooks.items():
        # Of its own: two plugins may have one function.
        manager.register(_Plugin(function), name)
    return AroundTasks(manager)


class _Plugin:
    def __init__(self, function: Hook) -> None:
        self._function = function

    @hookimpl
    def gowork_around_task(self, ctx: Any) -> Any:
        return self._function(ctx)


def run(hooks: AroundTasks, body: Callable[[], Any] = lambda: "done") -> Any:
    with ExitStack() as stack:
        hooks.enter(stack, SimpleNamespace(id="t"))  # type: ignore[arg-type]
        return body()
    return "swallowed"


def noting(notes: list[str], name: str) -> Hook:
    @contextmanager
    def hook(ctx: Any) -> Iterator[None]:
        notes.append(f"enter {name}")
        yield
        notes.append(f"leave {name}")

    return hook


def test_the_first_registered_is_the_outermost() -> None:
    notes: list[str] = []
    assert run(around(a=noting(notes, "a"), b=noting(notes, "b"), c=lambda ctx: None)) == "done"
    assert notes == ["enter a", "enter b", "leave b", "leave a"]


def failing_call(ctx: Any) -> Any:
    raise KeyError("metric")


def failing_enter(ctx: Any) -> Any:
    @contextmanager
    def hook() -> Iterator[None]:
        raise SystemExit(3)
        yield

    return hook()


def failing_exit(ctx: Any) -> Any:
    @contextmanager
    def hook() -> Iterator[None]:
        yield
        raise OSError("the disk is full")

    return hook()


def no_manager(ctx: Any) -> Any:
    return 5


@pytest.mark.parametrize("hook", [failing_call, failing_enter, failing_exit, no_manager])
def test_a_hook_that_fails_is_named_and_harms_neither_task_nor_other_hooks(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []
    with caplog.at_level(logging.WARNING):
        assert run(around(before=noting(notes, "a"), broken=hook, after=noting(notes, "b"))) == "done"
    assert notes == ["enter a", "enter b", "leave b", "leave a"]
    (record,) = caplog.records
    assert vars(record)["plugin"] == "broken"
    assert record.exc_info is not None


def test_a_hook_that_fails_a_few_times_in_a_row_is_withdrawn(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[object] = []

    def hook(ctx: Any) -> Any:
        calls.append(ctx)
        raise KeyError

    hooks = around(broken=hook)
    for _ in range(FAULTS_MAX + 5):
        assert run(hooks) == "done"
    assert len(calls) == FAULTS_MAX
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (FAULTS_MAX - 1) + ["ERROR"]
    assert "withdrawn" in caplog.records[-1].getMessage()


def test_a_hook_that_works_again_is_forgiven() -> None:
    outcomes = iter([False, False, True] * FAULTS_MAX + [True])
    calls: list[bool] = []

    @contextmanager
    def held() -> Iterator[None]:
        yield

    def hook(ctx: Any) -> Any:
        calls.append(works := next(outcomes))
        if not works:
            raise KeyError
        return held()

    hooks = around(shaky=hook)
    for _ in range(3 * FAULTS_MAX + 1):
        run(hooks)
    assert len(calls) == 3 * FAULTS_MAX + 1


@pytest.mark.parametrize("hook", [failing_exit, noting([], "a")])
def test_the_handler_s_exception_comes_out_of_every_hook_as_it_was(hook: Hook) -> None:
    error = ValueError("mine")

    def body() -> None:
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        run(around(one=hook, other=hook), body)
    assert raised.value is error


@pytest.mark.parametrize("meant", [Retry("later"), Fail("never"), asyncio.CancelledError()])
@pytest.mark.parametrize("place", ["call", "enter", "exit"])
def test_what_a_hook_raises_on_purpose_is_the_attempt_s(meant: BaseException, place: str) -> None:
    @contextmanager
    def held() -> Iterator[None]:
        if place == "enter":
            raise meant
        yield
        raise meant

    def hook(ctx: Any) -> Any:
        if place == "call":
            raise meant
        return held()

    with pytest.raises(type(meant)):
        run(around(steering=hook))


def test_a_hook_may_swallow_the_handler_s_exception() -> None:
    @contextmanager
    def hook() -> Iterator[None]:
        try:
            yield
        except ValueError:
            pass

    def body() -> None:
        raise ValueError

    assert run(around(forgiving=lambda ctx: hook()), body) == "swallowed"
