"""What may wait is bounded in bytes, and the refusal names the limit."""

from __future__ import annotations

import grpc
import pytest

from gowork.leader._rpc.admission import Admission
from gowork.proto.status import Refusal


def test_a_call_beyond_what_may_wait_is_refused_until_another_is_done() -> None:
    admission = Admission(1_000_000)
    with admission.taking(600_000):
        with pytest.raises(Refusal, match="the limit is 1000000") as caught, admission.taking(600_000):
            pass
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_WAITING")
        with admission.taking(300_000):
            pass
    with admission.taking(600_000):
        pass


def test_one_call_is_always_taken() -> None:
    with Admission(10).taking(600_000):
        pass
