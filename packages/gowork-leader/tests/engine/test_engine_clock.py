"""The leader has one clock, which a test or the simulator can put in the place of the machine's."""

from __future__ import annotations

import ast
from pathlib import Path

import gowork.leader._engine.clock
from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Outcome
from gowork.leader._rpc.mapping import frame_from
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import session_pb2

LEADER = Path(gowork.leader._engine.clock.__file__).parents[1]
#: Who reads the machine's clocks, with the reason beside the reading.
READERS = {
    "_access/audit.py",
    "_access/authenticators.py",
    "_access/loads.py",
    "_app/early_ending.py",
    "_app/node.py",
    "_engine/blocked.py",
    "_engine/clock.py",
    "_engine/counts.py",
    "_replication/candidacy.py",
    "_replication/gathering.py",
    "_rpc/forwarding.py",
    "_snapshots/stalls.py",
    "store/_sqlite_aside.py",
}
CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "now", "utcnow", "today"}
MACHINE = {"time", "datetime", "date", "loop", "get_running_loop", "get_event_loop"}


def reads_a_clock(source: str) -> bool:
    """Whether it names a clock of a module `time` or `datetime`, or of an event loop."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return True
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name.lstrip("_") in MACHINE:
                return True
    return False


def test_nobody_reads_a_clock_but_the_engines_and_those_who_say_why() -> None:
    # The check is a worker's counterpart and no part of a leader that serves.
    files = [path for path in LEADER.rglob("*.py") if LEADER / "_check" not in path.parents]
    found = {path.relative_to(LEADER).as_posix() for path in files if reads_a_clock(path.read_text(encoding="utf-8"))}
    assert found == READERS


def test_a_frame_with_reports_has_the_time_of_the_clock_that_it_is_given_and_one_without_asks_for_none() -> None:
    report = session_pb2.Report(fence=1, id="a", outcome=scheduler_pb2.ATTEMPT_OUTCOME_COMPLETED)
    frame = frame_from(session_pb2.ConnectRequest(reports=[report]), 1, lambda: 7)
    assert frame == cmd.ReceiveFrame(1, [cmd.Report(1, "a", Outcome.COMPLETED)], received_ns=7)
    assert frame_from(session_pb2.ConnectRequest(), 1, lambda: 7).received_ns == 0
