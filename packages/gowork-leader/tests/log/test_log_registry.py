"""Logs are found by the scheme of their URL, as stores are."""

import logging
import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from memory_log import MemoryLog, MemoryPlace

from gowork.leader.log import LogError, open_log, registry
from gowork.leader.log.etcd import EtcdLog
from gowork.leader.log.postgresql import PostgresqlLog
from gowork.leader.log.registry import LogRegistry, hookimpl, load_registry


def test_etcd_is_built_in() -> None:
    assert isinstance(open_log("etcd://127.0.0.1:2379,127.0.0.2:2379/prefix"), EtcdLog)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "PostgreSQL"])
def test_postgresql_is_built_in(scheme: str) -> None:
    assert isinstance(open_log(f"{scheme}://me:secret@host/x"), PostgresqlLog)


def test_without_psycopg_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gowork.leader.log.postgresql")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LogError, match=r"pip install 'gowork-leader\[postgresql\]'"):
        open_log("postgresql://me:secret@host/x")
    assert isinstance(open_log("etcd://127.0.0.1:2379"), EtcdLog)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "'' is no log URL: it must read SCHEME://…, as in etcd://host:2379"),
        ("127.0.0.1:2379", "'127.0.0.1:2379' is no log URL"),
        ("raft://host/x", "No log is known for raft://. Known: etcd, postgres, postgresql."),
        ("sqlite:///gowork.db", "No log is known for sqlite://"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, message: str) -> None:
    with pytest.raises(LogError) as caught:
        open_log(url)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "me:secret@host:2379",
        "me:secret@host?password=secret",
        "host?password=secret",
        "raft://me:secret@host/x",
        "raft://me:not@secret@host/x?password=secret",
        "me:secret@etcd://host",
        "etcd://me:secret@host:2379",
        "etcd://host:2379?password=secret",
        "postgresql://me:secret%@host/x",
        "postgresql://me:secret@host:port/x?nonsense=secret",
        "postgresql://host/x?password=secret&nonsense=1",
        "postgresql://me:secret@host/x?schema=a-secret",
    ],
)
def test_no_message_has_a_password(url: str) -> None:
    with pytest.raises(LogError) as caught:
        open_log(url)
    assert "secret" not in str(caught.value)


class PluginThatWorks:
    """What an entry point names: a module, or anything with the hook."""

    @hookimpl
    def gowork_register_logs(self, registry: LogRegistry) -> None:
        registry.add("memory", lambda url: MemoryLog(MemoryPlace()))


works = PluginThatWorks()


def test_a_plugin_adds_a_scheme_and_one_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gowork_log_plugin_of_a_test.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    values = ("gowork_no_such_module", "gowork_log_plugin_of_a_test:works")
    installed = [
        EntryPoint(f"plugin-{number}", value, registry.ENTRY_POINT_GROUP) for number, value in enumerate(values)
    ]

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == "gowork.logs"
        return installed

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    with caplog.at_level(logging.WARNING):
        found = load_registry()
    assert isinstance(found.make("memory://x"), MemoryLog)
    assert "log plugin failed" in caplog.text
    with pytest.raises(LogError, match="plugin-0 could not be loaded: ModuleNotFoundError"):
        found.make("raft://host")


def test_every_hook_is_documented() -> None:
    hooks = [hook for name, hook in vars(registry.LogHooks).items() if not name.startswith("__")]
    assert hooks
    assert all(hook.__doc__ for hook in hooks)
