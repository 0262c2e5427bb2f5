"""What a leader tells of handlers: page by page, or not at all, and what is checked then."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from gowork.client import AsyncClient, CallError, Client
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc


class Leader(leader_pb2_grpc.LeaderServiceServicer):
    """Tells of one handler on each page."""

    def __init__(self) -> None:
        self.address = ""
        self.refuses: grpc.StatusCode | None = None

    def ListHandlers(self, request: Any, context: grpc.ServicerContext) -> leader_pb2.ListHandlersResponse:
        if self.refuses is not None:
            context.abort(self.refuses, "no")
        names = [
            name for name in ("crop", "resize", "ship") if request.name in ("", name) and name > request.page_token
        ]
        handlers = [leader_pb2.Handler(name=name, versions=[leader_pb2.HandlerVersion()]) for name in names[:1]]
        return leader_pb2.ListHandlersResponse(handlers=handlers, next_page_token=names[0] if len(names) > 1 else "")


@pytest.fixture
def leader() -> Iterator[Leader]:
    leader = Leader()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        leader_pb2_grpc.add_LeaderServiceServicer_to_server(leader, server)
        leader.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield leader
        server.stop(None).wait()


async def test_all_pages_are_read_and_of_a_name_that_nobody_has_the_similar_ones_are_told(leader: Leader) -> None:
    with Client(leader.address) as client:
        assert [each.name for each in client.handlers()] == ["crop", "resize", "ship"]
        assert [each.name for each in client.handlers("ship")] == ["ship"]
        assert client.check_payload({}, handler="ship") == ""
        assert "did you mean 'ship'?" in client.check_payload({}, handler="shap")
    async with AsyncClient(leader.address) as client:
        assert [each.name for each in await client.handlers()] == ["crop", "resize", "ship"]
        assert "did you mean 'ship'?" in await client.check_payload({}, handler="shap")


@pytest.mark.parametrize("refusal", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED])
async def test_nothing_is_checked_where_the_leader_cannot_tell_or_may_not(
    leader: Leader, refusal: grpc.StatusCode
) -> None:
    leader.refuses = refusal
    with Client(leader.address) as client:
        assert client.check_payload({}, handler="shap") == ""
        with pytest.raises(CallError):
            client.handlers()
    async with AsyncClient(leader.address) as client:
        assert await client.check_payload({}, handler="shap") == ""
