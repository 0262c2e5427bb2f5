"""Loads plugins: the built-in one, installed ones by entry point, modules by name, functions by reference.

One that fails is named and hides no other. Runs in runner processes (and in process, with runners=0), never in a
supervisor.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import msgspec
import pluggy

from gowork.worker import hookspecs
from gowork.worker._core import echo
from gowork.worker._core.calls import Handler
from gowork.worker._core.lifespans import Lifespan
from gowork.worker._core.references import Reference, resolve
from gowork.worker._core.registry import Registry
from gowork.worker.errors import PluginError

ENTRY_POINT_GROUP = "gowork.plugins"
#: The name that handlers given in code go by where a plugin is named.
IN_CODE = "(code)"


class Selection(msgspec.Struct, frozen=True):
    """What to load. It travels to the runner processes."""

    #: Names of installed plugins; None means all.
    plugins: tuple[str, ...] | None = None
    #: Names of handlers to offer; None means all.
    handlers: tuple[str, ...] | None = None
    #: Modules to import.
    imports: tuple[str, ...] = ()
    #: Functions given in code.
    references: tuple[Reference, ...] = ()
    default_handler: str = "echo"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin as it was found."""

    name: str
    #: The version of the distribution that it comes in; empty when there is none.
    version: str
    #: The handlers that it gives, sorted.
    handlers: Sequence[str]
    #: Why it could not be loaded, or what it could not register.
    errors: Sequence[str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What there is to run."""

    #: name -> handler
    handlers: dict[str, Handler]
    lifespans: Sequence[Lifespan]
    plugins: Sequence[PluginInfo]
    errors: Sequence[PluginError]
    hooks: pluggy.PluginManager
    #: The handler of tasks that name none; None when it is not offered here.
    default: Handler | None


def load(selection: Selection, functions: Iterable[Callable[..., Any]] = ()) -> Loaded:
    """Loads what was selected. Never raises for a plugin's fault: see Loaded.errors.

    Args:
        selection: what to load.
        functions: handlers and lifespans that are at hand in this process.
    """
    loader = _Loader()
    wanted = selection.plugins
    if wanted is None or "echo" in wanted:
        loader.add("echo", "", lambda: echo)
    points = sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    for point in points:
        if wanted is None or point.name in wanted:
            loader.add(point.name, point.dist.version if point.dist else "", point.load)
    for name in wanted or ():
        if name not in loader.versions:
            loader.errors.append(PluginError(name, "no plugin of this name is installed"))
    for module in selection.imports:
        loader.add(module, "", partial(importlib.import_module, module))
    for reference in selection.references:
        loader.add(IN_CODE, "", partial(_resolve, reference))
    for function in functions:
        loader.add(IN_CODE, "", partial(_Holder, function))
    return loader.finish(selection)


class _Holder:
    """Carries one function where a module is expected."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


def _resolve(reference: Reference) -> _Holder:
    return _Holder(resolve(reference))


class _Loader:
    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.registry = Registry()
        #: plugin -> version, in the order of loading
        self.versions: dict[str, str] = {}
        self.errors: list[PluginError] = []

    def add(self, name: str, version: str, load: Callable[[], Any]) -> None:
        self.versions[name] = version
        try:
            self._register(name, load())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything, and hides no other
            self.registry.withdraw(name)
            self.errors.append(PluginError(name, _reason(error)))

    def _register(self, name: str, plugin: Any) -> None:
        registry = self.registry.for_plugin(name)
        if isinstance(plugin, _Holder):
            function = plugin.function
            if not getattr(function, "__gowork_lifespan__", False):
                registry.add(function)
            else:
                registry.add_lifespan(function)
            return
        registry.add_all(list(vars(plugin).values()) if hasattr(plugin, "__dict__") else [plugin])
        if self.manager.is_registered(plugin):
            return
        self.manager.register(plugin, name)
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        self.manager.subset_hook_caller("gowork_register_handlers", others)(registry=registry)

    def finish(self, selection: Selection) -> Loaded:
        self.errors += self.registry.conflicts()
        handlers = self.registry.handlers()
        given: dict[str, list[str]] = {}
        for handler in handlers.values():
            given.setdefault(handler.plugin, []).append(handler.name)
        plugins = [
            PluginInfo(
                name, version, tuple(given.get(name, ())), tuple(e.reason for e in self.errors if e.plugin == name)
            )
            for name, version in self.versions.items()
        ]
        if selection.handlers is not None:
            self.errors += [
                PluginError("(selection)", f"no plugin gives the handler {name!r}")
                for name in selection.handlers
                if name not in handlers
            ]
            handlers = {name: handler for name, handler in handlers.items() if name in selection.handlers}
        default = handlers.get(selection.default_handler)
        return Loaded(handlers, tuple(self.registry.lifespans), plugins, tuple(self.errors), self.manager, default)


def _reason(error: BaseException) -> str:
    """One line: a plugin's error is shown in lists."""
    kind = type(error).__name__
    text = " ".join(str(error).split())[:500]
    where = _where(error)
    return f"{kind}: {text}{where}" if text else f"{kind}{where}"


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    last = None
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "importlib" not in name and not name.startswith("<frozen") and "gowork/worker" not in name:
            last = trace
        trace = trace.tb_next
    return f" ({last.tb_frame.f_code.co_filename}:{last.tb_lineno})" if last is not None else ""


def add_search_path(path: str) -> None:
    """Makes modules in this folder importable, before all others, as `python -m` does."""
    if path not in sys.path:
        sys.path.insert(0, path)
