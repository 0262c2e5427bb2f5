"""Calls the hooks of a runner's start, in order, and those of its end, in reverse. Both may be async.

A plugin whose start fails is refused in this runner as one that cannot be imported: it is named, and its handlers and
hooks are not used. A fault at the end is logged, and the others are called all the same.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pluggy

from gowork.base import extensions
from gowork.worker._core.held_on_loop import within
from gowork.worker._core.hook_order import outermost_first
from gowork.worker._core.plugins import Loaded, PluginInfo
from gowork.worker.errors import PluginError

logger = logging.getLogger("gowork.worker.runner")

#: How long a hook that awaits may take when the runner starts.
STARTED_SECONDS_MAX = 60.0
#: How long all hooks that await may take together when it stops. The supervisor ends a runner after 5 s.
STOPPING_SECONDS_MAX = 4.0


async def call_started(loaded: Loaded, state: Any, doing: Callable[[str], None]) -> Loaded:
    """Calls `gowork_runner_started` of each plugin, and returns what is left without those that fail.

    Args:
        loaded: what was loaded.
        state: what the hooks may fill.
        doing: told which hook is called.
    """
    for hook in outermost_first(loaded.hooks.hook.gowork_runner_started):
        doing(f"calling gowork_runner_started of {hook.plugin_name}")
        try:
            await _call(hook, state, STARTED_SECONDS_MAX, "done")
        except KeyboardInterrupt:
            raise  # Ctrl-C.
        except BaseException as error:
            if _is_cancelled(error):
                raise  # The runner is to stop before it is ready.
            reason = f"gowork_runner_started: {extensions.describe(error)}"
            logger.error(
                "a plugin is refused, because it could not start",
                extra={"plugin": hook.plugin_name, "reason": reason},
                exc_info=error,
            )
            loaded = _without(loaded, hook.plugin_name, reason)
    return loaded


async def call_stopping(loaded: Loaded, state: Any) -> None:
    """Calls `gowork_runner_stopping` of each plugin that has not been refused, the first one last."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STOPPING_SECONDS_MAX
    for hook in reversed(outermost_first(loaded.hooks.hook.gowork_runner_stopping)):
        try:
            await _call(hook, state, max(0.0, deadline - loop.time()), "done")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if _is_cancelled(error):
                raise
            logger.warning(
                "a hook of the runner's end failed",
                extra={"hook": "gowork_runner_stopping", "plugin": hook.plugin_name},
                exc_info=error,
            )


async def _call(hook: pluggy.HookImpl, state: Any, seconds_max: float, done: str) -> None:
    found = hook.function(state) if hook.argnames else hook.function()
    if inspect.isawaitable(found):
        await within(seconds_max, found, done)


def _is_cancelled(error: BaseException) -> bool:
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _without(loaded: Loaded, plugin: str, reason: str) -> Loaded:
    """Returns what is left without a plugin."""
    loaded.hooks.unregister(name=plugin)
    gone = {name: reason for name, handler in loaded.handlers.items() if handler.plugin == plugin}
    default = loaded.default
    if default is not None and default.plugin == plugin:
        # Of tasks that name no handler.
        gone[""] = reason
        default = None
    return replace(
        loaded,
        handlers={name: handler for name, handler in loaded.handlers.items() if name not in gone},
        refused={**loaded.refused, **gone},
        plugins=[_marked(each, reason) if each.name == plugin else each for each in loaded.plugins],
        errors=(*loaded.errors, PluginError(plugin, reason)),
        default=default,
    )


def _marked(plugin: PluginInfo, reason: str) -> PluginInfo:
    return replace(plugin, handlers=(), hooks=(), errors=(*plugin.errors, reason))
