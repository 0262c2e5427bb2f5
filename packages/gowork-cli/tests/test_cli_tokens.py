"""`gowork tokens`, and how the command line shows a token."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gowork.cli.root import cli


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_a_new_token_is_secret_and_its_hash_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "web.token"
    told = run("tokens", "new", path)
    assert told.exit_code == 0, told.output
    token = path.read_text().strip()
    assert len(token) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert told.output == f"sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"
    assert run("tokens", "hash", path).output == told.output
    again = run("tokens", "new", path)
    assert (again.exit_code, "is there already" in again.output) == (2, True), again.output
    assert path.read_text().strip() == token


@pytest.mark.parametrize("text", [b"", b"two words", b"\xff", b"x" * 5000])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(text)
    for told in (run("tokens", "hash", path), run(f"--token-file={path}", "members")):
        assert (told.exit_code, "has no token" in told.output) == (2, True), told.output


def test_a_token_does_not_go_to_other_machines_in_plain_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("tokens", "new", tmp_path / "t")
    monkeypatch.setenv("GOWORK_TOKEN_FILE", str(tmp_path / "t"))
    told = run("--leader=192.0.2.1:1", "members")
    assert (told.exit_code, "the token would go to 192.0.2.1:1 in plain text" in told.output) == (2, True), told.output
