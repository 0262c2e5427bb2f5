"""The command `gowork doctor`, against a real leader, a scripted one, and none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import trustme
from click.testing import CliRunner

from gowork.cli.commands import doctor
from gowork.cli.root import cli
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from gowork.proto.status import Refusal, status_of


class ScriptedLeader(leader_pb2_grpc.LeaderServiceServicer, scheduler_pb2_grpc.SchedulerServiceServicer):
    """Has a clock of its own, a version, and no right for others to see members."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self.version = "0.2.0"
        self.refuses: grpc.StatusCode | None = None

    def Activity(self, request: Any, context: grpc.ServicerContext) -> scheduler_pb2.ActivityResponse:
        if self.refuses is not None:
            context.abort(self.refuses, "no")
        return scheduler_pb2.ActivityResponse(version=self.version, now_ms=round(time.time() * 1000) + self.ahead_ms)

    def Leaders(self, request: Any, context: grpc.ServicerContext) -> leader_pb2.LeadersResponse:
        return leader_pb2.LeadersResponse()

    def Members(self, request: Any, context: grpc.ServicerContext) -> leader_pb2.MembersResponse:
        status = status_of(Refusal(grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING", "web may not call Members"))
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.PERMISSION_DENIED, status.message)


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedLeader, str]]:
    leader = ScriptedLeader()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        leader_pb2_grpc.add_LeaderServiceServicer_to_server(leader, server)
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(leader, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield leader, f"127.0.0.1:{port}"
        server.stop(None).wait()


def records(output: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(each["check"], each["subject"]): each for each in json.loads(output)}


def test_a_healthy_cluster_has_no_findings_of_its_own(gowork: Callable[..., Any]) -> None:
    found = records(gowork("doctor", "-o", "json").stdout)
    of_cluster = {"version", "clock", "leaders", "worker", "workers", "plugin", "connection", "certificate"}
    assert [each for each in found.values() if each["state"] != "OK" and each["check"] in of_cluster] == []
    assert found["clock", "this machine"]["state"] == "OK"
    assert found["worker", "worker worker-1"]["says"] == "live, 8 slots"
    assert found["disk", "the leader's"]["state"] == "SKIPPED"


def test_the_leaders_directory_is_checked(gowork: Callable[..., Any], cluster: Any, tmp_path: Path) -> None:
    directory = Path(cluster.process.args[cluster.process.args.index("--data-dir") + 1])
    found = records(gowork("doctor", "--data-dir", str(directory), "-o", "json").stdout)
    assert found["store format", str(directory / "gowork.db")]["state"] == "OK"
    assert found["disk speed", str(directory)]["says"].endswith("ms for a write to be on disk")
    found = records(gowork("doctor", "--data-dir", str(tmp_path), "-o", "json").stdout)
    assert found["store format", str(tmp_path / "gowork.db")]["state"] == "SKIPPED"


def test_a_table_names_what_to_do_and_the_exit_code_is_1(invoke: Callable[..., Any], free_address: str) -> None:
    result = invoke(["doctor", "--leader", free_address])
    assert result.exit_code == 1
    assert f"connection of {free_address}: start a leader with 'gowork up'" in result.stdout
    assert "1 finding" in result.stdout or "findings" in result.stdout


def test_a_wrong_clock_and_an_old_leader_are_found(invoke: Callable[..., Any], scripted: Any) -> None:
    leader, address = scripted
    leader.ahead_ms = 60_000
    leader.version = "0.0.9"
    result = invoke(["doctor", "--leader", address, "-o", "json"])
    found = records(result.stdout)
    assert result.exit_code == 1
    assert found["clock", "this machine"]["state"] == "FINDING"
    assert found["version", "this command"]["state"] == "FINDING"


def test_what_the_caller_may_not_see_is_skipped(invoke: Callable[..., Any], scripted: Any) -> None:
    found = records(invoke(["doctor", "--leader", scripted[1], "-o", "json"]).stdout)
    assert found["workers", "the cluster"]["state"] == "SKIPPED"
    assert found["workers", "the cluster"]["says"] == "web may not call Members"
    assert found["clock", "this machine"]["state"] == "OK"


def test_certificates_in_files_are_checked(invoke: Callable[..., Any], free_address: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    for name, days in (("soon", 3), ("later", 60)):
        made = authority.issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days))
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        made.private_key_pem.write_to_path(tmp_path / f"{name}-key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stated = {}
    for name in ("soon", "later"):
        files = ["--tls-ca", "ca.pem", "--tls-cert", f"{name}.pem", "--tls-key", f"{name}-key.pem"]
        given = [word if word.startswith("--") else str(tmp_path / word) for word in files]
        found = records(invoke(["doctor", "--leader", free_address, "-o", "json", *given]).stdout)
        (stated[name],) = [each["state"] for (_, subject), each in found.items() if f"{name}.pem: " in subject]
    assert stated == {"soon": "FINDING", "later": "OK"}


def test_public_authorities_are_no_file(
    invoke: Callable[..., Any], free_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOWORK_TLS_CA", "public")
    found = records(invoke(["doctor", "--leader", free_address, "-o", "json"]).stdout)
    assert not [subject for check, subject in found if check == "certificate"]


def test_a_slow_answer_is_no_wrong_clock(
    invoke: Callable[..., Any], scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    times = iter([now - 30, now + 30])
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: next(times)))
    found = records(invoke(["doctor", "--leader", scripted[1], "-o", "json"]).stdout)
    assert found["clock", "this machine"]["says"] == "as the leader's"


def test_the_leaders_of_the_environment_are_looked_at(scripted: Any, free_address: str) -> None:
    runner = CliRunner(env={"GOWORK_LEADER": f"{scripted[1]}, {free_address}"})
    found = records(runner.invoke(cli, ["doctor", "-o", "json"]).stdout)
    assert {subject: found[check, subject]["state"] for check, subject in found if subject.startswith("127.")} == {
        scripted[1]: "OK",
        free_address: "FINDING",
    }


def test_a_refused_question_does_not_end_the_checkup(invoke: Callable[..., Any], scripted: Any) -> None:
    leader, address = scripted
    leader.refuses = grpc.StatusCode.PERMISSION_DENIED
    found = records(invoke(["doctor", "--leader", address, "-o", "json"]).stdout)
    assert found["clock", "this machine"]["state"] == "SKIPPED"
    assert found["workers", "the cluster"]["state"] == "SKIPPED"
    assert found["certificate", address]["says"] == "none; calls are in plain text"


def test_a_caller_that_is_not_known_is_a_finding(invoke: Callable[..., Any], scripted: Any) -> None:
    leader, address = scripted
    leader.refuses = grpc.StatusCode.UNAUTHENTICATED
    result = invoke(["doctor", "--leader", address, "-o", "json"])
    assert result.exit_code == 1
    assert "--token-file" in records(result.stdout)["connection", "this machine"]["advice"]


def test_an_address_where_nobody_listens_is_found_beside_one_that_answers(
    invoke: Callable[..., Any], scripted: Any, free_address: str
) -> None:
    result = invoke(["doctor", "--leader", f"{scripted[1]},{free_address}", "-o", "json"])
    found = records(result.stdout)
    assert result.exit_code == 1
    assert found["connection", free_address]["says"].startswith("nobody listens there")
    assert found["clock", "this machine"]["state"] == "OK"
