"""The hooks around attempts (`gowork_around_task`), each entered by itself, so that a faulty hook harms no task.

A hook that raises is named in the log and left out of that attempt. After FAULTS_MAX times in a row it is withdrawn. A
Retry, Snooze, Cancel or Fail is no fault: it counts as the handler's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

import pluggy

from gowork.worker._core.context import Context
from gowork.worker._core.steering import Steering

logger = logging.getLogger("gowork.worker.runner")

#: After this many faults in a row a hook is not called any more.
FAULTS_MAX = 3
#: Exceptions that are no fault of a hook: steering, and a cancel from outside the attempt.
_MEANT = (Steering, asyncio.CancelledError)


class AroundTasks:
    """The hooks of all plugins. May be used from any thread."""

    def __init__(self, hooks: pluggy.PluginManager) -> None:
        #: The first registered is the outermost.
        self._hooks = tuple(_Hook(found) for found in hooks.hook.gowork_around_task.get_hookimpls())

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def enter(self, stack: ExitStack, context: Context) -> None:
        """Enters all hooks for one attempt. `stack` leaves them."""
        for hook in self._hooks:
            if hook.faults >= FAULTS_MAX:
                continue
            try:
                manager = hook.call(context)
                if manager is not None:
                    stack.enter_context(_Guarded(hook, manager))
                elif hook.faults:
                    hook.faults = 0
            except _MEANT:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is not the handler's
                hook.fault(error)


class _Hook:
    """One plugin's hook."""

    def __init__(self, found: pluggy.HookImpl) -> None:
        self._function: Callable[..., Any] = found.function
        self._takes_context = bool(found.argnames)
        self.plugin = found.plugin_name
        #: Faults in a row. When threads overwrite each other's counts, the hook is only withdrawn a little later.
        self.faults = 0

    def call(self, context: Context) -> AbstractContextManager[Any] | None:
        """Returns the context manager to hold around the attempt, or None."""
        made: AbstractContextManager[Any] | None = self._function(context) if self._takes_context else self._function()
        return made

    def fault(self, error: BaseException) -> None:
        """Counts a fault and logs it, until the hook is withdrawn."""
        self.faults += 1
        if self.faults > FAULTS_MAX:
            return
        withdrawn = self.faults == FAULTS_MAX
        what = "a hook around tasks failed" + (", and is withdrawn from this runner" if withdrawn else "")
        logger.log(
            logging.ERROR if withdrawn else logging.WARNING,
            what,
            extra={"hook": "gowork_around_task", "plugin": self.plugin},
            exc_info=error,
        )


class _Guarded:
    """Wraps a hook's context manager. Of what that raises itself, only _MEANT reaches the attempt."""

    def __init__(self, hook: _Hook, manager: AbstractContextManager[Any]) -> None:
        self._hook = hook
        self._manager = manager

    def __enter__(self) -> None:
        self._manager.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            swallowed = bool(self._manager.__exit__(kind, error, trace))
        except _MEANT:
            raise
        except BaseException as own:  # noqa: BLE001 - as in enter
            if own is not error:
                self._hook.fault(own)
            return False
        if self._hook.faults:
            self._hook.faults = 0
        return swallowed
