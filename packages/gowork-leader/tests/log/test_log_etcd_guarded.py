"""An etcd that asks who calls: certificates for both sides, and users with passwords."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from etcd_members import EtcdCluster
from own_ports import own_ports

from gowork.leader.log import Candidate, LogRefusedError, LogUnreachableError
from gowork.leader.log._etcd.client import EtcdClient
from gowork.leader.log._etcd.endpoints import endpoints_of
from gowork.leader.log.conformance.kit import FIRST
from gowork.leader.log.etcd import LEASE_SECONDS, EtcdLog

pytestmark = pytest.mark.tool("etcd")

PATIENCE = 60.0
CANDIDATE = Candidate(FIRST.id, 0, 0, b"a leader")


class GuardedEtcd:
    """One member that takes only certificates of its authority, and knows the users root and gowork."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
        for name in ("server", "leader"):
            issued = self._authority.issue_cert("127.0.0.1")
            issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
            issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        client, peer = own_ports(2)
        self.address = f"127.0.0.1:{client}"
        self._command = [
            "etcd",
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls=https://{self.address}",
            f"--advertise-client-urls=https://{self.address}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--client-cert-auth",
            f"--trusted-ca-file={folder}/ca.pem",
            f"--cert-file={folder}/server.pem",
            f"--key-file={folder}/server.key",
            "--logger=zap",
            "--log-level=error",
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and does not wait for it."""
        with (self._folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        """Ends it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def etcdctl(self, *arguments: str) -> None:
        """Does what an operator does who has the leader's certificate."""
        files = [f"--cacert={self._folder}/ca.pem", f"--cert={self._folder}/leader.pem"]
        command = ["etcdctl", f"--endpoints=https://{self.address}", *files, f"--key={self._folder}/leader.key"]
        variables = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin:/usr/local/bin"}
        done = subprocess.run([*command, *arguments], env=variables, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr

    def log(self, **other: str) -> EtcdLog:
        """A log in it. `other` replaces variables of the environment."""
        files = {"CA": "ca.pem", "CERT": "leader.pem", "KEY": "leader.key"}
        variables = {f"GOWORK_ETCD_{name}": str(self._folder / file) for name, file in files.items()}
        variables |= {"GOWORK_ETCD_USER": "gowork", "GOWORK_ETCD_PASSWORD": "secret"}
        variables |= {f"GOWORK_ETCD_{name}": value for name, value in other.items()}
        endpoints = endpoints_of(f"etcd://{self.address}/guarded", variables)
        return EtcdLog(EtcdClient(endpoints), endpoints.prefix)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[GuardedEtcd]:
    etcd = GuardedEtcd(tmp_path)
    etcd.start()
    try:
        etcd.etcdctl("user", "add", "root:root")
        etcd.etcdctl("user", "grant-role", "root", "root")
        etcd.etcdctl("role", "add", "gowork")
        etcd.etcdctl("role", "grant-permission", "gowork", "--prefix=true", "readwrite", "guarded/")
        etcd.etcdctl("user", "add", "gowork:secret")
        etcd.etcdctl("user", "grant-role", "gowork", "gowork")
        etcd.etcdctl("auth", "enable")
        yield etcd
    finally:
        etcd.kill()


@pytest.fixture
async def open_log(etcd: GuardedEtcd) -> AsyncIterator[Callable[..., EtcdLog]]:
    logs: list[EtcdLog] = []

    def opened(**other: str) -> EtcdLog:
        logs.append(etcd.log(**other))
        return logs[-1]

    async with asyncio.timeout(2 * PATIENCE):
        yield opened
        for log in logs:
            await log.close()


@pytest.mark.longer
async def test_a_leader_with_a_certificate_and_a_password_leads_on_when_its_token_is_forgotten(
    etcd: GuardedEtcd, open_log: Callable[..., EtcdLog]
) -> None:
    log = open_log()
    await log.open()
    await log.begin(FIRST, None)
    leadership = await log.campaign(CANDIDATE)
    await leadership.append(1, b"one")
    # Changes what etcd demands of tokens.
    etcd.etcdctl("--user=root:root", "user", "add", "another:secret")
    await leadership.append(2, b"two")
    # A member that was restarted knows no tokens.
    etcd.kill()
    etcd.start()
    await leadership.append(3, b"three")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(LEASE_SECONDS + 1):
            await leadership.lost.wait()
    await leadership.confirm()
    async for page in log.follow(0):
        assert [entry.data for entry in page] == [b"one", b"two", b"three"]
        break


async def read(log: EtcdLog) -> None:
    await log.open()
    await log.generation()


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        ({"PASSWORD": "wrong"}, LogRefusedError, "check GOWORK_ETCD_USER and GOWORK_ETCD_PASSWORD"),
        ({"USER": "nobody"}, LogRefusedError, "check GOWORK_ETCD_USER and GOWORK_ETCD_PASSWORD"),
        ({"USER": "", "PASSWORD": ""}, LogRefusedError, "set GOWORK_ETCD_USER and GOWORK_ETCD_PASSWORD"),
        ({"CERT": "", "KEY": ""}, LogUnreachableError, "GOWORK_ETCD_CERT"),
        ({"CERT": "", "KEY": "", "CA": ""}, LogUnreachableError, "GOWORK_ETCD_CA"),
    ],
    ids=["wrong password", "unknown user", "no user", "no certificate", "plain text"],
)
async def test_who_may_not_come_in_is_told_what_is_missing(
    open_log: Callable[..., EtcdLog], other: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await read(open_log(**other))


async def test_an_etcd_of_another_authority_is_refused(tmp_path: Path, open_log: Callable[..., EtcdLog]) -> None:
    log = open_log(CA=str(tmp_path / "other.pem"))
    with pytest.raises(LogUnreachableError, match="GOWORK_ETCD_CA"):
        await log.open()


async def test_an_etcd_that_speaks_plain_text_is_named_to_a_leader_that_encrypts(
    tmp_path: Path, open_log: Callable[..., EtcdLog], etcd: GuardedEtcd
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    with EtcdCluster(folder) as plain:
        etcd.address = plain.members[0].address
        with pytest.raises(LogUnreachableError, match="GOWORK_ETCD_CA"):
            await open_log().open()
