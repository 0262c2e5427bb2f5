"""The hooks that a plugin may implement, with pluggy's markers.

A module of @handler functions needs none of them. A plugin that wants more marks functions with `hookimpl`. Hooks run
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
    """Adds handlers that are not @handler functions of the module itself, with `registry.add(function)`.

    Called once when the plugin is loaded, before the worker connects to a leader.
    """


@hookspec
def gowork_runner_started(state: Any) -> None:
    """Called when a runner has entered all lifespans, before its first task. Handlers see `state` as `ctx.state`.

    An exception ends the runner. The worker starts another one after a delay.
    """


@hookspec
def gowork_runner_stopping(state: Any) -> None:
    """Called when a runner has finished its last task, before it leaves its lifespans. Not called when it is killed."""


@hookspec
def gowork_around_task(ctx: Context) -> AbstractContextManager[Any] | None:
    """Returns a context manager to hold around one attempt, or None. The last registered plugin's is the innermost.

    It is entered in the thread, or on the loop, that runs the handler. An exception of the handler passes through it.
    When the hook or its context manager raises by itself, that is logged with the plugin's name and fails no task.
    After three times in a row the runner stops calling the hook. A Retry, Snooze, Cancel or Fail that it raises counts
    as the handler's.
    """
