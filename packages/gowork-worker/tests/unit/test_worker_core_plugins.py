from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gowork.worker import UnimportableError, handler, hookspecs, lifespan
from gowork.worker._core import references
from gowork.worker._core.plugins import Selection, load

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module that can be imported while the test lasts."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that these entry points are installed."""

    def install(**plugins: str) -> None:
        points = [
            metadata.EntryPoint(name=name, value=module, group="gowork.plugins") for name, module in plugins.items()
        ]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points)

    install()
    return install


ONE = "from gowork.worker import handler\n@handler\ndef one(): ...\n"


def test_module_of_handlers_needs_no_hook(install: Any, write: Write) -> None:
    install(first=write("plugin_a", ONE))
    loaded = load(Selection())
    assert {name: handler.plugin for name, handler in loaded.handlers.items()} == {"echo": "echo", "one": "first"}
    assert loaded.default is loaded.handlers["echo"]
    assert not loaded.errors


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError"),
        ("from gowork.worker import handler\n@handler\ndef bad(a, b, c): ...", "HandlerDefinitionError"),
        ("from gowork.worker import hookimpl\n@hookimpl\ndef gowork_around_task(nonsense): ...", "nonsense"),
    ],
)
def test_plugin_that_fails_is_named_and_hides_no_other(install: Any, write: Write, text: str, reason: str) -> None:
    install(bad=write("plugin_bad", text), good=write("plugin_good", ONE))
    loaded = load(Selection())
    assert [error.plugin for error in loaded.errors] == ["bad"]
    assert reason in loaded.errors[0].reason
    assert "one" in loaded.handlers
    assert {plugin.name: bool(plugin.errors) for plugin in loaded.plugins} == {
        "echo": False,
        "bad": True,
        "good": False,
    }


def test_two_plugins_that_claim_one_name_both_go_without(install: Any, write: Write) -> None:
    install(a=write("plugin_a", ONE), b=write("plugin_b", ONE))
    loaded = load(Selection())
    assert set(loaded.handlers) == {"echo"}
    assert [error.plugin for error in loaded.errors] == ["a", "b"]
    assert all("claimed by a and b" in error.reason for error in loaded.errors)


def test_function_that_two_modules_show_is_one_handler(install: Any, write: Write) -> None:
    install(a=write("plugin_a", ONE), b=write("plugin_b", "from plugin_a import one\n"))
    loaded = load(Selection())
    assert loaded.handlers["one"].plugin == "a"
    assert not loaded.errors


def test_hook_registers_what_the_module_does_not_show(install: Any, write: Write) -> None:
    text = (
        "from gowork.worker import hookimpl\n"
        "def plain(number: int) -> int: return number\n"
        "@hookimpl\n"
        "def gowork_register_handlers(registry): registry.add(plain, 'renamed')\n"
    )
    install(hooked=write("plugin_hooked", text))
    loaded = load(Selection())
    assert loaded.handlers["renamed"].plugin == "hooked"


def test_selection_takes_plugins_and_handlers(install: Any, write: Write) -> None:
    two = ONE + "@handler\ndef two(): ...\n"
    install(a=write("plugin_a", two), b=write("plugin_b", "1 / 0"))
    loaded = load(Selection(plugins=("a",), handlers=("two",)))
    assert set(loaded.handlers) == {"two"}
    assert loaded.default is None
    assert not loaded.errors


def test_selection_of_what_is_not_there_is_named(install: Any) -> None:
    loaded = load(Selection(plugins=("nobody",), handlers=("nothing",)))
    assert [str(error).partition(":")[0] for error in loaded.errors] == ["nobody", "(selection)"]


def test_imported_modules_are_plugins_too(install: Any, write: Write) -> None:
    loaded = load(Selection(imports=(write("plugin_import", ONE),), default_handler="one"))
    assert loaded.default is loaded.handlers["one"]


def test_functions_in_code_are_handlers(install: Any) -> None:
    @handler
    def local() -> None: ...

    @lifespan
    def setup(state: Any) -> Iterator[None]:
        yield

    loaded = load(Selection(), [local, setup])
    assert loaded.handlers["local"].function is local
    assert loaded.lifespans == (setup,)


def test_every_hook_is_documented() -> None:
    hooks = [function for name, function in vars(hookspecs).items() if name.startswith("gowork_")]
    assert len(hooks) >= 4
    assert all(function.__doc__ for function in hooks)


def test_function_of_a_module_is_found_again() -> None:
    found = references.resolve(references.refer(test_function_of_a_module_is_found_again))
    assert found.__qualname__ == "test_function_of_a_module_is_found_again"


def test_function_within_a_function_cannot_be_referred_to() -> None:
    def inner() -> None: ...

    for function in (inner, lambda: None):
        with pytest.raises(UnimportableError, match="runners=0"):
            references.refer(function)


def test_function_of_a_prompt_cannot_be_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace())  # type: ignore[arg-type]

    def typed() -> None: ...

    typed.__module__, typed.__qualname__ = "__main__", "typed"
    with pytest.raises(UnimportableError, match="runners=0"):
        references.refer(typed)


def test_script_is_run_up_to_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from gowork.worker import Worker, handler\n"
        "@handler\n"
        "def here(): return 'found'\n"
        "Worker(runners=0).run()\n"
        "raise AssertionError('the worker was passed')\n"
    )
    monkeypatch.delitem(sys.modules, "__gowork_main__", raising=False)
    try:
        found = references.resolve(references.Reference("", "here", str(script)))
    finally:
        sys.modules.pop("__gowork_main__", None)
    assert found() == "found"


def test_reference_to_nothing_is_named() -> None:
    with pytest.raises(UnimportableError, match="no_such_name"):
        references.resolve(references.Reference("os", "no_such_name"))
