"""A callback worker answers whatever it is sent, names the caller's fault as such, and goes on working."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RunningLeader, kill, start_worker
from fuzz_calls import CALL_SECONDS, FUZZ, Call, calls, make, methods_of, open_channel
from hypothesis import example, given
from hypothesis import strategies as st

from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc

_NAME = "dialled"


@pytest.fixture(scope="module")
def address(leader: RunningLeader, folder: Path) -> Iterator[str]:
    """The address of a callback worker."""
    listen = ("--name", _NAME, "--listen", "127.0.0.1:0", "--scheduler", leader.scheduler, "--runners", "0")
    worker = start_worker(folder, leader, *listen)
    try:
        with open_channel(leader.cluster) as channel:
            members = leader_pb2_grpc.LeaderServiceStub(channel).Members(leader_pb2.MembersRequest()).members
        (address,) = [member.address for member in members if member.id == _NAME]
        yield address
        assert worker.poll() is None
    finally:
        kill(worker)


#: Bytes that are not protobuf: the worker once answered them with INTERNAL.
GARBAGE = Call("/worker.v1.WorkerService/StartWork", [b"\xff"], False, False)


@example(sequence=[GARBAGE])
@FUZZ
@given(sequence=st.lists(calls(methods_of("worker.v1.WorkerService")), min_size=1, max_size=6))
def test_any_sequence_of_calls_is_answered_and_breaks_nothing(address: str, folder: Path, sequence: list[Call]) -> None:
    with open_channel(address) as channel:
        for call in sequence:
            make(channel, call)
        service = worker_pb2_grpc.WorkerServiceStub(channel)
        # It refuses while its slots are taken, and accepts when it has room again.
        for number in itertools.count():
            request = worker_pb2.StartWorkRequest(id=f"mine-{number}", payload="x")
            if service.StartWork(request, timeout=CALL_SECONDS).success:
                break
    assert "Traceback" not in (folder / "gowork-worker.log").read_text()
