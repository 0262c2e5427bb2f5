"""Facts: what holds, what is written of it, and how many there may be."""

from __future__ import annotations

import msgspec
import pytest
from leader_core import Core
from msgspec import Struct

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.apply import apply, recall
from gowork.leader._core.facts import KEY_BYTES_MAX, VALUE_BYTES_MAX, Facts, Kind
from gowork.leader._core.kinds import KINDS, MEMBERS, QUEUES, Member
from gowork.leader._core.model import FactKey, Now, QueueSettings
from gowork.leader._core.state import Settings, State
from gowork.leader._core.step import take


class Note(Struct, frozen=True, array_like=True):
    text: str


class LongerNote(Struct, frozen=True, array_like=True):
    text: str
    author: str = "nobody"


NOTES = Kind("note", Note, rows_max=2)


def state() -> State:
    return State(Settings(), fence=0, next_seq=1)


def test_a_fact_holds_at_once_and_is_written_as_it_was_put_last():
    core = state()
    apply(core, ch.FactPut(NOTES, "a", Note("1")))
    apply(core, ch.FactPut(NOTES, "a", Note("2")))
    assert core.facts.of(NOTES) == {"a": Note("2")}
    pending = take(core)
    assert pending.is_written
    assert pending.facts == {FactKey("note", "a"): NOTES.encode(Note("2"))}
    assert not take(core).is_written
    assert core.facts.of(NOTES) == {"a": Note("2")}


def test_what_is_put_and_removed_in_one_batch_is_removed_and_the_other_way_round():
    core = state()
    for change in (
        ch.FactPut(NOTES, "a", Note("1")),
        ch.FactRemoved(NOTES, "a"),
        ch.FactRemoved(NOTES, "b"),
        ch.FactPut(NOTES, "b", Note("2")),
    ):
        apply(core, change)
    assert core.facts.of(NOTES) == {"b": Note("2")}
    assert take(core).facts == {FactKey("note", "a"): None, FactKey("note", "b"): NOTES.encode(Note("2"))}


def test_what_the_store_has_is_not_written():
    core = state()
    recall(core, NOTES, "a", Note("1"), Now(1, 1.0))
    assert (core.facts.of(NOTES), take(core).is_written) == ({"a": Note("1")}, False)


def test_kinds_are_apart():
    facts, others = Facts(), Kind("other", Note, rows_max=1)
    facts.put(NOTES, "a", Note("1"))
    facts.put(others, "a", Note("2"))
    facts.remove(NOTES, "a")
    assert (facts.of(NOTES), facts.of(others)) == ({}, {"a": Note("2")})


def test_a_kind_is_full_with_as_many_as_there_may_be():
    facts = Facts()
    assert not facts.is_full(NOTES)
    facts.put(NOTES, "a", Note("1"))
    assert not facts.is_full(NOTES)
    facts.put(NOTES, "b", Note("2"))
    assert facts.is_full(NOTES)
    facts.remove(NOTES, "a")
    assert not facts.is_full(NOTES)


def test_the_facts_of_a_kind_cannot_be_changed_from_outside():
    facts = Facts()
    facts.put(NOTES, "a", Note("1"))
    with pytest.raises(TypeError):
        facts.of(NOTES)["b"] = Note("2")  # type: ignore[index]  # what no type checker lets through either


@pytest.mark.parametrize(
    ("key", "text"),
    [("", "x"), ("ü" * (KEY_BYTES_MAX // 2) + "k", "x"), ("k", "x" * VALUE_BYTES_MAX)],
    ids=["no key", "long key", "large value"],
)
def test_what_no_store_would_take_is_a_mistake(key: str, text: str):
    with pytest.raises(AssertionError):
        apply(state(), ch.FactPut(NOTES, key, Note(text)))


def test_values_only_grow():
    longer = Kind("note", LongerNote, rows_max=2)
    # An older leader wrote it, and a newer one.
    assert longer.decode(NOTES.encode(Note("x"))) == LongerNote("x")
    assert NOTES.decode(longer.encode(LongerNote("x", "y"))) == Note("x")
    with pytest.raises(msgspec.DecodeError):
        NOTES.decode(b"\xc1")


def test_names_of_kinds_are_unlike_and_stay():
    # They are in stores.
    names = ["member", "drain", "owner", "worker-drain", "queue", "schedule", "tick", "unique", "after", "abandoned"]
    assert [kind.name for kind in KINDS] == names


def test_a_member_is_a_fact_from_its_join_until_it_has_left_or_is_lost():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.do(cmd.Join("c2", "127.0.0.1:40042"))
    assert core.state.facts.of(MEMBERS) == {
        "c1": Member("127.0.0.1:40041", core.wall_ms),
        "c2": Member("127.0.0.1:40042", core.wall_ms),
    }
    core.do(cmd.Join("c2", "127.0.0.1:40043"))
    core.do(cmd.Leave("c1"))
    assert core.state.facts.of(MEMBERS) == {"c2": Member("127.0.0.1:40043", core.wall_ms)}
    core.pass_time(60)
    assert (core.state.facts.of(MEMBERS), core.state.callbacks) == ({}, {})


def test_a_queue_has_a_fact_while_something_is_set_for_it():
    core = Core()
    core.do(cmd.PauseQueue("q", True))
    core.do(cmd.ConfigureQueue("q", weight=3))
    assert core.state.facts.of(QUEUES) == {"q": QueueSettings(paused=True, weight=3)}
    core.do(cmd.ConfigureQueue("q", weight=1))
    core.do(cmd.PauseQueue("q", False))
    assert core.state.facts.of(QUEUES) == {}


def test_past_the_bound_no_other_queue_is_set_and_those_that_are_may_change(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(QUEUES, "rows_max", 1)
    core = Core()
    core.do(cmd.PauseQueue("q", True))
    refused = core.refusal(cmd.PauseQueue("another", True))
    assert (refused.code, refused.message.split(" ")[0]) == (cmd.TOO_MANY_QUEUES, "1")
    assert core.do(cmd.ConfigureQueue("q", weight=3)).answer == QueueSettings(paused=True, weight=3)
    core.do(cmd.ConfigureQueue("q", weight=1))
    core.do(cmd.PauseQueue("q", False))
    assert core.do(cmd.PauseQueue("another", True)).answer == QueueSettings(paused=True)


def test_after_a_restart_members_and_settings_of_queues_hold_again():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.do(cmd.ConfigureQueue("q", rate_limit=2.0))
    core.pass_time(5)
    core.restart()
    callback = core.state.callbacks["c1"]
    assert (callback.address, callback.joined_ms) == ("127.0.0.1:40041", core.wall_ms - 5000)
    queue = core.state.queues.get("q")
    assert queue is not None
    # A rate holds over a restart too: nothing has gathered.
    assert (queue.settings.rate_limit, queue.tokens) == (2.0, 0.0)
    core.pass_time(44)
    assert core.state.callbacks, "its lease runs anew"
    core.pass_time(2)
    assert not core.state.callbacks


def test_what_follows_from_a_fact_holds_when_it_is_recalled():
    core = Core()
    follows = Kind("note", Note, rows_max=2, follows=lambda *_: [ch.FactPut(NOTES, "follows", Note("so"))])
    recall(core.state, follows, "a", Note("1"), core.now)
    assert core.state.facts.of(NOTES) == {"a": Note("1"), "follows": Note("so")}
    apply(core.state, ch.FactRemoved(NOTES, "a"))
    assert core.state.facts.of(NOTES) == {"follows": Note("so")}
