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
        self.code, self.details, self.trailing_metadata = lambda: code, lambda: details, lambda: trailers


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
