"""What comes out of a step of the core: one value, taken once."""

from __future__ import annotations

from typing import get_args

from leader_core import answer_of, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.model import HandlerPolicy, Now
from gowork.leader._core.state import Settings, State
from gowork.leader._core.step import carry_out, take

NOW = Now(1_800_000_000_000, 1000.0)


class Asker:
    """Whoever waits for an answer."""

    def done(self) -> bool:
        return False

    def set_result(self, result: object) -> None:
        raise AssertionError("the core answers nobody")


def new_state() -> State:
    return State(Settings(), fence=1 << 40, next_seq=1)


def test_every_command_can_be_decided_on_and_says_what_it_answers():
    assert set(get_args(cmd.AnyCommand)) == set(cmd.Command.__subclasses__())
    for command in cmd.Command.__subclasses__():
        assert answer_of(command) in (type(None), *get_args(cmd.Answer))


def test_what_a_step_brings_about_is_one_value_and_is_taken_once():
    state = new_state()
    carry_out(state, cmd.Submit([spec("a"), spec("b")]), NOW)
    carry_out(state, cmd.OpenSession(1, "w1", "w1-1", 1, (HandlerPolicy("work"),), {}, "", (), (), "peer"), NOW)
    carry_out(state, cmd.ReceiveFrame(1, credit=1), NOW)
    carry_out(state, cmd.Dispatch(), NOW)
    pending = take(state)
    assert list(pending.submitted) == ["a", "b"]
    assert [type(effect) for effect in pending.effects] == [ef.Welcome, ef.GrantTasks]
    assert [new.id for new in pending.tally.submitted] == ["a", "b"]
    assert pending.is_written
    again = take(state)
    assert not again.is_written
    assert not again.tally
    assert (again.effects, again.answers, again.progressed) == ([], [], {})


def test_an_answer_comes_back_with_whoever_asked_in_the_order_of_the_commands():
    state, first, second = new_state(), Asker(), Asker()
    carry_out(state, cmd.Submit([spec("a")]), NOW, first)
    carry_out(state, cmd.Submit([spec("b")]), NOW)
    carry_out(state, cmd.Submit([spec("b")]), NOW, second)
    assert take(state).answers == [(first, cmd.Submitted(1, 0)), (second, cmd.Submitted(0, 1))]


def test_a_task_that_a_step_adds_and_ends_is_written_once_as_a_new_one():
    state = new_state()
    carry_out(state, cmd.Submit([spec("a")]), NOW)
    carry_out(state, cmd.Cancel("a"), NOW)
    pending = take(state)
    assert (list(pending.submitted), pending.moved) == (["a"], {})


def test_a_step_that_only_tells_writes_nothing():
    state = new_state()
    carry_out(state, cmd.OpenSession(1, "w1", "w1-1", 1, (), {}, "", (), (), "peer"), NOW, Asker())
    pending = take(state)
    assert (len(pending.effects), len(pending.answers), pending.is_written) == (1, 1, False)


def test_a_task_that_has_never_been_stored_leaves_nothing_to_remove():
    state = new_state()
    carry_out(state, cmd.Submit([spec("a")]), NOW)
    carry_out(state, cmd.Cancel("a"), NOW)
    carry_out(state, cmd.Purge(["a"]), NOW)
    pending = take(state)
    assert (pending.submitted, pending.removed, pending.is_written) == ({}, {}, False)


def test_a_step_that_writes_nothing_leaves_nothing_to_the_next():
    state = new_state()
    carry_out(state, cmd.OpenSession(1, "w1", "w1-1", 1, (), {}, "", (), (), "peer"), NOW, Asker())
    take(state)
    carry_out(state, cmd.Submit([spec("a")]), NOW)
    pending = take(state)
    assert (pending.effects, pending.answers, pending.tally.connected) == ([], [], [])
    assert list(pending.submitted) == ["a"]
    assert take(state).submitted == {}
