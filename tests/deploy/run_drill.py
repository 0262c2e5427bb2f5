"""Kills each process of the shipped deployment once, under load: `python tests/deploy/run_drill.py`.

The units of deploy/systemd run on three machines, which are three addresses of a network of its own; so it needs the
right to make one. A stand-in for systemd starts what has ended again, as the units say. NGINX is before the leaders. A
program schedules, waits, watches and cancels through NGINX alone. Nothing that was acknowledged may be lost, no call
may fail, and nobody helps.

Then docs/high-availability.md is followed: most members of etcd are stopped and started, one that has lost its disk is
replaced, and all lose theirs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "e2e")]

from balancer import balancing  # noqa: E402 - the path must be there first
from machines import MACHINES, UNITS, command, environment, settings  # noqa: E402

from gowork.client import Client  # noqa: E402
from gowork.client.errors import CallError  # noqa: E402

COMMANDS = Path(sys.executable).parent
#: What tells this program that it runs in a network of its own.
INSIDE = "GOWORK_DRILL_INSIDE"
PATIENCE = 180.0
CLUSTER, SCHEDULER = "127.0.0.1:50051", "127.0.0.1:50052"
_LOOK_SECONDS = 0.1


class Service:
    """A unit on a machine. What ends is started again until it is stopped."""

    def __init__(self, unit: str, machine: str, folder: Path) -> None:
        self.name = f"{unit} on {machine}"
        self.address = MACHINES[machine]
        self.data = folder / machine
        self._log = folder / f"{unit}-{machine}.log"
        self._command = [self._moved(word) for word in command(unit, machine)]
        self.environment = {**os.environ, **environment(machine)}
        self._pause = float(settings(unit)["RestartSec"][0])
        self._number = signal.Signals[settings(unit).get("KillSignal", ["SIGTERM"])[0]]
        self._seconds = float(settings(unit)["TimeoutStopSec"][0])
        self.process = subprocess.Popen(["true"])
        self._stopped = threading.Event()
        self._thread = threading.Thread()
        (self.data / {"gowork-leader": "gowork"}.get(unit, unit)).mkdir(parents=True, mode=0o700)

    def start(self) -> None:
        """Begins to run it."""
        self._stopped.clear()
        self.process = self._begun()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops it as systemd does."""
        self._stopped.set()
        self.process.send_signal(self._number)
        self._thread.join(self._seconds)
        self.process.kill()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.process.wait()
            if self._stopped.wait(self._pause):
                return
            self.process = self._begun()

    def _begun(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, env=self.environment, stdout=log, stderr=log)

    def _moved(self, word: str) -> str:
        word = word.replace("/opt/gowork/bin", str(COMMANDS)).replace("/var/lib", str(self.data))
        if word.startswith("--leader="):
            return f"--leader={CLUSTER}"
        return "etcd" if word == "/usr/bin/etcd" else word


class Program:
    """What schedules, waits, watches and cancels meanwhile; see balanced_client.py."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "program.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE.parent / "e2e/balanced_client.py"), SCHEDULER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._heard()

    def turn(self) -> float:
        """Returns after how many seconds it has done everything again."""
        began = time.monotonic()
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._heard()
        return time.monotonic() - began

    def check(self) -> int:
        """Ends it, and returns how many tasks it has scheduled, all of which have completed."""
        out, _ = self._process.communicate(timeout=PATIENCE)
        if self._process.returncode:
            raise SystemExit(f"the program failed:\n{self._log.read_text()}")
        seen = json.loads(out.splitlines()[-1])
        lost = seen["results"].keys() ^ seen["attempts"].keys()
        odd = {id: outcomes for id, outcomes in seen["attempts"].items() if outcomes.count("COMPLETED") != 1}
        if lost or odd:
            raise SystemExit(f"lost: {sorted(lost)}; not completed once: {odd}")
        return len(seen["results"])

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()

    def _heard(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit(f"the program failed:\n{self._log.read_text()}")


class Deployment:
    """All that runs."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.services = {(unit, machine): Service(unit, machine, folder) for machine in MACHINES for unit in UNITS}
        for service in self.services.values():
            stack.callback(service.stop)
            service.start()
        self._nginx: ExitStack = stack.enter_context(ExitStack())
        self.balancer = self._balanced()
        self.well()

    def well(self) -> None:
        """Waits until every process does its work again."""
        for address in MACHINES.values():
            for probe in (f"{address}:2379/health", f"{address}:9464/readyz", f"{address}:9465/readyz"):
                until(partial(answers, f"http://{probe}"))

    def kill_balancer(self) -> None:
        """Kills NGINX as a whole, and starts it again, as systemd does when its main process ends."""
        left = psutil.Process(self.balancer.pid).children()
        # First, because it would start others in their place.
        self.balancer.kill()
        for process in left:
            process.kill()
        self._nginx.close()
        time.sleep(1.0)
        self.balancer = self._balanced()

    def _balanced(self) -> subprocess.Popen[bytes]:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        return self._nginx.enter_context(balancing(folder, {"50051": CLUSTER, "50052": SCHEDULER}))

    def victims(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Every process, by what it is called, with what kills it."""
        for (unit, _), service in self.services.items():
            yield service.name, partial(kill_main, service)
            if unit == "gowork-worker":
                for number in range(len(psutil.Process(service.process.pid).children())):
                    yield f"child {number + 1} of {service.name}", partial(kill_child, service, number)
        yield "a process of NGINX", self.kill_process_of_balancer
        yield "NGINX", self.kill_balancer

    def kill_process_of_balancer(self) -> None:
        """Kills a process of NGINX, which starts another one."""
        children(self.balancer.pid, 1)[0].kill()


def kill_main(service: Service) -> None:
    """Kills the process that runs now."""
    service.process.kill()


def kill_child(service: Service, number: int) -> None:
    """Kills a child of a worker."""
    children(service.process.pid, number + 1)[number].kill()


def children(pid: int, count: int) -> list[psutil.Process]:
    """Waits until a process has `count` children, and returns all that it has."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = psutil.Process(pid).children()
        return len(found) >= count

    until(look)
    return found


def answers(url: str) -> bool:
    """Whether a probe succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return b"false" not in answer.read()
    except OSError:
        return False


def until(what: Callable[[], object]) -> None:
    """Waits until something is so."""
    end = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > end:
            raise SystemExit("that took too long")
        time.sleep(_LOOK_SECONDS)


def etcdctl(*arguments: str) -> str:
    """Asks the members on the first two machines."""
    endpoints = ",".join(f"{address}:2379" for address in list(MACHINES.values())[:2])
    variables = {**os.environ, "ETCDCTL_API": "3"}
    done = subprocess.run(
        ["etcdctl", "--endpoints", endpoints, *arguments], capture_output=True, text=True, env=variables
    )
    if done.returncode:
        raise SystemExit(f"etcdctl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def lose_quorum(deployment: Deployment, program: Program) -> None:
    """Most members of etcd are stopped: nothing is accepted. They are started: all goes on."""
    members = [deployment.services["gowork-etcd", machine] for machine in ("a", "b")]
    for member in members:
        member.stop()
    with Client(SCHEDULER, timeout=8) as client:
        try:
            client.schedule("", id="without-quorum", handler="nobody-has-it")
        except CallError as error:
            print(f"without a quorum: {type(error).__name__}: {error}")
        else:
            raise SystemExit("a task was acknowledged without a quorum")
    for member in members:
        member.start()
    print(f"{program.turn():6.1f} s  most members of etcd stopped and started")


def replace_member(deployment: Deployment, program: Program) -> None:
    """A member of etcd has lost its disk."""
    member = deployment.services["gowork-etcd", "c"]
    member.stop()
    shutil.rmtree(member.data / "gowork-etcd")
    lines = etcdctl("member", "list").splitlines()
    (lost,) = [line.split(",")[0] for line in lines if MACHINES["c"] in line]
    etcdctl("member", "remove", lost)
    etcdctl("member", "add", "c", f"--peer-urls=http://{MACHINES['c']}:2380")
    member.environment["ETCD_INITIAL_CLUSTER_STATE"] = "existing"
    (member.data / "gowork-etcd").mkdir(mode=0o700)
    member.start()
    print(f"{program.turn():6.1f} s  a member of etcd that had lost its disk replaced")


def lose_log(deployment: Deployment) -> None:
    """All members of etcd have lost their disks, and the leaders' stores are all there is."""
    with Client(SCHEDULER, timeout=PATIENCE) as client:
        before = {task.id: task.status for task in client.tasks()}
    leaders = [deployment.services["gowork-leader", machine] for machine in MACHINES]
    members = [deployment.services["gowork-etcd", machine] for machine in MACHINES]
    for service in (*leaders, *members):
        service.stop()
    indexes = {}
    for leader in leaders:
        told = gowork("store", "show", "-o", "json", str(leader.data / "gowork/gowork.db"))
        indexes[leader] = json.loads(told)["log"]["index"]
    for member in members:
        shutil.rmtree(member.data / "gowork-etcd")
        (member.data / "gowork-etcd").mkdir(mode=0o700)
        member.environment.pop("ETCD_INITIAL_CLUSTER_STATE", None)
        member.start()
    furthest = max(leaders, key=lambda leader: indexes[leader])
    print(gowork("store", "detach", "--yes", str(furthest.data / "gowork/gowork.db")).strip())
    furthest.start()
    until(lambda: answers(f"http://{furthest.address}:9464/readyz"))
    for leader in leaders:
        if leader is not furthest:
            (leader.data / "gowork").rename(leader.data / "gowork.old")
            (leader.data / "gowork").mkdir(mode=0o700)
            leader.start()
    deployment.well()
    with Client(SCHEDULER, timeout=PATIENCE) as client:
        after = {task.id: task.status for task in client.tasks()}
        if after != before:
            raise SystemExit(f"lost with the log: {sorted(before.items() ^ after.items())}")
        client.schedule("after").result(timeout=PATIENCE)


def gowork(*arguments: str) -> str:
    """What a command says."""
    done = subprocess.run([str(COMMANDS / "gowork"), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"gowork {' '.join(arguments)}: {done.stderr}")
    return done.stdout


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for everything."""
    path = Path(tempfile.mkdtemp(prefix="gowork-drill-"))
    try:
        yield path
    except BaseException:
        print(f"logs are in {path}", file=sys.stderr)
        raise
    shutil.rmtree(path)


def drill() -> None:
    """Runs the drill, in a network of its own."""
    for words in (
        ["link", "set", "lo", "up"],
        *(["address", "add", f"{at}/32", "dev", "lo"] for at in MACHINES.values()),
    ):
        subprocess.run(["ip", *words], check=True)
    with folder() as path, ExitStack() as stack:
        os.environ["XDG_STATE_HOME"] = str(path)
        deployment = Deployment(path, stack)
        program = Program(path)
        stack.callback(program.kill)
        for name, kill in list(deployment.victims()):
            kill()
            print(f"{program.turn():6.1f} s  {name} killed", flush=True)
            deployment.well()
        lose_quorum(deployment, program)
        deployment.well()
        replace_member(deployment, program)
        deployment.well()
        print(f"{program.check()} tasks were acknowledged, and all completed")
        lose_log(deployment)
        print("all members of etcd lost, and nothing else")


def main(arguments: Sequence[str]) -> None:
    """Runs the drill where its addresses are free."""
    if os.environ.get(INSIDE):
        drill()
        return
    here = [sys.executable, *arguments]
    done = subprocess.run(["unshare", "-n", *here], env={**os.environ, INSIDE: "yes"})
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(sys.argv)
