from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest

from gowork.worker import Fail, Retry, hookimpl, hookspecs
from gowork.worker._core import around as around_module
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


def all_of(loop: asyncio.AbstractEventLoop | None = None, **hooks: Hook) -> AroundTasks:
    """The hooks of these plugins around all tasks, as they are written."""
    return as_written("gowork_around_task", loop, hooks)


def own_of(loop: asyncio.AbstractEventLoop | None = None, **hooks: Hook) -> AroundTasks:
    """The hooks of these plugins around their own tasks, as they are written."""
    return as_written("gowork_around_own_task", loop, hooks)


def as_written(spec: str, loop: asyncio.AbstractEventLoop | None, hooks: dict[str, Hook]) -> AroundTasks:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name, function in hooks.items():
        manager.register(SimpleNamespace(**{spec: hookimpl(function)}), name)
    return AroundTasks(manager, loop)


class Told:
    """Notes what hooks would be told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, BaseException | None]] = []

    def tell(self, error: BaseException | None) -> None:
        self.notes.append(("tell", error))

    def stand(self, error: BaseException | None) -> None:
        self.notes.append(("stand", error))


CONTEXT: Any = SimpleNamespace(id="t")


def run(hooks: AroundTasks, body: Callable[[], Any] = lambda: "done", told: Told | None = None) -> Any:
    with ExitStack() as stack:
        hooks.enter(stack, CONTEXT, told or Told())
        return body()
    return "swallowed"


async def run_async(hooks: AroundTasks, body: Callable[[], Any] = lambda: "done") -> Any:
    async with AsyncExitStack() as stack:
        await hooks.enter_async(stack, CONTEXT, Told())
        return body()
    return "swallowed"


def run_own(hooks: AroundTasks, plugin: str, body: Callable[[], Any] = lambda: "done") -> Any:
    with ExitStack() as stack:
        hooks.enter_own(stack, CONTEXT, plugin, Told())
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


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_that_holds_nothing_around_a_task_is_forgiven_by_that(is_async: bool) -> None:
    outcomes = iter([False, False, True] * FAULTS_MAX + [True])
    calls: list[bool] = []

    def hook(ctx: Any) -> None:
        calls.append(works := next(outcomes))
        if not works:
            raise KeyError

    hooks = around(shaky=hook)
    for _ in range(3 * FAULTS_MAX + 1):
        assert (await run_async(hooks) if is_async else run(hooks)) == "done"
    assert len(calls) == 3 * FAULTS_MAX + 1


@pytest.mark.parametrize("hook", [failing_exit, noting([], "a")])
def test_the_handler_s_exception_comes_out_of_every_hook_as_it_was(hook: Hook) -> None:
    error = ValueError("mine")

    def body() -> None:
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        run(around(one=hook, other=hook), body)
    assert raised.value is error


@pytest.mark.parametrize("meant", [Retry("later"), Fail("never")])
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


def swallowing(ctx: Any) -> Any:
    @contextmanager
    def hook() -> Iterator[None]:
        try:
            yield
        except ValueError:
            pass

    return hook()


def failing_body() -> None:
    raise ValueError("mine")


def test_a_hook_that_swallows_an_exception_is_named_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="mine"):
        run(around(forgiving=swallowing), failing_body)
    (record,) = caplog.records
    assert vars(record)["plugin"] == "forgiving"
    assert record.exc_info is not None
    assert "it swallowed the task's ValueError" in str(record.exc_info[1])


async def test_an_async_hook_that_swallows_an_exception_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def hook(ctx: Any) -> AsyncIterator[None]:
        try:
            yield
        except ValueError:
            pass

    with pytest.raises(ValueError, match="mine"):
        await run_async(all_of(forgiving=hook), failing_body)
    assert [vars(record)["plugin"] for record in caplog.records] == ["forgiving"]


def test_the_line_of_a_withdrawn_hook_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    hooks = around(broken=failing_call)
    for _ in range(FAULTS_MAX):
        run(hooks)
    last = vars(caplog.records[-1])
    assert (last["hook"], last["plugin"]) == ("gowork_around_task", "broken")
    assert last["advice"] == "mend, upgrade or uninstall the plugin broken, and start the worker again"


async def test_a_hook_that_is_a_generator_yields_where_the_task_runs() -> None:
    notes: list[str] = []

    def plain(ctx: Any) -> Iterator[None]:
        notes.append("+plain")
        yield
        notes.append("-plain")

    async def waits(ctx: Any) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        notes.append("+waits")
        yield
        await asyncio.sleep(0)
        notes.append("-waits")

    assert await run_async(all_of(a=plain, b=waits), lambda: notes.append("task")) is None
    assert notes == ["+plain", "+waits", "task", "-waits", "-plain"]


async def test_a_hook_that_awaits_is_held_around_a_handler_in_a_thread_by_one_task_of_the_loop() -> None:
    notes: list[object] = []

    async def waits(ctx: Any) -> AsyncIterator[None]:
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
            notes.append(threading.current_thread())
            with contextlib.suppress(ValueError):
                yield
            await asyncio.sleep(0)
            notes.append(asyncio.current_task())
            raise ValueError("mine")

    hooks = own_of(asyncio.get_running_loop(), waits=waits)
    with pytest.raises(ValueError, match="mine"):
        await asyncio.to_thread(run_own, hooks, "waits", failing_body)
    assert notes[0] is threading.current_thread()
    assert notes[1] is not asyncio.current_task()
    assert await asyncio.to_thread(run_own, hooks, "another") == "done"


@pytest.mark.parametrize("place", ["enter", "leave"])
async def test_a_hook_that_awaits_for_too_long_is_broken_off_and_harms_no_task(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(around_module, "HOOK_SECONDS_MAX", 0.01)
    ended: list[str] = []

    async def slow(ctx: Any) -> AsyncIterator[None]:
        try:
            if place == "enter":
                await asyncio.Event().wait()
            yield
            await asyncio.Event().wait()
        finally:
            ended.append(place)

    assert await run_async(all_of(slow=slow)) == "done"
    hooks = all_of(asyncio.get_running_loop(), slow=slow)
    assert await asyncio.to_thread(run, hooks) == "done"
    assert ended == [place, place]
    texts = [str(record.exc_info[1]) for record in caplog.records if record.exc_info is not None]
    assert texts == [f"it was not {'entered' if place == 'enter' else 'left'} within 0.01 s"] * 2


@pytest.mark.parametrize("place", ["entered", "left"])
async def test_a_hook_around_own_tasks_that_awaits_for_too_long_is_broken_off(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around_module, "HOOK_SECONDS_MAX", 0.01)

    async def slow(ctx: Any) -> AsyncIterator[None]:
        if place == "entered":
            await asyncio.Event().wait()
        yield
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=f"it was not {place} within 0.01 s"):
        async with AsyncExitStack() as stack:
            await own_of(slow=slow).enter_own_async(stack, CONTEXT, "slow", Told())


@pytest.mark.parametrize("place", ["enter", "leave"])
def test_a_plain_hook_that_takes_too_long_is_a_fault_afterwards(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(around_module, "monotonic", lambda: now[0])

    def slow(ctx: Any) -> Iterator[None]:
        now[0] += 11 if place == "enter" else 1
        yield
        now[0] += 11 if place == "leave" else 1

    def long_task() -> str:
        now[0] += 1000
        return "done"

    hooks = all_of(slow=slow)
    for _ in range(FAULTS_MAX):
        assert run(hooks, long_task) == "done"
    assert "withdrawn" in caplog.records[-1].getMessage()
    assert "longer than 10 s" in str(caplog.records[-1].exc_info)


def test_the_time_of_the_task_is_not_that_of_its_hooks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(around_module, "monotonic", lambda: now[0])

    def long_task() -> None:
        now[0] += 1000

    run(around(quick=noting([], "a")), long_task)
    assert not caplog.records


async def test_a_cancel_that_a_hook_makes_up_is_its_own_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def hook(ctx: Any) -> AsyncIterator[None]:
        raise asyncio.CancelledError
        yield

    assert await run_async(all_of(odd=hook)) == "done"
    assert run(around(odd=lambda ctx: (_ for _ in ()).throw(asyncio.CancelledError()))) == "done"
    assert len(caplog.records) == 2


@pytest.mark.parametrize("place", ["enter", "leave"])
async def test_a_stop_reaches_a_task_while_a_hook_is_entered_and_no_more_while_it_is_left(place: str) -> None:
    waits = asyncio.Event()

    async def hook(ctx: Any) -> AsyncIterator[None]:
        if place == "enter":
            waits.set()
            await asyncio.Event().wait()
        yield
        waits.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_async(all_of(slow=hook)))
    await waits.wait()
    task.cancel()
    if place == "enter":
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert await task == "done"


def test_hooks_are_ordered_by_tryfirst_and_trylast() -> None:
    notes: list[str] = []
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in ("a", "last1", "first1", "b", "last2", "first2"):
        is_first, is_last = name.startswith("first"), name.startswith("last")
        hook = hookimpl(noting(notes, name), tryfirst=is_first, trylast=is_last)
        manager.register(SimpleNamespace(gowork_around_task=hook), name)
    run(AroundTasks(manager))
    assert [note.removeprefix("enter ") for note in notes if note.startswith("enter")] == [
        "first1", "first2", "a", "b", "last1", "last2",
    ]  # fmt: skip


def test_a_hook_around_own_tasks_is_part_of_its_handlers() -> None:
    def own(ctx: Any) -> Iterator[None]:
        yield
        raise OSError("no room")

    hooks = own_of(mine=own)
    with pytest.raises(OSError, match="no room") as raised:
        run_own(hooks, "mine")
    assert raised.value.__notes__ == ["It was raised by the hook gowork_around_own_task of the plugin mine."]
    assert run_own(hooks, "another") == "done"
    assert run(hooks) == "done"


def test_a_hook_around_own_tasks_may_swallow_an_exception() -> None:
    assert run_own(own_of(mine=swallowing), "mine", failing_body) == "swallowed"


@pytest.mark.parametrize("yields", [0, 2])
def test_a_hook_yields_once(yields: int, caplog: pytest.LogCaptureFixture) -> None:
    def hook(ctx: Any) -> Iterator[None]:
        for _ in range(yields):
            yield

    assert run(all_of(odd=hook)) == "done"
    assert len(caplog.records) == 1
    with pytest.raises(RuntimeError, match="generator didn't") as raised:
        run_own(own_of(odd=hook), "odd")
    assert "of the plugin odd" in raised.value.__notes__[0]


def test_hooks_around_all_tasks_are_told_first() -> None:
    told = Told()
    error = ValueError("mine")

    def body() -> None:
        raise error

    with pytest.raises(ValueError, match="mine"):
        run(around(a=noting([], "a"), b=noting([], "b")), body, told)
    assert told.notes == [("stand", error), ("stand", error)]


@dataclass(frozen=True)
class _Frozen(Exception):
    """Lets nobody write into it: neither a traceback nor a note."""

    item: str


def _thrown(error: BaseException) -> Any:
    raise error


def plain_generator(ctx: Any) -> Iterator[None]:
    yield


async def async_generator(ctx: Any) -> AsyncIterator[None]:
    yield


#: A hook may be a generator, and may return what contextlib makes of one.
FORMS = [plain_generator, async_generator, contextmanager(plain_generator), asynccontextmanager(async_generator)]


@pytest.mark.parametrize("hook", FORMS)
async def test_an_exception_that_lets_nothing_be_written_into_it_is_no_hook_s_fault(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    loop, error = asyncio.get_running_loop(), _Frozen("apple")
    with pytest.raises(_Frozen):
        await run_async(all_of(a=hook), lambda: _thrown(error))
    with pytest.raises(_Frozen):
        await asyncio.to_thread(run, all_of(loop, a=hook), lambda: _thrown(error))
    with pytest.raises(_Frozen):
        await asyncio.to_thread(run_own, own_of(loop, a=hook), "a", lambda: _thrown(error))
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(_Frozen))
        await own_of(a=hook).enter_own_async(stack, CONTEXT, "a", Told())
        raise error
    assert caplog.records == []


def test_a_hook_around_own_tasks_may_raise_what_takes_no_notes() -> None:
    def refusing(ctx: Any) -> Iterator[None]:
        raise _Frozen("apple")
        yield

    with pytest.raises(_Frozen):
        run_own(own_of(a=refusing), "a")
