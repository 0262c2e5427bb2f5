"""Encrypted tasks on real processes: what leader, store, log and wire have of them, and who gets to read them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from clusters import misused, start_leader, start_worker, stopped_cleanly
from etcd_members import EtcdCluster

from gowork.base.key_files import read_file, write_file
from gowork.client import (
    AlreadyExists,
    AsyncClient,
    Client,
    InvalidArgument,
    NewTask,
    ResultError,
    TaskFailed,
    TaskView,
)
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as pb_grpc

pytestmark = pytest.mark.timeout(180)
HANDLERS = """
from gowork.worker import Cancel, Context, Snooze, WaitFor, handler

@handler
def works(ctx: Context, words: dict) -> dict:
    if ctx.attempt == 1:
        raise Snooze("SECRET snooze", delay=0)
    ctx.schedule({"n": "SECRET follow-up"}, handler="answers")
    return {"had": words, "and": "SECRET result"}

@handler
def splits(ctx: Context, words: dict) -> dict:
    return WaitFor([ctx.schedule("SECRET part", handler="answers")], then="joins")

@handler
def joins(words: dict) -> dict:
    return {"joined": words}

@handler
def waits(ctx: Context) -> None:
    ctx.progress(0.5, "SECRET progress")
    ctx.cancelled.wait(60)

@handler
def answers(payload) -> bytes:
    return b"SECRET bytes"

@handler
async def fails(n: int) -> None:
    raise ValueError("SECRET failure")

@handler
def cancels(payload) -> None:
    raise Cancel("SECRET cancel")

@handler
def returns(n: int) -> bytes:
    return bytes(n)

@handler
def groups(ctx: Context) -> None:
    ctx.schedule(id="made", group=1)
    ctx.schedule("SECRET child", id="made/0", handler="answers")

@handler
def nested(ctx: Context) -> None:
    ctx.schedule("SECRET" + "x" * ((1 << 20) - 6), handler="answers")
"""
NOBODY_S = "encrypted with key 'k1' (aes-256-gcm)"


class Recorder:
    """Forwards connections to a target, and keeps all bytes that pass."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed = bytearray()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(self._target)
            self._ends += [here, there]
            for one, other in ((here, there), (there, here)):
                thread = threading.Thread(target=self._pass, args=(one, other))
                self._threads.append(thread)
                thread.start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while part := one.recv(1 << 16):
                self.passed += part
                other.sendall(part)
        except OSError:
            pass
        finally:
            for end in (one, other):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._ends):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in list(self._threads):
            thread.join()
        for end in self._ends:
            end.close()


class Cluster:
    """A leader behind recorders, and a folder for each party."""

    def __init__(self, folder: Path, stack: ExitStack, *more: str) -> None:
        self.folder, self._stack = folder, stack
        self.leaders = folder / "leader"
        self.others = folder / "others"
        for each in (self.leaders, self.others):
            each.mkdir()
        self.keys = self.others / "keys"
        write_file(self.keys, {"k1": b"1" * 32})
        (self.others / "encrypted_handlers.py").write_text(HANDLERS)
        self.leader = start_leader(self.leaders, more=more)
        stack.enter_context(stopped_cleanly(self.leader.process))
        self.wire = [Recorder(self.leader.scheduler), Recorder(self.leader.cluster)]
        for recorder in self.wire:
            stack.callback(recorder.close)

    def worker(self, *options: str) -> None:
        through = replace(self.leader, cluster=self.wire[1].address)
        process = start_worker(self.others, through, "--import=encrypted_handlers", "--slots=4", *options)
        self._stack.enter_context(stopped_cleanly(process))

    def client(self, keys: str | Path | None = None, **options: Any) -> Client:
        made = Client(self.wire[0].address, keys=self.keys if keys is None else keys, **options)
        return self._stack.enter_context(made)

    def gowork(self, *arguments: str, keys: bool = False) -> str:
        with_keys = ["--keys", str(self.keys)] if keys else []
        command = ["gowork", "--leader", self.leader.scheduler, *with_keys, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def seen(self, word: str) -> list[str]:
        """The files of leader and log, and the recorders, that have this word."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and self.others not in path.parents]
        seen = [str(path) for path in files if word.encode() in path.read_bytes()]
        return seen + [f"wire {number}" for number, each in enumerate(self.wire) if word.encode() in each.passed]


@contextmanager
def running(folder: Path, *more: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(folder, stack, *more)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path) as cluster:
        yield cluster


def everything(cluster: Cluster) -> None:
    """Has every kind of thing said that a handler can say, and reads all of it with the key."""
    with cluster.client() as client:
        works, fails, cancels = (
            client.schedule({"a": "SECRET payload"}, id="works", handler="works"),
            client.schedule(7, id="fails", handler="fails"),
            client.schedule("SECRET text", id="cancels", handler="cancels"),
        )
        assert works.result(timeout=60) == {"had": {"a": "SECRET payload"}, "and": "SECRET result"}
        assert client.handle("works/1").result(timeout=60) == b"SECRET bytes"
        splits = client.schedule({"a": "SECRET split"}, id="splits", handler="splits")
        assert splits.result(timeout=60) == {"joined": {"a": "SECRET split"}}
        with pytest.raises(TaskFailed, match="ValueError: SECRET failure"):
            fails.result(timeout=60)
        assert cancels.wait(timeout=60).status == "CANCELLED"
        task = client.get("works")
        assert task.payload == '{"a":"SECRET payload"}'
        assert [attempt.reason for attempt in task.attempts] == ["SECRET snooze", ""]
        failed = client.get("fails")
        assert failed.failure is not None
        assert failed.failure.traceback.endswith("ValueError: SECRET failure\n")
        assert failed.attempts[0].reason == "SECRET failure"
        assert "SECRET cancel" in client.get("cancels").attempts[0].reason
        assert "SECRET failure" in client.explain("fails").reasons[0].message
        with client.watch(id_prefix="waits") as changes:
            waits = client.schedule(id="waits", handler="waits")
            assert "SECRET progress" in (task.progress.message for task in changes if task.progress)
        waits.cancel()
        assert waits.wait(timeout=60).status == "CANCELLED"


@pytest.mark.parametrize("runners", ["0", "1"])
def test_leader_store_and_wire_see_ciphertexts_alone(cluster: Cluster, runners: str) -> None:
    cluster.worker(f"--keys={cluster.keys}", f"--runners={runners}")
    everything(cluster)
    assert cluster.seen("SECRET") == []
    # So that the search is known to find what is there.
    cluster.client("").schedule("a CLEAR text", handler="echo").wait(timeout=60)
    assert {Path(each).name for each in cluster.seen("CLEAR")} >= {"wire 0", "wire 1"}
    assert any("leader.db" in each for each in cluster.seen("CLEAR"))


@pytest.mark.longer
@pytest.mark.tool("etcd")
def test_the_log_in_etcd_sees_ciphertexts_alone(tmp_path: Path) -> None:
    folder = tmp_path / "etcd"
    folder.mkdir()
    with EtcdCluster(folder) as etcd, running(tmp_path, f"--log={etcd.url('gowork')}", "--name=one") as cluster:
        cluster.worker(f"--keys={cluster.keys}")
        everything(cluster)
        assert cluster.seen("SECRET") == []
        cluster.client("").schedule("a CLEAR text", handler="echo").wait(timeout=60)
        assert any(str(folder) in each for each in cluster.seen("CLEAR"))


@pytest.mark.longer
def test_without_the_key_all_that_reads_says_so_and_names_it(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}")
    everything(cluster)
    for command in (
        ["show", "works"],
        ["show", "fails", "-o", "json"],
        ["why", "fails"],
        ["tasks", "--status", "ERROR"],
        ["wait", "works"],
        ["wait", "works", "-o", "jsonl"],
        ["tasks", "-o", "json"],
    ):
        told = cluster.gowork(*command)
        assert NOBODY_S in told, (command, told)
        assert "gowork-encrypted:" not in told
        assert "gowork\\u0001" not in told
    for command in (["show", "works"], ["show", "fails", "-o", "json"], ["why", "fails"], ["tasks", "-o", "json"]):
        told = cluster.gowork(*command, keys=True)
        assert "SECRET" in told
        assert NOBODY_S not in told
    shown = json.loads(cluster.gowork("show", "works", "-o", "json"))
    assert (shown["data"], shown["result_data"]) == (None, None)
    assert sorted(shown["encrypted"]) == ["payload", "result"]
    client = cluster.client("")
    with pytest.raises(ResultError, match=r"the result is encrypted with key 'k1' \(aes-256-gcm\): give the client"):
        client.handle("works").result()
    with client.watch(view=TaskView.FULL) as changes:
        cluster.client().schedule(7, id="seen", handler="fails")
        for task in changes:
            if task.status.finished:
                break
    assert task.failure is not None
    assert task.failure.message == f"({NOBODY_S})"


@pytest.mark.longer
async def test_the_asyncio_client_encrypts_and_decrypts_too(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}")
    async with AsyncClient(cluster.wire[0].address, keys=cluster.keys) as client:
        payloads = ["SECRET one", NewTask("SECRET two", id="two", selector={}), b"SECRET three"]
        handles = [handle async for handle in client.schedule_many(payloads, handler="answers")]
        assert [await handle.result(timeout=60) for handle in handles] == [b"SECRET bytes"] * 3
        tasks = {task.id: task async for task in client.tasks(view=TaskView.FULL)}
        assert [tasks[handle.id].payload or tasks[handle.id].data for handle in handles] == [
            "SECRET one",
            "SECRET two",
            b"SECRET three",
        ]
        async with client.watch() as changes:
            await client.schedule(1, handler="fails")
            async for task in changes:
                if task.status.finished:
                    break
        assert task.failure is not None
        assert task.failure.message == "SECRET failure"
    assert cluster.seen("SECRET") == []


def test_a_repeated_submit_is_the_same_task_also_after_a_change_of_keys(cluster: Cluster) -> None:
    client = cluster.client()
    for _ in range(2):
        client.schedule({"n": 1}, id="a", handler="answers")
    list(client.schedule_many([NewTask({"n": 1}, id="a")], handler="answers"))
    write_file(cluster.keys, {"k2": b"2" * 32, **read_file(cluster.keys)})
    newer = cluster.client()
    newer.schedule({"n": 1}, id="a", handler="answers")
    with pytest.raises(AlreadyExists):
        newer.schedule({"n": 2}, id="a", handler="answers")
    with pytest.raises(AlreadyExists):
        cluster.client("").schedule({"n": 1}, id="a", handler="answers")
    assert "k1" in cluster.gowork("show", "a")


def test_a_worker_without_keys_is_not_given_the_task(cluster: Cluster) -> None:
    cluster.worker()
    client = cluster.client()
    handle = client.schedule(0, handler="returns")
    (reason,) = client.explain(handle.id).reasons
    assert "gowork.codec" in reason.message
    cluster.worker(f"--keys={cluster.keys}")
    assert handle.result(timeout=60) == b""


@pytest.mark.longer
def test_a_task_whose_key_a_worker_lacks_is_put_off_until_it_has_it(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}")
    other = cluster.others / "other"
    write_file(other, {"k2": b"2" * 32})
    client = cluster.client(other)
    handle = client.schedule(0, handler="returns")
    with client.watch(view=TaskView.FULL) as changes:
        while not (task := client.get(handle.id)).attempts or task.attempts[0].outcome == "UNSPECIFIED":
            next(changes)
    attempt = task.attempts[0]
    assert (task.status, attempt.outcome, task.attempts_used) == ("PENDING", "SNOOZED", 0)
    assert "the payload is encrypted with key 'k2' (aes-256-gcm): there is no key 'k2' in" in attempt.reason
    assert "which has 'k1', on worker" in attempt.reason
    write_file(cluster.keys, {**read_file(cluster.keys), "k2": b"2" * 32})
    assert handle.result(timeout=90) == b""


def test_a_leader_cannot_give_a_task_the_payload_or_the_handler_of_another(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}")
    client = cluster.client()
    client.schedule(3, id="a", handler="returns", expires_in=60).wait(timeout=60)
    with grpc.insecure_channel(cluster.leader.scheduler) as channel:
        stub: Any = pb_grpc.SchedulerServiceStub(channel)
        stolen = stub.GetTask(pb.GetTaskRequest(id="a"), timeout=30).task
        for id, handler in (("b", "returns"), ("c", "answers")):
            task = pb.Task(id=id, handler=handler, data=stolen.data, selector=stolen.selector)
            stub.ScheduleTask(pb.ScheduleTaskRequest(task=task), timeout=30)
            with pytest.raises(TaskFailed, match=r"REJECTED.*it was altered, or belongs to another task"):
                client.handle(id).result(timeout=60)


@pytest.mark.longer
def test_a_worker_that_requires_encryption_refuses_clear_payloads(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}", "--require-encryption")
    with pytest.raises(TaskFailed, match="REJECTED.*it is not encrypted.*--require-encryption"):
        cluster.client("").schedule(1, handler="returns").result(timeout=60)
    assert cluster.client().schedule(1, handler="returns").result(timeout=60) == b"\0"


@pytest.mark.longer
def test_groups_are_encrypted_but_those_that_nobody_runs(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}")
    client = cluster.client()
    group = client.groups.run(["SECRET 1", "SECRET 2"], handler="answers")
    assert group.result(timeout=60)["completed"] == 2
    assert list(group.results()) == [b"SECRET bytes"] * 2
    client.schedule("SECRET", id="makes", handler="groups").result(timeout=60)
    assert client.groups.handle("made").result(timeout=60)["completed"] == 1
    found = client.get("made/0")
    assert (found.payload, found.encrypted) == ("SECRET child", {})
    assert cluster.seen("SECRET") == []


@pytest.mark.longer
def test_what_is_too_large_after_encryption_is_refused_with_the_reason(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}")
    client = cluster.client()
    with pytest.raises(InvalidArgument, match=r"payload: it takes 1,048,\d+ bytes when it is encrypted; at most"):
        client.schedule("x" * (1 << 20), handler="answers")
    with pytest.raises(TaskFailed, match=r"NO_RETRY.*result: it takes .* counted after encryption"):
        client.schedule(1 << 20, handler="returns").result(timeout=60)
    with pytest.raises(TaskFailed, match=r"NO_RETRY.*follow-up 'n/1': payload: it takes"):
        client.schedule(id="n", handler="nested").result(timeout=60)
    with pytest.raises(InvalidArgument, match=r"selector: at most 63 labels are taken, because gowork\.codec is added"):
        client.schedule(1, handler="returns", selector={str(number): "" for number in range(64)})


@pytest.mark.longer
def test_clear_tasks_stay_clear_on_a_worker_with_keys(cluster: Cluster) -> None:
    cluster.worker(f"--keys={cluster.keys}")
    clear = cluster.client("")
    assert clear.schedule({"a": 1}, id="w", handler="works").result(timeout=60)["and"] == "SECRET result"
    assert clear.handle("w/1").result(timeout=60) == b"SECRET bytes"
    assert clear.get("w/1").encrypted == {}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--keys=none"], "keys: /.*none: No such file or directory: make one with `gowork keys new"),
        (["--keys=open"], "has mode 0644"),
        (["--codec=nobody-s"], "codec: there is no 'nobody-s' here, only aes-256-gcm"),
        (["--require-encryption"], "require_encryption: it needs keys"),
        (["--keys=good", "--listen=127.0.0.1:0"], "give --keys or --listen, not both"),
        (["--keys=good", "--label=gowork.codec=x"], "'gowork.codec' is the label of workers with keys"),
    ],
)
def test_a_worker_with_a_set_up_that_cannot_work_says_so_at_its_start(
    tmp_path: Path, options: list[str], told: str
) -> None:
    write_file(tmp_path / "good", {"k1": b"1" * 32})
    (tmp_path / "open").write_text("")
    (tmp_path / "open").chmod(0o644)
    said = misused("gowork-worker", *options, folder=tmp_path)
    assert re.search(told, said), said


@pytest.mark.longer
def test_keys_are_made_and_changed_by_commands(tmp_path: Path) -> None:
    def keys(*arguments: str) -> tuple[int, str]:
        command = ["gowork", "keys", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    _, made = keys("new", "k")
    assert keys("new", "k", "--id", "b") == (0, "b\n")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert list(read_file(tmp_path / "k")) == [made.strip(), "b"]
    assert keys("first", "k", "b")[0] == 0
    listed = json.loads(keys("list", "k", "-o", "json")[1])
    assert listed == [{"id": "b", "encrypts": True}, {"id": made.strip(), "encrypts": False}]
    assert keys("remove", "k", made.strip())[0] == 0
    for arguments, told in (
        (("remove", "k", "b"), "'b' is the only key"),
        (("first", "k", "c"), "has no key 'c', only b"),
        (("new", "k", "--id", "b"), "has a key 'b' already"),
        (("new", "k", "--id", "a b"), "is not 1 to 64 letters"),
        (("new", "no/k"), "can't write no/k"),
        (("list", "none"), "No such file or directory"),
    ):
        code, said = keys(*arguments)
        assert code in (1, 2), (arguments, said)
        assert told in said
