"""The hooks around attempts: `gowork_around_task` for all of them, `gowork_around_own_task` for those of its plugin.

A hook around all tasks is entered by itself, so that a faulty one harms no task: it is named in the log and left out of
that attempt, and after FAULTS_MAX times in a row it is withdrawn. A Retry, Snooze, Cancel or Fail is no fault: it is as
if the handler had raised it. A hook around own tasks is part of its handlers: what it raises is the attempt's.

Invariant: whatever a hook around all tasks does, the attempt ends as it would without, except by those four.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, cast

import pluggy

from gowork.worker._core.context import Context
from gowork.worker._core.held_on_loop import HeldOnLoop, within
from gowork.worker._core.hook_order import outermost_first
from gowork.worker._core.steering import Steering

logger = logging.getLogger("gowork.worker.runner")

ALL, OWN = "gowork_around_task", "gowork_around_own_task"
#: After this many faults in a row a hook is not called any more.
FAULTS_MAX = 3
#: How long a hook may take to be entered, and to be left. One that awaits is cancelled then. One that does not can't be
#: broken off; around all tasks that counts as a fault afterwards.
HOOK_SECONDS_MAX = 10.0

Manager = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]


class HookFault(Exception):
    """What a hook has done that no hook may do. The text says what, and how to write it."""


class Ending(Protocol):
    """Works out how an attempt ends. Hooks are told before they are left."""

    def tell(self, error: BaseException | None) -> None:
        """Tells in the context how the attempt would end with this exception; None: with a result."""

    def stand(self, error: BaseException | None) -> None:
        """Tells it, and has it stand: a stop that comes from now on, while hooks are left, changes it no more."""


class AroundTasks:
    """The hooks of all plugins. May be used from any thread."""

    def __init__(self, hooks: pluggy.PluginManager, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Args:
        hooks: where the plugins are registered.
        loop: where hooks that await run for handlers in threads.
        """
        self._loop = loop
        #: The first is the outermost.
        self._all = tuple(_Hook(found) for found in outermost_first(hooks.hook.gowork_around_task))
        #: {plugin: its own, the first is the outermost}
        self._own: dict[str, list[_Hook]] = {}
        for found in outermost_first(hooks.hook.gowork_around_own_task):
            self._own.setdefault(found.plugin_name, []).append(_Hook(found))

    def __bool__(self) -> bool:
        return bool(self._all or self._own)

    def enter(self, stack: ExitStack, context: Context, ending: Ending) -> None:
        """Enters the hooks around all tasks for one attempt, in its thread. `stack` leaves them."""
        for hook in self._usable():
            began = monotonic()
            try:
                manager = hook.call(context)
                if manager is None:
                    hook.works(began)
                else:
                    stack.enter_context(_Guarded(hook, self._in_thread(manager), ending))
            except Steering:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is not the handler's
                hook.fault(error)

    async def enter_async(self, stack: AsyncExitStack, context: Context, ending: Ending) -> None:
        """Enters the hooks around all tasks for one attempt, on its loop. `stack` leaves them."""
        for hook in self._usable():
            began = monotonic()
            try:
                manager = hook.call(context)
                if manager is None:
                    hook.works(began)
                elif _awaits(manager):
                    await stack.enter_async_context(_GuardedAsync(hook, _asynchronous(manager), ending))
                else:
                    stack.enter_context(_Guarded(hook, _plain(manager), ending))
            except Steering:
                raise
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise  # The attempt is to stop.
                hook.fault(error)
            except BaseException as error:  # noqa: BLE001 - as above
                hook.fault(error)

    def enter_own(self, stack: ExitStack, context: Context, plugin: str, ending: Ending) -> None:
        """Enters the hooks of the handler's own plugin, in the attempt's thread. Raises what they raise."""
        for hook in self._own.get(plugin, ()):
            manager = hook.call(context)
            if manager is not None:
                stack.enter_context(_Own(hook, self._in_thread(manager), ending))

    async def enter_own_async(self, stack: AsyncExitStack, context: Context, plugin: str, ending: Ending) -> None:
        """Enters the hooks of the handler's own plugin, on the attempt's loop. Raises what they raise."""
        for hook in self._own.get(plugin, ()):
            manager = hook.call(context)
            if manager is None:
                continue
            if _awaits(manager):
                await stack.enter_async_context(_OwnAsync(hook, _asynchronous(manager), ending))
            else:
                stack.enter_context(_Own(hook, _plain(manager), ending))

    def _usable(self) -> Iterable[_Hook]:
        return (hook for hook in self._all if hook.faults < FAULTS_MAX)

    def _in_thread(self, manager: Manager) -> AbstractContextManager[Any]:
        if not _awaits(manager):
            return _plain(manager)
        if self._loop is None:
            raise HookFault("it awaits, and there is no loop here to do so")
        return HeldOnLoop(_asynchronous(manager), self._loop, HOOK_SECONDS_MAX)


class _Hook:
    """One plugin's hook."""

    def __init__(self, found: pluggy.HookImpl) -> None:
        function: Callable[..., Any] = found.function
        if inspect.isasyncgenfunction(function):
            function = asynccontextmanager(function)
        elif inspect.isgeneratorfunction(function):
            function = contextmanager(function)
        self._function = function
        self._takes_context = bool(found.argnames)
        self.plugin = found.plugin_name
        #: Faults in a row. When threads overwrite each other's counts, the hook is only withdrawn a little later.
        self.faults = 0

    def call(self, context: Context) -> Manager | None:
        """Returns the context manager to hold around the attempt, or None.

        Raises:
            HookFault: it returned something else.
        """
        made: Any = self._function(context) if self._takes_context else self._function()
        if made is not None and not (hasattr(made, "__exit__") or hasattr(made, "__aexit__")):
            what = type(made).__name__
            if inspect.iscoroutine(made):
                made.close()
            raise HookFault(f"it returned {what}: return a context manager or None, or write `yield` in the hook")
        return cast("Manager | None", made)

    def works(self, began: float) -> None:
        """Forgives earlier faults, unless it took too long since `began`."""
        if monotonic() - began > HOOK_SECONDS_MAX:
            self.fault(HookFault(f"it took longer than {HOOK_SECONDS_MAX:g} s"))
        elif self.faults:
            self.faults = 0

    def fault(self, error: BaseException) -> None:
        """Counts a fault and logs it, until the hook is withdrawn."""
        self.faults += 1
        if self.faults > FAULTS_MAX:
            return
        withdrawn = self.faults == FAULTS_MAX
        what = "a hook around tasks failed" + (", and is withdrawn from this runner" if withdrawn else "")
        advice = f"mend, upgrade or uninstall the plugin {self.plugin}, and start the worker again"
        logger.log(
            logging.ERROR if withdrawn else logging.WARNING,
            what,
            extra={"hook": ALL, "plugin": self.plugin, "advice": advice},
            exc_info=error,
        )

    def blame(self, error: BaseException) -> None:
        """Writes into an exception whose it is. Some do not say so: that of a generator that does not yield."""
        with suppress(Exception):  # A frozen dataclass takes no notes.
            error.add_note(f"It was raised by the hook {OWN} of the plugin {self.plugin}.")


class _Guarded:
    """Wraps a context manager of a hook around all tasks. Of what it raises itself, only Steering gets further."""

    def __init__(self, hook: _Hook, manager: AbstractContextManager[Any], ending: Ending) -> None:
        self._hook = hook
        self._manager = manager
        self._ending = ending
        self._began = monotonic()
        self._is_late = False

    def __enter__(self) -> None:
        self._manager.__enter__()
        self._is_late = monotonic() - self._began > HOOK_SECONDS_MAX

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.stand(error)
        began = self._began if self._is_late else monotonic()
        try:
            if self._manager.__exit__(kind, error, trace):
                raise _swallowed(error)
        except Steering as own:
            if own is not error:
                raise
        except BaseException as own:  # noqa: BLE001 - as in enter
            if own is not error and not _is_refusal(own, error):
                self._hook.fault(own)
                return
        self._hook.works(began)


class _GuardedAsync:
    """Does as _Guarded, for a context manager that awaits."""

    def __init__(self, hook: _Hook, manager: AbstractAsyncContextManager[Any], ending: Ending) -> None:
        self._hook = hook
        self._manager = manager
        self._ending = ending

    async def __aenter__(self) -> None:
        await within(HOOK_SECONDS_MAX, self._manager.__aenter__(), "entered")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.stand(error)
        began = monotonic()
        try:
            if await within(HOOK_SECONDS_MAX, self._manager.__aexit__(kind, error, trace), "left"):
                raise _swallowed(error)
        except Steering as own:
            if own is not error:
                raise
        except BaseException as own:  # noqa: BLE001 - a cancel too: how the attempt ends stands by now
            if own is not error and not _is_refusal(own, error):
                self._hook.fault(own)
                return
        self._hook.works(began)


class _Own:
    """Wraps a context manager of a hook around own tasks: what it raises is the attempt's."""

    def __init__(self, hook: _Hook, manager: AbstractContextManager[Any], ending: Ending) -> None:
        self._hook = hook
        self._manager = manager
        self._ending = ending

    def __enter__(self) -> None:
        try:
            self._manager.__enter__()
        except BaseException as own:
            self._hook.blame(own)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._ending.tell(error)
        try:
            return bool(self._manager.__exit__(kind, error, trace))
        except BaseException as own:
            if _is_refusal(own, error):
                return False
            if own is not error:
                self._hook.blame(own)
            raise


class _OwnAsync:
    """Does as _Own, for a context manager that awaits."""

    def __init__(self, hook: _Hook, manager: AbstractAsyncContextManager[Any], ending: Ending) -> None:
        self._hook = hook
        self._manager = manager
        self._ending = ending

    async def __aenter__(self) -> None:
        try:
            await within(HOOK_SECONDS_MAX, self._manager.__aenter__(), "entered")
        except BaseException as own:
            self._hook.blame(own)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._ending.tell(error)
        try:
            return bool(await within(HOOK_SECONDS_MAX, self._manager.__aexit__(kind, error, trace), "left"))
        except BaseException as own:
            if _is_refusal(own, error):
                return False
            if own is not error:
                self._hook.blame(own)
            raise


def _awaits(manager: Manager) -> bool:
    # What can do both often refuses to be entered without an await.
    return hasattr(manager, "__aexit__")


def _plain(manager: Manager) -> AbstractContextManager[Any]:
    return cast("AbstractContextManager[Any]", manager)


def _asynchronous(manager: Manager) -> AbstractAsyncContextManager[Any]:
    return cast("AbstractAsyncContextManager[Any]", manager)


def _swallowed(error: BaseException | None) -> HookFault:
    return HookFault(
        f"it swallowed the task's {type(error).__name__}, which holds all the same: write `raise` after it"
    )


def _is_refusal(own: BaseException, error: BaseException | None) -> bool:
    """Whether contextlib has raised this, because the exception that went through it let nothing be written into it.

    It sets the traceback, which one that is a frozen dataclass refuses.
    """
    # attrs has a class of the same name.
    return error is not None and own.__context__ is error and type(own).__name__ == "FrozenInstanceError"


def _is_cancelled() -> bool:
    """Whether the asyncio task that runs here has been asked to stop."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
