"""Loads plugins: the built-in one, installed ones by entry point, modules by name, functions by reference.

A plugin that fails is named and hides no other. Each of the four kinds has names of its own, and entry points of one
name are told apart by their distributions. Loading happens in runner processes (with runners=0 in the worker's own),
never in a supervisor.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import Any

import pluggy

from gowork.base import extensions
from gowork.worker import hookspecs
from gowork.worker._core import echo
from gowork.worker._core.calls import Handler
from gowork.worker._core.hook_forms import fault_of, unknown
from gowork.worker._core.lifespans import Lifespan, is_lifespan
from gowork.worker._core.references import resolve
from gowork.worker._core.registry import PluginRegistry, Registry
from gowork.worker._core.selection import Reference, Selection
from gowork.worker.errors import PluginError

ENTRY_POINT_GROUP = "gowork.plugins"
#: What stands in place of a plugin's name for handlers that were given in code.
IN_CODE = "(code)"
#: The one hook that is called for one plugin alone, when that is loaded.
_REGISTERING = "gowork_register_handlers"
#: The names of all hooks.
HOOKS = frozenset(name for name in vars(hookspecs) if name.startswith("gowork_"))
#: The hooks that concern nobody but the plugin itself.
_OF_ITSELF = frozenset({_REGISTERING, "gowork_around_own_task"})


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin as it was found."""

    #: Its name, with its origin when another plugin has the same name: "thumbnails (aaa 1.0)".
    name: str
    #: The version of the distribution that it comes in; empty when there is none.
    version: str
    #: The handlers that it gives, sorted.
    handlers: Sequence[str]
    #: Why it could not be loaded, or what it could not register.
    errors: Sequence[str]
    #: Whether runners load it for handlers of other plugins too, because it has lifespans or hooks.
    is_shared: bool = False
    #: The names of its hooks, sorted.
    hooks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the selected plugins offer."""

    #: {name: handler}
    handlers: dict[str, Handler]
    lifespans: Sequence[Lifespan]
    plugins: Sequence[PluginInfo]
    errors: Sequence[PluginError]
    hooks: pluggy.PluginManager
    #: The handler of tasks that name none; None when it is not offered here.
    default: Handler | None
    #: {handler that its plugin has and that is not offered here, because the plugin could not start: why}
    refused: Mapping[str, str] = field(default_factory=dict)


def load(selection: Selection, functions: Iterable[Callable[..., Any]] = ()) -> Loaded:
    """Loads the selected plugins. Never raises when a plugin is at fault: see Loaded.errors.

    Args:
        selection: what to load.
        functions: handlers and lifespans that are at hand in this process.
    """
    loader = _Loader()
    wanted = selection.plugins
    sources = _told_apart([*_installed(wanted), *_named(selection, functions)])
    for name in wanted or ():
        if not any(source.is_wanted(name) for source in sources):
            loader.errors.append(PluginError(name, "no plugin of this name is installed"))
    for source in sources:
        if selection.only is None or source.name in selection.only:
            loader.add(source)
    return loader.finish(selection)


def names_of(selection: Selection) -> list[str]:
    """Returns the names of what is selected, as in PluginInfo.name and Selection.only. Nothing is loaded."""
    return [source.name for source in _told_apart([*_installed(selection.plugins), *_named(selection, ())])]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where handlers come from."""

    name: str
    #: What tells it from another source of the same name: "thumbnails 1.2".
    origin: str
    #: Returns a module or a _Holder.
    load: Callable[[], Any]
    distribution: str = ""
    version: str = ""
    #: Whether --plugin can choose it.
    is_plugin: bool = True

    @property
    def title(self) -> str:
        """The name, with the origin where that has a version."""
        return f"{self.name} ({self.origin})" if self.version and not self.name.endswith(")") else self.name

    def is_wanted(self, name: str) -> bool:
        """Whether a selection by this name means it."""
        return self.is_plugin and name in (self.name.partition(" (")[0], self.distribution, self.name)


def _installed(wanted: Sequence[str] | None) -> Iterator[_Source]:
    found = [_Source("echo", "built in", lambda: echo)]
    found += [
        _Source(point.name, point.origin or point.value, point.load, point.distribution, point.version)
        for point in extensions.installed(ENTRY_POINT_GROUP)
    ]
    for source in found:
        if wanted is None or any(source.is_wanted(name) for name in wanted):
            yield source


def _named(selection: Selection, functions: Iterable[Callable[..., Any]]) -> Iterator[_Source]:
    for module in dict.fromkeys(selection.imports):
        load = partial(_import, module)
        yield _Source(module, "imported", partial(extensions.attempt, load, module), is_plugin=False)
    for reference in selection.references:
        load_reference = partial(_resolve, reference)
        title = reference.path or reference.module
        yield _Source(IN_CODE, "", partial(extensions.attempt, load_reference, title), is_plugin=False)
    for function in functions:
        yield _Source(IN_CODE, "", partial(_Holder, function), is_plugin=False)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ModuleNotFoundError, TypeError) as error:
        # import_module raises TypeError for a name that begins with a dot.
        if not name.endswith(".py") and "/" not in name:
            if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
                # The first folder of the path is the working directory, or a script's.
                folder = sys.path[0] or "."
                raise ModuleNotFoundError(f"{error}, in {folder} or among the installed packages") from error
            raise
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ModuleNotFoundError(f"{name} is a file; name the module, as in --import {module}") from error


def _told_apart(sources: Sequence[_Source]) -> list[_Source]:
    """Returns the sources; where several have the same name, each gets its origin into the name."""
    counts = Counter(source.name for source in sources)
    return [
        replace(source, name=f"{source.name} ({source.origin})")
        if source.origin and counts[source.name] > 1
        else source
        for source in sources
    ]


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
        #: {plugin name: its source}, in the order of loading
        self.sources: dict[str, _Source] = {}
        self.errors: list[PluginError] = []
        #: {plugin: the names of its hooks}
        self._hooks: dict[str, list[str]] = {}

    def add(self, source: _Source) -> None:
        self.sources[source.name] = source
        try:
            found = source.load()
            extensions.attempt(lambda: self._register(source.name, found), source.name)
        except extensions.ExtensionError as error:
            # What it has registered before the fault stays.
            self.errors.append(PluginError(source.name, str(error)))

    def _register(self, name: str, found: Any) -> None:
        registry = self.registry.for_plugin(name)
        if isinstance(found, _Holder):
            if is_lifespan(found.function):
                registry.add_lifespan(found.function)
            else:
                registry.add(found.function)
            return
        registry.add_all([found, *vars(found).values()] if hasattr(found, "__dict__") else [found])
        if not self.manager.is_registered(found):
            self._register_hooks(name, found, registry)

    def _register_hooks(self, name: str, found: Any, registry: PluginRegistry) -> None:
        others = self.manager.get_plugins()
        self.manager.register(found, name)
        callers = self.manager.get_hookcallers(found) or []
        for caller in callers:
            (written,) = [each for each in caller.get_hookimpls() if each.plugin is found]
            if fault := unknown(caller.name, HOOKS) or fault_of(caller.name, written):
                self.manager.unregister(found)
                self.errors.append(PluginError(name, fault))
                return
        self._hooks[name] = sorted(caller.name for caller in callers if caller.name in HOOKS)
        self.manager.subset_hook_caller(_REGISTERING, others)(registry=registry)

    def finish(self, selection: Selection) -> Loaded:
        titles = {name: source.title for name, source in self.sources.items()}
        self.errors += [*self.registry.errors, *self.registry.conflicts(titles)]
        handlers = self.registry.handlers()
        given: dict[str, list[str]] = {}
        for handler in handlers.values():
            given.setdefault(handler.plugin, []).append(handler.name)
        shared = self.registry.with_lifespans | {
            name for name, hooks in self._hooks.items() if not _OF_ITSELF.issuperset(hooks)
        }
        plugins = [
            PluginInfo(
                name,
                source.version,
                tuple(given.get(name, ())),
                tuple(error.reason for error in self.errors if error.plugin == name),
                name in shared,
                tuple(self._hooks.get(name, ())),
            )
            for name, source in self.sources.items()
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


def add_search_path(path: str) -> None:
    """Makes modules in this folder importable, before all others, as `python -m` does."""
    if path not in sys.path:
        sys.path.insert(0, path)
