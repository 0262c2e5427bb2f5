"""NGINX before three leaders, as deploy/nginx configures it. Worker, clients and command line know no other address."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from balancer import Place, balancing, elsewhere
from clusters import COMMANDS, RunningLeader, first_line, kill, sharing_leaders, stopped_cleanly
from etcd_members import EtcdCluster
from own_ports import own_ports

pytestmark = [pytest.mark.tool("etcd", "nginx"), pytest.mark.timeout(300)]
NAMES = ("one", "two", "three")
#: Schedules a task, and waits for its end.
ADD = (COMMANDS / "gowork", "add", "--wait")
PROGRAM = Path(__file__).with_name("balanced_client.py")


@dataclass
class Balanced:
    """The leaders by name, and where NGINX listens, HOST:PORT."""

    leaders: dict[str, RunningLeader]
    cluster: str
    scheduler: str
    #: Where callers are that reach NGINX alone; None: this machine has no such place, and they reach the leaders, too.
    place: Place | None

    def start(self, *command: str | Path, folder: Path) -> subprocess.Popen[str]:
        """Starts a command where NGINX alone is reached. Its standard error goes to a file."""
        program = Path(command[0])
        with (folder / f"{program.stem}.log").open("a") as log:
            return subprocess.Popen(
                [*(self.place.prefix if self.place else ()), *map(str, command)],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def gowork(self, *arguments: str) -> str:
        """Runs the command line there, and returns what it prints."""
        prefix = self.place.prefix if self.place else ()
        command = [*prefix, str(COMMANDS / "gowork"), "--leader", self.scheduler, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def leading(self) -> str:
        """Waits until one leads, and returns its name."""
        while True:
            for leader in json.loads(self.gowork("leaders", "-o", "json"))["leaders"]:
                if leader["leads"]:
                    return str(leader["name"])


@pytest.fixture
def balanced(tmp_path: Path) -> Iterator[Balanced]:
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdCluster(tmp_path))
        place = stack.enter_context(elsewhere())
        listen = ["0.0.0.0:0"] * 2 + ["127.0.0.1:0"] if place else ["127.0.0.1:0"] * 3
        more = ["--insecure", f"--advertise={place.lost if place else ''}"]
        leaders = stack.enter_context(
            sharing_leaders(tmp_path, etcd.url("gowork"), NAMES, *listen, more=lambda name: more)
        )
        host = place.reached if place else "127.0.0.1"
        cluster, scheduler = (f"{host}:{port}" for port in own_ports(2))
        moved = {"50051": cluster, "50052": scheduler}
        for number, leader in enumerate(leaders.values(), 1):
            for old, address in ((50051, leader.cluster), (50052, leader.scheduler)):
                moved[f"10.0.0.{number}:{old}"] = f"127.0.0.1:{address.rpartition(':')[2]}"
        (tmp_path / "nginx").mkdir()
        stack.enter_context(balancing(tmp_path / "nginx", moved))
        yield Balanced(leaders, cluster, scheduler, place)


def test_nobody_behind_the_balancer_notices_that_the_leader_dies(balanced: Balanced, tmp_path: Path) -> None:
    options = ("--leader", balanced.cluster, "--runners=1", "--slots=8", "--print-ready")
    worker = balanced.start(COMMANDS / "gowork-worker", *options, folder=tmp_path)
    first_line(worker, tmp_path / "gowork-worker.log")
    program = balanced.start(sys.executable, PROGRAM, balanced.scheduler, folder=tmp_path)
    assert program.stdin is not None
    assert program.stdout is not None
    log = tmp_path / f"{Path(sys.executable).stem}.log"
    with stopped_cleanly(worker):
        try:
            first_line(program, log)
            first = balanced.leading()
            kill(balanced.leaders[first].process)
            program.stdin.write("\n")
            program.stdin.flush()
            first_line(program, log)
            assert "done" in balanced.gowork("add", "--wait", "done")
            assert balanced.leading() != first
            told, _ = program.communicate(timeout=240)
        finally:
            kill(program)
    assert program.returncode == 0, log.read_text()
    seen = json.loads(told.splitlines()[-1])
    assert len(seen["results"]) > 40
    assert seen["attempts"].keys() == seen["results"].keys()
    for outcomes in seen["attempts"].values():
        # A grant that did not reach the worker before its leader died is on record, and was not run.
        assert outcomes == ["INTERRUPTED"] * (len(outcomes) - 1) + ["COMPLETED"]
    for watched in seen["watched"]:
        for statuses in watched.values():
            assert statuses[-1] == "COMPLETED"
    assert len(seen["cancelled"]) > 2


@pytest.mark.longer
def test_commands_and_tasks_go_on_behind_the_balancer_when_the_leader_is_stopped(
    balanced: Balanced, tmp_path: Path
) -> None:
    options = ("--leader", balanced.cluster, "--runners=1", "--slots=8", "--print-ready")
    worker = balanced.start(COMMANDS / "gowork-worker", *options, folder=tmp_path)
    first_line(worker, tmp_path / "gowork-worker.log")
    with stopped_cleanly(worker):
        first = balanced.leading()
        former = balanced.leaders[first].process
        former.send_signal(signal.SIGSTOP)
        try:
            # Connections to a stopped process succeed, and nothing comes back. Each command is a caller of its own, so
            # that NGINX chooses anew.
            commands = [balanced.start(*ADD, "--leader", balanced.scheduler, "p", folder=tmp_path) for _ in range(4)]
            for command in commands:
                told, _ = command.communicate(timeout=120)
                assert command.returncode == 0, (tmp_path / "gowork.log").read_text()
                assert told
            assert balanced.leading() != first
        finally:
            former.send_signal(signal.SIGCONT)


@pytest.mark.longer
def test_sessions_behind_the_balancer_leave_a_leader_that_is_stopped(balanced: Balanced, tmp_path: Path) -> None:
    if balanced.place is None:
        pytest.skip("workers on this machine reach the leaders, and leave the balancer")
    with ExitStack() as stack:
        logs = []
        # NGINX chooses the leaders in turn, so that each has a session.
        for name in NAMES:
            folder = tmp_path / f"worker-{name}"
            folder.mkdir()
            options = ("--leader", balanced.cluster, "--runners=1", "--print-ready", f"--name={name}")
            worker = balanced.start(COMMANDS / "gowork-worker", *options, folder=folder)
            stack.enter_context(stopped_cleanly(worker))
            logs.append(folder / "gowork-worker.log")
            first_line(worker, logs[-1])
        former = balanced.leaders[balanced.leading()].process
        former.send_signal(signal.SIGSTOP)
        stack.callback(former.send_signal, signal.SIGCONT)
        while not all(log.read_text().count("session open") >= 2 for log in logs):
            # A leader that is stopped must not be chosen again and again, for having the fewest connections.
            time.sleep(0.05)
