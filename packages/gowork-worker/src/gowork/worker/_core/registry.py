"""Collects the handlers that plugins register, and decides which plugin gets each name.

When two plugins claim one name, neither gets it. Nobody can know which one was meant, and if the first got it, the
order of installation would decide what runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gowork.base import extensions
from gowork.worker._core.calls import Handler, bind
from gowork.worker._core.handlers import make_options, options_of
from gowork.worker._core.lifespans import Lifespan, is_lifespan, lifespan
from gowork.worker.errors import HandlerDefinitionError, PluginError


@dataclass(slots=True)
class Registry:
    """All handlers and lifespans of one runner."""

    #: {name: the handlers that claim it}
    _claims: dict[str, list[Handler]] = field(default_factory=dict)
    lifespans: list[Lifespan] = field(default_factory=list)
    #: Plugins that have registered lifespans.
    with_lifespans: set[str] = field(default_factory=set)
    #: One for each function that a plugin could not register.
    errors: list[PluginError] = field(default_factory=list)

    def for_plugin(self, name: str) -> PluginRegistry:
        """Returns the registry that one plugin registers with."""
        return PluginRegistry(name, self)

    def claim(self, handler: Handler) -> None:
        """Notes a claim. The same function under the same name counts once."""
        claims = self._claims.setdefault(handler.name, [])
        if not any(other.function is handler.function for other in claims):
            claims.append(handler)

    def handlers(self) -> dict[str, Handler]:
        """Returns the handlers whose name no other handler claims, by name."""
        return {name: claims[0] for name, claims in sorted(self._claims.items()) if len(claims) == 1}

    def conflicts(self, titles: Mapping[str, str]) -> list[PluginError]:
        """Returns one error for each plugin of each contested name. `titles` is {plugin: its name and version}."""
        errors = []
        for name, claims in sorted(self._claims.items()):
            plugins = sorted({handler.plugin for handler in claims})
            if len(plugins) > 1:
                names = " and ".join(titles.get(plugin, plugin) for plugin in plugins)
                reason = f"handler {name!r} is claimed by {names}; none of them gets it"
                errors += [PluginError(plugin, reason) for plugin in plugins]
            elif len(claims) > 1:
                errors.append(PluginError(plugins[0], f"handler {name!r} is defined twice; neither is offered"))
        return errors


@dataclass(frozen=True, slots=True)
class PluginRegistry:
    """What `gowork_register_handlers` is given."""

    #: The name of the plugin that registers.
    plugin: str
    _registry: Registry

    def add(self, function: Callable[..., Any], name: str | None = None) -> None:
        """Adds a handler.

        Args:
            function: one marked with @handler, or any other function when `name` is given.
            name: the handler's name, in place of the decorator's.

        A function that cannot be a handler becomes one of the plugin's errors, whatever its annotations and signature
        raise when they are read. The plugin's other handlers are still offered.
        """
        try:
            options = options_of(function)
            if options is None:
                options = make_options(function, name)
            elif name is not None:
                options = replace(options, name=name)
            self._registry.claim(bind(function, options, self.plugin))
        except HandlerDefinitionError as error:
            self._refuse(function, extensions.describe(error))
        except KeyboardInterrupt:
            raise  # Ctrl-C.
        except BaseException as error:  # noqa: BLE001 - annotations and types bring code of their own
            called = name or getattr(options_of(function), "name", "")
            self._refuse(function, f"handler {called!r} cannot be read: {extensions.describe(error)}")

    def _refuse(self, function: Callable[..., Any], reason: str) -> None:
        self._registry.errors.append(PluginError(self.plugin, f"{reason}{_place(function)}"))

    def add_lifespan(self, function: Lifespan) -> None:
        """Adds a lifespan, marked with @lifespan or not."""
        marked = function if is_lifespan(function) else lifespan(function)
        self._registry.with_lifespans.add(self.plugin)
        if marked not in self._registry.lifespans:
            self._registry.lifespans.append(marked)

    def add_all(self, found: Iterable[object]) -> None:
        """Adds the handlers and lifespans among these objects."""
        for thing in found:
            if options_of(thing) is not None:
                self.add(thing)  # type: ignore[arg-type]
            elif is_lifespan(thing):
                self.add_lifespan(thing)  # type: ignore[arg-type]


def _place(function: object) -> str:
    try:
        code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    except Exception:  # noqa: BLE001 - its attributes may be anything
        return ""
    return f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
