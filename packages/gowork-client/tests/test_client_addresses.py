"""Both clients with the addresses of several leaders, of which one leads."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from own_ports import own_addresses

from gowork.base.channels import ADDRESSES_MAX, AddressError
from gowork.base.rotation import Rotation
from gowork.client import AsyncClient, Client, DeadlineExceeded, LeaderTooOld, LeaderUnreachable
from gowork.client import _calls as calls
from gowork.client._channels import CHANNELS_MAX, Channels
from gowork.proto.status import Refusal

NOT_LEADING = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", "this leader does not lead now")
#: As gRPC itself says it when a connection breaks.
BROKEN = Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "Socket closed")


class Blocking:
    """An AsyncClient, used like a Client."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*args, **options)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            async def run() -> Any:
                answer = method(*args, **options)
                return [each async for each in answer] if hasattr(answer, "__aiter__") else await answer

            return self._runner.run(run())

        return call


@pytest.fixture(params=[Client, Blocking], ids=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> type[Client]:
    """Makes a client of either kind."""
    kind: type[Client] = request.param
    return kind


@pytest.fixture
def never_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that would pause between its tries fails instead."""
    monkeypatch.setattr(calls, "_FIRST_PAUSE_S", 1e9)


def seen(leader: Any, method: str) -> int:
    return len(leader.requests.get(method, ()))


class TestTurns:
    @pytest.mark.usefixtures("never_pauses")
    def test_a_leader_that_does_not_lead_is_left_for_the_next_without_a_pause(self, connect, scripted, other) -> None:
        scripted.refusal = NOT_LEADING
        with connect([scripted.address, other.address]) as client:
            for n in range(3):
                client.schedule("p", id=f"t{n}")
        assert (seen(scripted, "ScheduleTask"), list(other.tasks)) == (1, ["t0", "t1", "t2"])

    @pytest.mark.usefixtures("never_pauses")
    def test_an_address_that_is_silent_holds_a_call_up_once(self, connect, silent_address: str, scripted) -> None:
        scripted.lacks.add("SubmitTasks")
        with connect(f"{silent_address},{scripted.address}", timeout=60) as client:
            client.schedule("p", id="a")
            assert 30 < scripted.timeouts["ScheduleTask"][0] < 59.9
            client.schedule("p", id="b")
            assert scripted.timeouts["ScheduleTask"][1] > 59.9

    def test_a_call_during_a_change_of_leaders_is_late_and_goes_through(self, connect, scripted, other) -> None:
        scripted.fail_next("ScheduleTask", NOT_LEADING, times=3)
        other.fail_next("ScheduleTask", NOT_LEADING, times=3)
        with connect([scripted.address, other.address]) as client:
            client.schedule("p", id="a")
        requests = scripted.requests["ScheduleTask"] + other.requests["ScheduleTask"]
        assert len(requests) == 7
        assert all(request == requests[0] for request in requests)

    @pytest.mark.usefixtures("never_pauses")
    def test_a_submit_in_doubt_is_repeated_under_its_id(self, connect, scripted, other) -> None:
        scripted.lacks.add("SubmitTasks")
        with connect([scripted.address, other.address]) as client:
            client.schedule("p", id="first")
            scripted.breaks_after("ScheduleTask", BROKEN)
            handle = client.schedule("p")
        assert list(scripted.tasks) == ["first", handle.id]
        assert list(other.tasks) == [handle.id]

    def test_an_address_that_comes_back_is_used_again(self, connect, scripted, other, ports) -> None:
        address = ports.serve(scripted, own_addresses(1)[0])
        with connect([address, other.address]) as client:
            client.schedule("p", id="a")
            ports.stop(address)
            client.schedule("p", id="b")
            ports.stop(other.address)
            ports.serve(scripted, address)
            client.schedule("p", id="c")
        assert (list(scripted.tasks), list(other.tasks)) == (["a", "c"], ["b"])

    def test_the_next_call_goes_elsewhere_when_an_address_let_a_deadline_pass(
        self, connect, scripted, other, held
    ) -> None:
        with connect([scripted.address, other.address], timeout=2) as client:
            scripted.run_next("ScheduleTask", held.wait)
            with pytest.raises(DeadlineExceeded):
                client.schedule("p", id="a")
            client.schedule("p", id="b")
        assert (seen(scripted, "ScheduleTask"), list(other.tasks)) == (1, ["b"])

    @pytest.mark.usefixtures("never_pauses")
    def test_a_first_round_over_all_addresses_needs_no_patience(self, connect, free_address: str, scripted) -> None:
        scripted.fail_next("ScheduleTask", NOT_LEADING)
        addresses = [free_address, scripted.address]
        with connect(addresses, patience=0) as client:
            with pytest.raises(LeaderUnreachable):
                client.schedule("p")
            assert seen(scripted, "ScheduleTask") == 1
            client.schedule("p")


class TestOtherKinds:
    """Addresses that answer, and are not those of leaders."""

    @pytest.fixture
    def of_worker(self, ports) -> Iterator[str]:
        """An address that lacks every method of leaders, as that of a callback worker does."""
        server = grpc.server(ThreadPoolExecutor(max_workers=2))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()

    @pytest.fixture
    def http(self) -> Iterator[str]:
        """An address that speaks HTTP/1.1, as that of /metrics does."""
        with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield f"127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    @pytest.mark.usefixtures("never_pauses")
    def test_calls_go_on_to_the_next_address(self, connect, of_worker: str, http: str, scripted) -> None:
        with connect([of_worker, http, scripted.address], timeout=60) as client:
            client.schedule("p", id="a", delay=1)
            client.retry("a")
            assert [handle.id for handle in client.schedule_many(["b"], delay=1)]
        assert seen(scripted, "ScheduleTask") == seen(scripted, "RetryTask") == seen(scripted, "ScheduleTasks") == 1

    @pytest.mark.usefixtures("never_pauses")
    def test_what_waits_and_is_not_repeated_goes_on_too(self, connect, of_worker: str, scripted) -> None:
        scripted.finishes_at_once = True
        with connect(scripted.address) as client:
            client.schedule("p", id="a")
        with connect([of_worker, scripted.address]) as client:
            assert [task.id for task in client.wait(["a"])] == ["a"]
        with connect([of_worker, scripted.address]) as client:
            client.retry("a")
        assert seen(scripted, "RetryTask") == 1

    def test_a_call_waits_for_a_leader_that_can_not_take_it_now(self, connect, of_worker: str, scripted) -> None:
        scripted.fail_next("ScheduleTask", NOT_LEADING, times=3)
        with connect([of_worker, scripted.address]) as client:
            client.schedule("p", id="a")
        assert list(scripted.tasks) == ["a"]

    def test_the_error_names_it_and_why(self, connect, of_worker: str, http: str, scripted) -> None:
        scripted.refusal = NOT_LEADING
        with connect([scripted.address, http, of_worker], patience=0) as client:
            with pytest.raises(LeaderUnreachable) as raised:
                client.schedule("p")
        told = str(raised.value)
        assert f"{of_worker} (it lacks this method: it is no leader's address, or an older leader's)" in told
        assert f"{http} (it does not speak gRPC)" in told
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE

    def test_the_error_names_all_where_no_address_is_a_leader_s(self, connect, of_worker, http, free_address) -> None:
        with connect([of_worker, http, free_address]) as client:
            with pytest.raises(LeaderTooOld, match="give a leader's address: ") as raised:
                client.schedule("p")
        assert f"{of_worker} (it lacks this method: " in str(raised.value)
        assert f"{http} (it does not speak gRPC), {free_address} (Connection refused)" in str(raised.value)

    def test_an_old_leader_is_told_where_no_other_answers(self, connect, free_address: str, scripted) -> None:
        scripted.lacks.add("RetryTask")
        with connect([scripted.address, free_address]) as client:
            with pytest.raises(LeaderTooOld, match="has no RetryTask"):
                client.retry("a")


class TestStreams:
    def test_a_wait_goes_on_at_the_next_address(self, connect, scripted, other) -> None:
        with connect([scripted.address, other.address]) as client:
            handle = client.schedule("p", id="a")
            scripted.fail_next("WaitTask", BROKEN)
            other.tasks["a"] = scripted.tasks["a"]
            assert [task.id for task in client.wait([handle.id])] == ["a"]
        assert seen(other, "WaitTask") == 1

    def test_a_wait_for_many_goes_on_at_the_next_address(self, connect, scripted, other) -> None:
        with connect([scripted.address, other.address]) as client:
            ids = [client.schedule("p", id=id).id for id in ("a", "b")]
            scripted.refusal = NOT_LEADING
            other.tasks.update(scripted.tasks)
            assert [task.id for task in client.wait(ids)] == ids
        assert seen(other, "WaitTasks") == 1

    def test_batches_go_on_at_the_next_address(self, connect, scripted, other) -> None:
        with connect([scripted.address, other.address]) as client:
            scripted.fail_next("ScheduleTasks", NOT_LEADING)
            handles = list(client.schedule_many(["a", "b"]))
        assert [handle.id for handle in handles] == list(other.tasks)

    def test_a_watch_goes_on_from_its_token_at_the_next_address(self, scripted, ports) -> None:
        second = ports.serve(scripted)
        with Client([scripted.address, second]) as client, client.watch() as changes:
            client.schedule("p", id="a")
            assert next(changes).id == "a"
            ports.stop(scripted.address)
            client.schedule("p", id="b")
            assert next(changes).id == "b"
        assert [request.token for request in scripted.requests["WatchTasks"]] == ["", "1"]

    async def test_an_asyncio_watch_goes_on_from_its_token_at_the_next_address(self, scripted, ports) -> None:
        second = ports.serve(scripted)
        async with AsyncClient([scripted.address, second]) as client, client.watch() as changes:
            await client.schedule("p", id="a")
            assert (await anext(changes)).id == "a"
            await asyncio.to_thread(ports.stop, scripted.address)
            await client.schedule("p", id="b")
            assert (await anext(changes)).id == "b"
        assert [request.token for request in scripted.requests["WatchTasks"]] == ["", "1"]

    def test_a_backup_is_taken_from_the_next_address_while_nothing_was_received(
        self, connect, scripted, other, tmp_path
    ) -> None:
        scripted.refusal = NOT_LEADING
        with connect([scripted.address, other.address]) as client:
            client.backup(tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"store"


class TestRetryTask:
    def test_it_is_repeated_where_no_leader_took_it(self, connect, free_address: str, scripted, other) -> None:
        scripted.refusal = NOT_LEADING
        with connect([free_address, scripted.address, other.address]) as client:
            client.retry("a")
        assert (seen(scripted, "RetryTask"), seen(other, "RetryTask")) == (1, 1)

    def test_it_is_not_repeated_in_doubt(self, connect, scripted, other) -> None:
        with connect([scripted.address, other.address]) as client:
            scripted.fail_next("RetryTask", BROKEN)
            with pytest.raises(LeaderUnreachable, match="Socket closed"):
                client.retry("a")
        assert (seen(scripted, "RetryTask"), seen(other, "RetryTask")) == (1, 0)


class TestHints:
    def test_calls_go_to_the_address_that_a_follower_names_and_back_when_it_fails(
        self, connect, scripted, other, ports
    ) -> None:
        scripted.hint = other.address
        with connect(scripted.address) as client:
            while not other.tasks:
                client.schedule("p")
            scripted.hint = ""
            before = seen(scripted, "ScheduleTask")
            client.schedule("p")
            assert seen(scripted, "ScheduleTask") == before
            ports.stop(other.address)
            client.schedule("p")
            assert seen(scripted, "ScheduleTask") == before + 1

    def test_a_refusal_has_a_hint_too(self, connect, scripted, other) -> None:
        scripted.refusal, scripted.hint = NOT_LEADING, other.address
        with connect(scripted.address) as client:
            client.schedule("p", id="a")
        assert "a" in other.tasks

    def test_a_hint_at_nothing_changes_nothing(self, connect, scripted, free_address: str) -> None:
        scripted.hint = free_address
        with connect(scripted.address, patience=0) as client:
            for n in range(20):
                client.schedule("p", id=f"t{n}")
        assert len(scripted.tasks) == 20


class TestErrors:
    def test_an_error_names_every_address_with_what_it_said(
        self, connect, free_address: str, silent_address: str, scripted
    ) -> None:
        scripted.refusal = NOT_LEADING
        with connect([free_address, scripted.address, silent_address], patience=0) as client:
            with pytest.raises(LeaderUnreachable) as raised:
                client.schedule("p")
        assert str(raised.value) == (
            f"no leader takes the call: {free_address} (Connection refused), {scripted.address} "
            f"(this leader does not lead now), {silent_address} (no answer)"
        )
        assert raised.value.address == f"{free_address},{scripted.address},{silent_address}"
        assert raised.value.answered

    def test_addresses_where_nothing_answers_did_not_answer(self, connect, free_address: str) -> None:
        with connect([free_address, "leaders.invalid:1"], patience=0) as client:
            with pytest.raises(LeaderUnreachable, match="leaders.invalid:1 ") as raised:
                client.schedule("p")
        assert not raised.value.answered


class TestAddresses:
    @pytest.mark.parametrize("given", [["a:1", "b:2"], ("a:1,b:2",), iter(["a:1", "b:2", "a:1"]), "a:1,b:2,b:2"])
    def test_they_are_given_as_a_list_or_joined_by_commas(self, given: Any) -> None:
        with Client(given) as client:
            assert client.address == "a:1,b:2"

    @pytest.mark.parametrize("given", [[], ["a"], [("a", 1)], [b"a:1"], [f"a:{n}" for n in range(ADDRESSES_MAX + 1)]])
    def test_what_is_no_address_or_too_many_is_refused(self, given: Any) -> None:
        with pytest.raises(AddressError):
            Client(given)

    def test_a_name_with_several_addresses_counts_as_these(
        self, connect, scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host, _, port = scripted.address.rpartition(":")
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, int(port))) for each in ("127.0.0.9", host)]
        look_up = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda name, *args, **options: found if name == "leaders.invalid" else look_up(name, *args, **options),
        )
        with connect(f"leaders.invalid:{port}") as client:
            client.schedule("p", id="a")
        assert "a" in scripted.tasks


class TestChannels:
    @pytest.fixture
    def dropped(self) -> list[str]:
        return []

    @pytest.fixture
    def channels(self, dropped: list[str]) -> tuple[Rotation, Channels[str]]:
        rotation = Rotation(["10.0.0.1:1"])
        return rotation, Channels(rotation, lambda address, has_others: f"{address} {has_others}", dropped.append)

    def test_each_address_has_one(self, channels: tuple[Rotation, Channels[str]]) -> None:
        rotation, of_client = channels
        assert of_client.current() is of_client.current()
        assert of_client.current().channel == "10.0.0.1:1 False"
        rotation.prefer("10.0.0.2:1")
        assert of_client.current().channel == "10.0.0.2:1 True"

    def test_the_oldest_that_is_of_no_use_makes_room(
        self, channels: tuple[Rotation, Channels[str]], dropped: list[str]
    ) -> None:
        rotation, of_client = channels
        of_client.current()
        for port in range(1, CHANNELS_MAX + 2):
            rotation.prefer(f"10.0.0.2:{port}")
            of_client.current()
        assert dropped == ["10.0.0.2:1 True", "10.0.0.2:2 True"]
        assert len(of_client.close()) == CHANNELS_MAX

    def test_none_is_opened_after_the_end(self, channels: tuple[Rotation, Channels[str]]) -> None:
        _, of_client = channels
        of_client.close()
        with pytest.raises(ValueError, match="closed channel"):
            of_client.current()
