"""Finds the store for a URL. Stores are plugins, and so is the built-in one. Each claims a scheme.

A package adds a store with an entry point in the group `gowork.stores` that names a module with

    from gowork.leader.store import hookimpl

    @hookimpl
    def gowork_register_stores(registry):
        registry.add("etcd", make_store)     # make_store(url) returns a Store that is not opened yet
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gowork.leader._schemes import SchemeRegistry, hookimpl, hookspec, load
from gowork.leader.store.protocol import Store, StoreError
from gowork.leader.store.sqlite import SqliteStore

__all__ = ["ENTRY_POINT_GROUP", "StoreMaker", "StoreRegistry", "hookimpl", "load_registry", "open_store"]

ENTRY_POINT_GROUP = "gowork.stores"
#: Returns the Store for a URL, not opened yet. Raises StoreError when the URL makes no sense.
StoreMaker = Callable[[str], Store]


class StoreRegistry(SchemeRegistry[Store]):
    """Knows which store claims which scheme."""

    noun = "store"
    error = StoreError

    def example(self, url: str) -> str:
        """See SchemeRegistry.example."""
        return f"sqlite:///{url}" if url and not {":", "@"} & set(url) else "sqlite:///gowork.db"


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
    return load(StoreRegistry(), StoreHooks, BuiltinStores(), "gowork_register_stores", ENTRY_POINT_GROUP)


def open_store(url: str) -> Store:
    """Returns the store for this URL. `await store.open()` opens it.

    Raises:
        StoreError: see StoreRegistry.make.
    """
    return load_registry().make(url)
