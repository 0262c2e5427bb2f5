"""Stores are found by the scheme of their URL."""

import logging
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gowork.leader.store import registry
from gowork.leader.store.protocol import StoreError
from gowork.leader.store.registry import StoreRegistry, hookimpl, load_registry, open_store
from gowork.leader.store.sqlite import SqliteStore


def test_an_absolute_path_has_four_slashes(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/gowork.db")
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "gowork.db"


def test_a_relative_path_has_three_slashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("SQLite:///data/my%20#1 gowork.db")
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "data" / "my%20#1 gowork.db"


async def test_a_path_of_strange_characters_is_taken_as_it_is(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/100% #1 &mode=ro ünï.db")
    await store.open()
    await store.close()
    assert (tmp_path / "100% #1 &mode=ro ünï.db").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gowork.db", "is no store URL"),
        ("", "is no store URL"),
        ("sqlite:gowork.db", "is no store URL"),
        ("/srv/gowork.db", "as in sqlite:////srv/gowork.db"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://host/gowork.db", "names no file"),
        ("sqlite://gowork.db", "names no file"),
        ("sqlite:///gowork.db?timeout=5", "has no options"),
        ("postgres://host/db", "No store is known for postgres://. Known: sqlite."),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert message in str(caught.value)


class PluginThatWorks:
    """What an entry point names: a module, or anything with the hook."""

    @hookimpl
    def gowork_register_stores(self, registry: StoreRegistry) -> None:
        registry.add("memory", lambda url: SqliteStore(url.removeprefix("memory://")))


class PluginThatClaimsSqlite:
    @hookimpl
    def gowork_register_stores(self, registry: StoreRegistry) -> None:
        registry.add("sqlite", registry_maker)


def registry_maker(url: str) -> SqliteStore:
    return SqliteStore(url)


class PluginThatExits:
    @hookimpl
    def gowork_register_stores(self, registry: StoreRegistry) -> None:
        raise SystemExit("no licence")


works = PluginThatWorks()
exits = PluginThatExits()
claims = PluginThatClaimsSqlite()


def install(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """Entry points as an installed wheel declares them."""
    installed = [EntryPoint(f"plugin-{n}", value, registry.ENTRY_POINT_GROUP) for n, value in enumerate(values)]

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == "gowork.stores"
        return installed

    monkeypatch.setattr(metadata, "entry_points", entry_points)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A module with the two plugins, by name."""
    module = "gowork_store_plugins_of_a_test"
    (tmp_path / f"{module}.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    return module


def test_a_plugin_adds_a_scheme(monkeypatch: pytest.MonkeyPatch, importable: str, tmp_path: Path) -> None:
    install(monkeypatch, f"{importable}:works")
    store = open_store(f"memory://{tmp_path}/x")
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "x"


def test_a_plugin_that_fails_is_named_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, importable: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, "gowork_no_such_module", f"{importable}:works")
    with caplog.at_level(logging.WARNING):
        found = load_registry()
    assert list(found.errors) == ["plugin-0"]
    assert "ModuleNotFoundError" in found.errors["plugin-0"]
    assert "store plugin failed" in caplog.text
    found.make("memory:///tmp/x")
    with pytest.raises(StoreError, match="plugin-0 could not be loaded: ModuleNotFoundError"):
        found.make("etcd://host")


def test_a_plugin_that_exits_ends_no_leader(monkeypatch: pytest.MonkeyPatch, importable: str, tmp_path: Path) -> None:
    (tmp_path / "gowork_store_that_exits.py").write_text("import sys; sys.exit('no licence')")
    install(monkeypatch, "gowork_store_that_exits", f"{importable}:exits", f"{importable}:works")
    found = load_registry()
    assert [error.partition(" (")[0] for error in found.errors.values()] == ["SystemExit: no licence"] * 2
    assert isinstance(found.make("memory:///tmp/x"), SqliteStore)
    assert isinstance(found.make("sqlite:///x.db"), SqliteStore)


def test_two_stores_that_claim_one_scheme_are_both_named(monkeypatch: pytest.MonkeyPatch, importable: str) -> None:
    install(monkeypatch, f"{importable}:claims")
    with pytest.raises(StoreError) as caught:
        open_store("sqlite:///gowork.db")
    assert "gowork.leader.store.registry.sqlite_store" in str(caught.value)
    assert f"{importable}.registry_maker" in str(caught.value)


def test_every_hook_is_documented() -> None:
    hooks = [hook for name, hook in vars(registry.StoreHooks).items() if not name.startswith("__")]
    assert hooks
    assert all(hook.__doc__ for hook in hooks)
