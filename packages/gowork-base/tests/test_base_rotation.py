"""Which of several addresses is called, and which hints are taken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gowork.base import rotation as rotating
from gowork.base.channels import ADDRESSES_MAX
from gowork.base.rotation import HINT_KEY, Rotation, Said, hint_of
from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles

A, B, C = "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"
NAME = "leaders.invalid:7"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listening() -> Iterator[str]:
    """An address of this machine that connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def settle() -> None:
    """Waits until no address is looked up or tried any more."""
    for thread in threading.enumerate():
        if thread.name == "gowork-addresses":
            thread.join(120)


def answers(*hosts: str) -> Callable[..., Any]:
    def getaddrinfo(host: str, port: int, **_: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    return getaddrinfo


class TestTurns:
    def test_the_next_address_takes_the_place_of_one_that_failed_and_then_the_first_again(self) -> None:
        rotation = Rotation([A, B, C])
        seen = []
        for _ in range(4):
            seen.append(rotation.current)
            rotation.failed(rotation.current, "refused", answered=False)
        assert seen == [A, B, C, A]

    def test_a_second_call_that_fails_at_the_same_address_skips_none(self) -> None:
        rotation = Rotation([A, B, C])
        rotation.failed(A, "refused", answered=False)
        rotation.failed(A, "refused", answered=False)
        assert rotation.current == B

    def test_an_address_that_did_not_fail_stays(self) -> None:
        rotation = Rotation([A, B, C])
        rotation.prefer(C)
        rotation.failed(A, "refused", answered=False)
        assert rotation.current == C

    def test_what_each_address_said_last_is_kept_in_one_short_line(self) -> None:
        rotation = Rotation([A, B])
        rotation.failed(A, "first", answered=False)
        rotation.failed(A, "second\n line " + "x" * 1000, answered=True)
        said, untried = rotation.said()
        assert (said.address, said.answered, len(said.words)) == (A, True, 200)
        assert said.words.startswith("second line xxx")
        assert untried == Said(B, "not tried yet", False)

    def test_a_successor_takes_the_place_of_the_silent_address_alone(self) -> None:
        rotation = Rotation([A, B, C])
        # Another thread has left it meanwhile.
        rotation.prefer(B)
        rotation.replace(A, C)
        assert rotation.current == B
        rotation.replace(B, C)
        assert rotation.current == C


class TestNames:
    def test_a_name_with_several_addresses_counts_as_these(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answers("10.0.0.1", "10.0.0.2", "10.0.0.1"))
        rotation = Rotation([NAME, C])
        assert rotation.current == NAME
        rotation.refresh()
        settle()
        assert rotation.addresses == ("10.0.0.1:7", "10.0.0.2:7", C)
        rotation.failed(NAME, "not leading", answered=True)
        assert rotation.current == "10.0.0.1:7"

    @pytest.mark.parametrize("found", [answers("10.0.0.1"), lambda *_, **__: (_ for _ in ()).throw(OSError("unknown"))])
    def test_a_name_with_one_address_or_none_is_left_to_grpc(
        self, monkeypatch: pytest.MonkeyPatch, found: Callable[..., Any]
    ) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", found)
        rotation = Rotation([NAME])
        rotation.refresh()
        settle()
        assert rotation.addresses == (NAME,)

    def test_no_name_has_more_addresses_than_a_client_may_be_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answers(*(f"10.0.0.{n}" for n in range(100))))
        rotation = Rotation([NAME])
        rotation.refresh()
        settle()
        assert len(rotation.addresses) == ADDRESSES_MAX

    def test_names_are_looked_up_again_when_an_address_fails_but_not_at_each_failure(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answers("10.0.0.1", "10.0.0.2"))
        rotation = Rotation([NAME])
        rotation.refresh()
        settle()
        monkeypatch.setattr(socket, "getaddrinfo", answers("10.0.0.8", "10.0.0.9"))
        rotation.failed(NAME, "refused", answered=False)
        settle()
        assert rotation.addresses == ("10.0.0.1:7", "10.0.0.2:7")
        monkeypatch.setattr(rotating, "_LOOK_UP_AGAIN_S", 0.0)
        rotation.failed("10.0.0.1:7", "refused", answered=False)
        settle()
        assert rotation.addresses == ("10.0.0.8:7", "10.0.0.9:7")

    @pytest.mark.parametrize("address", [A, "[::1]:7", "localhost:7"])
    def test_numbers_and_this_machine_are_not_looked_up(self, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", answers("10.0.0.8", "10.0.0.9"))
        rotation = Rotation([address])
        rotation.refresh()
        settle()
        assert rotation.addresses == (address,)

    def test_behind_a_proxy_names_are_left_to_the_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy:1")
        monkeypatch.setattr(socket, "getaddrinfo", answers("10.0.0.8", "10.0.0.9"))
        rotation = Rotation([NAME])
        rotation.refresh()
        settle()
        assert rotation.addresses == (NAME,)

    def test_a_process_without_threads_left_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuses(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(socket, "getaddrinfo", answers("10.0.0.8", "10.0.0.9"))
        rotation = Rotation([NAME])
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuses)
            rotation.refresh()
        rotation.refresh()
        settle()
        assert len(rotation.addresses) == 2


class TestHints:
    def test_a_hint_is_taken_when_its_address_connects(self, listening: str) -> None:
        rotation = Rotation(["127.0.0.1:1", "127.0.0.1:2"])
        rotation.hear([("other", "x")], [(HINT_KEY, listening)])
        settle()
        assert rotation.current == listening
        rotation.failed(listening, "gone", answered=False)
        assert rotation.current == "127.0.0.1:1"
        assert [said.address for said in rotation.said()] == ["127.0.0.1:1", "127.0.0.1:2"]

    def test_a_hint_that_does_not_connect_is_not_taken_nor_tried_again_soon(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rotation = Rotation(["127.0.0.1:1"])
        assert rotation.wants("127.0.0.1:2")
        rotation.hear([(HINT_KEY, "127.0.0.1:2")])
        settle()
        assert rotation.current == "127.0.0.1:1"
        assert not rotation.wants("127.0.0.1:2")
        monkeypatch.setattr(rotating, "_HINT_AGAIN_S", 0.0)
        rotation.failed("127.0.0.1:2", "gone", answered=False)
        assert rotation.wants("127.0.0.1:2")

    def test_a_hint_with_a_host_that_cannot_be_is_not_taken(self) -> None:
        rotation = Rotation([A])
        rotation.hear([(HINT_KEY, "a..b:1")])
        settle()
        assert rotation.current == A
        assert not rotation.wants("a..b:1")

    def test_a_hint_that_failed_in_a_call_is_not_taken_again_soon(self, listening: str) -> None:
        rotation = Rotation(["127.0.0.1:1"])
        rotation.prefer(listening)
        rotation.failed(listening, "not leading", answered=True)
        rotation.hear([(HINT_KEY, listening)])
        settle()
        assert rotation.current == "127.0.0.1:1"

    def test_hints_that_failed_are_remembered_up_to_a_bound(self) -> None:
        rotation = Rotation([A])
        for port in range(1, 1000):
            rotation.failed(f"10.0.0.9:{port}", "gone", answered=False)
        assert len(rotation._refused) == 16

    def test_hints_that_failed_long_ago_make_room_for_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr(rotating, "time", SimpleNamespace(monotonic=lambda: now))
        rotation = Rotation([A])
        for port in range(1, 17):
            rotation.refuse(f"10.0.0.9:{port}")
        now += 11.0
        assert rotation.wants("10.0.0.9:1")
        rotation.refuse("10.0.0.9:17")
        assert not rotation.wants("10.0.0.9:17")

    @pytest.mark.parametrize(
        "hint", ["", "nonsense", ":50052", "h:0", "h:1,i:1", "http://h:1", b"h:1", "127.0.0.1:1", "0.0.0.0:1", "h:01"]
    )
    def test_a_hint_that_cannot_be_used_is_none(self, hint: str | bytes) -> None:
        assert hint_of(A, [(HINT_KEY, hint)]) == ""

    def test_a_hint_at_this_machine_is_for_who_called_this_machine(self) -> None:
        assert hint_of("localhost:1", None, [(HINT_KEY, "127.0.0.1:2")]) == "127.0.0.1:2"

    def test_a_hint_is_not_taken_where_a_token_would_go_in_plain_text(self, tmp_path: Path) -> None:
        (tmp_path / "t").write_text("secret\n")
        for insecure in (False, True):
            rotation = Rotation(["127.0.0.1:1"], Tls(TlsFiles(token=tmp_path / "t", insecure=insecure)))
            assert rotation.wants("192.0.2.1:1") is insecure
            assert rotation.wants("127.0.0.1:2")

    def test_a_hint_is_not_used_where_a_proxy_stands_before_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy:1")
        assert hint_of(A, [(HINT_KEY, B)]) == ""
        assert hint_of("127.0.0.1:1", [(HINT_KEY, "127.0.0.1:2")]) == "127.0.0.1:2"
