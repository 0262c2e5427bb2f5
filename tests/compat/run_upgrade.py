"""Upgrades three leaders that share a log, one after the other, under load, puts them back, and upgrades them again.

The former packages are in a folder, which comes first on the module path, as in compat_versions.py. A worker of each
version runs tasks, and a client of each version schedules them and waits for them. One task runs all the time.

It fails if a call does, if a task has not completed, or if one ran twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from compat_versions import HERE, NEW, STOP_SECONDS, Version
from etcd_members import EtcdCluster
from own_ports import own_addresses

from gowork.client import Client
from gowork.leader.store._sqlite_lower import downgrade

NAMES = ("one", "two", "three")
#: How long anything may take, in seconds.
PATIENCE = 120.0


class Upgrade:
    """The leaders, each of a version that may change, and all else that runs."""

    def __init__(self, folder: Path, former: Version, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._url = stack.enter_context(EtcdCluster(folder)).url("gowork")
        self._leaders: dict[str, subprocess.Popen[str]] = {}
        #: {leader: {"cluster", "scheduler", "http": HOST:PORT}}
        self._listens: dict[str, Mapping[str, str]] = {}
        for name in NAMES:
            (folder / name).mkdir()
            self._listens[name] = dict(zip(("cluster", "scheduler", "http"), own_addresses(3), strict=True))
            self.start(name, former)
        self.client = stack.enter_context(Client(self._addresses("scheduler"), timeout=PATIENCE))
        self._loads: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str, version: Version) -> None:
        """Starts a leader of this version on its data directory, and waits until it listens."""
        listen = (f"--{port}-listen={address}" for port, address in self._listens[name].items())
        process = version.start(
            "gowork.leader", *listen, f"--name={name}", f"--log={self._url}", f"--data-dir={self._folder / name}",
            "--print-addresses", folder=self._folder, log=f"{name}.log",
        )  # fmt: skip
        self._leaders[name] = process
        self._stack.callback(_end, process)
        self._line(process, f"{name}.log")

    def replace(self, name: str, version: Version) -> None:
        """Stops a leader, starts it in this version, and waits until it is ready."""
        process = self._leaders[name]
        process.terminate()
        code = process.wait(STOP_SECONDS)
        assert code == 0, f"{name} ended with {code}: {self._told(name)}"
        if version is not NEW:
            downgrade(self._folder / name / "gowork.db")
        self.start(name, version)
        until = time.monotonic() + PATIENCE
        while not self._is_ready(name):
            assert self._leaders[name].poll() is None, f"{name} ended: {self._told(name)}"
            assert time.monotonic() < until, f"{name} is not ready: {self._told(name)}"
            # A probe is asked, because nobody tells.
            time.sleep(0.1)

    def _is_ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._listens[name]['http']}/readyz", timeout=10):
                return True
        except OSError:
            return False

    def change(self, version: Version) -> None:
        """Replaces all leaders, the one that leads last, and has both clients do rounds after each."""
        leading = self.client.leaders().leading
        assert leading is not None
        for name in sorted(NAMES, key=lambda name: name == leading.name):
            self.replace(name, version)
            self.rounds()
            leads = self.client.leaders().leading
            print(f"{name} is of the {version.name}; {leads and leads.name} leads", flush=True)

    def begin(self, version: Version, name: str) -> None:
        """Starts a worker and a client of this version."""
        options = ("--name", name, "--import", "upgrade_handlers", "--runners=1", "--slots=8", "--print-ready")
        worker = version.start(
            "gowork.worker", "--leader", self._addresses("cluster"), *options, folder=self._folder, log="worker.log"
        )
        self._stack.callback(_end, worker)
        self._line(worker, "worker.log")
        with (self._folder / "load.log").open("a") as log:
            self._loads[name] = subprocess.Popen(
                [sys.executable, str(HERE / "upgrade_load.py"), self._addresses("scheduler"), name],
                env={**os.environ, "PYTHONPATH": version.path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._stack.callback(_end, self._loads[name])

    def rounds(self) -> None:
        """Waits until each client has done a round from its beginning to its end."""
        for load in self._loads.values():
            assert load.stdin is not None
            load.stdin.write("\n")
            load.stdin.flush()
        for load in self._loads.values():
            self._line(load, "load.log")

    def finish(self) -> dict[str, list[str]]:
        """Ends the clients, and returns how the attempts of each task ended."""
        attempts: dict[str, list[str]] = {}
        for load in self._loads.values():
            told, _ = load.communicate(timeout=PATIENCE)
            assert load.returncode == 0, self._told("load")
            attempts |= json.loads(told.splitlines()[-1])
        return attempts

    def _addresses(self, port: str) -> str:
        return ",".join(self._listens[name][port] for name in NAMES)

    def _line(self, process: subprocess.Popen[str], log: str) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"it ended: {self._told(log.removesuffix('.log'))}"
        return line

    def _told(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-3000:]


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.communicate()


def check(folder: Path, attempts: Mapping[str, list[str]]) -> list[str]:
    """Returns what is wrong: tasks that did not complete, or did not run once."""
    wrong = []
    for id, outcomes in attempts.items():
        # A grant that did not reach the worker before its leader ended is on record, and was not run.
        if outcomes != ["INTERRUPTED"] * (len(outcomes) - 1) + ["COMPLETED"]:
            wrong.append(f"{id} has the attempts {outcomes}")
        ran = (folder / f"{id}.ran").read_text().splitlines()
        if len(ran) != 1:
            wrong.append(f"{id} ran {len(ran)} times")
    return wrong


def main() -> None:
    """Runs it; the exit code is 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the former packages are installed")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gowork-upgrade-")))
        former = Version("former version", str(arguments.folder))
        os.mkfifo(folder / "end")
        upgrade = Upgrade(folder, former, stack)
        upgrade.begin(former, "former")
        upgrade.begin(NEW, "present")
        runs = upgrade.client.schedule(None, handler="told", id="runs")
        upgrade.rounds()
        for version in (NEW, former, NEW):
            upgrade.change(version)
        (folder / "end").write_text("done")
        assert runs.result(timeout=PATIENCE) == "done"
        attempts = upgrade.finish()
        attempts["runs"] = [attempt.outcome.name for attempt in upgrade.client.get("runs").attempts]
        wrong = check(folder, attempts)
    print(f"{len(attempts)} tasks, {len(wrong)} of them wrong", *wrong, sep="\n", flush=True)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
