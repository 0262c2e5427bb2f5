"""Who may make which call: by certificates, tokens, proxies and other leaders, and what nobody may."""

from __future__ import annotations

import asyncio
import logging
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from access_callers import (
    ALL_CALLS,
    ROLES,
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
from leader_serving import PATIENCE, ServedLeader, refused, serving, stream_refused
from tls_authority import Authority

from gowork.base.channels import AddressError, open_channel
from gowork.base.identities import Role, shown_by
from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles
from gowork.leader._access.access import Access
from gowork.leader._access.rights import CALLS
from gowork.leader._app import node
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

OK = grpc.StatusCode.OK
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN = grpc.StatusCode.UNAUTHENTICATED
STATS = "scheduler.v1.SchedulerService/Stats"
SCHEDULE = "scheduler.v1.SchedulerService/ScheduleTask"
COPY = "cluster.v1.LeaderService/CopyStore"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def leader(tmp_path: Path, authority: Authority) -> AsyncIterator[ServedLeader]:
    async with known_by_certificates(tmp_path, authority, proxy_listen=str(tmp_path / "p.sock")) as leader:
        yield leader


@pytest.fixture
async def socket(leader: ServedLeader, tmp_path: Path) -> AsyncIterator[ServedLeader]:
    """The leader as a proxy on its machine sees it."""
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/p.sock") as channel:
        yield ServedLeader(leader.addresses, channel, leader.stopped)


# What each role may do.


def test_every_call_is_some_role_s_and_no_role_has_another() -> None:
    assert frozenset().union(*CALLS.values()) == ALL_CALLS.keys()
    assert CALLS.keys() == set(Role)


def test_what_matters_most_is_kept_apart() -> None:
    changes = {"PauseQueue", "ResumeQueue", "ConfigureQueue", "PurgeTasks", "BackupStore"}
    leads = {"Drain", "StepDown", "RemoveLeader", "CompareStores"}
    works = {"Join", "Heartbeat", "TaskComplete", "TaskProgress", "Connect"}

    def holders(name: str) -> set[str]:
        return {role.value for role, calls in CALLS.items() if any(call.endswith(f"/{name}") for call in calls)}

    assert {name: holders(name) for name in changes | leads} == {name: {"admin"} for name in changes | leads}
    assert holders("CopyStore") == {"leader"}
    assert {name: holders(name) - {"leader"} for name in works} == {name: {"worker"} for name in works}
    assert holders("ScheduleTasks") == holders("CancelTask") == {"client", "admin"}
    assert holders("GetTask") == {"client", "admin", "read-only"}
    assert holders("Leave") == {"worker", "admin"}
    assert not CALLS[Role.PROXY]


@pytest.mark.parametrize("role", ROLES)
async def test_a_certificate_may_what_its_role_may(leader: ServedLeader, authority: Authority, role: str) -> None:
    async with calling(leader, authority.client(role)) as caller:
        for call in ALL_CALLS:
            code, said = await code_of(caller, call)
            if role == "proxy":
                assert (code, "has handed on" in said or "show a certificate" in said) == (UNKNOWN, True), call
            elif call in CALLS[Role(role)]:
                assert code not in (DENIED, UNKNOWN), (call, said)
            else:
                assert (code, f"{role} {role} may not call" in said) == (DENIED, True), (call, said)


async def test_several_roles_add_up(leader: ServedLeader, authority: Authority) -> None:
    async with calling(leader, authority.client("both", "worker", "read-only")) as caller:
        codes = {call: (await code_of(caller, call))[0] for call in ALL_CALLS}
    allowed = CALLS[Role.WORKER] | CALLS[Role.READ_ONLY]
    assert {call for call, code in codes.items() if code not in (DENIED, UNKNOWN)} == allowed


async def test_a_certificate_without_a_role_may_nothing_and_is_told_what_to_do(
    leader: ServedLeader, authority: Authority
) -> None:
    files = authority.client("stranger", "of-a-later-version")
    async with calling(leader, files) as caller:
        code, said = await code_of(caller, STATS)
    roles = "one of the roles client, admin, read-only"
    assert (code, said) == (DENIED, f"stranger, which has no role, may not call Stats; that takes {roles}")


async def test_the_access_file_gives_roles_to_other_names(tmp_path: Path, authority: Authority) -> None:
    names = ["CN=plain", "DNS:second.example", "URI:spiffe://example.org/web"]
    access = Access(access_file(tmp_path, entry("web", "client", token=False, certificates=names)))
    plain = authority.issue("plain")
    second = authority.issue("2", "second.example")
    third = authority.issue("3", uris=("spiffe://example.org/web",))
    other = authority.issue("other", "other.example")
    async with known_by_certificates(tmp_path, authority, access) as leader:
        for certificate, key in (plain, second, third):
            async with calling(leader, TlsFiles(authority.file, certificate, key)) as caller:
                assert await code_of(caller, STATS) == (OK, "")
        async with calling(leader, TlsFiles(authority.file, *other)) as caller:
            code, said = await code_of(caller, STATS)
            assert (code, "needs a URI such as gowork://client/NAME" in said) == (DENIED, True), said


async def test_the_access_file_may_leave_a_certificate_fewer_roles_and_never_more(
    tmp_path: Path, authority: Authority
) -> None:
    access = Access(access_file(tmp_path, entry("both", "read-only", "admin", token=False)))
    async with known_by_certificates(tmp_path, authority, access) as leader:
        async with calling(leader, authority.client("both", "client", "read-only")) as caller:
            assert (await code_of(caller, STATS))[0] is OK
            assert (await code_of(caller, SCHEDULE))[0] is DENIED
            assert (await code_of(caller, "scheduler.v1.SchedulerService/ListQueues"))[0] is OK
            assert (await code_of(caller, "cluster.v1.LeaderService/StepDown"))[0] is DENIED


# Tokens.


async def test_tokens_are_known_and_others_refused(tmp_path: Path) -> None:
    async with known_by_tokens(tmp_path, entry("web", "client"), entry("ops", "admin")) as leader:
        assert await code_of(with_token(leader, "web"), STATS) == (OK, "")
        assert (await code_of(with_token(leader, "web"), "cluster.v1.LeaderService/StepDown"))[0] is DENIED
        assert (await code_of(with_token(leader, "ops"), "cluster.v1.LeaderService/StepDown"))[0] is not DENIED
        for given, words in (
            ((), "show a certificate, or a token"),
            (metadata(authorization="Bearer something"), "no identity has this token"),
            (metadata(authorization="Bearer "), "authorization: Bearer TOKEN"),
            (metadata(authorization=f"Bearer {token_of('web')}x"), "no identity has this token"),
            (metadata(authorization=f"Basic {token_of('web')}"), "authorization: Bearer TOKEN"),
            (metadata(authorization=f"Bearer {token_of('web')}") * 2, "authorization: Bearer TOKEN"),
        ):
            code, said = await code_of(leader, STATS, *given)
            assert (code, words in said) == (UNKNOWN, True), said
        assert await code_of(leader, STATS, *metadata(authorization=f"bearer {token_of('web')}")) == (OK, "")


# Proxies, and what is forged.


def handed_on(certificate: Path) -> tuple[str, str]:
    return (
        "x-forwarded-client-cert",
        f'Hash=0a;Cert="{quote(certificate.read_text(), safe="")}";Subject="CN=a,O=\\"b;c\\""',
    )


async def test_a_proxy_s_caller_is_who_its_certificate_says(
    leader: ServedLeader, socket: ServedLeader, authority: Authority
) -> None:
    client = handed_on(authority.issue("web", uris=("gowork://client/web",))[0])
    admin = handed_on(authority.issue("ops", uris=("gowork://admin/ops",))[0])
    async with calling(leader, authority.client("p1", "proxy")) as proxy:
        for way in (socket, proxy):
            assert await code_of(way, STATS, client) == (OK, "")
            assert (await code_of(way, "cluster.v1.LeaderService/StepDown", client))[0] is DENIED
            assert (await code_of(way, "cluster.v1.LeaderService/StepDown", admin))[0] not in (DENIED, UNKNOWN)
            code, said = await code_of(way, STATS)
            assert code is UNKNOWN, said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (['Cert="x"'], "can't be read"),
        (["Subject=CN=ops"], "has no Cert="),
        (["{}", "{}"], "several certificates"),
        (["{},{}"], "several certificates"),
        (["{};{}"], "several certificates"),
        (['Cert=""'], "show a certificate"),
        ([""], "show a certificate"),
    ],
)
async def test_a_header_that_no_proxy_of_ours_writes_gives_no_rights(
    leader: ServedLeader, socket: ServedLeader, authority: Authority, values: list[str], words: str
) -> None:
    own = handed_on(authority.issue("ops", uris=("gowork://admin/ops",))[0])[1]
    given = [("x-forwarded-client-cert", value.replace("{}", own)) for value in values]
    code, said = await code_of(socket, STATS, *given)
    assert (code, words in said) == (UNKNOWN, True), said


async def test_who_is_no_proxy_and_sends_its_header_is_who_they_are(leader: ServedLeader, authority: Authority) -> None:
    admin = handed_on(authority.issue("ops", uris=("gowork://admin/ops",))[0])
    for role in ("client", "worker", "leader"):
        async with calling(leader, authority.client(role)) as caller:
            code, said = await code_of(caller, "cluster.v1.LeaderService/StepDown", admin)
            assert (code, f"{role} {role} may not call StepDown" in said) == (DENIED, True), said


async def test_a_forwarded_identity_is_believed_of_leaders_alone(
    leader: ServedLeader, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    forged = metadata(gowork_forwarded="ipv4:10.0.0.1:1", gowork_caller="admin/ops")
    for role in ("client", "worker", "admin", "read-only"):
        async with calling(leader, authority.client(role)) as caller:
            for given in (forged, forged[:1], forged[1:]):
                code, said = await code_of(caller, STATS, *given)
                assert (code, "may not hand on calls of others" in said) == (DENIED, True), said
    assert sum("denied" in record.message for record in caplog.records) >= 12
    async with calling(leader, authority.client("leader")) as other:
        step_down = "cluster.v1.LeaderService/StepDown"
        assert (await code_of(other, step_down, *forged))[0] not in (DENIED, UNKNOWN)
        assert (await code_of(other, step_down, *metadata(gowork_caller="client/web")))[0] is DENIED
        # A caller can't become a leader by being handed on.
        assert (await code_of(other, COPY, *metadata(gowork_caller="leader+client/x")))[0] is DENIED
        assert (await code_of(other, STATS, *metadata(gowork_caller="nonsense")))[0] is UNKNOWN
        # A leader's own calls have no caller.
        assert (await code_of(other, STATS, *forged[:1]))[0] is DENIED


# Changes.


async def test_a_proxy_is_held_to_the_access_file(tmp_path: Path, authority: Authority) -> None:
    admin = handed_on(authority.issue("ops", uris=("gowork://admin/ops",))[0])
    plain = authority.issue("nginx")
    file = (
        "revoked = ['p1']",
        entry("p2", "client", token=False),
        entry("p4", "proxy", token=False, certificates=["CN=nginx"]),
    )
    async with known_by_certificates(tmp_path, authority, Access(access_file(tmp_path, *file))) as leader:
        for files, wanted in (
            (authority.client("p1", "proxy"), UNKNOWN),
            (authority.client("p2", "proxy"), DENIED),
            (authority.client("p3", "proxy"), OK),
            (TlsFiles(authority.file, *plain), OK),
        ):
            async with calling(leader, files) as proxy:
                assert (await code_of(proxy, STATS, admin))[0] is wanted, files


async def test_who_is_revoked_does_not_get_in_with_a_token(tmp_path: Path, authority: Authority) -> None:
    access = Access(access_file(tmp_path, "revoked = ['ada']", entry("web", "client")))
    async with known_by_certificates(tmp_path, authority, access) as leader:
        token = metadata(authorization=f"Bearer {token_of('web')}")
        for name, wanted in (("ada", UNKNOWN), ("eva", OK)):
            async with calling(leader, authority.client(name, "client")) as caller:
                assert (await code_of(caller, STATS, *token))[0] is wanted


@pytest.mark.parametrize("uri", ["gowork://client/%ff", "gowork://[bad/x", "gowork://client/", "gowork://client/a?b"])
async def test_a_certificate_with_a_uri_of_another_form_is_refused_in_one_line(
    leader: ServedLeader, authority: Authority, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    certificate, key = authority.issue("web", uris=(uri,))
    async with calling(leader, TlsFiles(authority.file, certificate, key)) as caller:
        code, said = await code_of(caller, STATS)
    assert (code, "is not gowork://ROLE/NAME" in said) == (UNKNOWN, True), said
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_denial_names_the_peer_that_was_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with known_by_tokens(tmp_path, entry("web", "client")) as leader:
        await code_of(leader, STATS, *metadata(gowork_forwarded="ipv4:10.9.9.9:1"))
    (denied,) = [record.__dict__ for record in caplog.records if record.name == "gowork.leader.audit"]
    assert denied["peer"].startswith("ipv4:127.0.0.1:")


def rewrite(path: Path, *parts: str) -> None:
    path.with_suffix(".new").write_text("\n".join(parts))
    path.with_suffix(".new").replace(path)


async def test_who_is_revoked_is_let_in_no_more_and_loses_open_streams(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    path = access_file(tmp_path, entry("w1", token=False), entry("web", token=False))
    async with (
        known_by_certificates(tmp_path, authority, Access(path)) as leader,
        calling(leader, authority.client("w1", "worker")) as first,
        calling(leader, authority.client("w2", "worker")) as second,
        calling(leader, authority.client("web", "client")) as client,
        first.worker("a") as revoked,
        second.worker("b") as staying,
    ):
        watch = client.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        await anext(aiter(watch))
        async with calling(leader, authority.client("admin")) as admin:
            await admin.submit("long", handler="nobody")
        waiting = asyncio.ensure_future(
            client.scheduler.WaitTask(pb.WaitTaskRequest(id="long"), timeout=PATIENCE).code()
        )
        # What comes after the wait on its connection is answered: the leader has it.
        await client.get("long")
        rewrite(path, 'revoked = ["w1", "web"]')
        refusal = await revoked.refusal()
        assert (refusal.code, refusal.reason) == (UNKNOWN, "REVOKED")
        assert (await stream_refused(watch)).reason == "REVOKED"
        assert await asyncio.wait_for(waiting, PATIENCE) is UNKNOWN
        assert (await refused(client.get("x"))).reason == "REVOKED"
        await staying.send(credit=[1])
        async with calling(leader, authority.client("web2", "client")) as other:
            await other.submit("t")
            assert (await staying.grant()).id == "t"


async def test_one_certificate_is_revoked_by_its_serial_number(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue("web", uris=("gowork://client/web",))
    access = Access(access_file(tmp_path, f"revoked = ['serial:{shown_by(certificate.read_bytes()).serial}']"))
    async with known_by_certificates(tmp_path, authority, access) as leader:
        async with calling(leader, TlsFiles(authority.file, certificate, key)) as caller:
            assert (await code_of(caller, STATS))[0] is UNKNOWN
        async with calling(leader, authority.client("web", "client")) as caller:
            assert (await code_of(caller, STATS))[0] is OK


async def test_a_stream_ends_when_its_caller_is_bound_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    async with known_by_tokens(tmp_path, entry("w", "worker")) as leader:
        async with with_token(leader, "w").worker() as session:
            rewrite(tmp_path / "access.toml", entry("w", "worker", handlers=["h"]))
            refusal = await session.refusal()
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "RIGHTS_CHANGED")


async def test_a_bad_new_access_file_is_refused_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Watched(Access):
        def refresh(self) -> bool:
            changed = super().refresh()
            if self.fault:
                loop.call_soon_threadsafe(refreshed.set)
            return changed

    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    path = access_file(tmp_path, entry("web", "client"))
    async with serving(tmp_path, access=Watched(path)) as leader:
        rewrite(path, "[[identity]]")
        await asyncio.wait_for(refreshed.wait(), PATIENCE)
        assert (await code_of(with_token(leader, "web"), STATS))[0] is OK


async def test_a_fault_does_not_end_the_looks_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty(Access):
        looks = 0

        def refresh(self) -> bool:
            self.looks += 1
            if self.looks == 1:
                raise OSError("the disk is gone")
            return super().refresh()

    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    path = access_file(tmp_path, entry("w", "worker"))
    async with serving(tmp_path, access=Faulty(path)) as leader, with_token(leader, "w").worker() as session:
        rewrite(path, "revoked = ['w']", entry("w", "worker"))
        assert (await session.refusal()).reason == "REVOKED"


async def test_calls_that_change_the_cluster_and_denials_are_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gowork.leader.audit")
    async with known_by_tokens(tmp_path, entry("ops", "admin"), entry("web", "client")) as leader:
        await with_token(leader, "ops").scheduler.PauseQueue(pb.PauseQueueRequest(name="mail"), timeout=PATIENCE)
        for _ in range(100):
            await code_of(with_token(leader, "web"), "scheduler.v1.SchedulerService/PauseQueue")
    records = [record.__dict__ for record in caplog.records if record.name == "gowork.leader.audit"]
    (done,) = [each for each in records if each["msg"] == "admin call"]
    assert (done["caller"], done["about"]) == ("admin ops", 'name: "mail"')
    denied = [each for each in records if each["msg"] == "denied"]
    assert denied[0]["reason"] == "client web may not call PauseQueue; that takes the role admin"
    assert len(denied) < 100


async def test_each_denial_is_recorded_whoever_finds_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = (
        "join_networks = ['10.0.0.0/8']",
        entry("web", "client", "admin", queues=["web"]),
        entry("w", "worker", handlers=["thumbnail"]),
        entry("w1", "worker"),
        entry("w2", "worker"),
        entry("free", "client"),
    )
    async with known_by_tokens(tmp_path, *file) as leader:
        web, w1, w2 = (with_token(leader, name) for name in ("web", "w1", "w2"))
        await refused(with_token(leader, "nobody").get("x"))
        await refused(w1.submit("a"))
        await refused(web.submit("a", queue="other"))
        await refused(web.scheduler.PauseQueue(pb.PauseQueueRequest(name="other"), timeout=PATIENCE))
        session = with_token(leader, "w").session()
        await session.send(hello={"name": "w", "instance": "i", "slots": 1, "handlers": [{"name": "shell"}]})
        await session.refusal()
        await refused(w1.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:9"), timeout=PATIENCE))
        await w1.cluster.Join(cpb.JoinRequest(id="m", address="10.0.0.1:9"), timeout=PATIENCE)
        await refused(w2.cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE))
        await with_token(leader, "free").submit("b", handler="thumbnail")
        async with with_token(leader, "w").worker(handlers=["thumbnail"]) as session:
            (grant,) = await session.grants(1)
            await session.report(grant, follow_ups=[pb.Task(id="next", handler="shell")])
        # These end for other reasons.
        await refused(with_token(leader, "free").get("unknown"))
        await refused(with_token(leader, "free").submit("b", handler="other"))
        page = await asyncio.to_thread(metrics_of, leader)
    denied = [record.__dict__ for record in caplog.records if record.msg == "denied"]
    assert [(each["call"].partition("/")[2], each["code"]) for each in denied] == [
        ("GetTask", "UNAUTHENTICATED"),
        ("ScheduleTasks", "PERMISSION_DENIED"),
        ("ScheduleTasks", "PERMISSION_DENIED"),
        ("PauseQueue", "PERMISSION_DENIED"),
        ("Connect", "PERMISSION_DENIED"),
        ("Join", "PERMISSION_DENIED"),
        ("Leave", "PERMISSION_DENIED"),
        ("Connect", "PERMISSION_DENIED"),
    ]
    assert all(each["peer"].startswith("ipv4:127.0.0.1:") for each in denied)
    assert {reason: page[f'gowork_calls_refused_total{{reason="{reason}"}}'] for reason in DENIALS} == DENIALS


DENIALS = {
    "TOKEN_UNKNOWN": "1.0",
    "ROLE_MISSING": "1.0",
    "OUT_OF_BOUNDS": "4.0",
    "ADDRESS_NOT_ALLOWED": "1.0",
    "NOT_THE_OWNER": "1.0",
}


async def test_a_call_beyond_a_limit_is_counted_and_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = (
        entry("web", "client") + "limits.calls_per_second = 0.001",
        entry("b", "client") + "limits.pending_tasks = 0",
    )
    async with known_by_tokens(tmp_path, *file) as leader:
        assert (await code_of(with_token(leader, "web"), STATS))[0] is OK
        await refused(with_token(leader, "web").get("x"))
        await refused(with_token(leader, "b").submit("x"))
        page = await asyncio.to_thread(metrics_of, leader)
    assert page['gowork_calls_refused_total{reason="CALLER_LIMIT"}'] == "2.0"
    assert not [record for record in caplog.records if record.msg == "denied"]


def metrics_of(leader: ServedLeader) -> dict[str, str]:
    with urllib.request.urlopen(f"http://{leader.addresses.http}/metrics", timeout=PATIENCE) as page:
        lines = page.read().decode().splitlines()
    return {series: value for series, _, value in (line.rpartition(" ") for line in lines)}


async def test_a_leader_without_an_access_file_on_this_machine_asks_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        assert (await code_of(leader, STATS, *metadata(gowork_caller="client/x")))[0] is OK


async def test_who_may_not_be_called_in_plain_text_is_not_shown_a_token(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("secret\n")
    with pytest.raises(AddressError, match="would go to 192.0.2.1:1 in plain text"):
        open_channel(["192.0.2.1:1"], tls=Tls(TlsFiles(token=tmp_path / "t")))
    await open_channel(["192.0.2.1:1"], tls=Tls(TlsFiles(token=tmp_path / "t", insecure=True))).close()
