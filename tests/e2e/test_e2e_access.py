"""Roles and tokens between real processes: who works, who is refused, and what the leader says of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clusters import COMMANDS, RunningLeader, misused, start, start_leader, start_worker, stopped_cleanly
from test_e2e_tls import waited_for

from gowork.client import Client, PermissionDenied
from gowork.client import TlsFiles as Files

PATIENCE = 60.0


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMANDS / "gowork"), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def token(folder: Path, name: str) -> str:
    """Makes a token, and returns its hash."""
    told = command("tokens", "new", str(folder / name))
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


@contextmanager
def guarded(folder: Path) -> Iterator[RunningLeader]:
    access = folder / "access.toml"
    access.write_text(
        "".join(
            f'[[identity]]\nname = "{name}"\nroles = ["{role}"]\ntokens = ["{token(folder, name)}"]\n{more}\n'
            for name, role, more in (
                ("web", "client", 'handlers = ["echo"]'),
                ("w", "worker", ""),
                ("ops", "admin", ""),
            )
        )
    )
    leader = start_leader(folder, more=[f"--access={access}"])
    with stopped_cleanly(leader.process):
        yield leader


def test_who_has_a_token_does_what_its_role_may(tmp_path: Path) -> None:
    with guarded(tmp_path) as leader:
        options = ("--name=w", "--runners=1", "--slots=2", f"--token-file={tmp_path}/w")
        with (
            stopped_cleanly(start_worker(tmp_path, leader, *options)),
            Client(leader.scheduler, tls=Files(token=tmp_path / "web")) as client,
        ):
            assert client.schedule("x", handler="echo").result(timeout=PATIENCE)["payload"] == "x"
            with pytest.raises(PermissionDenied, match="client web may not have to do with tasks of queue"):
                client.schedule("x", handler="shell")
            asked = ("--leader", leader.scheduler)
            told = command(*asked, "drain", "w", GOWORK_TOKEN_FILE=str(tmp_path / "web"))
            assert (told.returncode, "client web may not call Drain" in told.stderr) == (1, True), told.stderr
            told = command(*asked, "members")
            assert (told.returncode, "show a certificate, or a token" in told.stderr) == (1, True), told.stderr
            told = command(*asked, "members", "--output=json", "--token-file", str(tmp_path / "ops"))
            assert json.loads(told.stdout)
            # The worker's identity is revoked: its session ends, and it says why.
            access = tmp_path / "access.toml"
            access.write_text('revoked = ["w"]\n' + access.read_text())
            assert "'w' is revoked" in waited_for(tmp_path / "gowork-worker.log", "is revoked")
        assert "client web may not call Drain" in (tmp_path / "gowork-leader.log").read_text()


@pytest.mark.longer
def test_a_token_is_replaced_while_clients_run(tmp_path: Path) -> None:
    live, access = tmp_path / "live", tmp_path / "access.toml"
    line = '[[identity]]\nname = "web"\nroles = ["client"]\ntokens = ["%s"]\n'
    old, new = token(tmp_path, "old"), token(tmp_path, "new")
    live.write_bytes((tmp_path / "old").read_bytes())
    access.write_text(line % old)
    leader = start_leader(tmp_path, more=[f"--access={access}"])
    with stopped_cleanly(leader.process), Client(leader.scheduler, tls=Files(token=live)) as client:
        client.stats()
        live.write_bytes((tmp_path / "new").read_bytes())
        (tmp_path / "next").write_text(line % new)
        (tmp_path / "next").replace(access)
        waited_for(tmp_path / "gowork-leader.log", "new access file is used")
        refused = 0
        until = time.monotonic() + PATIENCE
        while True:
            try:
                client.stats()
                break
            except PermissionDenied:
                # It looks at its files every five seconds.
                refused += 1
                assert time.monotonic() < until, refused


def test_a_worker_that_would_send_its_token_in_plain_text_says_so_in_a_line(tmp_path: Path) -> None:
    token(tmp_path, "t")
    told = misused("gowork-worker", "--leader=192.0.2.1:1", f"--token-file={tmp_path}/t", folder=tmp_path)
    assert "the token would go to 192.0.2.1:1 in plain text" in told


def test_a_worker_without_an_identity_says_why_it_has_no_session(tmp_path: Path) -> None:
    with guarded(tmp_path) as leader:
        process = start("gowork-worker", "--leader", leader.cluster, "--runners=1", folder=tmp_path)
        with stopped_cleanly(process):
            line = waited_for(tmp_path / "gowork-worker.log", "no session, trying again")
            assert "show a certificate, or a token" in line


def test_a_callback_worker_that_others_reach_asks_who_calls(tmp_path: Path) -> None:
    told = misused("gowork-worker", "--listen=0.0.0.0:0", folder=tmp_path)
    assert "whoever calls a callback worker has it run handlers" in told
