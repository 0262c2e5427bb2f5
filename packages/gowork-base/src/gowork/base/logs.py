"""The log of a process of gowork's own: one line for each record, as text for people or as JSON for programs.

docs/logs.md has the keys. No record is lost, and no caller hears of an error, because of what a record holds: what JSON
cannot take is written as text, and a field whose name is taken gets another. No caller waits for whoever reads the log:
a record is made into its line where it is logged, and a thread writes it (`log_writer`).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from gowork.base.log_writer import FLUSH_SECONDS, LogWriter, QueuedStream

#: What every record has; everything else on it was given by `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Keys of each line that no field may take.
_TAKEN = frozenset({"time", "level", "logger", "event", "exception", "stack"})
#: What a terminal obeys, or shows in another order: control characters, line separators, marks of direction.
_OBEYED = "\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff"
#: In text, values with one of these are written in quotes.
_ODD = re.compile(rf"""[\s"'=\\{_OBEYED}]""")
_CONTROL = re.compile(f"[{_OBEYED}]")
#: As the above, except what an exception's text needs to be read.
_CONTROL_IN_LINES = re.compile(rf"(?![\n\t])[{_OBEYED}]")

_log = logging.getLogger(__name__)

#: Gives the fields of the attempt that runs where it is called; see `configure`.
Scope = Callable[[], Mapping[str, object]]


def configure(form: str, level: str, scope: Scope = dict, *, waits: bool = False) -> None:
    """Sends all logs of this process to standard error.

    Args:
        form: "text" or "json".
        level: debug, info, warning or error.
        scope: called for each record, in the thread that logs: gives fields that stand before the record's own.
        waits: write each record where it is logged, and wait for the reader; for a process whose reader never stops,
            so that its last words are out when it is killed.
    """
    # gRPC calls it an error, with a traceback, that a caller is gone before it has read its answer.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_gone_caller)
    handler = _handler(waits)
    handler.setFormatter(JsonFormatter(scope) if form == "json" else TextFormatter(scope))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def take_standard_error() -> None:
    """Has the log take what else the process says on standard error; for a process of gowork's own, after `configure`.

    What is printed there goes the way of the log, and so blocks nobody either. Warnings, and exceptions that nobody
    took, become records. Nothing changes where the log has no thread that writes.
    """
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, QueuedHandler)]
    if not handlers:
        return
    sys.stderr = QueuedStream(handlers[0].writer).text()
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def writer() -> LogWriter | None:
    """The log's own writer, to pass on lines that others have written; None when the log has no thread."""
    return next((each.writer for each in logging.getLogger().handlers if isinstance(each, QueuedHandler)), None)


class QueuedHandler(logging.Handler):
    """Hands lines to a LogWriter."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.writer = LogWriter(descriptor, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Makes the line here and now, since what the record refers to may change."""
        self.writer.put(self._line(record))

    def close(self) -> None:
        """Waits for unwritten lines, within a bound; `logging` calls it at the end of the process."""
        self.writer.close(FLUSH_SECONDS)
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"

    def _dropped(self, lines: int) -> bytes:
        fields = {"name": __name__, "levelname": "WARNING", "msg": "log lines were dropped", "lines": lines}
        fields["reason"] = "standard error was not read"
        return self._line(logging.makeLogRecord(fields))


def _handler(waits: bool) -> logging.Handler:
    if not waits and sys.stderr is not None:
        try:
            return QueuedHandler(sys.stderr.fileno())
        except (OSError, ValueError, AttributeError):
            pass  # A stream of the program's own, in memory perhaps.
    return logging.StreamHandler(sys.stderr)


def _is_no_gone_caller(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if isinstance(record.exc_info, tuple) else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if kind is not KeyboardInterrupt:
        _log.critical("ended by an exception", exc_info=(kind, error, trace))


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is not SystemExit:
        error = arguments.exc_value or arguments.exc_type()
        name = arguments.thread.name if arguments.thread is not None else ""
        _log.error("thread ended by an exception", extra={"thread_name": name}, exc_info=error)


def _unraisable(arguments: sys.UnraisableHookArgs) -> None:
    _log.error(
        "exception that nobody could take",
        extra={"where": arguments.object, "reason": arguments.err_msg or ""},
        exc_info=arguments.exc_value or arguments.exc_type(),
    )


class TextFormatter(logging.Formatter):
    """Lines of the form `time level event key=value …`; an exception takes further lines.

    Whatever others have put into a record, its line is one line, and a terminal shows it as it was written.
    """

    def __init__(self, scope: Scope = dict) -> None:
        super().__init__()
        self._scope = scope

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(
            f" {_shown(key, _CONTROL)}={_word(value)}" for key, value in _fields(record, self._scope).items()
        )
        lines = [f"{_time(record)} {record.levelname.lower():7} {_shown(_event(record), _CONTROL)}{fields}"]
        return "\n".join([*lines, *(_shown(text, _CONTROL_IN_LINES) for text in _traces(self, record).values())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def __init__(self, scope: Scope = dict) -> None:
        super().__init__()
        self._scope = scope

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
            **_fields(record, self._scope),
            **_traces(self, record),
        }
        try:
            return _encode(entry)
        except Exception:  # noqa: BLE001 - whatever a value's own methods raise
            return _encode({key: value if _fits(value) else _text(value) for key, value in entry.items()})


def _fields(record: logging.LogRecord, scope: Scope) -> dict[str, object]:
    """What is under way, the current span, and what the caller gave; the latter as `extra_NAME` where NAME is taken by
    another value.
    """
    fields: dict[str, object] = {**scope(), **_span()}
    for key, value in vars(record).items():
        if key not in _STANDARD and not (type(value) is str and fields.get(key) == value):
            fields[f"extra_{key}" if key in fields or key in _TAKEN else str(key)] = value
    return fields


def _span() -> dict[str, str]:
    """The ids of the span that is current here. Nothing is imported for it: without the library there is no span."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    try:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    except BaseException:  # noqa: BLE001 - it is not there, is just being imported, or its runtime is a user's own
        return {}
    return {}


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit the message, or whose own methods raise
        return f"{_text(record.msg)} {_text(record.args)}"


def _traces(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    traces = {}
    if record.exc_info and record.exc_info[0] is not None:
        try:
            traces["exception"] = formatter.formatException(record.exc_info)
        except Exception:  # noqa: BLE001 - whatever the exception's own methods and attributes raise
            traces["exception"] = f"<{record.exc_info[0].__name__} without a traceback>"
    elif record.exc_text:
        traces["exception"] = record.exc_text
    if record.stack_info:
        traces["stack"] = record.stack_info
    return traces


def _word(value: object) -> str:
    text = _text(value)
    # JSON itself escapes the control characters of ASCII alone.
    return text if text and not _ODD.search(text) else _shown(json.dumps(text, ensure_ascii=False), _CONTROL)


def _shown(text: str, hidden: re.Pattern[str]) -> str:
    """The text with these characters as their numbers."""
    return hidden.sub(lambda found: json.dumps(found.group())[1:-1], text)


def _text(value: object) -> str:
    """Any value as text."""
    try:
        if isinstance(value, bytes):
            return value.decode(errors="backslashreplace")
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001 - whatever a value's own methods raise
        return f"<{type(value).__name__} without a text>"


#: ASCII, so that no stream's encoding can refuse it; NaN is no JSON.
_encode = json.JSONEncoder(default=_text, allow_nan=False).encode


def _fits(value: object) -> bool:
    try:
        _encode(value)
    except Exception:  # noqa: BLE001 - whatever a value's own methods raise
        return False
    return True
