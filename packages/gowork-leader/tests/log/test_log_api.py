"""`gowork.leader.log` is all that an author of a log needs of the leader."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gowork.leader import log
from gowork.leader.log import protocol

#: What a log may import of the leader.
API = {"gowork.leader.log", "gowork.leader.log.conformance"}


def test_all_public_names_of_the_protocol_are_offered() -> None:
    public = {
        name
        for name, value in vars(protocol).items()
        if not name.startswith("_") and (getattr(value, "__module__", "") == protocol.__name__ or name.isupper())
    }
    assert len(public) > 15
    assert public <= set(log.__all__)


@pytest.mark.parametrize("name", ["memory_log.py", "test_log_memory.py"])
def test_the_example_of_a_log_imports_nothing_but_the_api(name: str) -> None:
    tree = ast.parse((Path(__file__).parent / name).read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if module.startswith("gowork")} <= API
