"""Whatever happens, a group knows how its children stand, and ends when it may and not before."""

from __future__ import annotations

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from leader_core import spec
from test_core_invariants import Cluster

from gowork.leader._core import commands as cmd
from gowork.leader._core.kinds import AFTER
from gowork.leader._core.model import AfterRule, Group, Outcome, Status

GROUPS = st.sampled_from(["g", "h", "g/h"])
PARTS = st.sampled_from(["0", "1", "2", "h"])
ANY = st.sampled_from(["g", "h", "g/0", "g/1", "g/h", "g/h/0", "g/h/1", "h/0", "h/1", "h/2"])


class Grouped(Cluster):
    """As Cluster, with groups and their children, and times without a leader."""

    compares = True
    comes_after = False

    @rule(
        id=GROUPS,
        children=st.sampled_from([None, 0, 1, 2]),
        after_rule=st.sampled_from(AfterRule),
        handler=st.sampled_from(["work", ""]),
        after=st.lists(ANY, max_size=2, unique=True),
        parts=st.lists(PARTS, max_size=2, unique=True),
    )
    def open_group(
        self, id: str, children: int | None, after_rule: AfterRule, handler: str, after: list[str], parts: list[str]
    ) -> None:
        there = tuple(each for each in after if each in self.core.stored and each != id)
        group = spec(id, handler=handler, group=Group(children), rule=after_rule, after=there)
        self.core.submit(group, *(spec(f"{id}/{part}") for part in parts))

    @rule(id=GROUPS, part=PARTS, after=st.lists(ANY, max_size=1))
    def add_child(self, id: str, part: str, after: list[str]) -> None:
        there = tuple(each for each in after if each in self.core.stored and each != f"{id}/{part}")
        self.core.submit(spec(f"{id}/{part}", after=there))

    @rule(id=GROUPS, children=st.sampled_from([None, 1, 2]))
    def seal(self, id: str, children: int | None) -> None:
        before = self.core.state.facts.of(AFTER).get(id)
        answer = self.core.do(cmd.SealGroup(id, children)).answer
        if isinstance(answer, cmd.GroupState):
            assert before is not None
            assert before.group is not None
            assert before.group.children in (None, answer.expected)
            kept = self.core.state.facts.of(AFTER)[id].group
            assert kept is not None
            assert kept.children == answer.expected

    @rule(id=ANY)
    def cancel_one(self, id: str) -> None:
        self.core.do(cmd.Cancel(id))

    @rule(id=ANY)
    def retry_one(self, id: str) -> None:
        self.core.do(cmd.RetryTask(id))

    @rule(id=ANY)
    def purge_one(self, id: str) -> None:
        self.core.do(cmd.Purge([id]))

    @rule(id=ANY)
    def change_one(self, id: str) -> None:
        self.core.do(cmd.UpdateTask(id, lambda spec, *_: (spec, ("priority",)), moves_start=False))

    @rule(data=st.data(), outcome=st.sampled_from([Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED]))
    def work(self, data: st.DataObject, outcome: Outcome) -> None:
        self.connect("w3", 2, 3, 0, keep=True, proof=False)
        self.dispatch()
        if any(worker.held for worker in self.core.state.connections.values()):
            self.report_what_is_held(data, outcome, by_columns=data.draw(st.booleans()))

    @rule()
    def nobody_leads(self) -> None:
        self.core.restart()
        self.core.tick()

    @invariant()
    def a_group_ends_with_its_children(self) -> None:
        for _, spec_, standing in self.core.stored.values():
            if spec_.group is None:
                continue
            assert not (standing.attempts and spec_.completes_by_itself)
            if standing.status is Status.COMPLETED and spec_.completes_by_itself:
                told = json.loads(standing.result)
                assert told["children"] == told["completed"] + told["failed"] + told["cancelled"]

    def end(self) -> None:
        for id in ("g/h", "g", "h"):
            self.core.do(cmd.SealGroup(id))
            self.core.tick()
        for id in ("g/h", "g", "h"):
            # One that waits for children that never come.
            self.core.do(cmd.Cancel(id))
            self.core.tick()
        super().end()


TestGrouped = Grouped.TestCase
TestGrouped.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
