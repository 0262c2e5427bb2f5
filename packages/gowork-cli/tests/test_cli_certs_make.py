"""`gowork certs init` and `gowork certs make`: the files that they write, and what is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from gowork.base.certificates import read_authorities, read_pair
from gowork.base.issuing import Role
from gowork.cli.root import cli

#: A folder of the kernel's. Nobody may make anything in it.
KERNELS = Path("/sys")


def certs(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["certs", *map(str, arguments)])


def made(*arguments: object) -> dict[str, Any]:
    told = certs(*arguments, "-o", "json")
    assert told.exit_code == 0, told.output
    record: dict[str, Any] = json.loads(told.stdout)
    return record


def refused(*arguments: object, code: int = 1) -> str:
    told = certs(*arguments)
    assert told.exit_code == code, told.output
    # Wrong usage is preceded by how to use it.
    line: str = told.stderr.splitlines()[-1]
    assert len(told.stderr.splitlines()) == (1 if code == 1 else 4), told.stderr
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    made("init", folder)
    return folder


def test_an_authority_and_its_certificates_are_files_that_processes_take(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    old = os.umask(0)
    try:
        authority = made("init", folder)
        record = made("make", folder, "leader,admin", "leader 1", "--host=10.0.0.5", "--host=l.example", "--days=7")
    finally:
        os.umask(old)
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert files == {"ca.pem": 0o644, "ca-key.pem": 0o600, "leader%201.pem": 0o644, "leader%201-key.pem": 0o600}
    assert (authority["cert_file"], authority["key_file"]) == (str(folder / "ca.pem"), str(folder / "ca-key.pem"))
    read_authorities(folder / "ca.pem")
    pair = read_pair(Path(record["cert_file"]), Path(record["key_file"]))
    assert record["names"] == list(pair.names) == ["l.example", "10.0.0.5"]
    assert record["valid_until"] == pair.expires.isoformat()
    assert record["uris"] == ["gowork://leader/leader%201", "gowork://admin/leader%201"]
    assert (record["roles"], record["name"], record["issuer"]) == (["leader", "admin"], "leader 1", authority["issuer"])
    assert record["valid_from"] < record["valid_until"] < authority["valid_until"]


def test_people_see_what_to_give_to_whom(tmp_path: Path) -> None:
    folder = tmp_path / "my certs"
    told = certs("init", folder)
    assert f"Keep {folder}/ca-key.pem to yourself" in told.output
    told = certs("make", folder, "leader", "one")
    assert f"--tls-client-ca '{folder}/ca.pem' --tls-cert '{folder}/one.pem' --tls-key" in told.output
    assert "localhost, 127.0.0.1, ::1" in told.output
    assert f"--tls-ca '{folder}/ca.pem'" in certs("make", folder, "client", "web").output


@pytest.mark.parametrize("role", Role)
def test_each_role_can_be_had(folder: Path, role: Role) -> None:
    assert made("make", folder, role, "n")["uris"] == [f"gowork://{role}/n"]


def test_a_certificate_that_ends_with_its_authority_is_made_with_a_remark(tmp_path: Path) -> None:
    end = made("init", tmp_path, "--days=2")["valid_until"]
    told = certs("make", tmp_path, "client", "web", "-o", "json")
    assert json.loads(told.stdout)["valid_until"] == end
    assert told.stderr.startswith("gowork: it ends with its authority, at 20")
    assert certs("make", tmp_path, "client", "short", "--days=1").stderr == ""


def test_nothing_is_written_over_without_force(folder: Path) -> None:
    made("make", folder, "client", "web")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "ca.pem is there already; give another folder, or --force" in refused("init", folder)
    assert "web.pem is there already; give another name, or --force" in refused("make", folder, "worker", "web")
    (folder / "half-key.pem").write_bytes(b"somebody's")
    assert "half-key.pem is there already" in refused("make", folder, "client", "half")
    (folder / "half-key.pem").unlink()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    record = made("make", folder, "worker", "web", "--force")
    read_pair(Path(record["cert_file"]), Path(record["key_file"]))
    assert (folder / "web.pem").read_bytes() != before["web.pem"]
    made("init", folder, "--force")
    new = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    assert x509.load_pem_x509_certificate(before["ca.pem"]).subject != new.subject


def test_a_key_that_is_replaced_is_secret_however_the_old_one_was(folder: Path) -> None:
    made("make", folder, "client", "web")
    key = folder / "web-key.pem"
    key.chmod(0o644)
    made("make", folder, "client", "web", "--force")
    assert key.stat().st_mode & 0o777 == 0o640
    key.unlink()
    made("make", folder, "client", "web", "--force")
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["ca", "CA", "ca-key", "web-key"])
def test_a_name_whose_files_would_be_others_is_refused(folder: Path, name: str) -> None:
    before = sorted(os.listdir(folder))
    assert "is what the files of the authority" in refused("make", folder, "client", name, "--force", code=2)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["web", "client"], "'web' is none of client, worker, admin, read-only, leader, proxy"),
        (["readonly", "n"], "did you mean 'read-only'?"),
        (["client,", "n"], "'' is none of client"),
        (["client", "../n\n"], "can't be seen"),
        (["client", "n", "--host=a"], "hosts are for leaders, proxies and callback workers"),
        (["leader", "n", "--host=a:50051"], "no host name and no IP address; give it without a port"),
        (["client", "n", "--days=398"], "398 is not in the range 1<=x<=397"),
        (["client", "n", "--days=0"], "0 is not in the range 1<=x<=397"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, arguments: list[str], words: str) -> None:
    assert words in refused("make", folder, *arguments, code=2)


def test_a_name_leads_to_no_other_folder(folder: Path) -> None:
    assert Path(made("make", folder, "client", "../../n")["cert_file"]) == folder / "..%2F..%2Fn.pem"


def test_without_an_authority_the_command_that_makes_one_is_named(tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "an empty one"
    assert refused("make", empty, "client", "n").endswith(f"`gowork certs init '{empty}'` makes one")
    empty.mkdir()
    assert refused("make", empty, "client", "n").endswith(f"`gowork certs init '{empty}'` makes one")
    (folder / "ca-key.pem").unlink()
    assert "ca-key.pem can't be read: No such file" in refused("make", folder, "client", "n")


def test_a_key_of_another_authority_is_refused(tmp_path: Path, folder: Path) -> None:
    made("init", tmp_path / "other")
    os.replace(tmp_path / "other" / "ca-key.pem", folder / "ca-key.pem")
    assert "ca-key.pem is the key of another authority than" in refused("make", folder, "client", "n")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert refused("init", file) == f"gowork: can't make the folder {file}: it is a file"
    assert refused("init", file / "in it").endswith("Not a directory")
    assert f"{file} is no folder" in refused("make", file, "client", "n")


@pytest.mark.skipif(not KERNELS.is_dir(), reason="Linux alone has /sys")
def test_where_nobody_may_write_is_said_in_a_line() -> None:
    assert refused("init", KERNELS / "certs").startswith(f"gowork: can't make the folder {KERNELS / 'certs'}: ")
    assert refused("init", KERNELS).startswith(f"gowork: can't write into {KERNELS}: ")


def test_without_room_nothing_is_left(tmp_path: Path) -> None:
    # The process limits itself: gRPC, which runs in this one, does not survive a fork that runs Python.
    program = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "runpy.run_module('gowork', run_name='__main__')"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, "certs", "init", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (told.returncode, told.stderr) == (1, f"gowork: can't write into {tmp_path}: File too large\n")
    assert os.listdir(tmp_path) == []
