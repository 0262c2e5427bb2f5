"""Writes the filter expressions of ListTasks, WatchTasks and PurgeTasks, so that callers need not quote by hand."""

from __future__ import annotations

import re

from gowork.client import _arguments as arguments
from gowork.client._models import TaskFilter
from gowork.client._requests import handler_name
from gowork.client.errors import InvalidArgument

#: Keys of labels that need no quotes.
_PLAIN_KEY = re.compile(r'[^\s=!"]+')


def filter_expression(filter: str, terms: TaskFilter) -> str:
    """Returns the given expression and all these terms, joined by AND.

    Raises:
        InvalidArgument: when a term cannot be written in the filter language.
    """
    parts = [filter] if arguments.text(filter, "filter").strip() else []
    if (status := terms.get("status")) is not None:
        parts.append(f"status = {arguments.text(status, 'status').upper()}")
    if (handler := terms.get("handler")) is not None:
        parts.append(f"handler = {quoted(handler_name(handler))}")
    if (queue := terms.get("queue")) is not None:
        parts.append(f"queue = {quoted(arguments.text(queue, 'queue'))}")
    if (priority := terms.get("priority")) is not None:
        parts.append(f"priority = {arguments.text(priority, 'priority').upper()}")
    labels = arguments.pairs(terms.get("labels") or {}, "labels")
    parts += [f"labels.{_key(key)} = {quoted(value)}" for key, value in labels.items()]
    if (id_prefix := terms.get("id_prefix")) is not None:
        parts.append(f"id = {quoted(arguments.text(id_prefix, 'id_prefix') + '*')}")
    return " AND ".join(parts)


def quoted(text: str) -> str:
    """Returns the text as a quoted string of the filter language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _key(key: str) -> str:
    if _PLAIN_KEY.fullmatch(key):
        return key
    # The filter language has no escapes in keys.
    if not key or '"' in key:
        raise InvalidArgument.of("labels", f"no filter can name the key {key!r}, which is empty or has a quote in it")
    return f'"{key}"'
