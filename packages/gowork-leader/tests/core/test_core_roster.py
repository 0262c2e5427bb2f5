"""The roster finds the worker with the most free slots, whatever has become of the workers since it was last asked."""

from __future__ import annotations

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core import roster
from gowork.leader._core.roster import Need

WORK: Need = ("work", (), "")


@pytest.fixture
def core() -> Core:
    return Core()


def best(core: Core, need: Need | None = WORK) -> str | None:
    worker = core.state.roster.ranking(need).best()
    return None if worker is None else worker.name


def test_the_worker_with_the_most_free_slots_comes_first(core: Core) -> None:
    assert best(core) is None
    core.connect("small", slots=1, credit=10)
    core.connect("large", slots=3, credit=10)
    assert best(core) == "large"
    core.submit(*(spec(str(number)) for number in range(3)))
    # The third goes to the other one, which has as many free slots then, and came first.
    assert sorted(map(len, core.dispatch().values())) == [1, 2]
    assert best(core) == "large"


def test_only_workers_with_handler_and_labels_are_ranked(core: Core) -> None:
    core.connect("a", handlers=("work",), labels={"zone": "a"})
    core.connect("b", handlers=("other",), labels={"zone": "b"})
    assert [best(core, need) for need in (WORK, ("other", (), ""), ("work", (("zone", "b"),), ""), ("", (), ""))] == [
        "a",
        "b",
        None,
        None,
    ]


def test_a_worker_without_credit_comes_back_with_new_credit(core: Core) -> None:
    connection = core.connect("a", slots=1, credit=1)
    core.submit(spec("t"), spec("u"))
    core.dispatch()
    assert best(core) is None
    core.do(cmd.ReceiveFrame(connection, credit=2))
    assert best(core) == "a"


def test_a_worker_that_has_ended_a_task_is_as_free_as_before(core: Core) -> None:
    first = core.connect("a", slots=2, credit=10)
    core.connect("b", slots=2, credit=1)
    core.submit(spec("t"))
    assert list(core.dispatch()) == [first]
    assert best(core) == "b"
    core.report(first, "t")
    assert best(core) == "a"


def test_a_round_leaves_the_rankings_as_they_were(core: Core) -> None:
    core.connect("a", slots=1, credit=10)
    core.submit(spec("t"), spec("u"))
    assert sum(map(len, core.dispatch().values())) == 2
    assert best(core) == "a"
    core.submit(spec("v"))
    assert sum(map(len, core.dispatch().values())) == 1


def test_a_worker_that_has_left_or_drains_is_not_found(core: Core) -> None:
    first = core.connect("a", slots=5, credit=10)
    core.connect("b", slots=1, credit=10)
    assert best(core) == "a"
    core.do(cmd.CloseSession(first))
    assert best(core) == "b"
    core.do(cmd.DrainMember("b", 0))
    assert best(core) is None


def test_a_worker_that_connects_again_is_ranked_as_it_is_now(core: Core) -> None:
    core.connect("a", instance="i", slots=3, credit=10)
    core.connect("b", slots=2, credit=10)
    assert best(core) == "a"
    core.connect("a", instance="i", slots=1, credit=10)
    assert best(core) == "b"


def test_rankings_that_fall_behind_are_made_again(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "ENTRIES_EACH", 0)
    monkeypatch.setattr(roster, "ENTRIES_MORE", 2)
    assert best(core) is None
    for number in range(7):
        core.connect(f"w{number}", slots=9 - number, credit=10)
        # Others read the news meanwhile, so that each worker is in them by itself.
        assert best(core, None) == "w0"
    assert best(core) == "w0"


def test_connections_that_have_ended_are_forgotten(core: Core) -> None:
    for _ in range(3 * roster.ENTRIES_MORE):
        core.connect("a", instance="i", slots=1, credit=10)
        assert best(core) == "a"
    ranking = core.state.roster.ranking(WORK)
    bound = roster.ENTRIES_EACH + roster.ENTRIES_MORE
    assert len(ranking._able) <= bound
    assert len(ranking.entries) <= bound


@pytest.mark.parametrize(("workers", "kept"), [(0, 1_000), (1, 1_000), (2, 500), (100, 10), (300, 10)])
def test_the_fewer_workers_there_are_the_more_rankings_are_kept(
    core: Core, monkeypatch: pytest.MonkeyPatch, workers: int, kept: int
) -> None:
    monkeypatch.setattr(roster, "RANKINGS_MAX", 10)
    monkeypatch.setattr(roster, "RANKED_MAX", 1_000)
    for number in range(workers):
        core.connect(f"w{number}")
    for number in range(kept):
        best(core, (f"h{number}", (), ""))
    assert len(core.state.roster._rankings) == kept
    best(core, ("one more", (), ""))
    assert len(core.state.roster._rankings) == 1


def test_news_and_entries_are_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "RANKED_MAX", 1)
    connections = [core.connect(f"w{number}", slots=2, credit=1_000) for number in range(3)]
    for number in range(300):
        core.submit(spec(str(number)))
        ((connection, _),) = core.dispatch().items()
        core.report(connection, str(number))
    bound = roster.ENTRIES_EACH * len(connections) + roster.ENTRIES_MORE
    assert len(core.state.roster.ranking(WORK).entries) <= bound
    assert len(core.state.roster._news) <= bound
    for number in range(roster.RANKINGS_MAX + 1):
        best(core, (f"h{number}", (), ""))
    assert len(core.state.roster._rankings) <= roster.RANKINGS_MAX
