"""What errors say of a leader that answers, and of one that does not."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from gowork.client.errors import LeaderUnreachable, error_of
from gowork.proto.status import Refusal, status_of


class Failed(grpc.RpcError):
    """A call that failed."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Any = ()) -> None:
        self._said = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._said[0]

    def details(self) -> str:
        return self._said[1]

    def trailing_metadata(self) -> Any:
        return self._said[2]


def refused(reason: str, message: str) -> Failed:
    refusal = Refusal(grpc.StatusCode.UNAVAILABLE, reason, message)
    return Failed(refusal.code, message, (("grpc-status-details-bin", status_of(refusal).SerializeToString()),))


@pytest.mark.parametrize("reason", ["NOT_SERVING", "STORE_LOCKED"])
def test_a_leader_that_answered_is_never_one_that_does_not_answer(reason: str) -> None:
    error = error_of(refused(reason, "the leader is stopping"), "127.0.0.1:1")
    assert isinstance(error, LeaderUnreachable)
    assert error.answered
    assert str(error) == "the leader at 127.0.0.1:1 can't serve now: the leader is stopping"


def test_a_leader_that_does_not_answer_is_named_with_what_grpc_says() -> None:
    error = error_of(Failed(grpc.StatusCode.UNAVAILABLE, "refused"), "127.0.0.1:1")
    assert isinstance(error, LeaderUnreachable)
    assert not error.answered
    assert str(error) == "no leader answers at 127.0.0.1:1: refused"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "errors resolving h.invalid:1: [field:hostname lookup error:address lookup failed for h.invalid:1: "
            "Domain name not found]",
            "Domain name not found",
        ),
        (
            "DNS resolution failed for h.invalid:1: C-ares status is not ARES_SUCCESS qtype=A name=h.invalid "
            "is_balancer=0: Could not contact DNS servers",
            "Could not contact DNS servers",
        ),
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused", ""),
    ],
)
def test_a_name_that_is_unknown_is_told_with_its_reason(said: str, reason: str) -> None:
    error = error_of(Failed(grpc.StatusCode.UNAVAILABLE, said), "h.invalid:1")
    assert isinstance(error, LeaderUnreachable)
    assert error.unknown_host == reason
