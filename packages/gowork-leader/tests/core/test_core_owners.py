"""Whoever joined as a callback worker alone speaks for it, for as long as its id is taken."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.kinds import OWNERS, Owner
from gowork.leader._core.model import HeartbeatStatus, Status

IDLE = HeartbeatStatus.IDLE


class Owned(Core):
    """A core with the member c1 of w1, which has been dialled with the task a."""

    def __init__(self) -> None:
        super().__init__()
        self.do(cmd.Join("c1", "127.0.0.1:40041", "w1"))
        self.submit(spec("a", handler=""))
        self.dispatch()

    def beat(self, caller: str) -> object:
        return self.do(cmd.Heartbeat("c1", IDLE, caller)).answer

    @property
    def owners(self) -> dict[str, str]:
        """The facts: {member: owner}."""
        return {id: owner.name for id, owner in self.state.facts.of(OWNERS).items()}


@pytest.fixture
def core() -> Owned:
    return Owned()


def is_refused(answer: object) -> bool:
    return isinstance(answer, cmd.Refused) and answer.code is cmd.NOT_THE_OWNER


def test_nobody_else_reports_the_end_of_its_task(core: Owned) -> None:
    assert is_refused(core.do(cmd.CompleteTask("a", None, caller="w2")).answer)
    assert core.status("a") is Status.RUNNING
    assert not is_refused(core.do(cmd.CompleteTask("a", None, caller="w1")).answer)
    assert core.status("a") is Status.COMPLETED


def test_nobody_else_tells_progress_of_its_task(core: Owned) -> None:
    assert is_refused(core.do(cmd.TellProgress("a", 0.5, "", 0, "w2")).answer)
    assert not is_refused(core.do(cmd.TellProgress("a", 0.5, "", 0, "w1")).answer)


def test_nobody_else_has_it_leave_or_joins_in_its_place(core: Owned) -> None:
    assert is_refused(core.do(cmd.Leave("c1", "w2")).answer)
    assert is_refused(core.do(cmd.Join("c1", "127.0.0.1:1", "w2")).answer)
    assert core.state.callbacks["c1"].address == "127.0.0.1:40041"


def test_one_that_was_silent_comes_back_with_its_owner_alone(core: Owned) -> None:
    core.pass_time(core.state.settings.callback_lease + 1)
    assert (dict(core.state.callbacks), core.owners) == ({}, {})
    assert is_refused(core.beat("w2"))
    assert not is_refused(core.beat("w1"))
    assert core.owners == {"c1": "w1"}
    assert is_refused(core.beat("w2"))


def test_the_owner_is_forgotten_when_it_leaves(core: Owned) -> None:
    assert core.owners == {"c1": "w1"}
    core.do(cmd.Leave("c1", "w1"))
    assert core.owners == {}
    core.do(cmd.Join("c1", "127.0.0.1:1", "w2"))
    assert core.owners == {"c1": "w2"}


def test_one_that_joins_where_nobody_is_asked_belongs_to_nobody(core: Owned) -> None:
    core.do(cmd.Join("c1", "127.0.0.1:1", ""))
    assert core.owners == {}
    assert not is_refused(core.beat("w2"))
    assert core.owners == {"c1": "w2"}


def test_so_many_owners_are_stored_at_most(core: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OWNERS, "rows_max", 1)
    core.do(cmd.Join("c2", "127.0.0.1:1", "w2"))
    assert core.owners == {"c1": "w1"}
    # This leader knows it all the same.
    assert is_refused(core.do(cmd.Heartbeat("c2", IDLE, "w1")).answer)
    core.do(cmd.Join("c1", "127.0.0.1:2", "w1"))
    assert core.state.facts.of(OWNERS)["c1"] == Owner("w1", core.wall_ms)
