"""Each field of a runner, and of a held task, is written by one module, the one that its comment names."""

from __future__ import annotations

import ast
from pathlib import Path

from gowork.worker import _desk
from gowork.worker._desk.runner import Runner
from gowork.worker._desk.tasks import HeldTask

FOLDER = Path(_desk.__path__[0])
#: Places in the roster have a field of this name too.
NOT_MEANT = {("roster", "place", "runner")}


def written() -> dict[str, set[str]]:
    """The modules that write each field, beside its own class' `__init__`."""
    fields = {*Runner.__slots__, *HeldTask.__slots__}
    found: dict[str, set[str]] = {}
    for path in FOLDER.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name == "__init__":
                continue
            for node in ast.walk(function):
                if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in fields):
                    continue
                whose = node.value.id if isinstance(node.value, ast.Name) else ""
                if (path.stem, whose, node.attr) not in NOT_MEANT:
                    found.setdefault(node.attr, set()).add(path.stem)
    return found


def test_each_field_of_a_runner_and_of_a_task_has_one_writer() -> None:
    writers = written()
    assert {field: modules for field, modules in writers.items() if len(modules) > 1} == {}
    assert {field: modules.pop() for field, modules in writers.items()} == {
        "ended_on_purpose": "runner",
        "fault": "runner",
        "finished": "work",
        "idle_since": "solo",
        "is_gone": "runner",
        "is_ready": "runner",
        "was_ready": "runner",
        "is_recalling": "watch",
        "is_retiring": "recycling",
        "kill_at": "stops",
        "lender": "solo",
        "lent": "solo",
        "memory_bytes": "desk",
        "only": "work",
        "environment": "work",
        "raised": "runner",
        "released": "work",
        "reserved": "solo",
        "runner": "work",
        "sent_at": "work",
        "slots_told": "runner",
        "stop_kind": "stops",
        "stopped_at": "runner",
        "told": "runner",
        "waiting": "work",
        "was_stopped": "runner",
        "withheld": "solo",
        "worn": "desk",
    }
