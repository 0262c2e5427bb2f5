"""What a leader hands on with a call that it forwards, what it hands back, and whom it believes."""

from __future__ import annotations

from typing import Any

import grpc

from gowork.base.identities import Role
from gowork.leader._access.rights import CALLER, Identity
from gowork.leader._rpc import hops


class Context:
    """A call of a caller with this metadata."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        return self._metadata or None

    def peer(self) -> str:
        return "ipv4:10.0.0.1:5000"


def context(*metadata: tuple[str, str | bytes]) -> Any:
    return Context(*metadata)


TRACE = (("traceparent", "00-1-2-01"), ("tracestate", "a=b"), ("baggage", "k=v"))


def test_trace_context_and_goworks_own_metadata_go_on_and_nothing_else() -> None:
    own = (("gowork-future", "1"), ("gowork-future-bin", b"\xff"))
    foreign = (("user-agent", "x"), ("authorization", "Bearer secret"), ("x-gowork-y", "z"), ("cookie", "c"))
    assert hops.handed_on(context(*foreign, *own, *TRACE)) == (*own, *TRACE, (hops.FORWARDED, "ipv4:10.0.0.1:5000"))
    assert hops.handed_on(context()) == ((hops.FORWARDED, "ipv4:10.0.0.1:5000"),)


def test_what_a_caller_says_of_forwarding_does_not_go_on() -> None:
    assert hops.handed_on(context((hops.FORWARDED, "ipv4:6.6.6.6:6"))) == ((hops.FORWARDED, "ipv4:10.0.0.1:5000"),)


def test_the_caller_is_named_as_the_leader_knows_it_and_not_as_it_says() -> None:
    given = context((hops.CALLER_KEY, "admin/x"))
    assert hops.handed_on(given) == ((hops.FORWARDED, "ipv4:10.0.0.1:5000"),)
    before = CALLER.set(Identity("web ü", frozenset({Role.CLIENT})))
    try:
        named = (hops.CALLER_KEY, "client/web%20%C3%BC")
        assert hops.handed_on(given) == (named, (hops.FORWARDED, "ipv4:10.0.0.1:5000"))
    finally:
        CALLER.reset(before)


def test_details_of_the_status_and_goworks_own_metadata_come_back() -> None:
    back = (("grpc-status-details-bin", b"s"), ("gowork-truncated", "true"))
    assert hops.handed_back((("date", "today"), *back)) == back
    assert hops.handed_back(None) == ()


def test_the_peer_is_the_callers_also_behind_a_hop_and_no_longer_than_an_address() -> None:
    assert hops.peer_of(context()) == "ipv4:10.0.0.1:5000"
    assert hops.peer_of(context((hops.FORWARDED, "ipv4:10.9.9.9:1"))) == "ipv4:10.9.9.9:1"
    assert len(hops.peer_of(context((hops.FORWARDED, "x" * 4_000)))) == 100


def test_a_call_is_forwarded_if_it_says_so() -> None:
    assert hops.is_forwarded(context((hops.FORWARDED, "")))
    assert not hops.is_forwarded(context(("gowork-forwarded-by", "x")))
    assert not hops.is_forwarded(context())


async def test_a_caller_that_hung_up_is_not_told() -> None:
    class Gone(Context):
        async def send_initial_metadata(self, metadata: object) -> None:
            raise grpc.aio.UsageError("RPC already finished.")

    gone: Any = Gone()
    await hops.hint(gone, "127.0.0.1:1")
