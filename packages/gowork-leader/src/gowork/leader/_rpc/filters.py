r"""Filter expressions of ListTasks and WatchTasks: terms joined by AND (a part of AIP-160).

`status = RUNNING AND handler = "resize" AND labels.team != "web" AND id = "abc*"`

Inside quotes a backslash takes the next character as it is: `id = "abc\*"` selects the one task `abc*`. Without quotes
a backslash is an ordinary character.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from gowork.leader._core.model import LaneKey, Priority, Spec, Standing, Status
from gowork.leader._engine.watching import Selection
from gowork.leader.store.protocol import Query
from gowork.proto import limits
from gowork.proto.status import FieldViolation, invalid

_TERM = re.compile(
    r"""\s*(?P<field>[a-z_]+(?:\.(?:"(?P<quoted_key>[^"]*)"|(?P<key>[^\s=!"]+)))?)
        \s*(?P<operator>!=|=)
        \s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s"=!]+))\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"AND\b")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_FIELDS = "id, status, priority, handler, queue, labels.KEY"

E = TypeVar("E", Status, Priority)

#: Whether a task is among the selected.
Predicate = Callable[[Spec, Standing], bool]


def parse_filter(text: str, *, newest_first: bool = False) -> Query:
    """Reads a filter.

    Raises:
        Refusal: INVALID_ARGUMENT on the field `filter`, with the place of the fault.
    """
    if len(text.encode()) > limits.FILTER_BYTES_MAX:
        raise _fault(f"has {len(text.encode())} bytes; the limit is {limits.FILTER_BYTES_MAX}")
    statuses: set[Status] | None = None
    terms: list[tuple[str, str | int, bool]] = []
    labels: list[tuple[str, str, bool]] = []
    prefixes: list[tuple[str, bool]] = []
    place = 0
    while text[place:].strip():
        if place:
            joined = _AND.match(text, place)
            if joined is None:
                raise _fault(f"needs AND before {text[place : place + 20]!r} (at character {place + 1})")
            place = joined.end()
            if not text[place:].strip():
                raise _fault("ends after AND; write another FIELD = VALUE, or leave AND out")
        term = _TERM.match(text, place)
        if term is None:
            raise _fault(
                f"can't be read from {text[place : place + 20]!r} on (at character {place + 1}); write FIELD = VALUE"
            )
        place = term.end()
        field, equal = term["field"], term["operator"] == "="
        value, is_prefix = _value_of(term)
        if field.startswith("labels."):
            labels.append((term["quoted_key"] if term["quoted_key"] is not None else term["key"], value, equal))
        elif field == "status":
            chosen = {_enum(Status, "status", value)}
            chosen = chosen if equal else set(Status) - chosen
            statuses = chosen if statuses is None else statuses & chosen
        elif field == "priority":
            terms.append((field, int(_enum(Priority, "priority", value)), equal))
        elif field == "id" and is_prefix:
            prefixes.append((value[:-1], equal))
        elif field in ("id", "handler", "queue"):
            terms.append((field, value, equal))
        else:
            raise _fault(f"names the unknown field {field!r}; fields are {_FIELDS}")
    if statuses is not None and not statuses:
        # Contradictory terms select nothing. The empty id selects nothing, because no task has it.
        terms.append(("id", "", True))
    return Query(frozenset(statuses or ()), tuple(terms), tuple(labels), tuple(prefixes), newest_first)


def predicate_of(query: Query) -> Predicate:
    """Returns the same selection as a predicate of tasks in memory."""

    def selects(spec: Spec, standing: Standing) -> bool:
        if query.statuses and standing.status not in query.statuses:
            return False
        lane = spec.lane
        columns = {"id": spec.id, "queue": lane.queue, "handler": lane.handler, "priority": int(lane.priority)}
        labels = dict(spec.labels) if query.labels else {}
        return (
            all((columns[column] == value) is equal for column, value, equal in query.terms)
            and all((labels.get(key) == value) is equal for key, value, equal in query.labels)
            and all(spec.id.startswith(prefix) is equal for prefix, equal in query.id_prefixes)
        )

    if query == Query():
        return lambda spec, standing: True
    return selects


def selection_of(text: str) -> Selection:
    """Returns the selection of a watcher with this filter.

    Raises:
        Refusal: see parse_filter.
    """
    query = parse_filter(text)
    id = next((str(value) for column, value, equal in query.terms if column == "id" and equal), None)
    of_lane = [(column, value, equal) for column, value, equal in query.terms if column != "id"]

    def lane(key: LaneKey) -> bool:
        columns = {"queue": key.queue, "handler": key.handler, "priority": int(key.priority)}
        return all((columns[column] == value) is equal for column, value, equal in of_lane)

    return Selection(text, id, lane if of_lane else None, predicate_of(query))


def _value_of(term: re.Match[str]) -> tuple[str, bool]:
    """Returns the value of a term, and whether it ends in a star, which matches any characters.

    The star is looked for before escapes are replaced, because afterwards an escaped star looks like a plain one.
    """
    quoted = term["quoted"]
    if quoted is None:
        return term["bare"], term["bare"].endswith("*")
    return _ESCAPED.sub(r"\1", quoted), quoted.endswith("*") and not _takes_last(quoted)


def _takes_last(quoted: str) -> bool:
    """Whether the last character is escaped: an odd number of backslashes in a row precede it."""
    before = quoted[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _enum(kind: type[E], field: str, value: str) -> E:
    try:
        return kind[value.upper()]
    except KeyError:
        raise _fault(f"has the unknown {field} {value!r}; use {', '.join(kind.__members__)}") from None


def _fault(description: str) -> Exception:
    return invalid([FieldViolation("filter", description)])
