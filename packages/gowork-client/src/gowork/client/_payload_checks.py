"""Checks payloads against the schemas that workers give of their handlers, before anything is sent.

A payload is right if one version of the handler takes it, because the leader finds a worker with that version. What a
schema cannot say is left to the worker: bytes, and handlers that no worker describes. So is what workers do otherwise:
their library reads patterns in a language of its own, and what is read as a set need not have unique items.

Anybody who may run a worker may write a schema. So a check has a time limit, and a keyword that can take long by itself
is not checked.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from typing import Any, NoReturn

from gowork.base.suggestions import meant
from gowork.base.values import FORM_DATA
from gowork.client._handler_models import HandlerInfo, HandlerVersion
from gowork.client.errors import InvalidArgument

#: For how long what a leader told of a handler counts, in seconds.
BELIEVED_SECONDS = 30.0
#: How many handlers are remembered; the oldest is forgotten.
HANDLERS_KEPT_MAX = 1_000
#: How many versions a warning names.
VERSIONS_NAMED_MAX = 5
#: Most characters of what is wrong.
_MESSAGE_CHARACTERS_MAX = 300
#: How long a check may keep the processor, in seconds. What is not found until then is left to the worker.
CHECK_SECONDS_MAX = 1.0
#: Most names of missing fields, and of unknown ones, that are compared, and how long such a name is.
_COMPARED_MAX = 20
_COMPARED_CHARACTERS_MAX = 100
#: How many schemas are kept with what checks by them.
VALIDATORS_KEPT_MAX = 100
#: {id of a schema: the schema, which so keeps its id; what checks by it, or None if it is left to the worker}
_validators: dict[int, tuple[Mapping[str, Any], Any]] = {}
#: Keywords that are left to the worker.
_LEFT_TO_WORKERS = ("pattern", "patternProperties", "unevaluatedItems", "unevaluatedProperties", "uniqueItems")
_NEEDED = "to check payloads needs jsonschema: pip install 'gowork-client[schemas]'"


class _Check(threading.local):
    """The check that runs in this thread."""

    #: When it has to end, on the clock of the thread's processor time.
    ends = math.inf


_check = _Check()


class _TookTooLong(Exception):
    """A check has used up its time."""


class PayloadChecks:
    """What a client knows of handlers. May be used from any thread."""

    def __init__(self) -> None:
        #: {handler: (until when it counts, on the monotonic clock; its versions; the warning if there are none)}
        self._known: dict[str, tuple[float, Sequence[HandlerVersion], str]] = {}
        # Held while the oldest is looked for: meanwhile the dict must not change.
        self._lock = threading.Lock()

    def get(self, handler: str) -> tuple[Sequence[HandlerVersion], str] | None:
        """Returns the versions of a handler, and a warning when there are none; None when the leader must be asked."""
        known = self._known.get(handler)
        return None if known is None or known[0] < time.monotonic() else known[1:]

    def put(
        self, handler: str, found: Iterable[HandlerInfo], others: Iterable[str] = ()
    ) -> tuple[Sequence[HandlerVersion], str]:
        """Notes what the leader told, and returns it as `get` does.

        Args:
            handler: the handler's name.
            found: the handler, if there is one.
            others: the names of all handlers, if there is none.
        """
        versions = next((each.versions for each in found if each.name == handler), ())
        warning = "" if versions else f"no worker has the handler {handler!r} now{meant(handler, others)}"
        with self._lock:
            while len(self._known) >= HANDLERS_KEPT_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[handler] = (time.monotonic() + BELIEVED_SECONDS, versions, warning)
        return versions, warning


def within(versions: Sequence[HandlerVersion], handler: str, wanted: str) -> tuple[Sequence[HandlerVersion], str]:
    """Returns the versions of a handler that are within a range, and a warning when there are none."""
    # packaging is imported by those who use it.
    from gowork.base.version_ranges import is_within

    found = [version for version in versions if is_within(version.plugin_version, wanted)]
    if found:
        return found, ""
    there = dict.fromkeys(version.plugin_version or "one without a version" for version in versions)
    named = ", ".join(list(there)[:VERSIONS_NAMED_MAX])
    return (), f"no worker has the handler {handler!r} in a version within {wanted} now; there is {named}"


def need_jsonschema() -> None:
    """Raises: ImportError: jsonschema is not installed. The error has the command that installs it."""
    try:
        import jsonschema  # noqa: F401
    except ImportError as error:
        raise ImportError(_NEEDED) from error


def check(versions: Sequence[HandlerVersion], handler: str, text: str, data: bytes, form: int) -> str:
    """Checks an encoded payload, for at most CHECK_SECONDS_MAX.

    Returns:
        A warning when the payload has a field that is named by no version of the handler which takes it.

    Raises:
        InvalidArgument: no version of the handler takes the payload. It names the field that is wrong for the version
            that most workers have.
        ImportError: jsonschema is not installed.
    """
    first: tuple[str, str] | None = None
    strange: tuple[str, str] | None = None
    takes = False
    _check.ends = time.thread_time() + CHECK_SECONDS_MAX
    for version in versions:
        fault = fault_of(version, text, data, form)
        if fault is None:
            takes, strange = True, unnamed(version.payload_schema, text, data, form)
            if strange is None:
                return ""
        first = first or fault
    if first is not None and not takes:
        raise InvalidArgument.of(*first)
    if strange is None:
        return ""
    place, likely = strange
    return f"the handler {handler!r} names no field {place}, and may drop it{likely}"


def fault_of(version: HandlerVersion, text: str, data: bytes, form: int) -> tuple[str, str] | None:
    """Returns (field, what is wrong with it) of a payload for one version; None when it may be right."""
    schema = version.payload_schema
    if not version.is_described or schema is None or not version.takes_payload or data or form == FORM_DATA:
        return None
    if not text and version.payload_optional:
        return None
    need_jsonschema()
    try:
        parsed = [json.loads(text, parse_constant=_no_constant)]
        why = ""
    except (ValueError, RecursionError) as error:
        parsed, why = [], f"it is not JSON ({error})" if text else "it is empty"
    fault = _fault(schema, parsed[0]) if parsed else ("payload", f"{why}; JSON of {_kind(schema)} is needed")
    # A text is its own value for a handler that takes texts.
    return None if fault is None or _fault(schema, text) is None else fault


def unnamed(schema: Mapping[str, Any] | None, text: str, data: bytes, form: int) -> tuple[str, str] | None:
    """Returns (field, what may be meant) of a payload that a handler takes and that has a field without a name in its
    schema; None when it has none, or nobody can tell.
    """
    if schema is None or data or form == FORM_DATA:
        return None
    try:
        return _unnamed(schema, schema, json.loads(text), "payload")
    except (ValueError, RecursionError):
        return None


def _unnamed(whole: Mapping[str, Any], part: object, instance: object, place: str) -> tuple[str, str] | None:
    if isinstance(part, dict) and isinstance(name := part.get("$ref"), str):
        # As msgspec and pydantic write it. What refers to elsewhere, or on and on, is left to the worker.
        parts = whole.get("$defs")
        part = parts.get(name.removeprefix("#/$defs/")) if isinstance(parts, dict) else None
    if not isinstance(part, dict):
        return None
    if isinstance(instance, list):
        items = (_unnamed(whole, part.get("items"), each, f"{place}[{at}]") for at, each in enumerate(instance))
        return next(filter(None, islice(items, _COMPARED_MAX)), None)
    named = part.get("properties")
    if not isinstance(instance, dict) or not isinstance(named, dict):
        return None
    if part.keys().isdisjoint(("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf")):
        for name in _comparable(each for each in instance if each not in named):
            likely = get_close_matches(name, _comparable(each for each in named if each not in instance), n=1)
            return f"{place}.{name}", "".join(f"; is {each!r} meant?" for each in likely)
    within = (_unnamed(whole, named.get(name), each, f"{place}.{name}") for name, each in instance.items())
    return next(filter(None, islice(within, _COMPARED_MAX)), None)


def _no_constant(name: str) -> NoReturn:
    # json reads NaN, Infinity and -Infinity, which workers do not.
    raise ValueError(f"{name} is no number of JSON")


def _validator(schema: Mapping[str, Any]) -> Any:
    """Returns what checks by a schema. It is kept, because to make it takes longer than to check a payload."""
    kept = _validators.get(id(schema))
    if kept is None:
        kept = _keep(schema, _made(schema))
    return kept[1]


def _keep(schema: Mapping[str, Any], validator: Any) -> tuple[Mapping[str, Any], Any]:
    if len(_validators) >= VALIDATORS_KEPT_MAX:
        _validators.clear()
    kept = _validators[id(schema)] = (schema, validator)
    return kept


def _made(schema: Mapping[str, Any]) -> Any:
    from referencing import Registry

    whole = {key: value for key, value in schema.items() if key != "$schema"}
    # An empty registry: nothing that a schema refers to is fetched from anywhere.
    return _validator_class()(whole, registry=Registry())


@lru_cache(maxsize=1)
def _validator_class() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    usual = {name: _limited(keyword) for name, keyword in Draft202012Validator.VALIDATORS.items()}

    def additional(validator: Any, value: Any, instance: Any, schema: Any) -> Iterable[Any]:
        # Where there are patterns, they say which properties are additional.
        every: Iterable[Any] = usual["additionalProperties"](validator, value, instance, schema)
        return () if "patternProperties" in schema else every

    others = {**dict.fromkeys(_LEFT_TO_WORKERS, _unchecked), "additionalProperties": additional}
    found = extend(Draft202012Validator, usual | others)  # type: ignore[no-untyped-call]
    evolve = found.evolve

    def evolved(self: Any, **changes: Any) -> Any:
        # A part of a schema may name another dialect, whose class checks all keywords, without a limit.
        part = evolve(self, **changes)
        if type(part) is not found:
            raise TypeError("a part of the schema is of another dialect")
        return part

    found.evolve = evolved
    return found


def _unchecked(*_: Any) -> tuple[()]:
    return ()


def _limited(keyword: Any) -> Any:
    """Returns a keyword that ends the check when its time is up, and keeps no long messages."""

    def limited(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if time.thread_time() > _check.ends:
            raise _TookTooLong
        for error in keyword(validator, value, instance, schema) or ():
            if len(error.message) > _MESSAGE_CHARACTERS_MAX:
                error.message = f"{error.message[:_MESSAGE_CHARACTERS_MAX]}…"
            yield error

    return limited


def _fault(schema: Mapping[str, Any], instance: object) -> tuple[str, str] | None:
    from jsonschema.exceptions import best_match

    try:
        validator = _validator(schema)
        if validator is None:
            return None
        # The best of several errors is looked for only where there is one: most payloads are right.
        errors = validator.iter_errors(instance)
        first = next(errors, None)
        error = None if first is None else best_match((first, *errors))
    except _TookTooLong:
        # Not tried again, so that of many tasks one is late.
        _keep(schema, None)
        return None
    except Exception:  # noqa: BLE001 - a worker's schema may be no schema, and refer to what is not there
        return None
    if error is None:
        return None
    while error.context:
        # Of the schemas that would do, the one to which the payload is nearest: its error says more.
        branches: dict[Any, list[Any]] = {}
        for each in error.context:
            branches.setdefault(each.schema_path[0], []).append(each)
        nearest = sorted(branches.values(), key=len)[0]
        error = max(nearest, key=lambda each: len(each.relative_path))
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return f"payload{place}", f"{error.message}{_misspelt(error)}"


def _misspelt(error: Any) -> str:
    """Returns the end of a message about a field that is missing while one with a similar name is there."""
    if error.validator != "required" or not isinstance(error.instance, dict):
        return ""
    known = error.schema.get("properties", {})
    unknown = _comparable(name for name in error.instance if name not in known)
    pairs = list(_alike(_comparable(name for name in error.validator_value if name not in error.instance), unknown))
    return "".join(f"; is {theirs!r} meant to be {name!r}?" for name, theirs in pairs)


def _comparable(names: Iterable[Any]) -> list[str]:
    short = (name for name in names if isinstance(name, str) and len(name) <= _COMPARED_CHARACTERS_MAX)
    return list(islice(short, _COMPARED_MAX))


def _alike(missing: Iterable[str], unknown: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in missing:
        for theirs in get_close_matches(name, unknown, n=1):
            yield name, theirs


def _kind(schema: Mapping[str, Any]) -> str:
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return reference.rpartition("/")[2][:_COMPARED_CHARACTERS_MAX]
    kind = schema.get("title") or schema.get("type")
    return kind[:_COMPARED_CHARACTERS_MAX] if isinstance(kind, str) else "the handler's type"
