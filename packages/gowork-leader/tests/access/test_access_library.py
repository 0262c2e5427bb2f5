"""A leader in a program of one's own: what it is given to say who is let in."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from access_callers import access_file, calling, code_of, entry
from leader_serving import serving
from memory_log import MemoryLog, MemoryPlace
from tls_authority import Authority

from gowork.leader import Access, AccessError, CertificateError, Leader, TlsFiles, open_store

SCHEDULE, LIST = (f"scheduler.v1.SchedulerService/{name}" for name in ("ScheduleTask", "ListTasks"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_leader_takes_the_paths_of_certificates_and_of_an_access_file(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.server(client_ca=authority.file)
    path = str(access_file(tmp_path, entry("ada", "read-only", token=False)))
    async with serving(tmp_path, tls=files, access=Access(path)) as leader:
        async with calling(leader, authority.client("client")) as client:
            assert (await code_of(client, SCHEDULE))[0] is not grpc.StatusCode.PERMISSION_DENIED
        # Her certificate says more than the file leaves her.
        async with calling(leader, authority.client("ada", "client", "read-only")) as ada:
            assert (await code_of(ada, LIST))[0] is grpc.StatusCode.OK
            assert (await code_of(ada, SCHEDULE))[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_leader_without_a_certificate_of_its_own_is_refused(authority: Authority, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/gowork.db")
    with pytest.raises(CertificateError, match="the certificate with which this leader serves"):
        Leader(store, tls=TlsFiles(authority.file))


def test_a_leader_that_shares_a_log_must_know_the_certificates_of_the_others(
    authority: Authority, tmp_path: Path
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/gowork.db")
    issued = authority.server()
    own = TlsFiles(cert=issued.cert, key=issued.key)
    with pytest.raises(CertificateError, match="leaders with a log call one another"):
        Leader(store, tls=own, log=MemoryLog(MemoryPlace()))
    # One that is alone calls no other.
    Leader(store, tls=own)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_an_access_file_that_can_not_be_used_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AccessError, match=r"can't be read|is no file"):
        Access(str(tmp_path / name))
