"""TLS between real processes: leaders, workers, callers and the original's worker, with new certificates on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import original
import pytest
from clusters import (
    COMMANDS,
    RunningLeader,
    first_line,
    kill,
    sharing_leaders,
    start,
    start_leader,
    start_worker,
    stopped_cleanly,
    tls_options,
)
from etcd_members import EtcdCluster
from tls_authority import DAY, NOW, Authority

from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles
from gowork.client import AsyncClient, Client, LeaderUnreachable, TaskStatus

#: The deadline of each call, in seconds.
PATIENCE = 60.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def leader(tmp_path: Path, authority: Authority) -> Iterator[RunningLeader]:
    leader = start_leader(tmp_path, more=tls_options(authority.server(client_ca=authority.file)))
    with stopped_cleanly(leader.process):
        yield leader


@contextmanager
def working(folder: Path, leader: RunningLeader, files: TlsFiles, *more: str) -> Iterator[None]:
    process = start_worker(folder, leader, "--name=w", "--runners=1", "--slots=2", *tls_options(files), *more)
    with stopped_cleanly(process):
        yield


def command(leader: RunningLeader, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMANDS / "gowork"), "--leader", leader.scheduler, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_who_has_a_certificate_works_and_others_learn_why_not(
    leader: RunningLeader, authority: Authority, tmp_path: Path
) -> None:
    files = authority.client()
    with working(tmp_path, leader, authority.client("worker")), Client(leader.scheduler, tls=files) as client:
        assert done(client, "hello") == "hello"
        assert asyncio.run(done_by_asyncio(leader, files)) == "again"
    told = command(leader, *tls_options(files), "members", "--output=json")
    assert (told.returncode, '"w"' in told.stdout) == (0, True), told.stderr
    variables = {f"GOWORK_TLS_{name.upper()}": str(getattr(files, name)) for name in ("ca", "cert", "key")}
    assert command(leader, "members", **variables).returncode == 0
    for given, words in (
        ([], "it takes TLS alone, and was called in plain text; give tls-ca"),
        ([f"--tls-ca={authority.file}"], "it ended the connection when no certificate was shown to it"),
        (tls_options(Authority(tmp_path, "other").client("c")), "its certificate is from an authority that is not in"),
        (
            [*tls_options(files), "--tls-name=elsewhere"],
            "its certificate is not for elsewhere: it is for localhost, 127.0",
        ),
    ):
        told = command(leader, *given, "members")
        assert (told.returncode, words in told.stderr) == (3, True), told.stderr
    told = command(leader, f"--tls-cert={files.cert}", "members")
    assert (told.returncode, "tls-cert needs tls-key" in told.stderr) == (2, True), told.stderr


def done(client: Client, payload: str) -> Any:
    """Has a task done, and returns the payload that its handler got."""
    result: Any = client.schedule(payload).result(timeout=PATIENCE)
    return result["payload"]


async def done_by_asyncio(leader: RunningLeader, files: TlsFiles) -> Any:
    async with AsyncClient(leader.scheduler, tls=files) as client:
        result: Any = await (await client.schedule("again")).result(timeout=PATIENCE)
        return result["payload"]


async def test_a_client_library_says_why_too(leader: RunningLeader, authority: Authority) -> None:
    async with AsyncClient(leader.scheduler, patience=0, tls=TlsFiles(authority.file)) as client:
        with pytest.raises(LeaderUnreachable, match="it ended the connection when no certificate was shown"):
            await client.members()


def test_a_worker_says_why_it_has_no_session(leader: RunningLeader, tmp_path: Path) -> None:
    process = start("gowork-worker", "--leader", leader.cluster, "--runners=1", folder=tmp_path)
    try:
        line = waited_for(tmp_path / "gowork-worker.log", "no session, trying again")
        assert "it takes TLS alone, and was called in plain text" in line
    finally:
        kill(process)


def test_new_certificates_are_used_while_a_session_and_a_client_go_on(
    leader: RunningLeader, authority: Authority, tmp_path: Path
) -> None:
    files, worker = authority.client(), authority.client("worker")
    with working(tmp_path, leader, worker), Client(leader.scheduler, tls=files) as client:
        assert done(client, "before") == "before"
        # A new authority, together with the old one, and then certificates of it.
        fresh = Authority(tmp_path, "fresh")
        both = authority.file.read_bytes() + fresh.file.read_bytes()
        for name in ("leader", "client", "worker"):
            hosts = ("127.0.0.1", "localhost") if name == "leader" else (f"{name}.example",)
            certificate, key = fresh.issue(f"{name}-new", *hosts, uris=(f"gowork://{name}/{name}",))
            os.replace(certificate, tmp_path / f"{name}.pem")
            os.replace(key, tmp_path / f"{name}.key")
        authority.file.write_bytes(both)
        waited_for(tmp_path / "gowork-leader.log", "new certificates are used")
        assert done(client, "after") == "after"
        with Client(leader.scheduler, tls=TlsFiles(fresh.file, files.cert, files.key)) as other:
            assert done(other, "new") == "new"
        log = (tmp_path / "gowork-worker.log").read_text()
        assert log.count("session open") == 1, log


@pytest.mark.longer
def test_a_bad_new_certificate_is_refused_and_the_old_one_stays(
    leader: RunningLeader, authority: Authority, tmp_path: Path
) -> None:
    authority.issue("leader", "127.0.0.1", since=NOW - 3 * DAY, until=NOW - DAY)
    line = waited_for(tmp_path / "gowork-leader.log", "new certificates not used")
    assert "expired at" in line
    with Client(leader.scheduler, tls=authority.client()) as client:
        assert client.members() == []


def test_a_leader_does_not_start_with_files_that_do_not_fit(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = authority.issue("one", "127.0.0.1")
    _, key = authority.issue("two", "127.0.0.1")
    given = [f"--tls-cert={certificate}", f"--tls-key={key}"]
    told = subprocess.run(
        [str(COMMANDS / "gowork-leader"), f"--data-dir={tmp_path}", *given],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (told.returncode, "is not the key of the certificate in" in told.stderr) == (2, True), told.stderr


def test_a_callback_worker_is_called_by_leaders_alone(
    leader: RunningLeader, authority: Authority, tmp_path: Path
) -> None:
    files = authority.server("worker", "127.0.0.1", role="worker")
    more = ("--listen=127.0.0.1:0", f"--scheduler={leader.scheduler}", "--default-handler=echo")
    with working(tmp_path, leader, files, *more), Client(leader.scheduler, tls=authority.client()) as client:
        # The original contract has no results.
        assert client.schedule("called").result(timeout=PATIENCE) is None
        (member,) = client.members()
        for stranger in (None, TlsFiles(authority.file)):
            assert asyncio.run(start_work(member.address, stranger)) is grpc.StatusCode.UNAVAILABLE
        assert asyncio.run(start_work(member.address, authority.client())) is grpc.StatusCode.PERMISSION_DENIED


async def start_work(address: str, files: TlsFiles | None) -> grpc.StatusCode:
    from gowork.base.channels import open_channel
    from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc

    async with open_channel([address], tls=None if files is None else Tls(files)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await worker_pb2_grpc.WorkerServiceStub(channel).StartWork(
                worker_pb2.StartWorkRequest(id="x", payload="x"), timeout=PATIENCE
            )
    return refused.value.code()


async def test_a_worker_of_the_original_joins_with_mutual_tls(authority: Authority, tmp_path: Path) -> None:
    # The original's certificates: one to serve as "worker", and one to call the leader, which is "scheduler".
    certificate, key = authority.issue("scheduler", "scheduler.example", "scheduler")
    leader_files = TlsFiles(authority.file, certificate, key, authority.file)
    certificate, key = authority.issue("worker", "worker.example")
    own = original.Certificates(authority.file, certificate, key, "scheduler")
    served = original.Certificates(authority.file, *authority.issue("worker-server", "worker.example", "worker"))
    access = tmp_path / "access.toml"
    access.write_text('[[identity]]\nname = "original"\nroles = ["worker", "client"]\ncertificates = ["CN=worker"]\n')
    given = [*tls_options(leader_files), "--tls-worker-name=worker", f"--access={access}"]
    leader = start_leader(tmp_path, more=given)
    with stopped_cleanly(leader.process):
        async with (
            original.Worker(certificates=served).serving() as worker,
            original.calling(leader.cluster, own) as cluster,
            original.calling(leader.scheduler, own) as scheduler,
        ):
            await cluster("cluster.v1.LeaderService/Join", id="w", address=worker.address)
            task = original.message("scheduler.v1.Task", id="t", payload="work")
            await scheduler("scheduler.v1.SchedulerService/ScheduleTask", task=task)
            started = await asyncio.wait_for(worker.started.get(), PATIENCE)
            assert (started.id, started.payload) == ("t", "work")
            await scheduler("scheduler.v1.SchedulerService/TaskComplete", id="t")
            files = TlsFiles(authority.file, own.certificate, own.key, name="scheduler")
            async with AsyncClient(leader.scheduler, tls=files) as client:
                assert (await client.get("t")).status is TaskStatus.COMPLETED


@pytest.mark.tool("etcd")
@pytest.mark.timeout(300)
def test_several_leaders_forward_copy_and_take_over_by_tls(authority: Authority, tmp_path: Path) -> None:
    files = authority.client()

    def more(name: str) -> list[str]:
        return tls_options(authority.server(f"leader-{name}", client_ca=authority.file))

    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdCluster(tmp_path))
        leaders = stack.enter_context(sharing_leaders(tmp_path, etcd.url("gowork"), ("one", "two"), more=more))
        addresses = ",".join(each.cluster for each in leaders.values())
        options = ("--leader", addresses, "--name=w", "--runners=1", "--slots=2")
        process = start(
            "gowork-worker", *options, *tls_options(authority.client("worker")), "--print-ready", folder=tmp_path
        )
        with stopped_cleanly(process):
            first_line(process, tmp_path / "gowork-worker.log")
            for name, asked in leaders.items():
                # Whichever of them follows forwards this.
                with Client(asked.scheduler, tls=files, timeout=PATIENCE) as client:
                    assert done(client, name) == name
            with Client(leaders["one"].scheduler, tls=files, timeout=PATIENCE) as client:
                leading = next(each.name for each in client.leaders().leaders if each.leads)
            leaders[leading].process.send_signal(signal.SIGKILL)
            every = ",".join(each.scheduler for each in leaders.values())
            with Client(every, tls=files, timeout=PATIENCE) as client:
                assert done(client, "after") == "after"


def waited_for(log: Path, words: str) -> str:
    """Waits until a log has a line with these words, and returns the line."""
    with subprocess.Popen(["tail", "-n", "+1", "-F", str(log)], stdout=subprocess.PIPE, text=True) as tail:
        try:
            assert tail.stdout is not None
            return next(line for line in tail.stdout if words in line)
        finally:
            tail.kill()
