"""Finds the log for a URL. Logs are plugins, and so are the built-in ones. Each claims a scheme.

A package adds a log with an entry point in the group `gowork.logs` that names a module with

    from gowork.leader.log import hookimpl

    @hookimpl
    def gowork_register_logs(registry):
        registry.add("raft", make_log)     # make_log(url) returns a Log that is not opened yet
"""

from __future__ import annotations

from collections.abc import Callable

from gowork.leader._schemes import SchemeRegistry, hookimpl, hookspec, load
from gowork.leader.log.protocol import Log, LogError

__all__ = ["ENTRY_POINT_GROUP", "LogMaker", "LogRegistry", "hookimpl", "load_registry", "open_log"]

ENTRY_POINT_GROUP = "gowork.logs"
#: Returns the Log for a URL, not opened yet. Raises LogError when the URL makes no sense.
LogMaker = Callable[[str], Log]


class LogRegistry(SchemeRegistry[Log]):
    """Knows which log claims which scheme."""

    noun = "log"
    error = LogError

    def example(self, url: str) -> str:
        """See SchemeRegistry.example."""
        return "etcd://host:2379,host:2379,host:2379/gowork"


class LogHooks:
    """The hooks that a log's package may implement."""

    @hookspec
    def gowork_register_logs(self, registry: LogRegistry) -> None:
        """Calls `registry.add(scheme, maker)` for each scheme. It is called when the leader looks for its log."""


class BuiltinLogs:
    """The logs that come with the leader. Each is imported when it is asked for."""

    @hookimpl
    def gowork_register_logs(self, registry: LogRegistry) -> None:
        registry.add("etcd", _etcd)
        registry.add("postgresql", _postgresql)
        registry.add("postgres", _postgresql)


def load_registry() -> LogRegistry:
    """Returns the registry of all logs that are installed.

    A plugin that fails is named in `errors` and in the log. The others still work.
    """
    return load(LogRegistry(), LogHooks, BuiltinLogs(), "gowork_register_logs", ENTRY_POINT_GROUP)


def open_log(url: str) -> Log:
    """Returns the log for this URL. `await log.open()` opens it.

    Raises:
        LogError: see LogRegistry.make.
    """
    return load_registry().make(url)


def _etcd(url: str) -> Log:
    from gowork.leader.log.etcd import etcd_log

    return etcd_log(url)


def _postgresql(url: str) -> Log:
    try:
        from gowork.leader.log.postgresql import postgresql_log
    except ImportError as error:
        if not (error.name or "psycopg").startswith("psycopg"):
            raise
        raise LogError(
            f"The log in PostgreSQL needs psycopg ({error}): pip install 'gowork-leader[postgresql]'."
        ) from None
    return postgresql_log(url)
