"""How calls end whose callers are gone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc
import pytest

from gowork.leader._rpc.boundary import refusing
from gowork.proto.status import Refusal

REFUSAL = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", "this leader does not lead")


class Gone:
    """The context of a call that is over, as gRPC finds out when it is to send something."""

    async def abort(self, *_: object) -> NoReturn:
        raise grpc.aio.InternalError("Failed grpc_call_start_batch")


async def refused(raised: Exception) -> None:
    gone: Any = Gone()
    async with refusing(gone):
        raise raised


@pytest.mark.parametrize(
    "raised", [REFUSAL, ValueError("a defect"), grpc.aio.InternalError("no send"), grpc.aio.UsageError("over")]
)
async def test_a_call_whose_caller_is_gone_ends_as_a_cancelled_one(raised: Exception) -> None:
    with pytest.raises(asyncio.CancelledError):
        await refused(raised)


async def test_that_a_caller_is_gone_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(asyncio.CancelledError):
        await refused(grpc.aio.InternalError("no send"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
