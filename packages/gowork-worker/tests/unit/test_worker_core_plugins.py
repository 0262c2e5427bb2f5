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
from gowork.worker._core.plugins import load
from gowork.worker._core.selection import Selection

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


@pytest.fixture
def distribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one module as a plugin."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def distribute(name: str, plugin: str, text: str, version: str = "1.0") -> None:
        monkeypatch.delitem(sys.modules, f"of_{name}", raising=False)
        (site / f"of_{name}.py").write_text(text)
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[gowork.plugins]\n{plugin} = of_{name}\n")
        importlib.invalidate_caches()

    return distribute


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


@pytest.mark.parametrize("name", ["hello.py", "./shop/hello.py", "shop/hello"])
def test_a_file_in_place_of_a_module_is_named_with_the_module(install: Any, name: str) -> None:
    module = "hello" if name == "hello.py" else "shop.hello"
    (error,) = load(Selection(imports=(name,))).errors
    assert f"{name} is a file; name the module, as in --import {module}" in str(error)


def test_a_module_that_is_not_there_is_told_with_where_it_was_looked_for(install: Any) -> None:
    (error,) = load(Selection(imports=("plugin_mistyped",))).errors
    looked = f"No module named 'plugin_mistyped', in {sys.path[0]} or among the installed packages"
    assert error.reason == f"ModuleNotFoundError: {looked}"


def test_a_module_that_lacks_another_one_is_told_with_its_line(install: Any, write: Write) -> None:
    name = write("plugin_lacking", "import no_such_module_at_all")
    (error,) = load(Selection(imports=(name,))).errors
    assert "No module named 'no_such_module_at_all' (" in error.reason
    assert error.reason.endswith("plugin_lacking.py:1)")


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
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace())

    def typed() -> None: ...

    typed.__module__, typed.__qualname__ = "__main__", "typed"
    with pytest.raises(UnimportableError, match="runners=0"):
        references.refer(typed)


def test_function_of_a_folder_that_is_run_is_found_by_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a runner, the module of this name is the runner's own."""
    path = tmp_path / "__main__.py"
    main = SimpleNamespace(__spec__=SimpleNamespace(name="__main__"), __file__=str(path))
    monkeypatch.setitem(sys.modules, "__main__", main)

    def typed() -> None: ...

    typed.__module__, typed.__qualname__ = "__main__", "typed"
    with pytest.raises(UnimportableError, match="an archive"):
        references.refer(typed)
    path.touch()
    assert references.refer(typed) == references.Reference("", "typed", str(path))


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


def handler_named(name: str) -> str:
    return f"from gowork.worker import handler\n@handler\ndef {name}(n: int) -> int: return n\n"


def test_plugins_of_one_name_are_told_apart_by_their_distributions(distribute: Any) -> None:
    distribute("aaa", "thumbnails", handler_named("small"))
    distribute("bbb", "thumbnails", handler_named("large"), version="2.0")
    loaded = load(Selection())
    assert {"small", "large"} <= set(loaded.handlers)
    assert not loaded.errors
    assert {"thumbnails (aaa 1.0)", "thumbnails (bbb 2.0)"} <= {plugin.name for plugin in loaded.plugins}
    assert set(load(Selection(plugins=("bbb",))).handlers) == {"large"}
    assert set(load(Selection(plugins=("thumbnails",))).handlers) == {"small", "large"}


def test_two_distributions_that_claim_one_handler_are_named_with_their_versions(distribute: Any) -> None:
    distribute("aaa", "one", handler_named("same"))
    distribute("bbb", "two", handler_named("same"), version="2.0")
    told = [error.reason for error in load(Selection()).errors]
    assert told == ["handler 'same' is claimed by one (aaa 1.0) and two (bbb 2.0); none of them gets it"] * 2


def test_an_imported_module_clashes_with_no_plugin_of_its_name(install: Any, write: Write) -> None:
    install(first=write("plugin_a", ONE))
    loaded = load(Selection(imports=(write("echo", handler_named("other")), write("first", handler_named("third")))))
    assert set(loaded.handlers) == {"echo", "one", "other", "third"}
    assert not loaded.errors
    assert [plugin.name for plugin in loaded.plugins] == [
        "echo (built in)",
        "first (plugin_a)",
        "echo (imported)",
        "first (imported)",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("@handler\ndef bad(a: int, b: int, c: int): ...", "takes (a, b, c)"),
        ("@handler\ndef bad(n: Nowhere): ...", "Nowhere"),
        ("class Plain: ...\n@handler\ndef bad(n: list[Plain]): ...", "Plain"),
        ("@handler\nclass bad:\n    def __call__(self, n: int): ...\nit = bad()", "is a class"),
        ("@handler\ndef bad(n: int):\n    yield n", "is a generator"),
        ("@handler\nasync def bad(n: int):\n    yield n", "is a generator"),
        ("@handler('bad')\ndef one_way(): ...\n@handler('bad')\ndef another(): ...", "defined twice"),
        (
            "from gowork.worker import hookimpl\ndef bad(a, b, c): ...\n"
            "@hookimpl\ndef gowork_register_handlers(registry): registry.add(bad, 'bad')",
            "takes (a, b, c)",
        ),
        ("import typing\n@handler\ndef bad(n: typing.Final[int]): ...", "Final"),
        ("@handler\ndef bad(n: '__import__(\"sys\").exit(4)'): ...", "SystemExit"),
        ("@handler\ndef bad(): ...\nbad.__wrapped__ = bad", "wrapper loop"),
        (
            "class Model:\n    model_validate_json = model_dump_json = None\n"
            "    def model_json_schema(): raise SystemExit(3)\n@handler\ndef bad(n: Model): ...",
            "SystemExit",
        ),
    ],
)
def test_a_handler_that_cannot_be_one_withdraws_itself_alone(install: Any, write: Write, text: str, told: str) -> None:
    annotations = "from __future__ import annotations\n"
    install(mixed=write("plugin_mixed", f"{annotations}{ONE}{text}\n@handler\ndef last(): ...\n"))
    loaded = load(Selection())
    assert set(loaded.handlers) == {"echo", "one", "last"}
    (error,) = loaded.errors
    assert error.plugin == "mixed"
    assert "'bad'" in error.reason
    assert told in error.reason


def test_what_a_module_holds_besides_handlers_may_raise_when_it_is_looked_at(install: Any, write: Write) -> None:
    text = (
        "class Lazy:\n    def __getattr__(self, name): raise RuntimeError('outside of a request')\nrequest = Lazy()\n"
    )
    install(lazy=write("plugin_lazy", text + ONE))
    loaded = load(Selection())
    assert "one" in loaded.handlers
    assert not loaded.errors


def test_a_hook_that_fails_takes_no_handler_away(install: Any, write: Write) -> None:
    text = (
        "from gowork.worker import hookimpl\n@hookimpl\ndef gowork_register_handlers(registry): raise SystemExit(3)\n"
    )
    install(hooked=write("plugin_hooked", ONE + text))
    loaded = load(Selection())
    assert "one" in loaded.handlers
    assert [error.reason.partition(" (")[0] for error in loaded.errors] == ["SystemExit: 3"]


def test_only_what_is_named_is_imported(install: Any, write: Write) -> None:
    install(a=write("plugin_a", ONE), b=write("plugin_b", "raise AssertionError('it was imported')"))
    loaded = load(Selection(only=("a",)))
    assert set(loaded.handlers) == {"one"}
    assert not loaded.errors


def test_plugins_with_hooks_or_lifespans_are_shared(install: Any, write: Write) -> None:
    install(
        plain=write("plugin_a", ONE),
        around=write("plugin_b", "from gowork.worker import hookimpl\n@hookimpl\ndef gowork_around_task(): ...\n"),
        pool=write("plugin_c", "from gowork.worker import lifespan\n@lifespan\ndef pool(state): yield\n"),
        registers=write(
            "plugin_d", "from gowork.worker import hookimpl\n@hookimpl\ndef gowork_register_handlers(registry): ...\n"
        ),
    )
    shared = {plugin.name for plugin in load(Selection()).plugins if plugin.is_shared}
    assert shared == {"around", "pool"}


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("@hookimpl(wrapper=True)\ndef gowork_around_task(ctx): yield", "without wrapper"),
        ("@hookimpl(hookwrapper=True)\ndef gowork_runner_started(state): yield", "without wrapper"),
        ("@hookimpl\nasync def gowork_around_task(ctx): ...", "write `yield` in it"),
        ("@hookimpl\nasync def gowork_around_own_task(ctx): ...", "write `yield` in it"),
        ("@hookimpl\ndef gowork_runner_started(state): yield", "see @lifespan"),
        ("@hookimpl\nasync def gowork_runner_stopping(state): yield", "see @lifespan"),
        ("@hookimpl\nasync def gowork_register_handlers(registry): ...", "nothing awaits it"),
        ("@hookimpl\ndef gowork_arround_task(ctx): yield", "did you mean gowork_around_task?"),
        ("@hookimpl\ndef pytest_sessionstart(): ...", "there is no hook pytest_sessionstart, only gowork_around_"),
    ],
    ids=[
        "a wrapper",
        "a wrapper of old",
        "one around all tasks that does not yield",
        "one around own tasks that does not yield",
        "a start that yields",
        "an end that yields",
        "async handlers",
        "a name that is misspelt",
        "a name of something else",
    ],
)
def test_a_hook_whose_body_would_not_run_is_refused(install: Any, write: Write, hook: str, words: str) -> None:
    install(hooked=write("plugin_hooked", f"{ONE}from gowork.worker import hookimpl\n{hook}\n"))
    loaded = load(Selection())
    assert [error.plugin for error in loaded.errors] == ["hooked"]
    assert words in loaded.errors[0].reason
    assert loaded.hooks.get_plugin("hooked") is None
    assert "one" in loaded.handlers


def test_hooks_of_a_plugin_are_told_and_one_around_its_own_tasks_does_not_make_it_shared(
    install: Any, write: Write
) -> None:
    text = "from gowork.worker import hookimpl\n@hookimpl\ndef {}(): ...\n"
    install(
        own=write("plugin_a", text.format("gowork_around_own_task")),
        all=write("plugin_b", text.format("gowork_around_task") + text.format("gowork_runner_started")),
    )
    found = {plugin.name: (list(plugin.hooks), plugin.is_shared) for plugin in load(Selection()).plugins}
    assert found == {
        "echo": ([], False),
        "own": (["gowork_around_own_task"], False),
        "all": (["gowork_around_task", "gowork_runner_started"], True),
    }


def test_a_module_may_have_hooks_of_leaders_too(install: Any, write: Write) -> None:
    install(
        both=write("plugin_b", f"{ONE}from gowork.worker import hookimpl\n@hookimpl\ndef gowork_register_logs(): ...\n")
    )
    loaded = load(Selection())
    assert (list(loaded.errors), "one" in loaded.handlers) == ([], True)
    assert [list(plugin.hooks) for plugin in loaded.plugins] == [[], []]
