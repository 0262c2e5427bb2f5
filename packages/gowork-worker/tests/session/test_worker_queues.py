"""A worker that names queues says so to its leader, and works for no leader that would not heed it."""

from __future__ import annotations

from typing import Any

import pytest

from gowork.worker import ConfigurationError, Worker
from gowork.worker._core.options import Options


async def test_the_leader_is_told_the_queues(leader: Any, start_worker: Any) -> None:
    await start_worker(queues=("images", "mail"))
    scripted = await leader.session()
    assert scripted.hello.queues == ["images", "mail"]
    assert await scripted.until(lambda: scripted.credit)


async def test_a_leader_that_does_not_heed_queues_is_given_no_credit(
    leader: Any, start_worker: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    leader.heeds_queues = False
    await start_worker(queues=("images",))
    refused = await leader.session()
    told = "would give it tasks of all queues: upgrade the leader, or name none"
    await eventually(lambda: any(told in str(vars(each).get("reason")) for each in caplog.records))
    assert refused.credit == 0
    leader.heeds_queues = True
    credit = 0
    while not credit:
        scripted = await leader.session()
        await eventually(lambda scripted=scripted: scripted.credit or scripted.closed.is_set())
        credit = scripted.credit


async def test_who_names_no_queues_works_for_a_leader_that_does_not_heed_them(leader: Any, start_worker: Any) -> None:
    leader.heeds_queues = False
    await start_worker()
    scripted = await leader.session()
    assert await scripted.until(lambda: scripted.credit)


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        (("",), "queues: '' is not 1 to 128 printable bytes; tasks that name no queue are in the queue 'default'"),
        (("q" * 129,), "is not 1 to 128 printable bytes"),
        (("q\n",), "is not 1 to 128 printable bytes"),
        (tuple(f"q{number}" for number in range(65)), "queues: at most 64, not 65"),
        (("\ud800",), "queues"),
    ],
)
def test_queues_beyond_their_limits_are_refused_by_name(queues: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Options(queues=queues)
    assert words in str(refused.value)


def test_one_name_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"queues: give a list of names, as in \['images'\]"):
        Worker(queues="images")


def test_a_queue_that_is_named_twice_is_named_once() -> None:
    assert Worker(queues=["b", "a", "b"])._options["queues"] == ("b", "a")
