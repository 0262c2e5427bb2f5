"""The hooks that a plugin may implement, with pluggy's markers.

A module of @handler functions needs none of them. A plugin that wants more marks functions with `hookimpl`; they run
in the runner processes only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from gowork.worker._core.context import Context
    from gowork.worker._core.registry import PluginRegistry

PROJECT = "gowork"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gowork_register_handlers(registry: PluginRegistry) -> None:
    """Adds handlers that the module does not carry as plain @handler functions, with `registry.add(function)`.

    Called once when the plugin is loaded, before the worker is known to any leader.
    """


@hookspec
def gowork_runner_started(state: Any) -> None:
    """A runner has entered all lifespans and takes its first tasks now. `state` is what handlers see as `ctx.state`.

    An exception ends the runner, which is started again after a while.
    """


@hookspec
def gowork_runner_stopping(state: Any) -> None:
    """A runner has finished its last task and leaves its lifespans after this. Not called when the runner is killed."""


@hookspec
def gowork_around_task(ctx: Context) -> AbstractContextManager[Any] | None:
    """Returns a context manager to hold around one attempt, or None. The last registered plugin's is the innermost.

    It is entered in the thread, or on the loop, that runs the handler; an exception of the handler passes through it.
    What the hook or its context manager raises by itself is logged with the plugin's name and fails no task; after
    three times in a row it is called no more. A Retry, Snooze, Cancel or Fail from it is heeded as the handler's.
    """
