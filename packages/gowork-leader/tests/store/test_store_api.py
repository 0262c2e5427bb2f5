"""`gowork.leader.store` is all that an author of a store needs of the leader."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from pathlib import Path

import msgspec
import pytest

from gowork.leader import store
from gowork.leader._core.model import Now
from gowork.leader.store import protocol

PACKAGE = Path(__file__).parents[2]
#: What a store may import of the leader.
API = {"gowork.leader", "gowork.leader.store", "gowork.leader.store.conformance"}


def classes_of(annotation: object) -> set[type]:
    """The classes that a type is made of."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return {annotation}
    return {each for part in typing.get_args(annotation) for each in classes_of(part)}


def named_by(each: type) -> set[type]:
    """The classes that the fields, or the methods, of a class name."""
    hints = list(typing.get_type_hints(each).values())
    for _, method in inspect.getmembers(each, inspect.isfunction):
        hints += typing.get_type_hints(method).values()
    return {cls for hint in hints for cls in classes_of(hint)}


def test_all_public_names_of_the_protocol_are_offered() -> None:
    public = {
        name
        for name, value in vars(protocol).items()
        if not name.startswith("_") and (getattr(value, "__module__", "") == protocol.__name__ or name.isupper())
    }
    assert public <= set(store.__all__)


def test_whatever_a_store_is_given_or_answers_has_its_type_among_them() -> None:
    offered = {getattr(store, name) for name in store.__all__}
    seen: set[type] = set()
    found: set[type] = {protocol.LoggedStore, protocol.Batch}
    while found:
        each = found.pop()
        seen.add(each)
        found |= {cls for cls in named_by(each) - seen if cls.__module__.startswith("gowork.")}
    assert len(seen) > 15
    assert seen <= offered


def test_a_type_that_is_not_offered_would_be_found() -> None:
    class Answer(msgspec.Struct):
        now: dict[str, list[Now] | None]

    assert Now in named_by(Answer)


def imported(path: Path) -> set[str]:
    """The modules of gowork that a file imports."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            modules.add(node.module)
    return {module for module in modules if module.startswith("gowork")}


@pytest.mark.parametrize("name", ["memory_store.py", "test_store_memory.py"])
def test_the_example_of_a_store_imports_nothing_but_the_api(name: str) -> None:
    assert imported(Path(__file__).parent / name) <= API


def test_the_readme_names_the_api() -> None:
    readme = (PACKAGE / "README.md").read_text()
    for module in API:
        assert f"`{module}`" in readme
