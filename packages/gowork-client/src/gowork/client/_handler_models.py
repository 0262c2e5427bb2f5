"""The values that callers get about handlers: which ones workers have, and what these take and return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HandlerVersion:
    """One version of a handler, as some workers have it."""

    #: The plugin that it comes from, and the version of that plugin's distribution; empty where there is none.
    plugin: str
    plugin_version: str
    #: How many workers have it, and the names of the first 100, sorted.
    workers: int
    worker_names: tuple[str, ...]
    #: Whether its workers describe it. All that follows is unknown where they do not.
    is_described: bool
    #: The first line of its documentation.
    doc: str = ""
    #: False when it takes no payload.
    takes_payload: bool = True
    #: Whether an empty payload stands for a default value.
    payload_optional: bool = False
    #: JSON Schemas (draft 2020-12) of what it takes and returns; None where it takes or returns anything.
    payload_schema: Mapping[str, Any] | None = None
    result_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """A handler that workers of the cluster have now."""

    name: str
    #: The different ones of this name. Those that most workers have come first.
    versions: tuple[HandlerVersion, ...]
