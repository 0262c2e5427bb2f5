"""What is believed of what other leaders say about who leads, when an address is silent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from gowork.base import succession as succession_module
from gowork.base.rotation import Rotation
from gowork.base.succession import Succession
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.cluster.v1 import leader_pb2_grpc as pb_grpc

SILENT, THIRD = "10.0.0.1:1", "10.0.0.3:1"


class Told(pb_grpc.LeaderServiceServicer):
    """A leader that says who leads."""

    def __init__(self) -> None:
        self.address = ""
        self.asked = 0
        self.said: pb.LeadersResponse | None = None
        #: What it says to who waits for a later leader, and after which terms they waited.
        self.says_later: pb.LeadersResponse | None = None
        self.waited_after: list[int] = []
        #: How long those who waited gave it, in seconds.
        self.patience: list[float] = []

    def says(self, *addresses: str, term: int = 5, leads: bool = True, shares: bool = True) -> None:
        """Has it list leaders at these addresses, of which the first leads."""
        self.said = pb.LeadersResponse(log=pb.Log(generation="g") if shares else None)
        for address in addresses:
            is_first = address == addresses[0]
            self.said.leaders.add(
                leads=leads and is_first, term=term if is_first else 0, scheduler_address=address, cluster_address="c:1"
            )

    def Leaders(self, request: pb.LeadersRequest, context: grpc.ServicerContext) -> pb.LeadersResponse:
        self.asked += 1
        if self.said is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        if request.wait_ms:
            self.waited_after.append(request.after_term)
            self.patience.append(context.time_remaining() - request.wait_ms / 1000)
            return self.says_later or self.said
        return self.said


@pytest.fixture
def told() -> Iterator[Told]:
    with ThreadPoolExecutor(4) as pool:
        server, leader = grpc.server(pool), Told()
        pb_grpc.add_LeaderServiceServicer_to_server(leader, server)
        leader.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield leader
        server.stop(None).wait()


async def asked(told: Told, rotation: Rotation, term: int = 0) -> str:
    """Which address is the current one when the leader was asked in both ways."""
    before = rotation.current
    succession = Succession(rotation)
    succession.ask_blocking(before, term)
    blocking = rotation.current
    rotation.prefer(before)
    await Succession(rotation).ask(before, term)
    assert rotation.current == blocking
    return blocking


async def test_a_leader_that_leads_in_the_place_of_the_silent_one_takes_its_place(told: Told) -> None:
    told.says(told.address, SILENT)
    assert await asked(told, Rotation([SILENT, told.address])) == told.address
    told.says(THIRD, SILENT, told.address)
    assert await asked(told, Rotation([SILENT, told.address, THIRD])) == THIRD


async def test_a_follower_takes_its_place_when_the_leader_has_an_address_that_is_not_known(told: Told) -> None:
    told.says("leader-3:50052", SILENT, told.address)
    assert await asked(told, Rotation([SILENT, told.address])) == told.address
    # The leaders may have other names for all of them.
    told.says("leader-3:50052", "leader-1:50052", "leader-2:50052")
    assert await asked(told, Rotation([SILENT, told.address])) == told.address


async def test_who_still_leads_is_not_left_nor_while_nobody_leads(told: Told) -> None:
    told.says(SILENT, told.address)
    assert await asked(told, Rotation([SILENT, told.address])) == SILENT
    told.says(told.address, SILENT, leads=False)
    assert await asked(told, Rotation([SILENT, told.address])) == SILENT


async def test_who_knows_no_other_leader_is_asked_to_say_so_when_there_is_one(told: Told) -> None:
    told.says(told.address, SILENT, term=6)
    told.says_later = told.said
    told.says(SILENT, told.address, term=5)
    assert await asked(told, Rotation([SILENT, told.address])) == told.address
    told.says(SILENT, told.address, term=0, leads=False)
    assert await asked(told, Rotation([SILENT, told.address]), term=3) == told.address
    assert told.waited_after == [5, 5, 3, 3]
    # It may answer when the wait is over.
    assert min(told.patience) > 0


async def test_only_a_leader_of_a_higher_term_takes_its_place(told: Told) -> None:
    told.says(told.address, SILENT, term=5)
    assert await asked(told, Rotation([SILENT, told.address]), term=5) == SILENT
    assert await asked(told, Rotation([SILENT, told.address]), term=4) == told.address


def test_a_leader_of_a_lower_term_than_was_heard_of_does_not_take_its_place(told: Told) -> None:
    rotation = Rotation([SILENT, told.address])
    succession = Succession(rotation)
    told.says(SILENT, told.address, term=6)
    succession.ask_blocking(SILENT)
    told.says(told.address, SILENT, term=5)
    succession.ask_blocking(SILENT)
    assert rotation.current == SILENT


async def test_leaders_of_other_clusters_and_old_ones_are_not_believed(told: Told) -> None:
    rotation = Rotation([SILENT, told.address])
    # One without a log leads, but in nobody's place.
    told.says(told.address, shares=False)
    assert await asked(told, rotation) == SILENT
    told.says("leader-3:50052", shares=False)
    assert await asked(told, rotation) == SILENT
    told.says(told.address)
    assert await asked(told, rotation) == SILENT
    told.said = None
    assert await asked(told, rotation) == SILENT
    assert told.asked == 8


async def test_addresses_where_nobody_answers_are_passed_over(told: Told) -> None:
    told.says(told.address, SILENT)
    assert await asked(told, Rotation([SILENT, "127.0.0.1:1", told.address])) == told.address


async def test_nobody_is_asked_about_an_address_that_was_left_already(told: Told) -> None:
    told.says(told.address, SILENT)
    rotation = Rotation([SILENT, told.address])
    rotation.prefer(told.address)
    # What is open there should be given up all the same.
    assert Succession(rotation).ask_blocking(SILENT)
    assert await Succession(rotation).ask(SILENT)
    assert told.asked == 0


def test_no_connection_is_left_of_a_question(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[grpc.Channel] = []
    closed: list[grpc.Channel] = []
    open_channel = succession_module.open_blocking_channel

    def watched(addresses: Sequence[str], **options: Any) -> grpc.Channel:
        channel = open_channel(addresses, **options)
        close = channel.close

        def close_and_tell() -> None:
            closed.append(channel)
            close()

        monkeypatch.setattr(channel, "close", close_and_tell)
        opened.append(channel)
        return channel

    monkeypatch.setattr(succession_module, "open_blocking_channel", watched)
    told.says(told.address, SILENT)
    assert Succession(Rotation([SILENT, "127.0.0.1:1", told.address])).ask_blocking(SILENT)
    assert len(opened) == 2
    assert closed == opened


def test_addresses_of_workers_are_those_for_workers(told: Told) -> None:
    told.says(told.address, SILENT)
    rotation = Rotation([SILENT, told.address, "c:1"])
    Succession(rotation, for_workers=True).ask_blocking(SILENT)
    # All are listed at c:1, and the silent one is not.
    assert rotation.current == SILENT
    rotation = Rotation([told.address, "c:1"])
    rotation.prefer(SILENT)
    Succession(rotation, for_workers=True).ask_blocking(SILENT)
    assert rotation.current == "c:1"


async def test_the_only_address_says_whether_another_leader_leads(told: Told) -> None:
    rotation = Rotation([told.address])
    told.says("leader-2:50052", "leader-1:50052", term=5)
    # The address is a balancer's, and stays.
    assert Succession(rotation).ask_blocking(told.address, 4)
    assert await Succession(rotation).ask(told.address, 4)
    assert rotation.current == told.address
    assert not Succession(rotation).ask_blocking(told.address, 5)
    assert not await Succession(rotation).ask(told.address, 5)
    told.says("leader-2:50052", "leader-1:50052", term=0, leads=False)
    assert not await Succession(rotation).ask(told.address, 4)
    # A balancer may choose the silent leader for the question, too. So it is not asked to wait.
    assert told.waited_after == []


async def test_the_only_address_is_not_asked_when_the_term_is_not_known(told: Told) -> None:
    told.says("leader-2:50052", term=5)
    assert not await Succession(Rotation([told.address])).ask(told.address)
    assert told.asked == 0


async def test_a_lone_leader_is_asked_once_in_its_term(told: Told) -> None:
    told.says(told.address, term=5, shares=False)
    succession = Succession(Rotation([told.address]))
    for _ in range(3):
        assert not await succession.ask(told.address, 4)
        assert not succession.ask_blocking(told.address, 4)
    assert told.asked == 1
    # It may share a log in the next one.
    told.says("leader-2:50052", term=6)
    assert await succession.ask(told.address, 5)


async def test_who_asks_is_told_whether_another_leader_leads(told: Told) -> None:
    told.says(told.address, SILENT, term=5)
    assert await Succession(Rotation([SILENT, told.address])).ask(SILENT, 4)
    assert Succession(Rotation([SILENT, told.address])).ask_blocking(SILENT, 4)
    assert not await Succession(Rotation([SILENT, told.address])).ask(SILENT, 5)
    assert not Succession(Rotation([SILENT, told.address])).ask_blocking(SILENT, 5)
