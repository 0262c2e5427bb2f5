"""`gowork certs check` at real servers."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from tls_authority import Authority

from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles
from gowork.cli.root import cli


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def serving(files: TlsFiles | None) -> tuple[grpc.Server, str]:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    if files is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", Tls(files).server_credentials())
    server.start()
    return server, f"127.0.0.1:{port}"


def test_what_is_shown_and_whether_calls_can_be_made(authority: Authority) -> None:
    server, address = serving(authority.server("leader", "127.0.0.1", "leader.example", role="leader"))
    try:
        told = CliRunner().invoke(cli, ["certs", "check", address, f"--tls-ca={authority.file}"])
        assert told.exit_code == 0, told.output
        assert "leader.example, 127.0.0.1" in told.output
        assert "calls can be made there" in told.output
        assert "leader of leader" in told.output
        told = CliRunner().invoke(cli, ["certs", "check", address, "-o", "json"])
        record = json.loads(told.output)
        assert told.exit_code == 1
        assert record["fault"].startswith("it takes TLS alone, and was called in plain text")
        assert record["names"] == ["leader.example", "127.0.0.1"]
        assert (record["name"], record["roles"]) == ("leader", ["leader"])
        assert record["valid_from"] < record["valid_until"]
    finally:
        server.stop(None).wait()


def test_plain_text_and_nobody_are_told_apart(authority: Authority) -> None:
    server, address = serving(None)
    try:
        told = CliRunner().invoke(cli, ["certs", "check", address])
        assert (told.exit_code, "takes plain text" in told.output) == (0, True), told.output
        told = CliRunner().invoke(cli, ["certs", "check", address, f"--tls-ca={authority.file}"])
        assert (told.exit_code, "takes plain text alone" in told.output) == (1, True), told.output
    finally:
        server.stop(None).wait()
    told = CliRunner().invoke(cli, ["certs", "check", address])
    assert (told.exit_code, "nobody listens there: Connection refused" in told.output) == (1, True), told.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nonsense"], "is not HOST:PORT"), (["127.0.0.1:1", "--tls-ca=/no/such"], "/no/such can't be read")],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], words: str) -> None:
    told = CliRunner().invoke(cli, ["certs", "check", *arguments])
    assert (told.exit_code, words in told.output) == (2, True), told.output
