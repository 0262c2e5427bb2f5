"""Has a real systemd run the units of deploy/systemd, in a container of systemd-nspawn with a network of its own.

The units are those that ship. Around them are a folder of state and a user as the units of 0.2.0 left them, and files
that shorten how long systemd waits.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
UNITS = ("gowork-leader", "gowork-worker")
SETTINGS = {"cluster.env": "LEADERS=127.0.0.1:50051\n", "machine.env": "MACHINE_NAME=a\nMACHINE_ADDRESS=127.0.0.1\n"}
#: What systemd says of itself when it has started everything; in a container not everything may work.
STATES = ("running", "degraded")
BOOT = ["--boot", "--console=pipe"]
PATIENCE = 60.0


class Machine:
    """A Debian that systemd has started.

    Args:
        root: its files.
        log: takes what it writes to its console.
    """

    def __init__(self, root: Path, log: Path) -> None:
        self._log = log
        with log.open("w") as console:
            self._process = subprocess.Popen(
                [
                    "systemd-nspawn",
                    f"--directory={root}",
                    "--register=no",
                    "--keep-unit",
                    "--private-network",
                    "--boot",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def run(self, *words: str, code: int = 0) -> str:
        """Runs a command in it, which must end with this code. Returns what it prints."""
        done = self._run(*words)
        assert done.returncode == code, f"{words}: {done.stdout}"
        return done.stdout.strip()

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        (first,) = psutil.Process(self._process.pid).children()
        inside = ["nsenter", f"--target={first.pid}", "--all", *words]
        return subprocess.run(
            inside,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE,
        )

    def boot(self) -> None:
        """Waits until systemd answers."""

        def answers() -> bool:
            inside = psutil.Process(self._process.pid).children()
            return bool(inside) and self._run("systemctl", "is-system-running").stdout.strip() in (
                "running",
                "degraded",
            )

        until(answers, self._log.read_text)

    def shown(self, unit: str, name: str) -> str:
        """What systemd knows of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit)

    def override(self, unit: str, **settings: str) -> None:
        """Replaces settings of a unit, as `systemctl edit` does."""
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        folder = f"/etc/systemd/system/{unit}.service.d"
        self.run("sh", "-c", f"mkdir -p {folder} && printf '[Service]\n%s' '{text}' > {folder}/override.conf")
        self.run("systemctl", "daemon-reload")

    def end(self) -> None:
        """Ends it at once."""
        for inside in psutil.Process(self._process.pid).children() if self._process.poll() is None else []:
            inside.kill()
        self._process.kill()
        self._process.wait()


def until(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    """Waits for a condition."""
    ends_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends_at, told()
        time.sleep(0.1)


@contextmanager
def machine(root: Path, programs: list[Path], log: Path) -> Iterator[Machine]:
    """A machine with the units and gowork in /opt/gowork, as docs/high-availability.md sets it up."""
    for folder in programs:
        subprocess.run(["cp", "--archive", folder, root / "opt"], check=True)
    for unit in UNITS:
        shutil.copy(ROOT / f"deploy/systemd/{unit}.service", root / "etc/systemd/system")
    (root / "etc/gowork").mkdir()
    for name, text in SETTINGS.items():
        (root / "etc/gowork" / name).write_text(text)
    subprocess.run(["chroot", root, "useradd", "--system", "gowork"], check=True)
    former = ["install", "-d", "-o", "gowork", "-m", "0700", "/var/lib/gowork", "/var/lib/gowork-worker"]
    subprocess.run(["chroot", root, *former], check=True)
    (root / "var/lib/gowork-worker/kept.txt").write_text("kept\n")
    running = Machine(root, log)
    try:
        running.boot()
        yield running
    finally:
        running.end()


def check_units(root: Path, programs: list[Path], log: Path) -> None:
    """Starts, asks, stalls and stops a leader and a worker by systemd.

    Args:
        root: a Debian with systemd, which is changed.
        programs: folders whose files make /opt/gowork.
        log: takes the console.
    """
    with machine(root, programs, log) as booted:
        booted.run("systemctl", "start", "gowork-leader")
        # It has returned, so the leader is ready.
        assert booted.run("/opt/gowork/bin/gowork-leader", "--check") == "ready"
        assert booted.shown("gowork-leader", "StatusText") == "ready"
        assert booted.run("readlink", "/var/lib/gowork") == "private/gowork"
        booted.run("systemctl", "start", "gowork-worker")
        assert booted.run("/opt/gowork/bin/gowork-worker", "--check") == "ok"
        tries = (
            "id -u; cat kept.txt; touch /opt/x 2>/dev/null || echo read-only; ls /var/lib/private/gowork || echo hidden"
        )
        command = json.dumps({"command": ["sh", "-c", tries]})
        said = booted.run("/opt/gowork/bin/gowork", "add", "--handler=shell", "--wait", command)
        # The id of the task is printed, too.
        (result,) = [line for line in said.splitlines() if line.startswith("{")]
        number, *rest = json.loads(result)["stdout"].split()
        assert (int(number) >= 61184, rest) == (True, ["kept", "read-only", "hidden"]), said
        print("units start, are ready when systemctl returns, keep the folders of old units, and do tasks")
        # Its loop does not turn any more.
        booted.override("gowork-leader", WatchdogSec="2")
        booted.run("systemctl", "restart", "gowork-leader")
        booted.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "gowork-leader")
        until(lambda: booted.shown("gowork-leader", "NRestarts") == "1", log.read_text)
        until(lambda: booted.shown("gowork-leader", "StatusText") == "ready", log.read_text)
        assert "Watchdog timeout" in booted.run("journalctl", "--unit=gowork-leader", "--no-pager")
        print("systemd restarts a leader that does not answer")
        # It waits for its log for longer than a start may take.
        booted.override("gowork-leader", TimeoutStartSec="1", Environment="GOWORK_LOG=etcd://127.0.0.1:1/gowork")
        booted.run("systemctl", "restart", "--no-block", "gowork-leader")
        until(lambda: "log can't be reached" in booted.shown("gowork-leader", "StatusText"), log.read_text)
        before = booted.shown("gowork-leader", "MainPID")
        time.sleep(4)
        assert booted.shown("gowork-leader", "ActiveState") == "activating"
        assert booted.shown("gowork-leader", "MainPID") == before
        assert "log can't be reached" in booted.run("/opt/gowork/bin/gowork-leader", "--check", code=1)
        for unit in ("gowork-worker", "gowork-leader"):
            booted.run("systemctl", "stop", unit)
            assert booted.shown(unit, "Result") == "success"
        print("a leader that waits for its log is left alone, and both stop in order")
        # As docs/high-availability.md has a command write to a store, and as somebody goes back to the old units.
        own = ["-p", "User=gowork", "-p", "DynamicUser=yes", "-p", "StateDirectory=gowork"]
        show = ["/opt/gowork/bin/gowork", "store", "show", "/var/lib/gowork/gowork.db"]
        booted.run("systemd-run", "--quiet", "--pipe", "--wait", *own, *show)
        booted.override("gowork-worker", User="gowork", DynamicUser="no", Type="exec")
        booted.run("systemctl", "start", "gowork-worker")
        assert booted.run("stat", "--format=%U %F", "/var/lib/gowork-worker") == "gowork directory"
        assert booted.run("stat", "--format=%U", "/var/lib/gowork-worker/kept.txt") == "gowork"
        booted.run("systemctl", "stop", "gowork-worker")
        print("the old units get their folders back")
