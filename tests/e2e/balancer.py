"""NGINX as deploy/nginx configures it, at other addresses; and a network where callers reach nothing else."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "deploy/nginx"
#: How long NGINX may take to listen, in seconds.
START_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """A network from which callers reach one address here, and no leader's."""

    #: The words with which a command that is to run there begins.
    prefix: Sequence[str]
    #: The address of this machine that is reached from there.
    reached: str
    #: An address of this machine that others here reach, and callers there do not: their packets are lost.
    lost: str


@contextmanager
def elsewhere() -> Iterator[Place | None]:
    """Yields a network of its own; None where this machine allows none."""
    holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    # Addresses of a link, which no network uses for anything else; others for each process, because tests run side by
    # side.
    net = f"169.254.{os.getpid() % 230 + 10}"
    link = f"gw{os.getpid()}"
    inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
    commands = [
        ["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)],
        ["ip", "address", "add", f"{net}.1/29", "dev", link],
        ["ip", "address", "add", f"{net}.17/32", "dev", link],
        ["ip", "link", "set", link, "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
        [*inside, "ip", "address", "add", f"{net}.2/29", "dev", "eth0"],
        [*inside, "ip", "link", "set", "eth0", "up"],
        # Nobody has this address, so that what goes there is lost.
        [*inside, "ip", "route", "add", f"{net}.17/32", "via", f"{net}.6"],
    ]
    try:
        here = Path("/proc/self/ns/net").stat().st_ino
        while holder.poll() is None and Path(f"/proc/{holder.pid}/ns/net").stat().st_ino == here:
            time.sleep(0.01)
        if shutil.which("ip") and all(subprocess.run(each, capture_output=True).returncode == 0 for each in commands):
            yield Place(inside, f"{net}.1", f"{net}.17")
        else:
            yield None
    finally:
        # It would end with the network, but some time after the last process in it, and the next one has its name.
        subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
        holder.kill()
        holder.communicate()


@contextmanager
def balancing(folder: Path, moved: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs NGINX from the shipped files, with some addresses replaced, and returns when it listens.

    Args:
        folder: an empty folder for its files.
        moved: {an address as the files have it: HOST:PORT}.
    """
    files = {path.name: path.read_text() for path in SHIPPED.glob("*.conf")}
    for old, new in moved.items():
        assert any(re.search(rf"\b{old}\b", text) for text in files.values()), old
        files = {name: re.sub(rf"(?<=\s){re.escape(old)}(?=[\s;])", new, text) for name, text in files.items()}
    main = files["nginx.conf"].replace("/run/nginx.pid", "nginx.pid").replace("/var/log/nginx/error.log", "error.log")
    (folder / "leaders.conf").write_text(files["leaders.conf"])
    # Debian's NGINX would keep temporary files where only root may write.
    temporary = "".join(f"{what}_temp_path {what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(main.replace("http {", "http { " + temporary, 1))
    root = "user root;" if os.geteuid() == 0 else ""
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", f"daemon off; {root}"]
    with (folder / "nginx.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for address in (new for old, new in moved.items() if ":" not in old):
            listens(process, address, folder / "nginx.log")
        yield process
    finally:
        process.terminate()
        process.wait()


def listens(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Waits until something listens at an address, as HOST:PORT."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
