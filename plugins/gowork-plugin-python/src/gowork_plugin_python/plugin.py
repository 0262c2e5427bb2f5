"""The plugin: the handlers `python`, `python-async` and `python-process`."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gowork.worker import Fail, PluginRegistry, handler, hookimpl
from gowork_plugin_python.allowed import ALLOW_VARIABLE, AllowList, Target, offers
from gowork_plugin_python.call import PythonCall, bound

#: How many functions of `python-async` a runner looks for at once. An import may take long.
IMPORTS_MAX = 32

_threads = ThreadPoolExecutor(IMPORTS_MAX, "gowork-python-import")


class Calls:
    """The handlers, for one allow-list. Each raises what the function raises, and Fail when it can't be called."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed

    @handler("python")
    def in_thread(self, call: PythonCall) -> Any:
        """Calls a plain function in one of the runner's threads."""
        return self._plainly(call)

    @handler("python-process", isolation="process")
    def in_process(self, call: PythonCall) -> Any:
        """Calls a plain function alone in a process, which is ended at once when the task has to stop."""
        return self._plainly(call)

    @handler("python-async")
    async def on_loop(self, call: PythonCall) -> Any:
        """Calls an `async def` on the runner's loop."""
        # Imports may take long, and neither the loop nor its threads are this handler's alone.
        look = partial(contextvars.copy_context().run, found, self._target(call))
        function = await asyncio.get_running_loop().run_in_executor(_threads, look)
        if not is_async(function):
            raise Fail(f"call: {call.call} is a plain function; schedule it for the handler 'python'")
        args, kwargs = _arguments(function, call)
        return await function(*args, **kwargs)

    def _plainly(self, call: PythonCall) -> Any:
        function = found(self._target(call))
        if is_async(function):
            raise Fail(f"call: {call.call} is an async function; schedule it for the handler 'python-async'")
        args, kwargs = _arguments(function, call)
        return function(*args, **kwargs)

    def _target(self, call: PythonCall) -> Target:
        try:
            return self._allowed.find(call.call)
        except ValueError as error:
            raise Fail(f"call: {error}") from None


@hookimpl
def gowork_register_handlers(registry: PluginRegistry) -> None:
    """Adds the handlers, with the allow-list as it is now. What handlers do to the environment later changes nothing.

    Raises:
        ValueError: when the allow-list can't be read. So the plugin is named with this error, and offers no handler.
    """
    calls = Calls(AllowList(os.environ.get(ALLOW_VARIABLE, "")))
    for function in (calls.in_thread, calls.in_process, calls.on_loop):
        registry.add(function)


def found(target: Target) -> Callable[..., Any]:
    """Imports the module of a function that may be called, and returns the function.

    Raises:
        Fail: when there is none. The task may be tried again where another worker may have it.
    """
    try:
        module = importlib.import_module(target.module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise Fail(f"call: {target.module} can't be imported on this worker: {reason}", retry=True) from error
    thing: Any = module
    for part in target.qualname.split("."):
        thing = getattr(thing, part, None)
    if thing is None:
        raise Fail(f"call: {target.module} has no {target.qualname} on this worker", retry=True)
    if not target.is_named and not offers(module, target.qualname):
        raise Fail(
            f"call: {target.module} has not defined {target.qualname} itself, so {target.module}:* does not allow it; "
            f"add {target} to {ALLOW_VARIABLE}"
        )
    if not callable(thing):
        raise Fail(f"call: {target} is no function, but {type(thing).__name__!r}")
    function: Callable[..., Any] = thing
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it is an `async def`, or an object whose call is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _arguments(function: Callable[..., Any], call: PythonCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        return bound(function, call)
    except ValueError as error:
        raise Fail(str(error)) from None
