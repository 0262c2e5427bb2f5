"""The commands, against a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from gowork.client import CallError, Client, LeaderUnreachable, TaskInfo


@pytest.fixture
def mark() -> str:
    """An id, label or queue of this test's own."""
    return uuid.uuid4().hex


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


class TestAdd:
    def test_the_id_is_printed_and_nothing_else(self, gowork, mark: str) -> None:
        result = gowork("add", mark, "some work")
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{mark}\n", "")

    def test_a_task_without_an_id_gets_one(self, gowork) -> None:
        result = gowork("add", "some work")
        assert uuid.UUID(result.stdout.strip()).version == 7

    def test_wait_prints_the_result(self, gowork) -> None:
        result = gowork("add", "--handler", "double", "21", "--wait")
        assert (result.exit_code, result.stdout) == (0, "42\n")

    def test_wait_for_a_task_that_fails_exits_with_1_and_says_why(self, gowork) -> None:
        result = gowork("add", "--handler", "fail", "no [paper]", "--wait")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "RuntimeError: [red]no [paper]" in result.stderr

    def test_wait_gives_up_in_time(self, gowork) -> None:
        result = gowork("add", "p", "--in", "1h", "--wait", "--timeout", "100ms")
        assert result.exit_code == 1
        assert "gowork: 1 task has not finished in time" in result.stderr

    def test_wait_tells_the_id_at_once_and_keeps_standard_output_for_the_result(self, gowork, mark: str) -> None:
        result = gowork("add", mark, "21", "--handler", "double", "--wait")
        assert (result.stdout, result.stderr) == ("42\n", f"task {mark}\n")

    @pytest.mark.parametrize("words", [["add", "p", "--handler", "doubel", "--wait"], ["wait"]])
    def test_wait_tells_why_a_task_is_not_started(
        self, gowork, mark: str, words: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gowork.cli.waiting.QUIET_S", 0.05)
        if words == ["wait"]:
            gowork("add", mark, "p", "--handler", "doubel")
            words = ["wait", mark]
        result = gowork(*words, "--timeout", "300ms")
        assert result.exit_code == 1
        assert "waits: no worker has the handler 'doubel'; did you mean 'double'?" in result.stderr
        assert result.stderr.count("waits: ") == 1

    def test_json_is_the_whole_task(self, gowork, mark: str) -> None:
        result = gowork("add", mark, "21", "--handler", "double", "--wait", "-o", "json")
        record = json.loads(result.stdout)
        assert (record["id"], record["status"], record["result"], record["failure"]) == (mark, "COMPLETED", 42, None)
        assert json.loads(gowork("add", mark, "21", "--handler", "double", "-o", "jsonl").stdout) == {"id": mark}

    def test_options_reach_the_task(self, gowork, mark: str) -> None:
        options = ["--handler", "h", "--priority", "high", "--queue", "q", "--label", "a=b=c", "--selector", "x=y"]
        times = ["--at", "2100-01-01T00:00+00:00", "--time-limit", "1m30s", "--max-attempts", "3"]
        assert gowork("add", mark, "payload", *options, *times).exit_code == 0
        task = json.loads(gowork("show", mark, "-o", "json").stdout)
        expected = {
            "payload": "payload",
            "status": "PENDING",
            "handler": "h",
            "priority": "HIGH",
            "queue": "q",
            "labels": {"a": "b=c"},
            "selector": {"x": "y"},
            "run_at": "2100-01-01T00:00:00.000Z",
            "time_limit": 90.0,
        }
        assert {key: task[key] for key in expected} == expected
        assert task["retry"]["max_attempts"] == 3

    def test_a_payload_comes_from_standard_input_as_it_is(self, gowork, mark: str) -> None:
        gowork("add", mark, "-", "--in", "1h", input="two\nlines\n")
        assert json.loads(gowork("show", mark, "-o", "json").stdout)["payload"] == "two\nlines\n"

    def test_bytes_go_in_and_out(self, gowork) -> None:
        result = gowork("add", "--handler", "reverse", "-", "--wait", input=b"\x00\xff")
        assert result.stdout_bytes == b"\xff\x00"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "give a PAYLOAD"),
            (["a", "b", "c"], "too many words"),
            (["p", "--in", "1h", "--at", "2100-01-01"], "--in or --at, not both"),
            (["p", "--in", "soon"], "'soon' is not a duration"),
            (["p", "--at", "tomorrow"], "'tomorrow' is not a time"),
            (["p", "--label", "nonsense"], "is not KEY=VALUE"),
            (["p", "--max-attempts", "0"], "--max-attempts"),
            (["p", "--file", "-"], "a PAYLOAD or a --file"),
        ],
    )
    def test_wrong_usage_exits_with_2(self, gowork, arguments: list[str], words: str) -> None:
        result = gowork("add", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr

    def test_what_the_leader_refuses_as_input_exits_with_2_and_names_the_field(self, gowork) -> None:
        result = gowork("add", "i" * 300, "p")
        assert result.exit_code == 2
        assert result.stderr.startswith("gowork: task.id: ")

    def test_an_id_that_is_taken_exits_with_1(self, gowork, mark: str) -> None:
        gowork("add", mark, "one")
        result = gowork("add", mark, "another")
        assert result.exit_code == 1
        assert mark in result.stderr


class TestAddFile:
    def test_each_line_is_a_task(self, gowork, mark: str, tmp_path: Path) -> None:
        file = tmp_path / "tasks.jsonl"
        lines: list[dict[str, Any]] = [{"payload": n} for n in range(100)]
        lines.append({"payload": "x", "id": mark, "handler": "shout", "labels": {"a": "b"}, "in": "1h", "at": None})
        file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
        result = gowork("add", "--file", str(file), "--handler", "double", "--queue", mark)
        assert (result.exit_code, result.stdout) == (0, "scheduled 101 tasks\n")
        task = json.loads(gowork("show", mark, "-o", "json").stdout)
        assert (task["handler"], task["queue"], task["labels"], task["status"]) == (
            "shout",
            mark,
            {"a": "b"},
            "PENDING",
        )

    @pytest.mark.parametrize("form", ["table", "jsonl", "json"])
    def test_the_ids_of_what_was_scheduled_before_a_line_at_fault_are_printed(
        self, gowork, mark: str, form: str
    ) -> None:
        lines = "".join(json.dumps({"payload": "p", "in": "1h"}) + "\n" for _ in range(3)) + "{\n"
        result = gowork("add", "--file", "-", "--queue", mark, "-o", form, input=lines)
        assert result.exit_code == 2
        assert "3 tasks are scheduled" in result.stderr
        listed = {record["id"] for record in records(gowork("tasks", "--queue", mark, "-o", "jsonl").stdout)}
        if form == "table":
            printed = result.stdout.split()
        else:
            found = json.loads(result.stdout) if form == "json" else records(result.stdout)
            printed = [record["id"] for record in found]
        assert sorted(printed) == sorted(listed)
        assert len(listed) == 3

    def test_wait_counts_what_came_of_them(self, gowork) -> None:
        lines = "".join(json.dumps({"payload": n}) + "\n" for n in range(50))
        result = gowork("add", "--file", "-", "--handler", "double", "--wait", input=lines)
        assert (result.exit_code, result.stdout) == (0, "50 COMPLETED\n")

    def test_json_lines_come_as_tasks_finish(self, gowork) -> None:
        lines = "".join(json.dumps({"payload": n}) + "\n" for n in range(50))
        result = gowork("add", "--file", "-", "--handler", "double", "--wait", "-o", "jsonl", input=lines)
        assert sorted(record["result"] for record in records(result.stdout)) == list(range(0, 100, 2))

    def test_json_is_one_document(self, gowork) -> None:
        lines = '{"payload": "p"}\n' * 3
        ids = json.loads(gowork("add", "--file", "-", "-o", "json", input=lines).stdout)
        assert [record.keys() for record in ids] == [{"id"}] * 3
        tasks = json.loads(gowork("add", "--file", "-", "--wait", "-o", "json", input=lines).stdout)
        assert [record["status"] for record in tasks] == ["COMPLETED"] * 3

    def test_a_failed_task_makes_the_exit_code_1(self, gowork) -> None:
        lines = '{"payload": "1", "handler": "double"}\n{"payload": "out", "handler": "fail"}\n'
        result = gowork("add", "--file", "-", "--wait", input=lines)
        assert result.exit_code == 1
        assert result.stdout == "1 COMPLETED, 1 ERROR\n"
        assert "ended as ERROR: [red]out" in result.stderr

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("{", "line 2: "),
            ('["payload"]', 'line 2: not an object with a "payload"'),
            ('{"id": "x"}', 'line 2: not an object with a "payload"'),
            ('{"payload": 1, "prioritie": "HIGH"}', "line 2: unknown prioritie"),
            ('{"payload": 1, "in": "soon"}', "line 2: 'soon' is not a duration"),
            ('{"payload": 1, "priority": "URGENT"}', "priority: 'URGENT' is none of"),
        ],
    )
    def test_a_line_at_fault_is_named(self, gowork, line: str, words: str) -> None:
        result = gowork("add", "--file", "-", input=f'{{"payload": "fine"}}\n{line}\n')
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].startswith("gowork: ")
        assert words in result.stderr


class TestLooking:
    def test_tasks_are_listed_newest_first(self, gowork, mark: str) -> None:
        for n in range(3):
            gowork("add", f"{mark}-{n}", "p", "--queue", mark, "--in", "1h")
        ids = [record["id"] for record in records(gowork("tasks", "--queue", mark, "-o", "jsonl").stdout)]
        assert ids == [f"{mark}-{n}" for n in (2, 1, 0)]
        oldest = json.loads(gowork("tasks", "--queue", mark, "--oldest-first", "--limit", "2", "-o", "json").stdout)
        assert [record["id"] for record in oldest] == [f"{mark}-0", f"{mark}-1"]

    def test_a_table_into_a_pipe_has_no_colour_and_cuts_nothing_off(self, gowork, mark: str) -> None:
        task_id = mark + "x" * 200
        gowork("add", task_id, "p", "--queue", mark, "--in", "1h")
        heading, row = gowork("tasks", "--queue", mark).stdout.splitlines()
        assert heading.split()[:4] == ["ID", "STATUS", "HANDLER", "QUEUE"]
        assert row.split()[:4] == [task_id, "PENDING", "(default)", mark]
        assert "\x1b" not in row

    def test_a_table_says_when_it_is_not_all(self, gowork, mark: str) -> None:
        lines = '{"payload": "p", "in": "1h"}\n' * 3
        gowork("add", "--file", "-", "--queue", mark, input=lines)
        result = gowork("tasks", "--queue", mark, "-n", "2")
        assert len(result.stdout.splitlines()) == 3
        assert "only the first 2 are shown" in result.stderr
        assert len(gowork("tasks", "--queue", mark, "-n", "0").stdout.splitlines()) == 4

    def test_no_tasks_are_an_empty_list(self, gowork, mark: str) -> None:
        assert gowork("tasks", "--queue", mark).stdout == "no tasks\n"
        assert gowork("tasks", "--queue", mark, "-o", "json").stdout == "[]\n"
        assert gowork("tasks", "--queue", mark, "-o", "jsonl").stdout == ""

    def test_filters_are_joined(self, gowork, mark: str) -> None:
        gowork("add", f"{mark}-a", "1", "--handler", "double", "--label", f"mark={mark}", "--wait")
        gowork("add", f"{mark}-b", "1", "--handler", "double", "--label", f"mark={mark}", "--in", "1h")

        def ids(*filters: str) -> list[str]:
            result = gowork("tasks", "--label", f"mark={mark}", *filters, "-o", "jsonl")
            return sorted(record["id"].removeprefix(mark) for record in records(result.stdout))

        assert ids() == ids("--handler", "double") == ids("--id-prefix", mark) == ["-a", "-b"]
        assert ids("--status", "completed") == ids("--filter", "status != PENDING") == ["-a"]
        assert ids("--priority", "HIGH") == []

    def test_a_filter_that_does_not_parse_exits_with_2(self, gowork) -> None:
        result = gowork("tasks", "--filter", "status =")
        assert result.exit_code == 2
        assert result.stderr.startswith("gowork: filter: ")

    def test_show_tells_everything(self, gowork, mark: str) -> None:
        gowork("add", mark, "out of paper", "--handler", "fail", "--label", "team=web", "--wait")
        output = gowork("show", mark).stdout
        for words in (mark, "ERROR", "fail", "team=web", "out of paper", "ATTEMPT", "FAILED", "worker-1", "Traceback"):
            assert words in output
        assert "[red]out of paper" in output
        assert "PLUGIN" in output
        (attempt,) = json.loads(gowork("show", mark, "-o", "json").stdout)["attempts"]
        assert (attempt["plugin"], attempt["plugin_version"]) == ("cli_test_handlers", None)

    def test_what_must_not_run_twice_is_shown(self, gowork, mark: str) -> None:
        gowork("add", mark, "p", "--handler", "nobody has this", "--on-lost", "fail")
        assert "it ends with ERROR, and is not run again" in gowork("show", mark).stdout
        assert json.loads(gowork("show", mark, "-o", "json").stdout)["on_lost"] == "FAIL"

    def test_show_says_why_a_task_waits(self, gowork, mark: str) -> None:
        gowork("add", mark, "p", "--handler", "nobody has this")
        assert "waits because" in gowork("show", mark).stdout

    def test_handlers_are_listed_and_described(self, gowork) -> None:
        listed = gowork("handlers").stdout
        for words in ("HANDLER", "double", "integer", "reverse", "echo", "Returns the payload"):
            assert words in listed
        one = gowork("handlers", "double").stdout
        assert "workers: worker-1" in one
        assert '"type": "integer"' in one
        record = json.loads(gowork("handlers", "double", "-o", "json").stdout)
        assert record["versions"][0]["payload_schema"] == {"type": "integer"}
        assert "double" in [each["name"] for each in records(gowork("handlers", "-o", "jsonl").stdout)]
        unknown = gowork("handlers", "duoble")
        assert (unknown.exit_code, "did you mean 'double'?" in unknown.stderr) == (1, True)

    def test_a_payload_is_checked_before_it_is_sent(self, gowork, mark: str) -> None:
        refused = gowork("add", mark, "two", "--handler", "double")
        assert (refused.exit_code, refused.stderr.startswith("gowork: the handler 'double'")) == (2, True)
        assert "the handler 'double' does not take this: payload: it is not JSON" in refused.stderr
        assert "--no-check" in refused.stderr
        assert gowork("show", mark).exit_code == 1
        sent = gowork("add", mark, "two", "--handler", "double", "--no-check", "--wait")
        assert (sent.exit_code, "REJECTED" in sent.stderr) == (1, True)
        warned = gowork("add", f"{mark}-2", "2", "--handler", "duoble")
        assert (warned.exit_code, warned.stdout.strip()) == (0, f"{mark}-2")
        assert "no worker has the handler 'duoble' now; did you mean 'double'?" in warned.stderr

    def test_payloads_of_a_file_are_checked_before_they_are_sent(self, gowork, mark: str) -> None:
        lines = "".join(json.dumps({"payload": payload}) + "\n" for payload in (1, 2, "two", 3))
        refused = gowork("add", "--file", "-", "--handler", "double", "--queue", mark, input=lines)
        assert refused.exit_code == 2
        assert "2 tasks are scheduled, all of the lines before line 3" in refused.stderr
        assert "line 3: the handler 'double' does not take this: payload: it is not JSON" in refused.stderr
        sent = gowork("add", "--file", "-", "--handler", "double", "--no-check", "--wait", input=lines)
        assert (sent.exit_code, sent.stdout) == (1, "3 COMPLETED, 1 ERROR\n")
        warned = gowork("add", "--file", "-", "--handler", "duoble", input=lines)
        assert (warned.exit_code, warned.stdout) == (0, "scheduled 4 tasks\n")
        assert warned.stderr.count("no worker has the handler 'duoble' now; did you mean 'double'?") == 1

    def test_members_and_stats_answer_in_every_form(self, gowork) -> None:
        (member,) = json.loads(gowork("members", "-o", "json").stdout)
        assert (member["id"], member["liveness"], member["slots"]) == ("worker-1", "LIVE", 8)
        assert "double" in member["handlers"]
        assert {"name": "echo", "version": ""} in member["plugins"]
        assert "worker-1" in gowork("members").stdout
        stats = json.loads(gowork("stats", "-o", "json").stdout)
        assert stats["members"] == [{"liveness": "LIVE", "members": 1, "slots": 8, "running": 0}]
        assert "LIVE" in gowork("stats").stdout

    def test_options_may_stand_on_either_side_of_the_command(self, gowork) -> None:
        assert gowork("-o", "json", "members").stdout[0] == gowork("members", "-o", "json").stdout[0] == "["
        assert records(gowork("-o", "json", "members", "-o", "jsonl").stdout)

    def test_ids_and_handlers_are_completed(self, gowork, cluster, mark: str) -> None:
        gowork("add", f"{mark}-a", "p", "--in", "1h")
        for words, expected in ((f"gowork show {mark}", f"{mark}-a"), ("gowork add --handler doub", "double")):
            done = subprocess.run(
                [sys.executable, "-m", "gowork.cli"],
                env={
                    "_GOWORK_COMPLETE": "bash_complete",
                    "COMP_WORDS": words,
                    "COMP_CWORD": str(len(words.split()) - 1),
                    "GOWORK_LEADER": cluster.scheduler,
                },
                capture_output=True,
                text=True,
            )
            assert done.stdout.split(",")[-1].strip() == expected, done


class TestWaitAndCancel:
    def test_wait_answers_in_the_given_order(self, gowork, mark: str) -> None:
        for n in (1, 2):
            gowork("add", f"{mark}-{n}", str(n), "--handler", "double")
        result = gowork("wait", f"{mark}-2", f"{mark}-1", "-o", "jsonl")
        assert result.exit_code == 0
        assert [record["result"] for record in records(result.stdout)] == [4, 2]
        assert f"{mark}-1" in gowork("wait", f"{mark}-1").stdout

    def test_wait_exits_with_1_when_one_failed(self, gowork, mark: str) -> None:
        gowork("add", mark, "out of paper", "--handler", "fail")
        result = gowork("wait", mark)
        assert result.exit_code == 1
        assert "out of paper" in result.stdout

    @pytest.mark.parametrize("command", ["show", "wait", "cancel", "remove"])
    def test_an_unknown_task_exits_with_1(self, gowork, command: str, mark: str) -> None:
        result = gowork(command, mark)
        assert result.exit_code == 1
        assert result.stderr.startswith("gowork: ")
        assert mark in result.stderr

    @pytest.mark.parametrize("command", ["cancel", "remove"])
    def test_pending_tasks_are_cancelled(self, gowork, command: str, mark: str) -> None:
        gowork("add", mark, "p", "--in", "1h")
        result = gowork(command, mark, "-o", "jsonl")
        assert result.exit_code == 0
        assert [record["status"] for record in records(result.stdout)] == ["CANCELLED"]

    @pytest.mark.parametrize("form", ["table", "jsonl"])
    def test_a_cancel_that_worked_exits_with_0_though_the_leader_tells_nothing_more(
        self, gowork, mark: str, monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        def get(self: Client, id: str) -> TaskInfo:
            raise CallError("unknown method", code=grpc.StatusCode.UNIMPLEMENTED)

        gowork("add", mark, "p", "--in", "1h")
        with monkeypatch.context() as patch:
            patch.setattr(Client, "get", get)
            result = gowork("cancel", mark, "-o", form)
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout) == {"id": mark} if form == "jsonl" else mark in result.stdout
        assert json.loads(gowork("show", mark, "-o", "json").stdout)["status"] == "CANCELLED"

    def test_what_was_cancelled_is_told_though_the_leader_goes(
        self, gowork, mark: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cancel = Client.cancel

        def cancel_one(self: Client, id: str) -> None:
            if id != mark:
                raise LeaderUnreachable("no leader answers")
            cancel(self, id)

        gowork("add", mark, "p", "--in", "1h")
        monkeypatch.setattr(Client, "cancel", cancel_one)
        result = gowork("cancel", mark, "another", "-o", "jsonl")
        assert result.exit_code == 3
        assert [record["id"] for record in records(result.stdout)] == [mark]

    def test_the_others_are_cancelled_though_one_is_unknown(self, gowork, mark: str) -> None:
        gowork("add", mark, "p", "--in", "1h")
        result = gowork("cancel", "nobody knows this", mark)
        assert result.exit_code == 1
        assert mark in result.stdout
        assert "nobody knows this" in result.stderr


class TestDrain:
    def test_a_drained_worker_leaves_and_its_process_ends_with_0(self, invoke, up_in, tmp_path: Path) -> None:
        with up_in(tmp_path, "--slots", "1", "--workers", "2") as up:
            leader = ["--leader", up.scheduler]
            result = invoke([*leader, "drain", "worker-2", "--budget", "30s", "--wait"])
            assert (result.exit_code, result.stdout) == (0, "worker-2 has left\n")
            up.told("worker-2 ended with exit code 0")
            members = json.loads(invoke([*leader, "members", "-o", "json"]).stdout)
            assert {member["id"]: member["liveness"] for member in members} == {"worker-1": "LIVE", "worker-2": "LEFT"}
            (record,) = json.loads(invoke([*leader, "drain", "worker-1", "-o", "json"]).stdout)
            assert (record["id"], record["liveness"] in ("DRAINING", "LEFT")) == ("worker-1", True)

    def test_a_worker_that_is_not_there_exits_with_1_and_a_bad_budget_with_2(self, gowork) -> None:
        unknown = gowork("drain", "nobody")
        assert (unknown.exit_code, unknown.stdout) == (1, "")
        assert "no live member has the id 'nobody'" in unknown.stderr
        assert gowork("drain", "worker-1", "--budget", "soon").exit_code == 2
        assert gowork("drain", "worker-1", "--budget", "2d").exit_code == 2

    def test_workers_are_completed(self, cluster) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "gowork.cli"],
            env={
                "_GOWORK_COMPLETE": "bash_complete",
                "COMP_WORDS": "gowork drain wor",
                "COMP_CWORD": "2",
                "GOWORK_LEADER": cluster.scheduler,
            },
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip().endswith("worker-1"), done


class TestEnds:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["tasks"],
            ["tasks", "--watch"],
            ["add", "p"],
            ["add", "--file", "-"],
            ["wait", "x"],
            ["members"],
            ["stats"],
            ["top"],
        ],
    )
    def test_an_unreachable_leader_is_one_line_that_names_it(self, invoke, free_address: str, arguments) -> None:
        result = invoke([*arguments, "--leader", free_address])
        assert result.exit_code == 3
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert free_address in line
        assert "gowork up" in line

    def test_a_leader_whose_name_is_unknown_is_one_line_that_says_so(self, invoke) -> None:
        result = invoke(["stats", "--leader", "leader.invalid:50052"])
        assert result.exit_code == 3
        (line,) = result.stderr.splitlines()
        assert "no leader answers at leader.invalid:50052, because its name can't be looked up: " in line
        assert line.endswith(". Start one with 'gowork up', or name another with --leader HOST:PORT or GOWORK_LEADER.")

    def test_several_addresses_without_a_leader_are_one_line_that_names_each(self, invoke, free_address: str) -> None:
        result = invoke(["stats", "--leader", f"{free_address},leader.invalid:50052"])
        assert result.exit_code == 3
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"gowork: no leader takes the call: {free_address} (Connection refused), leader.invalid")
        assert line.endswith(". Start one with 'gowork up', or name another with --leader HOST:PORT or GOWORK_LEADER.")

    def test_an_address_of_another_form_exits_with_2(self, invoke) -> None:
        result = invoke(["tasks", "--leader", "nonsense"])
        assert result.exit_code == 2
        assert "'nonsense' is not HOST:PORT" in result.stderr

    def test_a_reader_who_goes_ends_it_quietly(self, gowork, cluster, mark: str) -> None:
        gowork("add", "--file", "-", "--queue", mark, input='{"payload": "p", "in": "1h"}\n' * 2_000)
        with subprocess.Popen(
            [sys.executable, "-m", "gowork.cli", "--leader", cluster.scheduler, "tasks", "-o", "jsonl"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait() == 141
            assert process.stderr.read() == b""

    def test_a_watch_shows_changes_until_it_is_interrupted(self, gowork, cluster, mark: str) -> None:
        gowork("add", f"{mark}-1", "p", "--queue", mark, "--in", "1h")
        with subprocess.Popen(
            [sys.executable, "-m", "gowork.cli", "tasks", "--watch", "--queue", mark, "-o", "jsonl"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"GOWORK_LEADER": cluster.scheduler},
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["id"] == f"{mark}-1"
            gowork("cancel", f"{mark}-1")
            change = json.loads(process.stdout.readline())
            assert (change["id"], change["status"]) == (f"{mark}-1", "CANCELLED")
            process.send_signal(2)
            assert process.wait() == 130
            assert process.stderr.read() == ""
