"""The log of gowork's own processes: one line for each record, as text for people or as JSON for programs.

docs/logs.md lists the keys. Nothing in a record can lose it, or raise an error in the code that logs: values that JSON
cannot hold are written as text, and a field whose name is taken gets another name. Code that logs does not wait for the
reader of the log: it makes the line, and a thread writes it (`log_writer`).
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

#: The attributes that every record has. All others were given by `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: The keys of every line, which no field may take.
_TAKEN = frozenset({"time", "level", "logger", "event", "exception", "stack"})
#: Characters that a terminal obeys, or that reorder its text: control characters, line separators, marks of direction.
_OBEYED = "\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff"
#: In text, values with one of these characters are written in quotes.
_ODD = re.compile(rf"""[\s"'=\\{_OBEYED}]""")
_CONTROL = re.compile(f"[{_OBEYED}]")
#: The same without newline and tab, which the text of an exception needs.
_CONTROL_IN_LINES = re.compile(rf"(?![\n\t])[{_OBEYED}]")

_log = logging.getLogger(__name__)

#: Returns the fields of the attempt that runs in the calling thread; see `configure`.
Scope = Callable[[], Mapping[str, object]]


def configure(form: str, level: str, scope: Scope = dict, *, waits: bool = False) -> None:
    """Sends all logs of this process to standard error.

    Args:
        form: "text" or "json".
        level: debug, info, warning or error.
        scope: called for each record, in the thread that logs. It returns fields, which stand before the record's own.
        waits: whether the thread that logs writes the record itself, and waits for the reader. Set it for a process
            whose reader never stops reading, so that its last records are out when it is killed.
    """
    # gRPC logs an error with a traceback when a caller is gone before it has read its answer.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_gone_caller)
    handler = _handler(waits)
    handler.setFormatter(JsonFormatter(scope) if form == "json" else TextFormatter(scope))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def take_standard_error() -> None:
    """Sends what else the process writes to standard error through the log; call it after `configure`.

    What is printed there is queued like log lines, and so blocks nobody either. Warnings and uncaught exceptions become
    records. Nothing changes where the log has no thread that writes.
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
    """Returns the log's own writer, to pass on lines of other processes; None when the log has no thread."""
    return next((each.writer for each in logging.getLogger().handlers if isinstance(each, QueuedHandler)), None)


class QueuedHandler(logging.Handler):
    """Hands lines to a LogWriter."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.writer = LogWriter(descriptor, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Makes the line at once, because the objects that the record refers to may change."""
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
            pass  # It is a stream of the program's own, perhaps in memory.
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
    """Makes lines of the form `time level event key=value …`. An exception takes further lines.

    Whatever a record holds, it makes one line, and nothing in it controls the terminal that shows it.
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
    """Makes one JSON object of each record, in one line of ASCII."""

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
    """Returns the fields of the running attempt, of the current span, and of the caller, in this order.

    A field of the caller is called `extra_NAME` where NAME is taken by another value.
    """
    fields: dict[str, object] = {**scope(), **_span()}
    for key, value in vars(record).items():
        if key not in _STANDARD and not (type(value) is str and fields.get(key) == value):
            fields[f"extra_{key}" if key in fields or key in _TAKEN else str(key)] = value
    return fields


def _span() -> dict[str, str]:
    """Returns the ids of the current span. It imports nothing: before OpenTelemetry is imported there is no span."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    try:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    except BaseException:  # noqa: BLE001 - it is not there, is just being imported, or its runtime is a user's own
        return {}
    return {}


def _time(record: logging.LogRecord) -> str:
    """Returns the record's time in the form of RFC 3339, in UTC, to the millisecond."""
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
    # json.dumps escapes only the control characters of ASCII.
    return text if text and not _ODD.search(text) else _shown(json.dumps(text, ensure_ascii=False), _CONTROL)


def _shown(text: str, hidden: re.Pattern[str]) -> str:
    """Replaces the characters that match `hidden` by their escapes in JSON."""
    return hidden.sub(lambda found: json.dumps(found.group())[1:-1], text)


def _text(value: object) -> str:
    """Returns any value as text, even one whose own methods raise an error."""
    try:
        if isinstance(value, bytes):
            return value.decode(errors="backslashreplace")
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001 - whatever a value's own methods raise
        return f"<{type(value).__name__} without a text>"


#: It writes ASCII, so that no stream's encoding can refuse a line, and no NaN, which is not JSON.
_encode = json.JSONEncoder(default=_text, allow_nan=False).encode


def _fits(value: object) -> bool:
    try:
        _encode(value)
    except Exception:  # noqa: BLE001 - whatever a value's own methods raise
        return False
    return True
