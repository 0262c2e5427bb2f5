"""Checks how a plugin has written its hooks, so that one that would never run is refused when it is loaded."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection

import pluggy

#: Hooks of other groups of entry points, which a module may have beside those of this one.
_OF_LEADERS = frozenset({"gowork_register_stores", "gowork_register_logs"})
AROUND = ("gowork_around_task", "gowork_around_own_task")


def unknown(hook: str, known: Collection[str]) -> str:
    """Returns what is wrong with the name of a hook; empty when nothing is.

    Args:
        hook: as the plugin has written it.
        known: the names of all hooks.
    """
    if hook in known or hook in _OF_LEADERS:
        return ""
    near = difflib.get_close_matches(hook, known, 1)
    return f"there is no hook {hook}" + (f"; did you mean {near[0]}?" if near else f", only {', '.join(sorted(known))}")


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
