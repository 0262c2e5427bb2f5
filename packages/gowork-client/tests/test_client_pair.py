"""Both clients have the same methods, parameters, defaults and documentation."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

import pytest

from gowork.client import AsyncClient, AsyncSchedules, AsyncTaskHandle, AsyncWatch, Client, Schedules, TaskHandle, Watch
from gowork.client._async import connection as async_connection
from gowork.client._async import flights as async_flights
from gowork.client._async import lookout as async_lookout
from gowork.client._async import routes as async_routes
from gowork.client._async import streams as async_streams
from gowork.client._async import submitting as async_submitting
from gowork.client._async import threads as async_threads
from gowork.client._sync import connection, flights, lookout, routes, streams, submitting, threads

PAIRS = [(AsyncClient, Client), (AsyncSchedules, Schedules), (AsyncTaskHandle, TaskHandle), (AsyncWatch, Watch)]
#: {what an asyncio class has: what a blocking one has in its place}
METHODS = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}
#: Classes that each have words of their own: the two watches do not begin at the same moment.
OWN_WORDS = {AsyncWatch}


def blocking_type(text: str) -> str:
    """The type in its blocking form; the iterables that may be asynchronous are left out."""
    text = re.sub(r" \| AsyncIterable\[(\w+ \| )?\w+\]", "", text)
    return re.sub(r"\bAsync(\w+)", r"\1", text)


def blocking_words(text: str | None) -> str:
    return re.sub(r"\bAsync(Client|Schedules|TaskHandle|Watch)\b", r"\1", re.sub(r"\b(async|await) ", "", text or ""))


def public(kind: type) -> dict[str, Any]:
    names = (name for name, _ in inspect.getmembers_static(kind) if not name.startswith("_") or name in METHODS)
    return {name: inspect.getattr_static(kind, name) for name in (*names, "__init__")}


MEMBERS = [
    pytest.param(theirs, ours, name, member, id=f"{ours.__name__}.{name}")
    for theirs, ours in PAIRS
    for name, member in public(theirs).items()
]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_both_clients_have_the_same_methods(theirs: type, ours: type) -> None:
    dunders = set(METHODS.values())
    of_ours = {name for name in dir(ours) if not name.startswith("_") or (name in dunders and hasattr(ours, name))}
    assert {METHODS.get(name, name) for name in public(theirs)} - {"__init__"} == of_ours


@pytest.mark.parametrize(("theirs", "ours", "name", "member"), MEMBERS)
def test_both_clients_take_and_answer_the_same(theirs: type, ours: type, name: str, member: Any) -> None:
    other = inspect.getattr_static(ours, METHODS.get(name, name))
    if isinstance(member, property):
        assert isinstance(other, property)
        member, other = member.fget, other.fget
    elif not callable(member):
        # A slot, such as a handle's id.
        assert type(member) is type(other)
        return
    one, two = inspect.signature(member), inspect.signature(other)
    expected = [
        parameter.replace(annotation=blocking_type(str(parameter.annotation))) for parameter in one.parameters.values()
    ]
    found = [parameter.replace(annotation=str(parameter.annotation)) for parameter in two.parameters.values()]
    assert found == expected
    assert str(two.return_annotation) == blocking_type(str(one.return_annotation))


@pytest.mark.parametrize(("theirs", "ours", "name", "member"), MEMBERS)
def test_both_clients_are_documented_in_the_same_words(theirs: type, ours: type, name: str, member: Any) -> None:
    other = inspect.getattr_static(ours, METHODS.get(name, name))
    assert blocking_words(inspect.getdoc(member)) == (inspect.getdoc(other) or "")


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_both_classes_are_documented_in_the_same_words(theirs: type, ours: type) -> None:
    same = blocking_words(inspect.getdoc(theirs)) == inspect.getdoc(ours)
    assert same != (theirs in OWN_WORDS)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (async_connection, connection),
        (async_flights, flights),
        (async_lookout, lookout),
        (async_routes, routes),
        (async_streams, streams),
        (async_submitting, submitting),
        (async_threads, threads),
    ],
    ids=lambda module: module.__name__,
)
def test_what_is_written_twice_has_the_same_names(theirs: ModuleType, ours: ModuleType) -> None:
    def names(module: ModuleType) -> set[str]:
        return {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}

    def public_names(module: ModuleType) -> set[str]:
        return {name for name in names(module) if not name.startswith("_")} - {"WaitStream"}

    assert public_names(theirs) == public_names(ours)
    assert hasattr(theirs, "WaitStream") == hasattr(ours, "WaitStream")
