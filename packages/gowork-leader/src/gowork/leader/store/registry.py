"""Finds the store for a URL. Stores are plugins, and so is the built-in one. Each claims a scheme.

A package adds a store with an entry point in the group `gowork.stores` that names a module with

    from gowork.leader.store import hookimpl

    @hookimpl
    def gowork_register_stores(registry):
        registry.add("etcd", make_store)     # make_store(url) returns a Store that is not opened yet
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pluggy

from gowork.base import extensions
from gowork.leader.store.protocol import Store, StoreError
from gowork.leader.store.sqlite import SqliteStore

ENTRY_POINT_GROUP = "gowork.stores"
#: Returns the Store for a URL, not opened yet. Raises StoreError when the URL makes no sense.
StoreMaker = Callable[[str], Store]

hookspec = pluggy.HookspecMarker("gowork")
hookimpl = pluggy.HookimplMarker("gowork")

logger = logging.getLogger(__name__)


class StoreRegistry:
    """Knows which store claims which scheme."""

    def __init__(self) -> None:
        #: {scheme: makers}. More than one maker is a conflict, for which `make` raises an error.
        self._makers: dict[str, list[StoreMaker]] = {}
        #: {plugin, with its distribution and version: why it failed}
        self.errors: dict[str, str] = {}

    def add(self, scheme: str, maker: StoreMaker) -> None:
        """Claims the URLs of a scheme, as in `sqlite`."""
        self._makers.setdefault(scheme.lower(), []).append(maker)

    def make(self, url: str) -> Store:
        """Returns the store for this URL, not opened yet.

        Raises:
            StoreError: no store claims the scheme, or more than one does, or the rest of the URL makes no sense.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            example = f"sqlite:///{url}" if url and ":" not in url else "sqlite:///gowork.db"
            raise StoreError(f"{url!r} is no store URL: it must read SCHEME://…, as in {example}.")
        makers = self._makers.get(scheme.lower(), [])
        if not makers:
            broken = "".join(f" Its plugin {name} could not be loaded: {why}." for name, why in self.errors.items())
            raise StoreError(f"No store is known for {scheme}://. Known: {', '.join(sorted(self._makers))}.{broken}")
        if len(makers) > 1:
            names = ", ".join(f"{maker.__module__}.{maker.__qualname__}" for maker in makers)
            raise StoreError(f"More than one store claims {scheme}://: {names}. Uninstall all but one.")
        return makers[0](url)


class StoreHooks:
    """The hooks that a store's package may implement."""

    @hookspec
    def gowork_register_stores(self, registry: StoreRegistry) -> None:
        """Calls `registry.add(scheme, maker)` for each scheme. It is called when the leader looks for its store."""


class BuiltinStores:
    """The stores that come with the leader."""

    @hookimpl
    def gowork_register_stores(self, registry: StoreRegistry) -> None:
        registry.add("sqlite", sqlite_store)


def sqlite_store(url: str) -> Store:
    """Makes the store of `sqlite:///relative/path` or `sqlite:////absolute/path`, which SQLAlchemy reads likewise."""
    host, slash, path = url.partition("://")[2].partition("/")
    if host or not slash or path in ("", ":memory:"):
        raise StoreError(f"{url!r} names no file: it must read sqlite:///relative/path or sqlite:////absolute/path.")
    if "?" in path:
        raise StoreError(f"{url!r}: the SQLite store has no options, and a path can't hold a question mark.")
    return SqliteStore(Path(path))


def load_registry() -> StoreRegistry:
    """Returns the registry of all stores that are installed.

    A plugin that fails is named in `errors` and in the log. The others still work.
    """
    registry = StoreRegistry()
    manager = pluggy.PluginManager("gowork")
    manager.add_hookspecs(StoreHooks)
    BuiltinStores().gowork_register_stores(registry)
    for extension in extensions.installed(ENTRY_POINT_GROUP):
        try:
            extensions.attempt(partial(_ask, manager, extension.load(), registry), extension.title)
        except extensions.ExtensionError as error:
            # A plugin that fails must not stop a leader that does not need it.
            registry.errors[extension.title] = str(error)
            logger.warning("store plugin failed", extra={"plugin": extension.title, "reason": str(error)})
    return registry


def _ask(manager: pluggy.PluginManager, plugin: object, registry: StoreRegistry) -> None:
    """Has one plugin register its stores."""
    if manager.is_registered(plugin):
        return
    others = manager.get_plugins()
    manager.register(plugin)
    manager.subset_hook_caller("gowork_register_stores", others)(registry=registry)


def open_store(url: str) -> Store:
    """Returns the store for this URL. `await store.open()` opens it.

    Raises:
        StoreError: see StoreRegistry.make.
    """
    return load_registry().make(url)
