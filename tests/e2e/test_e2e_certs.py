"""What `gowork certs` makes is used by real processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clusters import COMMANDS, RunningLeader, first_line, start, start_leader, stopped_cleanly
from test_e2e_tls import done

from gowork.base.tls_files import TlsFiles
from gowork.client import Client

#: The deadline of each command, in seconds.
PATIENCE = 60.0


def gowork(*arguments: str, leader: str = "") -> str:
    """Runs a command, which must succeed, and returns its output."""
    return subprocess.run(
        [str(COMMANDS / "gowork"), *arguments],
        env={**os.environ, "GOWORK_LEADER": leader},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    gowork("certs", "init", str(folder))
    return folder


def make(certs: Path, role: str, name: str, *more: str) -> TlsFiles:
    record: dict[str, Any] = json.loads(gowork("certs", "make", str(certs), role, name, *more, "--output=json"))
    return TlsFiles(certs / "ca.pem", record["cert_file"], record["key_file"])


def options(files: TlsFiles) -> list[str]:
    return [f"--tls-ca={files.ca}", f"--tls-cert={files.cert}", f"--tls-key={files.key}"]


def leading(folder: Path, certs: Path) -> RunningLeader:
    return start_leader(
        folder, more=[*options(make(certs, "leader", "leader-1")), f"--tls-client-ca={certs / 'ca.pem'}"]
    )


def test_leader_workers_and_clients_work_with_what_was_made(tmp_path: Path, certs: Path) -> None:
    leader = leading(tmp_path, certs)
    with stopped_cleanly(leader.process):
        files = make(certs, "client,admin", "ada")
        told = gowork(*options(files), "certs", "check", leader.cluster)
        assert "calls can be made there" in told
        told = gowork(*options(files), "members", "--output=json", leader=leader.scheduler)
        assert json.loads(told) == []
        called = ["--listen=127.0.0.1:0", f"--scheduler={leader.scheduler}", "--default-handler=echo"]
        for name, hosts, more in (("joins", [], []), ("is-called", ["--host=127.0.0.1"], called)):
            folder = tmp_path / name
            folder.mkdir()
            worker = options(make(certs, "worker", name, *hosts))
            place = f"--leader={leader.cluster}"
            process = start("gowork-worker", place, "--runners=1", "--print-ready", *worker, *more, folder=folder)
            with stopped_cleanly(process):
                first_line(process, folder / "gowork-worker.log")
                with Client(leader.scheduler, tls=files) as client:
                    # The original contract has no results.
                    if more:
                        assert client.schedule("p").result(timeout=PATIENCE) is None
                    else:
                        assert done(client, "p") == "p"
