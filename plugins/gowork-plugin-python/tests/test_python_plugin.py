"""The handlers that call functions by name, as a worker would run them."""

from __future__ import annotations

import datetime
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest

from gowork.worker import Fail
from gowork.worker.errors import PluginError
from gowork.worker.testing import FailureKind, Outcome, Status, cancel, run_handler
from gowork_plugin_python import ALLOW_VARIABLE, AllowList, NotAllowed, PythonCall
from gowork_plugin_python.allowed import NAME_CHARS_MAX, PATTERNS_MAX
from gowork_plugin_python.call import bound
from gowork_plugin_python.plugin import found, gowork_register_handlers

PLUGIN = "gowork_plugin_python.plugin"
FUNCTIONS = """
import asyncio
import dataclasses
import datetime
import os
import threading
from os import getpid

from gowork.worker import Retry

answer = 42


@dataclasses.dataclass
class Order:
    customer: str
    cups: int = 1

    @classmethod
    def brew(cls, customer: str) -> str:
        return f"{customer}: brewed"


class Caller:
    async def __call__(self, name: str) -> str:
        await asyncio.sleep(0)
        return name.upper()


call_later = Caller()


def add(one, *others: int, scale: float = 1.0, **more: datetime.date):
    return [one, list(others), scale, {key: type(value).__name__ for key, value in more.items()}]


def weekday(day: datetime.date) -> int:
    return day.weekday()


def served(order: Order) -> str:
    return "*" * order.cups


def unread(value: "Missing") -> object:
    return value


def of_another_kind(value: threading.Thread = None) -> object:
    return value


def fails() -> None:
    raise LookupError("no such row")


def again() -> None:
    raise Retry("later", delay=7)


async def hello(name: str) -> str:
    await asyncio.sleep(3600)
    return f"Hello, {name}!"


def _hidden() -> str:
    return "hidden"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes modules that can be imported until the test ends."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)

    yield write
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def functions(module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of functions, all of which may be called."""
    module("called", FUNCTIONS)
    monkeypatch.setenv(ALLOW_VARIABLE, "called:*")


def attempt(
    call: str, *args: Any, handler: str = "python", options: dict[str, Any] | None = None, **kwargs: Any
) -> Outcome:
    payload = {"call": call, "args": list(args), "kwargs": kwargs}
    return run_handler(handler, payload, imports=[PLUGIN], max_attempts=2, **(options or {}))


def reason(outcome: Outcome, *, retried: bool = False) -> str:
    """Why the plugin would not call the function."""
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.will_retry) == ("Fail", retried)
    return outcome.failure.message


@pytest.mark.parametrize("handler", ["python", "python-process"])
def test_function_is_called_with_the_arguments(functions: None, handler: str) -> None:
    outcome = attempt("called:add", "a", 2, 3, scale=2, start="2026-11-30", handler=handler)
    assert outcome.result == ["a", [2, 3], 2.0, {"start": "date"}]


def test_arguments_get_the_types_of_the_annotations(functions: None) -> None:
    assert attempt("called:weekday", "2026-11-30").result == 0
    assert attempt("called:served", order={"customer": "Ada", "cups": 3}).result == "***"
    assert attempt("called:Order", "Ada", cups=2).result == {"customer": "Ada", "cups": 2}


def test_a_class_is_called_with_what_its_constructor_wants() -> None:
    class Visit:
        cups: int

        def __init__(self, day: datetime.date) -> None: ...

    assert bound(Visit, PythonCall(call="m:Visit", args=["2026-11-30"])) == ((datetime.date(2026, 11, 30),), {})


def test_an_annotation_may_have_bounds() -> None:
    def brew(cups: Annotated[int, msgspec.Meta(ge=1)]) -> None: ...

    assert bound(brew, PythonCall(call="m:brew", args=[1])) == ((1,), {})
    with pytest.raises(ValueError, match="argument 'cups': Expected `int` >= 1"):
        bound(brew, PythonCall(call="m:brew", args=[0]))


def test_arguments_stay_as_they_are_where_no_annotation_can_be_read(functions: None) -> None:
    assert attempt("called:unread", {"a": 1}).result == {"a": 1}
    assert attempt("called:of_another_kind").result is None


@pytest.mark.parametrize(
    ("call", "args", "kwargs", "words"),
    [
        ("called:weekday", ["soon"], {}, "argument 'day': Invalid RFC3339"),
        ("called:served", [], {"order": {"cups": 1}}, "argument 'order': .*customer"),
        ("called:add", [1, 2, "3"], {}, "argument 'others': Expected `int`"),
        ("called:add", [1], {"end": 5}, "argument 'end': "),
        ("called:Order", ["Ada"], {"cups": "two"}, "argument 'cups': Expected `int`"),
        ("called:weekday", [], {}, r"missing a required argument: 'day'; called:weekday takes \(day"),
        ("called:weekday", ["2026-11-30", 2], {}, "too many positional arguments"),
        ("called:weekday", ["2026-11-30"], {"dya": 1}, "unexpected keyword argument 'dya'"),
    ],
)
def test_arguments_that_do_not_fit_are_named_and_nothing_is_tried_again(
    functions: None, call: str, args: list[Any], kwargs: dict[str, Any], words: str
) -> None:
    assert re.search(words, reason(attempt(call, *args, **kwargs)))


def test_function_that_tells_nobody_what_it_takes_is_called_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "builtins:max")
    assert attempt("builtins:max", 3, 5, 4).result == 5


def test_async_function_runs_on_the_loop_and_is_cancelled_there(functions: None) -> None:
    assert attempt("called:hello", "Ada", handler="python-async").result == "Hello, Ada!"
    assert attempt("called:call_later", name="ada", handler="python-async").result == "ADA"
    stopped = attempt("called:hello", "Ada", handler="python-async", options={"faults": [cancel(after=5)]})
    assert (stopped.status, stopped.was_killed, stopped.elapsed) == (Status.CANCELLED, False, 5)


def test_imports_hold_none_of_the_threads_of_the_loop(functions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noting(target: Any) -> Any:
        threads.append(threading.current_thread().name)
        return found(target)

    monkeypatch.setattr("gowork_plugin_python.plugin.found", noting)
    assert attempt("called:hello", "Ada", handler="python-async").result == "Hello, Ada!"
    (thread,) = threads
    assert thread.startswith("gowork-python-import")


@pytest.mark.parametrize(("handler", "name"), [("python", "plain"), ("python-async", "waiting")])
def test_what_an_import_logs_is_in_the_log_of_its_task(
    module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, handler: str, name: str
) -> None:
    module("talking", "import logging\nlogging.warning('here')\ndef plain(): ...\nasync def waiting(): ...\n")
    monkeypatch.setenv(ALLOW_VARIABLE, "talking:*")
    assert [record.getMessage() for record in attempt(f"talking:{name}", handler=handler).logs] == ["here"]


@pytest.mark.parametrize(
    ("call", "handler", "other"),
    [
        ("called:hello", "python", "python-async"),
        ("called:call_later", "python-process", "python-async"),
        ("called:weekday", "python-async", "python"),
    ],
)
def test_the_wrong_handler_names_the_right_one(functions: None, call: str, handler: str, other: str) -> None:
    assert reason(attempt(call, "x", handler=handler)).endswith(f"schedule it for the handler {other!r}")


def test_what_a_function_raises_fails_or_steers_the_task(functions: None) -> None:
    failed = attempt("called:fails")
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.type) == (FailureKind.HANDLER, "LookupError")
    assert attempt("called:again").retry_delay == 7


@pytest.mark.parametrize("handler", ["python", "python-process", "python-async"])
@pytest.mark.parametrize("allowed", [None, "", " ,\n", "other:*", "refused:other", "refused.sub:*"])
def test_what_is_not_allowed_is_not_imported(
    module: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    handler: str,
    allowed: str | None,
) -> None:
    module("refused", f"open({str(tmp_path / 'imported')!r}, 'w').close()\ndef function(): return 1\n")
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    if allowed is not None:
        monkeypatch.setenv(ALLOW_VARIABLE, allowed)
    said = reason(attempt("refused:function", handler=handler))
    assert said.startswith("call: refused:function is not allowed on this worker")
    assert "refused" not in sys.modules
    assert not (tmp_path / "imported").exists()


def test_a_name_allows_itself_alone(functions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "called:weekday, called:Order.brew\ncalled:_hidden called:getpid")
    assert attempt("called:weekday", "2026-11-30").result == 0
    assert attempt("called:Order.brew", "Ada").result == "Ada: brewed"
    assert attempt("called:_hidden").result == "hidden"
    assert attempt("called:getpid").result > 0
    for other in ("called:served", "called:Order", "called:Order.brew.__func__", "called:weekday.__call__"):
        assert "not allowed" in reason(attempt(other))


@pytest.mark.parametrize("name", ["_hidden", "Order.brew", "os.system", "__builtins__"])
def test_a_star_allows_no_private_name_and_nothing_within(functions: None, name: str) -> None:
    assert "is not allowed on this worker" in reason(attempt(f"called:{name}", "Ada"))


def test_a_star_does_not_allow_what_the_module_has_imported(functions: None) -> None:
    assert "does not allow it" in reason(attempt("called:os"))
    said = reason(attempt("called:getpid"))
    assert "has not defined getpid itself" in said
    assert f"add called:getpid to {ALLOW_VARIABLE}" in said


def test_a_star_follows_the_list_of_what_a_module_exports(
    module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module("exporting", "from os import getpid, getppid\n__all__ = ['getpid']\ndef own(): return 1\n")
    monkeypatch.setenv(ALLOW_VARIABLE, "exporting:*")
    assert attempt("exporting:getpid").result > 0
    for name in ("getppid", "own"):
        assert "does not allow it" in reason(attempt(f"exporting:{name}"))


def test_what_another_worker_may_have_is_tried_again(
    module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module("broken", "raise RuntimeError('no licence')\n")
    module("older", "def other(): return 1\n")
    monkeypatch.setenv(ALLOW_VARIABLE, "broken:run older:* no_such_module:run")
    assert "RuntimeError: no licence" in reason(attempt("broken:run"), retried=True)
    assert "no_such_module can't be imported" in reason(attempt("no_such_module:run"), retried=True)
    assert reason(attempt("older:newer"), retried=True) == "call: older has no newer on this worker"


def test_what_is_no_function_is_not_called(functions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "called:answer")
    assert reason(attempt("called:answer")) == "call: called:answer is no function, but 'int'"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("called.weekday", "write a colon .* as in 'called:weekday'"),
        ("weekday", "write package.module:name"),
        ("", "write package.module:name"),
        (":weekday", "write package.module:name"),
        ("called:", "write package.module:name"),
        ("called:*", "write package.module:name"),
        (".called:weekday", "write package.module:name"),
        ("called:weekday()", "write package.module:name"),
        ("called:week day", "write package.module:name"),
        ("called:" + "x" * NAME_CHARS_MAX, f"at most {NAME_CHARS_MAX}"),
    ],
)
def test_a_name_that_cannot_be_is_told_how_to_be_written(functions: None, call: str, words: str) -> None:
    assert re.search(words, reason(attempt(call)))


@pytest.mark.parametrize(
    ("payload", "word"),
    [({}, "call"), ({"call": 5}, "call"), ({"call": "a:b", "arg": []}, "arg"), ({"call": "a:b", "args": {}}, "args")],
)
def test_a_payload_that_cannot_be_is_refused_by_field(payload: dict[str, Any], word: str) -> None:
    outcome = run_handler("python", payload, imports=[PLUGIN])
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.REJECTED
    assert word in outcome.failure.message


@pytest.mark.parametrize(
    "pattern", ["called", "called.*", "*", "*:*", "called:", ":*", "cal led:*x", "called:f*", "a:b:c"]
)
def test_a_pattern_that_cannot_be_read_is_named_and_offers_nothing(
    monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, f"math:* {pattern}")
    with pytest.raises(PluginError, match=f"{ALLOW_VARIABLE}: .* is no pattern; write package.module:name"):
        attempt("math:floor", 1.5)


def test_the_number_of_patterns_is_bounded() -> None:
    assert AllowList(" ".join(f"m{number}:*" for number in range(PATTERNS_MAX)))
    with pytest.raises(ValueError, match=f"at most {PATTERNS_MAX}"):
        AllowList(" ".join(f"m{number}:*" for number in range(PATTERNS_MAX + 1)))


def test_an_empty_list_allows_nothing() -> None:
    assert not AllowList("")
    with pytest.raises(NotAllowed):
        AllowList("").find("math:floor")


def test_later_changes_of_the_environment_allow_nothing(
    module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module("widening", f"import os\ndef widen(): os.environ[{ALLOW_VARIABLE!r}] = 'math:*'\n")
    monkeypatch.setenv(ALLOW_VARIABLE, "widening:*")
    handlers: list[Callable[[PythonCall], Any]] = []
    registry: Any = SimpleNamespace(add=handlers.append)
    gowork_register_handlers(registry)
    handlers[0](PythonCall(call="widening:widen"))
    assert os.environ[ALLOW_VARIABLE] == "math:*"
    with pytest.raises(Fail, match="not allowed"):
        handlers[0](PythonCall(call="math:floor", args=[1.5]))


def test_the_code_of_the_readme_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
