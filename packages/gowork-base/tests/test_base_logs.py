"""Each record is one line, whatever it holds."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gowork.base import logs
from gowork.base.logs import JsonFormatter, TextFormatter, _is_no_gone_caller


class Broken:
    """Nothing can be made of it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def record(log: Callable[[logging.Logger], object], formatter: logging.Formatter | None = None) -> list[str]:
    """What a logger's call writes."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    handler.setFormatter(formatter or JsonFormatter())
    # Apart from the others: pytest's own handlers refuse what ours must not.
    logger = logging.Logger("some.library", logging.DEBUG)  # noqa: LOG001
    logger.addHandler(handler)
    log(logger)
    return lines


def entry(log: Callable[[logging.Logger], object], formatter: logging.Formatter | None = None) -> dict[str, Any]:
    (line,) = record(log, formatter)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found


def test_a_line_has_time_level_logger_event_and_fields() -> None:
    found = entry(lambda logger: logger.warning("%d rooms", 3, extra={"hotel": "Ritz", "full": True}))
    time = datetime.fromisoformat(found.pop("time"))
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert found == {"level": "warning", "logger": "some.library", "event": "3 rooms", "hotel": "Ritz", "full": True}


def test_time_is_rfc_3339_in_utc() -> None:
    made = logging.makeLogRecord({"created": 1767225599.9996, "msg": "x", "levelname": "INFO"})
    assert json.loads(JsonFormatter().format(made))["time"] == "2025-12-31T23:59:59.999Z"
    assert TextFormatter().format(made) == "2025-12-31T23:59:59.999Z info    x"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"raw \xff", "raw \\xff"),
        (ValueError("no room"), "ValueError: no room"),
        (Path("/tmp"), "/tmp"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01 00:00:00+00:00"),
        (float("nan"), "nan"),
        ({"ratio": float("inf")}, "{'ratio': inf}"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ({"when": b"x"}, {"when": "x"}),
        (Broken(), "<Broken without a text>"),
        ([Broken()], ["<Broken without a text>"]),
        ({Broken(): 1}, "<dict without a text>"),
        ("\ud800", "\ud800"),
        ("two\nlines", "two\nlines"),
        (2**70, 2**70),
    ],
)
def test_any_value_is_written(value: object, written: object) -> None:
    assert entry(lambda logger: logger.info("x", extra={"value": value, "other": 1}))["value"] == written
    assert record(lambda logger: logger.info("x", extra={"value": value}), TextFormatter())


def test_a_value_that_holds_itself_is_written_as_text() -> None:
    value: list[object] = []
    value.append(value)
    assert entry(lambda logger: logger.info("x", extra={"value": value, "other": 1}))["value"] == "[[...]]"


def test_a_field_that_says_what_is_said_already_is_not_written_twice() -> None:
    found = entry(
        lambda logger: logger.info("x", extra={"task_id": "ours"}), JsonFormatter(lambda: {"task_id": "ours"})
    )
    assert found["task_id"] == "ours"
    assert "extra_task_id" not in found


def test_fields_of_names_that_are_taken_get_others() -> None:
    formatter = JsonFormatter(lambda: {"task_id": "ours"})
    given = {"time": 1, "level": 2, "logger": 3, "event": 4, "exception": 5, "stack": 6, "task_id": "theirs"}
    found = entry(lambda logger: logger.info("x", extra=given), formatter)
    assert (found["event"], found["level"], found["task_id"]) == ("x", "info", "ours")
    assert {key: found[f"extra_{key}"] for key in given} == given


@pytest.mark.parametrize(
    ("message", "arguments", "event"),
    [
        ("%d rooms", ("many",), "%d rooms ('many',)"),
        ("%s", (Broken(),), "%s <tuple without a text>"),
        (Broken(), (), "<Broken without a text> ()"),
        ("100 %", (), "100 %"),
    ],
)
def test_a_message_that_does_not_fit_its_arguments_is_written_all_the_same(
    message: object, arguments: tuple[object, ...], event: str
) -> None:
    assert entry(lambda logger: logger.info(message, *arguments))["event"] == event
    (line,) = record(lambda logger: logger.info(message, *arguments), TextFormatter())
    assert event in line


def raise_and_log(logger: logging.Logger) -> None:
    try:
        raise ValueError("no room")
    except ValueError:
        logger.exception("failed", stack_info=True)


def test_exceptions_and_stacks_are_fields_in_json_and_lines_in_text() -> None:
    found = entry(raise_and_log)
    assert found["exception"].endswith("ValueError: no room")
    assert "raise_and_log" in found["stack"]
    (lines,) = record(raise_and_log, TextFormatter())
    assert "\nValueError: no room\n" in lines


def test_exc_info_without_an_exception_says_nothing() -> None:
    assert "exception" not in entry(lambda logger: logger.error("x", exc_info=True))  # noqa: LOG014


@pytest.mark.parametrize(
    ("value", "written"),
    [("plain", "plain"), (3, "3"), ("", '""'), ("a b", '"a b"'), ('say "x"', '"say \\"x\\""'), ("a=b\n", '"a=b\\n"')],
)
def test_text_has_values_in_quotes_where_they_would_be_read_as_several(value: object, written: str) -> None:
    (line,) = record(lambda logger: logger.info("x", extra={"value": value, "last": 1}), TextFormatter())
    assert line.endswith(f"info    x value={written} last=1")


@pytest.mark.parametrize(
    "odd", ["\x1b", "\x07", "\x7f", "\x9b", "\x85", "\u202e", "\u2066", "\u2028", "\u061c", "\ufeff"]
)
def test_nothing_in_text_is_obeyed_by_a_terminal(odd: str) -> None:
    def log(logger: logging.Logger) -> None:
        try:
            raise ValueError(f"no{odd}room")
        except ValueError:
            logger.exception(f"event{odd}", extra={"value": f"a{odd}31mred", f"key{odd}": 1}, stack_info=True)  # noqa: G004

    (lines,) = record(log, TextFormatter())
    assert odd not in lines
    assert f"\\u{ord(odd):04x}" in lines
    assert "\nValueError: no" in lines


def test_a_record_begins_one_line_alone() -> None:
    """Otherwise whoever has a text logged could write lines of the log of their own."""
    forged = "x\n2026-01-01T00:00:00.000Z error   forged"
    (line,) = record(lambda logger: logger.info(forged, extra={"value": forged, forged: 1}), TextFormatter())
    assert "\n" not in line
    assert "\\n2026" in line


def test_a_caller_that_is_gone_is_no_error() -> None:
    """By itself gRPC logs a traceback for each answer that it cannot send; a client that ends has thousands."""
    kind = type("ExecuteBatchError", (Exception,), {})
    gone = logging.makeLogRecord({"exc_info": (kind, kind(), None)})
    defect = logging.makeLogRecord({"exc_info": (ValueError, ValueError(), None)})
    assert not _is_no_gone_caller(gone)
    assert _is_no_gone_caller(defect)
    assert _is_no_gone_caller(logging.makeLogRecord({}))


def test_the_current_span_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    span = SimpleNamespace(is_valid=True, trace_id=0xABC, span_id=0xDEF)
    current = SimpleNamespace(get_span_context=lambda: span)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_current_span=lambda: current))
    found = entry(lambda logger: logger.info("x"))
    assert found["trace_id"] == "abc".rjust(32, "0")
    assert found["span_id"] == "def".rjust(16, "0")
    span.is_valid = False
    assert "trace_id" not in entry(lambda logger: logger.info("x"))


def test_a_span_of_the_real_library_is_named() -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False)
    assert "trace_id" not in entry(lambda logger: logger.info("x"))
    with trace.use_span(trace.NonRecordingSpan(context)):
        found = entry(lambda logger: logger.info("x"))
    assert (int(found["trace_id"], 16), int(found["span_id"], 16)) == (0xABC, 0xDEF)


def test_nothing_is_imported_to_find_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert "trace_id" not in entry(lambda logger: logger.info("x"))
    assert "opentelemetry.trace" not in sys.modules


class Halt(BaseException):
    """What no `except Exception` stops."""


def test_a_tracing_runtime_that_fails_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_current() -> None:
        raise Halt

    monkeypatch.setattr("opentelemetry.trace.get_current_span", get_current)
    told = logging.makeLogRecord({"msg": "told", "levelname": "INFO"})
    assert TextFormatter().format(told).endswith(" told")


def test_configure_takes_the_place_of_what_was_configured_before(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logging.getLogger("grpc._cython.cygrpc"), "filters", [])
    try:
        logs.configure("json", "error", waits=True)
        assert [type(handler.formatter) for handler in root.handlers] == [JsonFormatter]
        assert root.level == logging.ERROR
    finally:
        root.setLevel(level)


def test_the_text_of_an_exception_that_is_gone_is_kept() -> None:
    made = logging.makeLogRecord({"msg": "x", "exc_text": "the trace"})
    assert json.loads(JsonFormatter().format(made))["exception"] == "the trace"


def test_an_end_that_was_asked_for_is_no_record(caplog: pytest.LogCaptureFixture) -> None:
    logs._uncaught(KeyboardInterrupt, KeyboardInterrupt(), None)
    logs._uncaught_in_thread(threading.ExceptHookArgs((SystemExit, SystemExit(1), None, None)))
    assert caplog.records == []
