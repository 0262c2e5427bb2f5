"""Writes the filter expressions of ListTasks and WatchTasks, so that callers need not quote by hand."""

from __future__ import annotations

from gowork.client._mapping import handler_name
from gowork.client._models import TaskFilter


def filter_expression(filter: str, terms: TaskFilter) -> str:
    """The given expression and all these terms, joined by AND."""
    parts = [filter] if filter.strip() else []
    if (status := terms.get("status")) is not None:
        parts.append(f"status = {status.upper()}")
    if (handler := terms.get("handler")) is not None:
        parts.append(f"handler = {quoted(handler_name(handler))}")
    if (queue := terms.get("queue")) is not None:
        parts.append(f"queue = {quoted(queue)}")
    if (priority := terms.get("priority")) is not None:
        parts.append(f"priority = {priority.upper()}")
    parts += [f"labels.{key} = {quoted(value)}" for key, value in (terms.get("labels") or {}).items()]
    if (id_prefix := terms.get("id_prefix")) is not None:
        parts.append(f"id = {quoted(id_prefix + '*')}")
    return " AND ".join(parts)


def quoted(text: str) -> str:
    """The text as a string of the filter language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
