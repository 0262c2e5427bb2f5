"""The process's logging: structured fields, as text for people or JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

#: What every record has; everything else on it was given by `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Lines of the form `time level event key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{time} {record.levelname.lower():7} {record.getMessage()}{fields}{trace}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields that the caller gave."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure(log_format: str, level: str) -> None:
    """Logs to standard error; for a process that is the leader's own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
