"""The diagram of a task's life, the core's table and what the core does are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import leader_core
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from test_core_invariants import Cluster

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.model import FINISHED, MOVES, Group, Outcome, Status
from gowork.leader._core.state import State

ROOT = Path(__file__).parents[4]
Move = tuple[Status | None, Status | None]
ALLOWED: set[Move] = {(before, after) for before, afters in MOVES.items() for after in afters}
_ARROW = re.compile(r"^ +(\S+) --> ([^\s:]+)", re.MULTILINE)


def drawn(path: Path) -> list[Move]:
    """The arrows of the page's state diagram."""
    (diagram,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", path.read_text(), re.DOTALL)
    return [(_status(before), _status(after)) for before, after in _ARROW.findall(diagram)]


def _status(word: str) -> Status | None:
    return None if word == "[*]" else Status[word]


class Busy(Cluster):
    """By chance alone few tasks come far: here whatever can be granted is, and what has finished is taken up again."""

    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def work(self, data: st.DataObject, outcome: Outcome) -> None:
        self.connect("w3", 2, 3, 0, keep=True, proof=False)
        self.dispatch()
        if any(worker.held for worker in self.core.state.connections.values()):
            self.report_what_is_held(data, outcome, by_columns=data.draw(st.booleans()))

    @precondition(lambda self: any(standing.status in FINISHED for _, _, standing in self.core.stored.values()))
    @rule(data=st.data(), again=st.booleans())
    def take_up(self, data: st.DataObject, again: bool) -> None:
        finished = [id for id, (_, _, standing) in self.core.stored.items() if standing.status in FINISHED]
        (self.retry if again else self.purge)(data.draw(st.sampled_from(finished)))


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "docs/reliability.md"])
def test_the_diagram_shows_every_way_of_a_task_and_no_other(page: str) -> None:
    arrows = drawn(ROOT / page)
    assert len(set(arrows)) == len(arrows)
    assert set(arrows) == ALLOWED


def _end_and_take_up() -> None:
    """What becomes of ended tasks, to which runs of any commands seldom come."""
    core = leader_core.Core()
    connection = core.connect(slots=4, credit=20)
    core.submit(*[leader_core.spec(id) for id in ("done", "failed", "stopped", "cancelled")])
    core.do(cmd.Cancel("cancelled"))
    core.dispatch()
    core.report(connection, "done", Outcome.COMPLETED)
    core.do(cmd.Cancel("stopped"))
    core.report(connection, "stopped", Outcome.CANCELLED)
    core.report(connection, "failed", Outcome.FAILED)
    core.do(cmd.RetryTask("failed"))
    core.do(cmd.Cancel("failed"))
    core.do(cmd.RetryTask("failed"))
    core.dispatch()
    core.report(connection, "failed", Outcome.FAILED)
    core.do(cmd.Purge(["done", "failed", "cancelled"]))
    core.submit(leader_core.spec("group", handler="", group=Group(0)))
    core.tick()


@pytest.mark.longer
def test_tasks_go_every_way_of_the_table_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[Move] = set()

    def applying(state: State, changes: Sequence[ch.Change]) -> None:
        for change in changes:
            match change:
                case ch.TaskSubmitted():
                    taken.add((None, change.standing.status))
                case ch.TaskMoved() | ch.TaskReplaced():
                    taken.add((state.tasks[change.id].standing.status, change.standing.status))
                case ch.TaskPurged():
                    taken.add((change.status, None))
                case _:
                    pass
            leader_core.apply(state, change)

    monkeypatch.setattr(leader_core, "apply_all", applying)
    # The same runs each time, and enough of them for each way.
    runs = settings(max_examples=250, stateful_step_count=40, deadline=None, derandomize=True, database=None)
    run_state_machine_as_test(Busy, settings=runs)
    _end_and_take_up()
    # A task that stays where it is (its time has come, a cancel was asked for) goes no way.
    assert {move for move in taken if move[0] != move[1]} == ALLOWED
