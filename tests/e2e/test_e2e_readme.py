"""Runs README's commands, taken from README, so that they stay true.

The blocks of a section run in one shell, in a network namespace of their own, where the default ports are always free.
Without namespaces one section runs at a time, and only while the default ports are free.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters import COMMANDS

ROOT = Path(__file__).parents[2]
#: {command that runs until it is stopped: a command that succeeds as soon as it serves}.
SERVERS = {
    "gowork up": "gowork members --output jsonl | grep -q LIVE",
    "gowork-leader": "grpcurl -plaintext :50051 list && grpcurl -plaintext :50052 list",
}
DEFAULT_PORTS = (50051, 50052, 9464, 9465, 9090)
#: How long a section's shell may take, in seconds.
SECTION_SECONDS = 100


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    section: str
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    found, section = [], ""
    parts = re.compile(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for title, language, text in parts.findall(path.read_text()):
        section = title or section
        if not title:
            found.append(Block(section, language, text))
    return found


def commands(text: str) -> list[str]:
    """The commands of a block, one a line; a backslash at the end of a line joins it to the next."""
    return text.replace("\\\n", "").strip().splitlines()


def namespace() -> list[str]:
    """The command that runs another in a network namespace of its own; empty if this machine allows none."""
    if shutil.which("unshare") and shutil.which("ip"):
        for command in (["unshare", "-n"], ["unshare", "-rn"]):
            if subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0:
                return command
    return []


@contextmanager
def default_ports() -> Iterator[list[str]]:
    """Makes the default ports free for one section, and yields the words with which its command must begin."""
    if command := namespace():
        yield [*command, "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
        return
    with (Path(tempfile.gettempdir()) / "gowork-readme.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for port in DEFAULT_PORTS:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    pytest.skip(f"port {port} is in use, and there are no network namespaces here")
        yield []


def script(section: str, folder: Path) -> str:
    """The section as a shell script; writes the Python files of the introduction and of the section to the folder."""
    lines = ["set -ex"]
    for block in blocks(ROOT / "README.md"):
        if block.section not in ("", section):
            continue
        if block.language == "python":
            (folder / block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
            continue
        for command in commands(block.text) if block.language == "sh" else ():
            server = next((name for name in SERVERS if command.split(" -")[0] == name), None)
            if server:
                ready = f"until {SERVERS[server]}; do kill -0 $server; done >&2"
                lines += [f"{command} & server=$!", "trap 'kill $server' EXIT", ready]
            elif "pip install" not in command:
                lines.append(command)
    return "\n".join([*lines, "trap - EXIT", "kill $server", "wait $server", ""])


def run_section(section: str, folder: Path) -> str:
    """Runs a section, and returns what it printed."""
    return run(script(section, folder), folder)


def run(text: str, folder: Path, seconds: float = SECTION_SECONDS) -> str:
    """Runs a shell script where the default ports are free, for at most so long, and returns what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOWORK_", "XDG_"))}
    environment |= {"HOME": str(folder), "PATH": f"{COMMANDS}:{os.environ['PATH']}", "COLUMNS": "200"}
    with default_ports() as prefix:
        process = subprocess.Popen(
            [*prefix, "bash", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def test_the_first_ten_minutes_go_as_written(tmp_path: Path) -> None:
    out = run_section("The first ten minutes", tmp_path)
    for name in ("Ada", "Grace", "Edsger"):
        assert f"Hello, {name}, from" in out
    assert "greeting-1" in out


@pytest.mark.tool("grpcurl")
def test_nothing_but_grpc_goes_as_written(tmp_path: Path) -> None:
    out = run_section("With nothing but gRPC", tmp_path)
    assert "// Join adds a callback worker" in out
    assert "// ScheduleTask adds one task." in out
    assert out.count("{}") == 4, "Members, GetTasks, ScheduleTask and CancelTask answer nothing"


@pytest.mark.longer
@pytest.mark.tool("prometheus")
def test_prometheus_sees_leader_and_worker_as_written(tmp_path: Path) -> None:
    (command,) = [
        command
        for block in blocks(ROOT / "README.md")
        if block.section == "Watch it" and block.language == "sh"
        for command in commands(block.text)
    ]
    assert "deploy/prometheus" in command
    command = command.replace("/tmp/gowork-prometheus", str(tmp_path / "prometheus"))
    url = "http://127.0.0.1:9090/api/v1/query?query=gowork_members%7Bstate=%22live%22%7D%20and%20on()%20gowork_worker_slots"
    look = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
    run(
        f"""set -e
        gowork up & up=$!
        until {SERVERS["gowork up"]}; do kill -0 $up; done
        cd {ROOT}
        {command} 2>{tmp_path}/log & prometheus=$!
        trap 'kill $up $prometheus' EXIT
        until {sys.executable} -c "{look}" 2>/dev/null | grep -q '"1"'; do kill -0 $prometheus; done
        """,
        tmp_path,
    )


def test_the_introduction_shows_a_handler_and_a_client_in_ten_lines() -> None:
    shown = [block for block in blocks(ROOT / "README.md") if not block.section and block.language == "python"]
    assert [block.text.splitlines()[0] for block in shown] == ["# hello.py", "# schedule.py"]
    assert sum(1 for block in shown for line in block.text.splitlines()[1:] if line) <= 10


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_session_that_is_named_exists(page: str) -> None:
    listed = subprocess.run([sys.executable, "-m", "nox", "-l"], cwd=ROOT, capture_output=True, text=True, check=True)
    sessions = set(re.findall(r"^[*-] (\w+)", listed.stdout, re.MULTILINE))
    named = set(re.findall(r"nox -s (\w+)", (ROOT / page).read_text()))
    assert named
    assert named <= sessions


def test_the_install_command_names_every_package() -> None:
    (install,) = [
        command
        for block in blocks(ROOT / "README.md")
        for command in commands(block.text)
        if "pip install" in command and "nox" not in command
    ]
    named = set(re.findall(r"\./((?:packages|plugins)/[a-z-]+)", install))
    assert named == {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("p*/*/pyproject.toml")}


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("p*/*/README.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")]


@pytest.mark.parametrize("page", sorted({*PAGES}), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
