"""Checks how a plugin has written its hooks, so that one whose body would never run is refused when it is loaded."""

from __future__ import annotations

import inspect

import pluggy

AROUND = ("gowork_around_task", "gowork_around_own_task")


def fault_of(hook: str, found: pluggy.HookImpl) -> str:
    """Returns what is wrong with a hook, and what to write instead; empty when nothing is.

    Args:
        hook: its name.
        found: the plugin's function, as pluggy knows it.
    """
    function = found.function
    if found.wrapper or found.hookwrapper:
        return f"{hook}: it cannot wrap the hooks of other plugins: write @hookimpl without wrapper and hookwrapper"
    if hook in AROUND:
        if inspect.iscoroutinefunction(function):
            return f"{hook}: write `yield` in it, where the task runs"
    elif inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return f"{hook}: it is a generator, whose body does not run when it is called: see @lifespan"
    elif hook == "gowork_register_handlers" and inspect.iscoroutinefunction(function):
        return f"{hook}: it is async, and nothing awaits it: write `def`"
    return ""
