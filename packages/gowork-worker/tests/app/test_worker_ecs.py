"""A worker that runs as a task of Amazon ECS, beside a stand-in of the agent that also lies, stalls and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import itertools
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import handler
from gowork.worker._app import ecs_task
from gowork.worker._app.ecs_agent import ANSWER_BYTES_MAX, AgentError, ask
from gowork.worker._app.ecs_protection import MINUTES_MAX, Pace, Protection
from gowork.worker._app.ecs_task import EcsTask, find_task, task_of, with_labels

MODULES = Path(__file__).parent.parent / "modules"
PATIENCE = 30.0
ARN = "arn:aws:ecs:eu-central-1:111122223333:task/gowork/158d1c8083dd49d6b527399fd6414f5c"
#: What the agent says of a task on Fargate, as its documentation shows, shortened.
METADATA = {
    "Cluster": "arn:aws:ecs:eu-central-1:111122223333:cluster/gowork",
    "TaskARN": ARN,
    "Family": "gowork-worker",
    "Revision": "7",
    "DesiredStatus": "RUNNING",
    "Containers": [{"Name": "worker"}],
    "LaunchType": "FARGATE",
    "AvailabilityZone": "eu-central-1a",
}
Answer = tuple[int, bytes]
FAST = Pace(look=0.01, idle=0.2, between=0.05, retry=0.05, retry_max=0.2, call=2.0)


class Agent:
    """Answers at an address of its own. What it says is up to `answer`, which a test may replace."""

    def __init__(self) -> None:
        #: (path, body) of each call, in order.
        self.calls: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
        self.answer: Callable[[str, dict[str, Any] | None], Answer | None] = obey
        self.closed = threading.Event()
        agent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve()

            def do_PUT(self) -> None:
                self._serve()

            def _serve(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(data) if data else None
                answered = agent.answer(self.path, body)
                agent.calls.put((self.path, body))
                if answered is None:
                    # It says nothing, until the test is over.
                    agent.closed.wait()
                    return
                with contextlib.suppress(OSError):
                    self.send_response(answered[0])
                    self.end_headers()
                    self.wfile.write(answered[1])

            def log_message(self, *args: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}/api/158d"

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next(self) -> dict[str, Any] | None:
        """Waits for the next call that sets the protection; its body."""
        while True:
            path, body = self.calls.get(timeout=PATIENCE)
            if path == "/api/158d/task-protection/v1/state":
                return body


def obey(path: str, body: dict[str, Any] | None) -> Answer:
    if path.endswith("/task"):
        return 200, json.dumps(METADATA).encode()
    assert body is not None
    state = {"ProtectionEnabled": body["ProtectionEnabled"], "TaskArn": ARN}
    return 200, json.dumps({"protection": state}).encode()


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    yield made
    made.close()


class Work:
    """Whether there is any; the protection that looks at it is closed at the end."""

    def __init__(self) -> None:
        self.is_there = False
        self._protections: list[Protection] = []

    def protected(self, uri: str, minutes: int = 60, pace: Pace = FAST) -> Protection:
        made = Protection(uri, lambda: self.is_there, minutes, pace)
        self._protections.append(made)
        made.start()
        return made

    def close(self) -> None:
        for protection in self._protections:
            protection.close()
            protection._thread.join(PATIENCE)
            assert not protection._thread.is_alive()


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.close()


# The protection


def test_a_worker_is_protected_while_it_has_work_and_a_while_after(agent: Agent, work: Work) -> None:
    work.protected(agent.uri)
    work.is_there = True
    assert agent.next() == {"ProtectionEnabled": True, "ExpiresInMinutes": 60}
    ended = time.monotonic()
    work.is_there = False
    assert agent.next() == {"ProtectionEnabled": False}
    assert time.monotonic() - ended >= FAST.idle - 0.05
    work.is_there = True
    assert agent.next() == {"ProtectionEnabled": True, "ExpiresInMinutes": 60}


def test_short_tasks_one_after_the_other_make_no_calls(agent: Agent, work: Work) -> None:
    work.protected(agent.uri, pace=Pace(look=0.001, idle=PATIENCE, between=0.001))
    work.is_there = True
    assert agent.next() == {"ProtectionEnabled": True, "ExpiresInMinutes": 60}
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        work.is_there = not work.is_there
        time.sleep(0.002)
    assert agent.calls.empty()


def test_a_protection_is_renewed_when_half_of_it_has_passed(
    agent: Agent, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = 0.0
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + skipped)
    work.is_there = True
    work.protected(agent.uri, minutes=10)
    assert agent.next() == {"ProtectionEnabled": True, "ExpiresInMinutes": 10}
    skipped = 4 * 60.0
    with pytest.raises(queue.Empty):
        agent.calls.get(timeout=0.3)
    skipped = 6 * 60.0
    assert agent.next() == {"ProtectionEnabled": True, "ExpiresInMinutes": 10}


def test_a_worker_without_work_makes_no_call(agent: Agent, work: Work) -> None:
    work.protected(agent.uri)
    with pytest.raises(queue.Empty):
        agent.calls.get(timeout=0.3)


BLOCKED = {"failure": {"Arn": ARN, "Reason": "DEPLOYMENT_BLOCKED", "Detail": "more are protected than are wanted"}}
NO_ROLE = {"requestID": "1", "error": {"Arn": ARN, "Code": "AccessDeniedException", "Message": "no task role"}}
LIE = {"protection": {"ProtectionEnabled": False, "TaskArn": ARN}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, json.dumps(BLOCKED).encode()), "DEPLOYMENT_BLOCKED: more are protected than are wanted"),
        ((400, json.dumps(NO_ROLE).encode()), "AccessDeniedException: no task role"),
        ((429, b"Too Many Requests"), "is no object of JSON"),
        ((200, json.dumps(LIE).encode()), "does not say that the protection is set"),
        ((500, b'{"protection": {"ProtectionEnabled": true}}'), "status 500"),
        ((200, b'{"protection": {"ProtectionEnabled": 1}}'), "does not say that the protection is set"),
        ((200, b"{}"), "does not say that the protection is set"),
        ((200, b'{"failure": {}}'), "status 200 without a reason"),
        ((200, b"["), "is no object of JSON"),
        ((200, b"[" * 100_000), "is no object of JSON"),
        ((200, b"\xff\xfe"), "is no object of JSON"),
        ((200, b" " * (ANSWER_BYTES_MAX + 1)), "more than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_agent_that_refuses_or_lies_is_asked_again_more_and_more_seldom_and_logged_once(
    agent: Agent, work: Work, caplog: pytest.LogCaptureFixture, answer: Answer, words: str
) -> None:
    caplog.set_level("INFO")
    agent.answer = lambda path, body: answer
    work.is_there = True
    work.protected(agent.uri)
    at = []
    for _ in range(5):
        assert agent.next() == {"ProtectionEnabled": True, "ExpiresInMinutes": 60}
        at.append(time.monotonic())
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    # 0.05 s, 0.1 s, 0.2 s, 0.2 s; a busy machine only makes them longer.
    assert all(gap >= least - 0.02 for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.2), strict=True))
    obeyed = threading.Event()

    def obey_now(path: str, body: dict[str, Any] | None) -> Answer:
        obeyed.set()
        return obey(path, body)

    agent.answer = obey_now
    assert obeyed.wait(PATIENCE)
    work.close()
    assert caplog.messages[-1] == "ECS protects this task again"
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.message for record in warned] == ["ECS does not protect this task"]
    assert words in vars(warned[0])["reason"]


def test_a_task_counts_as_protected_only_if_the_answer_says_so(agent: Agent, work: Work) -> None:
    agent.answer = lambda path, body: (200, json.dumps(LIE).encode())
    work.is_there = True
    work.protected(agent.uri)
    for _ in range(2):
        assert agent.next() == {"ProtectionEnabled": True, "ExpiresInMinutes": 60}


def test_while_an_agent_stalls_there_is_one_call_and_the_end_does_not_wait_for_it(agent: Agent, work: Work) -> None:
    agent.answer = lambda path, body: None
    work.is_there = True
    protection = work.protected(agent.uri, pace=Pace(look=0.001, between=0.001, retry=0.001, call=10.0))
    assert agent.next() is not None
    with pytest.raises(queue.Empty):
        agent.calls.get(timeout=0.5)
    started = time.monotonic()
    protection.close()
    assert time.monotonic() - started < 8
    agent.closed.set()


def test_an_agent_that_is_not_there_is_logged_once(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        uri = f"http://127.0.0.1:{gone.getsockname()[1]}"
    looks = queue.SimpleQueue[None]()

    def has_work() -> bool:
        looks.put(None)
        return True

    protection = Protection(uri, has_work, 60, Pace(look=0.001, retry=0.001, retry_max=0.001))
    protection.start()
    for _ in range(20):
        looks.get(timeout=PATIENCE)
    protection.close()
    assert caplog.messages == ["ECS does not protect this task"]


# Calls


def test_an_answer_that_comes_byte_by_byte_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                for _ in range(2000):
                    connection.sendall(b" ")
                    time.sleep(0.01)

        thread = threading.Thread(target=drip)
        thread.start()
        started = time.monotonic()
        with pytest.raises(AgentError, match=r"no whole answer within 0\.3 s"):
            ask(f"http://127.0.0.1:{server.getsockname()[1]}", "/task", seconds=0.3)
        assert time.monotonic() - started < PATIENCE / 2
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_an_agent_that_says_nothing_is_given_up_in_time(agent: Agent) -> None:
    agent.answer = lambda path, body: None
    with pytest.raises(AgentError, match=r"no whole answer within 0\.2 s"):
        ask(agent.uri, "/task", seconds=0.2)


def test_a_redirection_is_not_followed_and_a_proxy_is_not_asked(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ask(agent.uri, "/task") == (200, METADATA)
    agent.answer = lambda path, body: (302, b"{}")
    assert ask(agent.uri, "/task") == (302, {})


@pytest.mark.parametrize(
    "uri", ["", "file:///etc/passwd", "https://127.0.0.1", "http://", "http://a:b", "http://[", "x"]
)
def test_what_is_no_address_of_the_agent_is_refused(uri: str) -> None:
    with pytest.raises(AgentError, match="is no address"):
        ask(uri, "/task")


# The task


def test_a_worker_takes_its_name_and_labels_from_the_task(agent: Agent) -> None:
    found = find_task({"ECS_CONTAINER_METADATA_URI_V4": agent.uri})
    assert found.labels == {
        "zone": "eu-central-1a",
        "ecs.task": ARN,
        "ecs.family": "gowork-worker",
        "ecs.revision": "7",
    }
    assert found.name is not None
    assert found.name.startswith("gowork-worker-158d1c8083dd-")
    # Two containers of one task may be workers.
    assert found.name != find_task({"ECS_CONTAINER_METADATA_URI_V4": agent.uri}).name


def test_without_the_variable_nobody_is_asked(agent: Agent) -> None:
    assert find_task({}) == find_task({"ECS_CONTAINER_METADATA_URI_V4": ""}) == EcsTask()
    assert agent.calls.empty()


@pytest.mark.parametrize("value", [None, 7, ["a"], "", "x" * 254, "line\nbreak", "\u202ezone", "é"])
def test_what_can_be_no_label_is_left_out(value: object) -> None:
    found = task_of(METADATA | {"AvailabilityZone": value})
    assert "zone" not in found.labels
    assert found.name is not None
    found = task_of({"TaskARN": value, "Family": value})
    assert (found.name, found.labels) == (None, {})


def test_a_label_that_was_given_counts_more_and_there_are_never_too_many() -> None:
    found = task_of(METADATA)
    assert with_labels({"zone": "mine"}, found)["zone"] == "mine"
    many = {f"l{number}": "" for number in range(limits.LABELS_MAX)}
    assert with_labels(many, found) == many


def test_an_agent_that_does_not_answer_for_the_task_is_asked_again_and_then_left(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecs_task, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(ecs_task, "TRY_SECONDS", 0.1)
    variables = {"ECS_CONTAINER_METADATA_URI_V4": agent.uri}
    agent.answer = lambda path, body: None
    assert find_task(variables) == EcsTask(unknown="no whole answer within 0.1 s")
    assert agent.calls.qsize() == ecs_task.TRIES
    agent.answer = lambda path, body: (503, b"{}")
    assert find_task(variables).unknown == "status 503"
    answers = iter([(503, b"{}"), (200, json.dumps(METADATA).encode())])
    agent.answer = lambda path, body: next(answers)
    assert find_task(variables).labels["zone"] == "eu-central-1a"


# The process


async def test_a_worker_has_work_until_its_reports_are_acknowledged(leader: Any, start_worker: Any) -> None:
    def work() -> None: ...

    service = await start_worker([handler(work)])
    scripted = await leader.session()
    assert not service.supervisor.has_work
    scripted.grant(1, "work")
    await scripted.report(1)
    assert not service.supervisor.desk.held
    assert service.supervisor.has_work
    scripted.acknowledge(1)
    # It is answered after the acknowledgement was taken.
    scripted.send(pings=[1])
    await scripted.until(lambda: scripted.pongs)
    assert not service.supervisor.has_work


async def started(leader: Any, *arguments: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gowork.worker", "--runners=1", "--slots=2", "--import=worker_sample", *arguments),
        cwd=MODULES,
        env={"PATH": os.environ["PATH"], "GOWORK_LEADER": leader.address, "GOWORK_LOG_FORMAT": "json", **variables},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_worker_in_ecs_is_named_labelled_and_protected_and_drains_on_sigterm(agent: Agent, leader: Any) -> None:
    process = await started(leader, ECS_CONTAINER_METADATA_URI_V4=agent.uri, ECS_AGENT_URI=agent.uri)
    scripted = await leader.session()
    assert scripted.hello.name.startswith("gowork-worker-158d1c8083dd-")
    assert dict(scripted.hello.labels)["zone"] == "eu-central-1a"
    assert dict(scripted.hello.labels)["ecs.task"] == ARN
    scripted.grant(1, "until_cancelled")
    await scripted.started(1)
    assert await asyncio.to_thread(agent.next) == {"ProtectionEnabled": True, "ExpiresInMinutes": 60}
    # ECS stops the task: what runs has until the drain's end, and nothing new is taken.
    process.send_signal(signal.SIGTERM)
    await scripted.until(lambda: scripted.condition.draining)
    process.send_signal(signal.SIGTERM)
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
    scripted.acknowledge(1)
    _, log = await process.communicate()
    assert process.returncode == 0, log


async def test_a_worker_that_can_not_finish_ends_within_what_ecs_leaves_after_its_drain(leader: Any) -> None:
    process = await started(leader, GOWORK_DRAIN_TIMEOUT="1")
    scripted = await leader.session()
    for fence in (1, 2):
        scripted.grant(fence, "stubborn")
        await scripted.started(fence)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    # The leader acknowledges nothing, and so the worker waits for that as long as it ever does.
    _, log = await process.communicate()
    assert process.returncode == 0, log
    # deploy/ecs gives it 20 s more than its drain.
    assert time.monotonic() - began < 1 + 20


@pytest.mark.longer
async def test_an_agent_that_stalls_delays_the_start_by_seconds_and_nothing_else(agent: Agent, leader: Any) -> None:
    agent.answer = lambda path, body: None
    process = await started(leader, ECS_CONTAINER_METADATA_URI_V4=agent.uri, ECS_AGENT_URI=agent.uri)
    scripted = await leader.session()
    assert not dict(scripted.hello.labels)
    for fence in (1, 2, 3):
        scripted.grant(fence, "add", "[1, 2]")
        assert (await scripted.report(fence)).result == "3"
    # No acknowledgement, so that there is work until the call hangs.
    assert await asyncio.to_thread(agent.next) is not None
    scripted.acknowledge(1, 2, 3)
    process.send_signal(signal.SIGTERM)
    _, log = await process.communicate()
    assert process.returncode == 0, log
    assert "worker has no labels of its ECS task" in log.decode()


async def test_a_worker_that_is_told_not_to_protects_nothing(agent: Agent, leader: Any) -> None:
    process = await started(leader, "--ecs-protection=0", "--name=own", ECS_AGENT_URI=agent.uri)
    scripted = await leader.session()
    assert scripted.hello.name == "own"
    assert not dict(scripted.hello.labels)
    scripted.grant(1, "add", "[1, 2]")
    await scripted.report(1)
    process.send_signal(signal.SIGTERM)
    scripted.acknowledge(1)
    await process.communicate()
    assert agent.calls.empty()


def test_the_command_takes_no_longer_protection_than_ecs_does() -> None:
    from gowork.worker._app.command import main

    (option,) = [option for option in main.params if option.name == "ecs_protection"]
    assert vars(option.type)["max"] == MINUTES_MAX
