"""NGINX and Envoy with mutual TLS before leaders and callback workers, as deploy configures them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import grpc
import pytest
from clusters import RunningLeader, first_line, kill, sharing_leaders, start, start_leader, stopped_cleanly, tls_options
from etcd_members import EtcdCluster
from own_ports import own_ports
from proxies import KINDS, Setting, proxying
from tls_authority import DAY, NOW, Authority

from gowork.base.channels import bind
from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles
from gowork.client import CallError, Client, TaskStatus
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

pytestmark = [pytest.mark.tool("nginx"), pytest.mark.timeout(300)]
each_kind = pytest.mark.parametrize("kind", KINDS)
#: The deadline of each call, in seconds.
PATIENCE = 60.0
DOCS = Path(__file__).parents[2] / "docs"
PROGRAM = Path(__file__).with_name("balanced_client.py")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority, and the files of a proxy by the names that the configurations have."""
    authority = Authority(tmp_path)
    authority.issue("proxy", "127.0.0.1", uris=("gowork://proxy/p1",))
    (tmp_path / "proxy.key").rename(tmp_path / "proxy-key.pem")
    return authority


def leader_options(authority: Authority, name: str = "l1") -> list[str]:
    issued = authority.issue(name, "127.0.0.1", "gowork-leader", uris=(f"gowork://leader/{name}",))
    return tls_options(TlsFiles(authority.file, *issued, authority.file))


def caller(authority: Authority, role: str, name: str, **dates: Any) -> TlsFiles:
    issued = authority.issue(name, f"{name}.example", uris=(f"gowork://{role}/{name}",), **dates)
    return TlsFiles(authority.file, *issued)


def before(folder: Path, leaders: list[RunningLeader], **words: str) -> tuple[Setting, str, str]:
    """A proxy before these leaders, and where it takes workers and clients."""
    called: dict[str, str] = {}
    for number, leader in enumerate(leaders, 1):
        called |= {f"10.0.0.{number}:50051": leader.cluster, f"10.0.0.{number}:50052": leader.scheduler}
    cluster, scheduler = own_ports(2)
    setting = Setting(("leaders", "leaders-elsewhere"), folder, {50051: cluster, 50052: scheduler}, called, {**words})
    return setting, f"127.0.0.1:{cluster}", f"127.0.0.1:{scheduler}"


@pytest.fixture
def leader(tmp_path: Path, authority: Authority) -> Iterator[RunningLeader]:
    leader = start_leader(tmp_path, more=leader_options(authority))
    with stopped_cleanly(leader.process):
        yield leader


@each_kind
def test_a_good_certificate_works_and_others_do_not(
    kind: str, leader: RunningLeader, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NGINX ends a connection with GOAWAY after 20 calls here. Sessions and waits must go on.
    setting, cluster, scheduler = before(tmp_path, [leader], **{"keepalive_requests 1000000": "keepalive_requests 20"})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROGRAM.parent), os.environ.get("PYTHONPATH", "")]))
    web = caller(authority, "client", "web")
    with proxying(kind, tmp_path / "proxy", setting):
        more = ("--import=dialled_handlers", "--name=w1", "--runners=1", "--slots=4", "--print-ready")
        files = tls_options(caller(authority, "worker", "w1"))
        worker = start("gowork-worker", "--leader", cluster, *files, *more, folder=tmp_path)
        with stopped_cleanly(worker), Client(scheduler, tls=web, timeout=PATIENCE) as client:
            first_line(worker, tmp_path / "gowork-worker.log")
            work(client)
            assert [member.id for member in client.members()] == ["w1"]
            log = (tmp_path / "gowork-worker.log").read_text()
            assert log.count("session open") == 1, log
        for code, words, refused in refusals(kind, authority, tmp_path):
            for address in (scheduler, cluster):
                told = asyncio.run(end_of(address, refused))
                assert (told[0], words in told[1]) == (code, True), (refused, told)
        assert asyncio.run(end_of(scheduler, web)) == (grpc.StatusCode.OK, "")
        # Older versions of gRPC may say of Envoy's refusal that the connection took too long.
        why = "none was shown" if kind == "NGINX" else "wants a certificate|Timeout occurred: FD Shutdown"
        with Client(scheduler, tls=TlsFiles(authority.file), timeout=5) as client, pytest.raises(CallError, match=why):
            client.members()


@each_kind
async def test_the_leader_goes_by_the_caller_s_role_and_not_by_what_it_says(
    kind: str, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    leader = start_leader(tmp_path, more=[f"--proxy-listen={path}", *leader_options(authority)])
    cluster, scheduler = own_ports(2)
    words = {"/run/gowork/proxy.sock": str(path)}
    setting = Setting(("leaders", "leaders-here"), tmp_path, {50051: cluster, 50052: scheduler}, words=words)
    admin = caller(authority, "admin", "ops")
    forged = (("x-forwarded-client-cert", f'Cert="{quote(pem(admin))}"'), ("gowork-caller", "admin/ops"))
    pause = "PauseQueue", scheduler_pb2.PauseQueueRequest(name="q")
    denied, ok = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.OK
    with stopped_cleanly(leader.process), proxying(kind, tmp_path / "proxy", setting):
        for role in ("client", "worker", "leader"):
            files = caller(authority, role, role)
            assert await code_of_task_call(f"127.0.0.1:{scheduler}", files, *pause, ()) is not ok
            assert await code_of_task_call(f"127.0.0.1:{scheduler}", files, *pause, forged) is not ok
            # Past the proxy.
            assert await code_of_task_call(leader.scheduler, files, *pause, forged[:1]) is not ok
        web = caller(authority, "client", "web")
        assert await code_of_task_call(f"127.0.0.1:{scheduler}", web, *pause, forged) is denied
        for address in (f"127.0.0.1:{scheduler}", f"127.0.0.1:{cluster}", leader.scheduler):
            assert await code_of_task_call(address, admin, *pause, ()) is ok
            assert await code_of_task_call(address, web, "Stats", scheduler_pb2.StatsRequest(), ()) is ok


@each_kind
def test_the_leader_on_the_proxy_s_machine_leaves_it_its_ports(kind: str) -> None:
    page = (DOCS / "proxies.md").read_text()
    command = page.partition("gowork-leader --proxy-listen ")[2].partition("```")[0]
    listens = dict(re.findall(r"--(cluster|scheduler)-listen \S+:(\d+)", command))
    files = {"NGINX": "nginx/tls/leaders.conf", "Envoy": "envoy/leaders.yaml"}
    taken = re.findall(r"(?:listen|port_value:) (\d+)", (DOCS.parent / "deploy" / files[kind]).read_text())
    assert set(taken) == {"50051", "50052"}
    assert listens.keys() == {"cluster", "scheduler"}
    assert not set(listens.values()) & set(taken)


async def code_of_task_call(
    address: str, files: TlsFiles, name: str, request: Any, metadata: Sequence[tuple[str, str]]
) -> grpc.StatusCode:
    """How a call of SchedulerService ends."""
    async with channel(address, files) as opened:
        method: Any = getattr(scheduler_pb2_grpc.SchedulerServiceStub(opened), name)
        code: grpc.StatusCode = await method(request, metadata=metadata, timeout=PATIENCE).code()
        return code


def work(client: Client) -> None:
    """Schedules, waits and cancels."""
    for number in range(3):
        handles = list(client.schedule_many([f"{number}-{n}" for n in range(20)]))
        done = {handle.id for handle in client.as_completed(handles, timeout=PATIENCE) if handle.result()}
        assert done == {handle.id for handle in handles}
    long = client.schedule("for ever", handler="ends", id="long")
    while client.get("long").progress is None:
        pass
    for number in range(40):
        assert client.schedule(f"{number}").wait(timeout=PATIENCE).status is TaskStatus.COMPLETED
    long.cancel()
    assert long.wait(timeout=PATIENCE).status is TaskStatus.CANCELLED


def refusals(kind: str, authority: Authority, folder: Path) -> list[tuple[grpc.StatusCode, str, TlsFiles | None]]:
    """Who is refused: the status with which, words that they are told, and what they show; None: plain text."""
    other = caller(Authority(folder, "other"), "client", "stranger")
    expired = caller(authority, "client", "expired", since=NOW - 3 * DAY, until=NOW - DAY)
    # NGINX says it in an answer, and Envoy ends the handshake.
    code = grpc.StatusCode.UNAUTHENTICATED if kind == "NGINX" else grpc.StatusCode.UNAVAILABLE
    says = "the proxy does not take the certificate: {}" if kind == "NGINX" else ""
    shown = {
        "none was shown": TlsFiles(authority.file),
        "FAILED:unable to verify": TlsFiles(authority.file, other.cert, other.key),
        "FAILED:certificate has expired": expired,
    }
    refused = [(code, says.format(why), files) for why, files in shown.items()]
    return [*refused, (grpc.StatusCode.UNAVAILABLE, "", None)]


def channel(address: str, files: TlsFiles | None) -> grpc.aio.Channel:
    """A channel as a program has that does not judge its own certificate."""
    if files is None:
        return grpc.aio.insecure_channel(address)
    ca, key, cert = (Path(path).read_bytes() if path else None for path in (files.ca, files.key, files.cert))
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert))


async def end_of(address: str, files: TlsFiles | None) -> tuple[grpc.StatusCode, str]:
    """How a call ends, and what is said of it."""
    async with channel(address, files) as opened:
        call = leader_pb2_grpc.LeaderServiceStub(opened).Members(leader_pb2.MembersRequest(), timeout=PATIENCE)
        return await call.code(), await call.details() or ""


def pem(files: TlsFiles) -> str:
    """The certificate."""
    return Path(str(files.cert)).read_text()


class Recorder(grpc.GenericRpcHandler):
    """Records the metadata of each call, and answers as a leader that follows does."""

    def __init__(self) -> None:
        self.heard: list[list[tuple[str, str | bytes]]] = []
        #: Calls are answered while it is set.
        self.answers = asyncio.Event()
        self.answers.set()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self.heard.append(list(context.invocation_metadata() or ()))
            await context.send_initial_metadata((("gowork-leader", "127.0.0.1:1"),))
            await self.answers.wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    @asynccontextmanager
    async def serving(self, address: str, tls: Tls | None = None) -> AsyncIterator[str]:
        """Serves at this address. Returns it, with its port."""
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self,))
        port = bind(server, address, tls)
        await server.start()
        try:
            yield address.replace(":0", f":{port}")
        finally:
            await server.stop(0)


@each_kind
async def test_what_callers_say_of_themselves_is_overwritten(kind: str, authority: Authority, tmp_path: Path) -> None:
    web, recorder = caller(authority, "client", "web"), Recorder()
    shown, forged = pem(web), f'Cert="{quote(pem(caller(authority, "leader", "l9")))}"'
    path = tmp_path / "s"
    ports = own_ports(2)
    setting = Setting(
        ("leaders", "leaders-here"),
        tmp_path,
        dict(zip((50051, 50052), ports, strict=True)),
        words={"/run/gowork/proxy.sock": str(path)},
    )
    own = (
        ("x-forwarded-client-cert", forged),
        ("x-forwarded-client-cert", forged),
        ("X-Forwarded-Client-Cert", forged),
    )
    more = (("gowork-caller", "x"), ("gowork-forwarded", "x"), ("gowork-kept", "x"))
    lower = tuple((key.lower(), value) for key, value in (*own, *more))
    async with recorder.serving(f"unix:{path}"):
        with proxying(kind, tmp_path / "proxy", setting):
            for port in ports:
                async with channel(f"127.0.0.1:{port}", web) as opened:
                    for method in ("/scheduler.v1.SchedulerService/Stats", "/worker.v1.SessionService/Session"):
                        method_call: Any = opened.unary_unary(method)
                        call = method_call(b"", metadata=lower, timeout=PATIENCE)
                        await call
                        assert "gowork-leader" not in await call.initial_metadata()
                    # Beyond the bound of metadata nothing arrives.
                    too_much: Any = opened.unary_unary("/scheduler.v1.SchedulerService/Stats")
                    with pytest.raises(grpc.aio.AioRpcError):
                        await too_much(b"", metadata=(("long", "x" * 9000),), timeout=PATIENCE)
    assert len(recorder.heard) == 4
    for heard in recorder.heard:
        values = [value for key, value in heard if key == "x-forwarded-client-cert"]
        assert len(values) == 1
        assert isinstance(values[0], str)
        assert values[0].count("Cert=") == 1
        # Envoy names itself and a hash, too.
        parts = dict(part.split("=", 1) for part in values[0].split(";"))
        assert unquote(parts["Cert"].strip('"')) == shown
        assert {key for key, _ in heard if key.startswith("gowork-")} == {"gowork-kept"}


def served_by(authority: Authority, role: str, host: str) -> Tls:
    """The certificates of who serves behind a proxy: of this authority, with this role, for this host."""
    return Tls(TlsFiles(authority.file, *authority.issue("served", "127.0.0.1", host, uris=(f"gowork://{role}/x",))))


#: {part: the files of the configuration, where it listens, whom it calls there, and these ones' role and host}.
PARTS: dict[str, tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...], str, str]] = {
    "leaders": (
        ("leaders", "leaders-elsewhere"), (50051, 50052), ("10.0.0.1:50051", "10.0.0.1:50052"), "leader",
        "gowork-leader",
    ),
    "worker": (("worker",), (50060,), ("127.0.0.1:50061",), "worker", "gowork-worker"),
}  # fmt: skip


@each_kind
@pytest.mark.parametrize("part", PARTS)
async def test_a_proxy_hands_calls_on_to_those_alone_whom_it_is_before(
    kind: str, part: str, authority: Authority, tmp_path: Path
) -> None:
    files, listened, called, role, host = PARTS[part]
    l1 = caller(authority, "leader", "l1")
    # Envoy knows them by their role, and NGINX by a name that only they have.
    stranger = served_by(authority, "client", host) if kind == "Envoy" else served_by(authority, role, "other")
    strangers = [stranger, served_by(Authority(tmp_path, "other"), role, host)]
    for number, tls in enumerate([*strangers, served_by(authority, role, host)]):
        recorder = Recorder()
        async with recorder.serving("127.0.0.1:0", tls) as address:
            ports = own_ports(len(listened))
            setting = Setting(files, tmp_path, dict(zip(listened, ports, strict=True)), dict.fromkeys(called, address))
            with proxying(kind, tmp_path / f"proxy-{number}", setting):
                for port in ports:
                    code, _ = await end_of(f"127.0.0.1:{port}", l1)
                    assert (code is grpc.StatusCode.OK) is (tls not in strangers), (number, code)
        assert bool(recorder.heard) is (tls not in strangers)


@each_kind
async def test_one_caller_takes_no_more_than_its_share(kind: str, authority: Authority, tmp_path: Path) -> None:
    callers = [caller(authority, "client", name) for name in ("one", "other", "third")]
    recorder, path, (cluster, scheduler) = Recorder(), tmp_path / "s", own_ports(2)
    words = {
        "/run/gowork/proxy.sock": str(path),
        "rate=5000r/s": "rate=1r/m",
        "burst=10000 ": "burst=2 ",
        "limit_conn gowork_open 10000": "limit_conn gowork_open 2",
        "max_tokens: 10000, tokens_per_fill: 500, fill_interval: 0.1s": "max_tokens: 3, tokens_per_fill: 1, "
        "fill_interval: 600s",
    }
    setting = Setting(("leaders", "leaders-here"), tmp_path, {50051: cluster, 50052: scheduler}, words=words)
    ok, refused = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
    async with recorder.serving(f"unix:{path}"):
        with proxying(kind, tmp_path / "proxy", setting):
            async with AsyncExitStack() as stack:
                opened = [
                    await stack.enter_async_context(channel(f"127.0.0.1:{scheduler}", files)) for files in callers
                ]
                methods: list[Any] = [each.unary_unary("/scheduler.v1.SchedulerService/Stats") for each in opened]
                one, other, third = methods
                assert [await one(b"", timeout=PATIENCE).code() for _ in range(5)] == [ok] * 3 + [refused] * 2
                assert await other(b"", timeout=PATIENCE).code() is ok
                if kind == "NGINX":
                    # It bounds what is under way, too. Envoy bounds that for all callers together.
                    recorder.answers.clear()
                    calls = [asyncio.ensure_future(third(b"", timeout=PATIENCE).code()) for _ in range(3)]
                    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE / 6)
                    assert [call.result() for call in done] == [refused]
                    recorder.answers.set()
                    assert sorted(code.name for code in await asyncio.gather(*calls)) == ["OK", "OK", "UNAVAILABLE"]
    assert len(recorder.heard) == (6 if kind == "NGINX" else 4)


@each_kind
@pytest.mark.parametrize("part", ["leaders", "worker"])
def test_a_caller_shows_its_certificate_with_each_connection(
    kind: str, part: str, authority: Authority, tmp_path: Path
) -> None:
    web = caller(authority, "leader", "web")
    listened = (50051, 50052) if part == "leaders" else (50060,)
    ports = own_ports(len(listened))
    parts = ("leaders", "leaders-elsewhere") if part == "leaders" else ("worker",)
    called = {"10.0.0.1:50051": "127.0.0.1:1", "10.0.0.1:50052": "127.0.0.1:1"}
    setting = Setting(parts, tmp_path, dict(zip(listened, ports, strict=True)), called)
    context = ssl.create_default_context(cafile=str(authority.file))
    context.set_alpn_protocols(["h2"])
    # In TLS 1.3, what resumes a session arrives at some time after the handshake.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(web.cert), str(web.key))

    def connect(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as opened:
                return opened.session, opened.session_reused

    with proxying(kind, tmp_path / "proxy", setting):
        for port in ports:
            session, _ = connect(port, None)
            assert connect(port, session)[1] is False


@each_kind
@pytest.mark.tool("etcd")
def test_nothing_is_lost_when_one_of_two_leaders_dies(kind: str, authority: Authority, tmp_path: Path) -> None:
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdCluster(tmp_path))
        leaders = stack.enter_context(
            sharing_leaders(tmp_path, etcd.url("gowork"), ("l1", "l2"), more=partial(leader_options, authority))
        )
        setting, cluster, scheduler = before(tmp_path, list(leaders.values()))
        stack.enter_context(proxying(kind, tmp_path / "proxy", setting))
        files = tls_options(caller(authority, "worker", "w1"))
        more = ["--leader", cluster, *files, "--runners=1", "--slots=8", "--print-ready"]
        worker = start("gowork-worker", *more, folder=tmp_path)
        web = caller(authority, "client", "web")
        with stopped_cleanly(worker):
            first_line(worker, tmp_path / "gowork-worker.log")
            with Client(scheduler, tls=web, timeout=PATIENCE) as client:
                leading = next(each.name for each in client.leaders().leaders if each.leads)
            seen = seen_while(lambda: leaders[leading].process.send_signal(signal.SIGKILL), scheduler, web, tmp_path)
    assert seen["attempts"].keys() == seen["results"].keys()
    for outcomes in seen["attempts"].values():
        # A grant that did not reach the worker before its leader died is on record, and was not run.
        assert outcomes == ["INTERRUPTED"] * (len(outcomes) - 1) + ["COMPLETED"]
    assert len(seen["cancelled"]) > 2


def seen_while(what: Any, scheduler: str, files: TlsFiles, folder: Path) -> dict[str, Any]:
    """Does something while balanced_client.py schedules, waits, watches and cancels, and returns what that has seen."""
    tls = {"GOWORK_TLS_CA": str(files.ca), "GOWORK_TLS_CERT": str(files.cert), "GOWORK_TLS_KEY": str(files.key)}
    with (folder / "program.log").open("a") as log:
        program = subprocess.Popen(
            [sys.executable, str(PROGRAM), scheduler],
            env={**os.environ, **tls},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        first_line(program, folder / "program.log")
        what()
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
        first_line(program, folder / "program.log")
        told, _ = program.communicate(timeout=4 * PATIENCE)
    finally:
        kill(program)
    assert program.returncode == 0, (folder / "program.log").read_text()
    seen: dict[str, Any] = json.loads(told.splitlines()[-1])
    return seen


@each_kind
def test_a_callback_worker_is_called_through_the_proxy(
    kind: str, leader: RunningLeader, authority: Authority, tmp_path: Path
) -> None:
    port, own = own_ports(2)
    setting = Setting(("worker",), tmp_path, {50060: port}, {"127.0.0.1:50061": f"127.0.0.1:{own}"})
    issued = authority.issue("w1", "127.0.0.1", "gowork-worker", uris=("gowork://worker/w1",))
    listening = (f"--listen=127.0.0.1:{own}", f"--advertise=127.0.0.1:{port}", f"--scheduler={leader.scheduler}")
    more = ("--leader", leader.cluster, "--name=w1", "--runners=1", "--default-handler=echo", "--print-ready")
    with proxying(kind, tmp_path / "proxy", setting):
        files = tls_options(TlsFiles(authority.file, *issued))
        worker = start("gowork-worker", *more, *listening, *files, folder=tmp_path)
        web = caller(authority, "client", "web")
        with stopped_cleanly(worker), Client(leader.scheduler, tls=web, timeout=PATIENCE) as client:
            first_line(worker, tmp_path / "gowork-worker.log")
            assert [member.address for member in client.members()] == [f"127.0.0.1:{port}"]
            assert client.schedule("called").wait(timeout=PATIENCE).status is TaskStatus.COMPLETED
            # Envoy sees the role in a certificate, and takes leaders alone.
            strangers = [None, TlsFiles(authority.file), *([web] if kind == "Envoy" else [])]
            for files_shown in strangers:
                assert asyncio.run(end_of(f"127.0.0.1:{port}", files_shown))[0] in {
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.INTERNAL,
                }
