"""As whom the leader knows a caller: what stands over what, and what revokes whom."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import urllib.request
from pathlib import Path

import grpc
import pytest
from access_callers import (
    access_file,
    calling,
    code_of,
    entry,
    known_by_certificates,
    known_by_tokens,
    metadata,
    token_of,
    with_token,
)
from leader_serving import PATIENCE, refused
from tls_authority import Authority

from gowork.base.identities import shown_by
from gowork.base.tls_files import TlsFiles
from gowork.leader._access import access_file as access_file_module
from gowork.leader._access.access import Access
from gowork.leader._access.access_file import AccessError, read_access_file
from gowork.leader._app import node
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

OK, DENIED, UNKNOWN = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
STATS = "scheduler.v1.SchedulerService/Stats"
LIST_QUEUES = "scheduler.v1.SchedulerService/ListQueues"
STEP_DOWN = "cluster.v1.LeaderService/StepDown"
MEMBERS = "cluster.v1.LeaderService/Members"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_token_stands_over_the_certificate_that_comes_with_it(tmp_path: Path, authority: Authority) -> None:
    file = access_file(tmp_path, entry("ops", "admin"), entry("viewer", "read-only"))
    async with known_by_certificates(tmp_path, authority, Access(file)) as leader:
        async with calling(leader, authority.client("web", "client")) as caller:
            assert (await code_of(caller, STEP_DOWN))[0] is DENIED
            given = metadata(authorization=f"Bearer {token_of('ops')}")
            assert (await code_of(caller, STEP_DOWN, *given))[0] not in (DENIED, UNKNOWN)
            # It gives no more than the token's roles, and a bad one gives nothing.
            given = metadata(authorization=f"Bearer {token_of('viewer')}")
            schedule = "scheduler.v1.SchedulerService/ScheduleTask"
            assert (await code_of(caller, schedule, *given))[0] is DENIED
            assert (await code_of(caller, STATS, *metadata(authorization="Bearer other")))[0] is UNKNOWN


async def test_the_gowork_uri_of_a_certificate_stands_over_its_other_names(
    tmp_path: Path, authority: Authority
) -> None:
    access = Access(
        access_file(tmp_path, entry("ops", "admin", token=False, certificates=["CN=web", "DNS:web.example"]))
    )
    async with known_by_certificates(tmp_path, authority, access) as leader:
        async with calling(leader, authority.client("web", "client")) as caller:
            assert (await code_of(caller, STATS))[0] is OK
            code, said = await code_of(caller, STEP_DOWN)
            assert (code, "client web may not call StepDown" in said) == (DENIED, True), said


@pytest.mark.parametrize("zeros", ["", "0", "000"])
async def test_a_serial_number_is_revoked_with_zeros_before_it_too(
    tmp_path: Path, authority: Authority, zeros: str
) -> None:
    certificate, key = authority.issue("web", uris=("gowork://client/web",))
    serial = shown_by(certificate.read_bytes()).serial
    access = Access(access_file(tmp_path, f"revoked = ['serial:{zeros}{serial}']"))
    async with known_by_certificates(tmp_path, authority, access) as leader:
        async with calling(leader, TlsFiles(authority.file, certificate, key)) as caller:
            assert (await code_of(caller, STATS))[0] is UNKNOWN


async def test_who_is_handed_on_is_held_to_the_access_file(tmp_path: Path, authority: Authority) -> None:
    file = access_file(
        tmp_path,
        "revoked = ['gone']",
        entry("web", "client", queues=["web"]),
        entry("less", "read-only", token=False),
        entry("slow", "client") + "limits.calls_per_second = 0.001",
    )
    async with (
        known_by_certificates(tmp_path, authority, Access(file)) as leader,
        calling(leader, authority.client("l2", "leader")) as other,
    ):

        async def code(call: str, caller: str) -> grpc.StatusCode:
            return (await code_of(other, call, *metadata(gowork_caller=caller)))[0]

        assert await code(STATS, "client/gone") is UNKNOWN
        request = pb.ScheduleTaskRequest(task=pb.Task(id="a", payload="x", queue="other"))
        given = metadata(gowork_caller="client/web")
        refusal = await refused(other.scheduler.ScheduleTask(request, metadata=given, timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (DENIED, "OUT_OF_BOUNDS")
        assert await code(STATS, "read-only+admin/less") is OK
        assert await code(STEP_DOWN, "read-only+admin/less") is DENIED
        assert [await code(STATS, "client/slow") for _ in range(2)] == [OK, EXHAUSTED]
        # One call is made for one caller.
        both = (*metadata(gowork_caller="admin/ops"), *metadata(gowork_caller="client/web"))
        assert (await code_of(other, STATS, *both))[0] is UNKNOWN


async def test_a_leader_has_no_limits_and_others_have(tmp_path: Path, authority: Authority) -> None:
    access = Access(access_file(tmp_path, "limits = {calls_per_second = 0.001}"))
    async with known_by_certificates(tmp_path, authority, access) as leader:
        for role, codes in (("leader", [OK, OK]), ("read-only", [OK, EXHAUSTED])):
            async with calling(leader, authority.client(role)) as caller:
                assert [(await code_of(caller, MEMBERS))[0] for _ in range(2)] == codes


async def test_several_tokens_of_one_identity_count(tmp_path: Path) -> None:
    first, second = (entry(name, "client").splitlines()[-1].partition("= ")[2] for name in ("one", "two"))
    both = f"[[identity]]\nname = 'web'\nroles = ['client']\ntokens = {first[:-1]}, {second[1:]}"
    async with known_by_tokens(tmp_path, both) as leader:
        for name in ("one", "two"):
            assert (await code_of(with_token(leader, name), STATS))[0] is OK


# When the file is read again.


def renamed(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def test_a_bad_file_is_told_once_and_until_a_good_one_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = access_file(tmp_path, "revoked = ['a']")
    access = Access(path)
    renamed(path, "revoked = 'b'")
    assert [access.refresh() for _ in range(3)] == [False] * 3
    assert "Expected `array" in access.fault
    assert [record.msg for record in caplog.records if record.levelno == logging.ERROR] == ["new access file not used"]
    assert not access.may_stay("a", "10.0.0.1")
    # The same words as before are no change, and the fault is over.
    renamed(path, "# as before\nrevoked = ['a']")
    assert not access.refresh()
    assert access.fault == ""


def test_a_file_that_is_gone_for_a_while_is_used_again(tmp_path: Path) -> None:
    path = access_file(tmp_path, "revoked = ['a']")
    access = Access(path)
    path.rename(tmp_path / "away")
    assert not access.refresh()
    assert "No such file" in access.fault
    assert not access.may_stay("a", "10.0.0.1")
    (tmp_path / "away").write_text("revoked = ['b']")
    (tmp_path / "away").rename(path)
    assert access.refresh()
    assert (access.fault, access.may_stay("a", "10.0.0.1")) == ("", True)


def test_a_file_that_could_not_be_read_for_a_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = access_file(tmp_path, "# nobody")
    access = Access(path)
    renamed(path, "revoked = ['a']")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", no_descriptor)
        assert not access.refresh()
    assert "can't be read: Too many open files" in access.fault
    assert access.refresh()
    assert not access.may_stay("a", "10.0.0.1")


def no_descriptor(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_file_that_everybody_may_write_to_is_refused_later_too(tmp_path: Path) -> None:
    path = access_file(tmp_path, "revoked = ['a']")
    access = Access(path)
    path.chmod(0o666)
    assert [access.refresh() for _ in range(2)] == [False, False]
    assert "everybody may write to it" in access.fault
    path.chmod(0o640)
    access.refresh()
    access.refresh()
    assert access.fault == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("access.toml", "the new access file is not used: "), ("leader.pem", "new certificates are not used: ")],
)
async def test_the_probe_of_readiness_says_so_until_it_is_mended(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    file = access_file(tmp_path, "# nobody")
    async with known_by_certificates(tmp_path, authority, Access(file)) as leader:
        good = (tmp_path / name).read_text()

        def page() -> tuple[int, str]:
            with urllib.request.urlopen(f"http://{leader.addresses.http}/readyz", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()

        async def until(said: bool) -> None:
            async with asyncio.timeout(PATIENCE / 10):
                while (words in (await asyncio.to_thread(page))[1]) is not said:
                    pass

        await until(False)
        renamed(tmp_path / name, "half a file")
        await until(True)
        assert (await asyncio.to_thread(page))[0] == 200, "it goes on with what it had"
        renamed(tmp_path / name, good)
        await until(False)


async def test_the_socket_for_a_proxy_is_for_its_owner_and_group_alone(tmp_path: Path, authority: Authority) -> None:
    before = os.umask(0)
    try:
        async with known_by_certificates(tmp_path, authority, proxy_listen=str(tmp_path / "p.sock")):
            assert stat.S_IMODE((tmp_path / "p.sock").stat().st_mode) == 0o660
    finally:
        os.umask(before)


# What the file may say, beside test_access_file.

LINE = "[[identity]]\nname = '{}'\nroles = ['{}']\n"
CN = LINE + "certificates = ['CN=x']\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CN.format("a", "client") + CN.format("b", "admin"), "CN=x is also that of 'a'"),
        ("[[identity]]\nname = 'a'\ncertificates = ['CN=x']", "tokens and certificates need roles"),
        (LINE.format("a", "proxy") + f"tokens = ['sha256:{'0' * 64}']", "have certificates, not tokens"),
        (LINE.format("a", "client") + f"tokens = ['sha256:{'0' * 66}']", "64 hexadecimal digits"),
        (LINE.format("a", "client") + f"tokens = ['sha256:{'A' * 64}']", "64 hexadecimal digits"),
        ('[[identity]]\nname = "a\\u0007"', "a name is printable text"),
        ("revoked = ['serial:0ag']", "must be serial: and hexadecimal digits"),
        ("revoked = ['serial:']", "must be serial: and hexadecimal digits"),
        ("revoked = ['']", "is neither the name of an identity"),
        ("limits = {calls_per_second = 0}", "> 0.0"),
        ("limits = {tasks_per_second = -1}", "> 0.0"),
        ("limits = {calls_per_second = nan}", "> 0.0"),
        ("limits = {sessions = -1}", ">= 0"),
        ("limits = {streams = -1}", ">= 0"),
        ("limits = {pending_tasks = -1}", ">= 0"),
        ("limits = {pending = 1}", "unknown field `pending`"),
    ],
)
def test_what_would_let_somebody_else_in_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(AccessError) as refusal:
        read_access_file(access_file(tmp_path, text))
    assert words in str(refusal.value)


def test_there_are_so_many_identities_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_file_module, "IDENTITIES_MAX", 2)
    identities = [entry(name, "client") for name in ("a", "b", "c")]
    read_access_file(access_file(tmp_path, *identities[:2]))
    with pytest.raises(AccessError, match="it has 3 identities; the limit is 2"):
        read_access_file(access_file(tmp_path, *identities))


@pytest.mark.parametrize(
    ("allowed", "host", "may"),
    [
        # A network may be written with an address in it.
        ("10.1.2.3/8", "10.200.0.1", True),
        ("10.1.2.3/8", "11.0.0.1", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("::ffff:0:0/96", "10.1.2.3", False),
        ("*.Workers.Example", "a.workers.example", True),
        ("*.workers.example", "evilworkers.example", False),
        ("*.workers.example", ".workers.example", False),
        ("*.workers.example", "workers.example", False),
        ("w.example", "W.EXAMPLE", True),
        # An address is in no network of names.
        ("*.3", "10.1.2.3", False),
    ],
)
def test_where_members_may_be(tmp_path: Path, allowed: str, host: str, may: bool) -> None:
    assert Access(access_file(tmp_path, f"join_networks = ['{allowed}']")).may_join_from(host) is may


def test_without_networks_members_may_be_anywhere_and_with_none_nowhere(tmp_path: Path) -> None:
    assert Access().may_join_from("192.0.2.1")
    assert not Access(access_file(tmp_path, "join_networks = []")).may_join_from("192.0.2.1")
