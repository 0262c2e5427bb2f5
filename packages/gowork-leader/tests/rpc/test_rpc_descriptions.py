"""What a leader keeps of the descriptions of handlers: each once, as long as a session names it, within its bounds."""

from __future__ import annotations

import hashlib

import pytest

from gowork.leader._rpc import descriptions
from gowork.leader._rpc.descriptions import ANSWER_SECONDS, Descriptions
from gowork.proto import limits
from gowork.proto.worker.v1 import session_pb2 as spb


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def infos(*texts: str) -> list[spb.HandlerInfo]:
    return [spb.HandlerInfo(name=text, description_digest=digest(text)) for text in texts]


def told(*texts: str) -> list[spb.HandlerDescription]:
    return [spb.HandlerDescription(digest=digest(text), text=text) for text in texts]


def test_one_worker_is_asked_for_what_all_have() -> None:
    kept = Descriptions(Clock())
    assert kept.open(1, infos("a", "b", "a")) == [digest("a"), digest("b")]
    assert kept.open(2, infos("a", "b", "c")) == [digest("c")]
    kept.take(1, told("a", "b"))
    assert kept.open(3, infos("a")) == []
    assert kept.get(digest("a")) == "a"


def test_a_description_is_kept_while_any_session_names_it() -> None:
    kept = Descriptions(Clock())
    kept.open(1, infos("a"))
    kept.open(2, infos("a"))
    kept.take(1, told("a"))
    assert kept.close(1) == {}
    assert kept.get(digest("a")) == "a"
    assert kept.close(2) == {}
    assert kept.get(digest("a")) == ""
    assert kept.open(3, infos("a")) == [digest("a")]


def test_another_worker_is_asked_when_the_first_leaves_without_an_answer() -> None:
    kept = Descriptions(Clock())
    kept.open(1, infos("a", "b"))
    kept.open(2, infos("a"))
    kept.take(1, told("b"))
    assert kept.close(1) == {2: [digest("a")]}
    assert kept.close(2) == {}


def test_a_worker_that_does_not_answer_keeps_no_other_from_being_asked() -> None:
    clock = Clock()
    kept = Descriptions(clock)
    kept.open(1, infos("a"))
    clock.now = ANSWER_SECONDS - 1
    assert kept.open(2, infos("a")) == []
    clock.now = ANSWER_SECONDS + 1
    assert kept.open(3, infos("a")) == [digest("a")]


def test_a_text_with_another_digest_is_dropped() -> None:
    kept = Descriptions(Clock())
    kept.open(1, infos("a"))
    kept.take(1, [spb.HandlerDescription(digest=digest("a"), text="a lie")])
    assert kept.get(digest("a")) == ""


def test_what_a_session_has_not_named_is_dropped() -> None:
    kept = Descriptions(Clock())
    kept.open(1, infos("a"))
    kept.open(2, infos("b"))
    kept.take(2, told("a", "c"))
    assert (kept.get(digest("a")), kept.get(digest("c"))) == ("", "")


def test_a_text_over_the_limit_is_dropped() -> None:
    kept = Descriptions(Clock())
    text = "x" * (limits.HANDLER_DESCRIPTION_BYTES_MAX + 1)
    kept.open(1, infos(text, text[:-1]))
    kept.take(1, told(text, text[:-1]))
    assert (kept.get(digest(text)), kept.get(digest(text[:-1]))) == ("", text[:-1])


def test_all_descriptions_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "DESCRIPTIONS_BYTES_MAX", 3)
    kept = Descriptions(Clock())
    kept.open(1, infos("aa", "bb"))
    kept.open(2, infos("bb", "c"))
    kept.take(1, told("aa", "bb"))
    assert (kept.get(digest("aa")), kept.get(digest("bb"))) == ("aa", "")
    assert kept.open(3, infos("d")) == []
    # Room comes back with what is forgotten.
    kept.close(1)
    assert kept.open(4, infos("e")) == [digest("e")]


def test_workers_that_come_and_go_with_others_take_no_room_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "DESCRIPTIONS_BYTES_MAX", 3)
    kept = Descriptions(Clock())
    for connection, text in enumerate(("aa", "bb", "cc")):
        assert kept.open(connection, infos(text)) == [digest(text)]
        kept.take(connection, told(text))
        assert kept.get(digest(text)) == text
        kept.close(connection)


def test_a_digest_of_another_length_is_not_asked_for() -> None:
    kept = Descriptions(Clock())
    assert kept.open(1, [spb.HandlerInfo(name="h"), spb.HandlerInfo(name="h", description_digest="ab")]) == []
