"""Nobody who reads the leader's standard error can stop the leader by not reading it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from leader_process import running

from gowork.base.channels import open_blocking_channel
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end of a pipe that takes nothing more."""
    reader, end = os.pipe()
    os.set_blocking(end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(end, b"x" * 4096)
    os.set_blocking(end, True)
    yield end
    os.close(reader)
    os.close(end)


def test_grpc_writes_nothing_past_the_log_unless_it_is_asked_to() -> None:
    """Its own lines would wait for the reader of standard error."""
    code = """
import os, sys
sys.argv = ["gowork-leader", "--version"]
from gowork_leader_start.main import main
try:
    main()
finally:
    print(os.environ["GRPC_VERBOSITY"])
"""
    for given, used in ((None, "NONE"), ("DEBUG", "DEBUG")):
        environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
        if given is not None:
            environment["GRPC_VERBOSITY"] = given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == used


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_leader_whose_standard_error_is_full_serves_and_stops(tmp_path: Path, full_pipe: int, level: str) -> None:
    with running(tmp_path, "--log-level", level, stderr=full_pipe) as leader:
        with open_blocking_channel([leader.scheduler]) as channel:
            task = pb.Task(id="kept", payload="x")
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            stub.ScheduleTask(pb.ScheduleTaskRequest(task=task), timeout=120)
        assert leader.page("/readyz")[0] == 200
        assert leader.stop()[0] == 0
