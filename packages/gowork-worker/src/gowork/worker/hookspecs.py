"""The hooks that a plugin may implement, with pluggy's markers.

A module of @handler functions needs none of them. A plugin that wants more marks functions with `hookimpl`. Hooks run
in the runner processes only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from gowork.worker._core.context import Context
    from gowork.worker._core.registry import PluginRegistry

PROJECT = "gowork"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: What a hook around tasks gives: it is a generator, or it returns a context manager, or None.
Around = Iterator[None] | AsyncIterator[None] | AbstractContextManager[Any] | AbstractAsyncContextManager[Any] | None


@hookspec
def gowork_register_handlers(registry: PluginRegistry) -> None:
    """Adds handlers that are not @handler functions of the module itself, with `registry.add(function)`.

    Called once when the plugin is loaded, before the worker connects to a leader.
    """


@hookspec
def gowork_runner_started(state: Any) -> Awaitable[None] | None:
    """Called when a runner has entered all lifespans, before its first task. Handlers see `state` as `ctx.state`.

    It may be `async def`, and is cancelled after 60 s. An exception refuses the plugin in this runner, as a failing
    import does.
    """


@hookspec
def gowork_runner_stopping(state: Any) -> Awaitable[None] | None:
    """Called when a runner has finished its last task, before it leaves its lifespans. Not called when it is killed.

    The plugins are called in reverse. It may be `async def`; all hooks together have 4 s. An exception is logged, and
    the other plugins are called.
    """


@hookspec
def gowork_around_task(ctx: Context) -> Around:
    """Holds something around each attempt, whatever its handler's plugin.

    Write a generator, `def` or `async def`, that yields once: the task runs there. Or return a context manager, plain
    or async, or None. `ctx.outcome` says how the attempt has ended, after the `yield`.

    What the hook raises, swallows or takes too long for is logged with the plugin's name and fails no task. After
    three times in a row the runner stops calling the hook. A Retry, Snooze, Cancel or Fail that it raises counts as the
    handler's.
    """


@hookspec
def gowork_around_own_task(ctx: Context) -> Around:
    """Holds something around each attempt of the plugin's own handlers, within the hooks around all tasks.

    It is written as gowork_around_task. It is part of its handlers: what it raises is the attempt's failure, and the
    retry policy applies. When it swallows an exception, the attempt has completed, without a result.
    """
