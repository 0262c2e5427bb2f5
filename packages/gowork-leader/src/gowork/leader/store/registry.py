"""Finds the store for a URL. Stores are plugins, the built-in one too: each claims a scheme.

A package adds one by an entry point in the group `gowork.stores` that names a module with

    from gowork.leader.store import hookimpl

    @hookimpl
    def gowork_register_stores(registry):
        registry.add("etcd", make_store)     # make_store(url) answers a Store that is not opened yet
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
#: Told from a URL: a Store that is not opened yet. Raises StoreError when the URL makes no sense.
StoreMaker = Callable[[str], Store]

hookspec = pluggy.HookspecMarker("gowork")
hookimpl = pluggy.HookimplMarker("gowork")

logger = logging.getLogger(__name__)


class StoreRegistry:
    """Which scheme is whose."""

    def __init__(self) -> None:
        #: {scheme: makers}. More than one maker is a conflict, which a request for that scheme is told.
        self._makers: dict[str, list[StoreMaker]] = {}
        #: {plugin, with its distribution and version: what went wrong}
        self.errors: dict[str, str] = {}

    def add(self, scheme: str, maker: StoreMaker) -> None:
        """Claims the URLs of a scheme, as in `sqlite`."""
        self._makers.setdefault(scheme.lower(), []).append(maker)

    def make(self, url: str) -> Store:
        """The store for this URL, not opened yet.

        Raises:
            StoreError: no store claims the scheme, or more than one, or the one that does can't make sense of the rest.
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
        """Called once, when the leader looks for its store: `registry.add(scheme, maker)` for each scheme."""


class BuiltinStores:
    """The stores that come with the leader."""

    @hookimpl
    def gowork_register_stores(self, registry: StoreRegistry) -> None:
        registry.add("sqlite", sqlite_store)


def sqlite_store(url: str) -> Store:
    """Opens `sqlite:///relative/path` or `sqlite:////absolute/path`, which SQLAlchemy reads in the same way."""
    host, slash, path = url.partition("://")[2].partition("/")
    if host or not slash or path in ("", ":memory:"):
        raise StoreError(f"{url!r} names no file: it must read sqlite:///relative/path or sqlite:////absolute/path.")
    if "?" in path:
        raise StoreError(f"{url!r}: the SQLite store has no options, and a path can't hold a question mark.")
    return SqliteStore(Path(path))


def load_registry() -> StoreRegistry:
    """The registry with all that is installed.

    A plugin that fails is named in `errors` and in the log, and hides no other.
    """
    registry = StoreRegistry()
    manager = pluggy.PluginManager("gowork")
    manager.add_hookspecs(StoreHooks)
    BuiltinStores().gowork_register_stores(registry)
    for extension in extensions.installed(ENTRY_POINT_GROUP):
        try:
            extensions.attempt(partial(_ask, manager, extension.load(), registry), extension.title)
        except extensions.ExtensionError as error:
            # Whatever a plugin does must not stop a leader that doesn't need it.
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
    """The store for this URL; `await store.open()` opens it.

    Raises:
        StoreError: as StoreRegistry.make.
    """
    return load_registry().make(url)
