"""`gowork replay` runs what a cluster has recorded through the handler that is here, and changes nothing there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gowork.base.key_files import write_file
from gowork.client import Client
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.testing import Cluster
from gowork.worker._app import replay_command
from gowork.worker._app.replay_command import main
from gowork.worker._authoring import replay as replaying
from gowork.worker.testing import Outcome

MODULE = "replay_sample"
SOURCE = """
import logging

from gowork.worker import Context, handler



@handler
def replay_double(ctx: Context, number: int) -> int:
    ctx.progress(0.5, "half way")
    logging.getLogger("sample").warning("doubling %d", number)
    return 2 * number


@handler
def replay_fail(number: int) -> int:
    doubled = 2 * number
    raise ValueError(f"not {doubled}")


@handler
async def replay_async(number: int) -> int:
    tripled = 3 * number
    return tripled


@handler
def replay_bytes(data: bytes) -> bytes:
    return data[::-1]


@handler
def replay_plan(ctx: Context, number: int) -> dict[str, int]:
    ctx.schedule(number + 1, handler="replay_double")
    return {"a": number, "b": ctx.attempt}
"""

Replay = Callable[..., Result]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the handlers, in the working directory."""
    path = tmp_path / f"{MODULE}.py"
    path.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield path
    sys.modules.pop(MODULE, None)


@pytest.fixture
def cluster(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name in [name for name in os.environ if name.startswith("GOWORK_")]:
        monkeypatch.delenv(name)
    with Cluster(imports=[MODULE]) as cluster:
        monkeypatch.setenv("GOWORK_LEADER", cluster.address)
        yield cluster


def replay(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [*arguments], input=stdin)


def local(id: str, *arguments: str, stdin: bytes | None = None) -> Result:
    return replay(id, "--local", "--import", MODULE, *arguments, stdin=stdin)


def shown(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def finish(cluster: Cluster, payload: object, name: str) -> str:
    """Schedules a task, waits for its end, and returns its id."""
    handle = cluster.client.schedule(payload, handler=name)
    cluster.wait_all(60)
    return handle.id


def test_a_handler_is_replayed_beside_one_that_is_unusable(cluster: Cluster, source: Path) -> None:
    id = finish(cluster, 21, "replay_double")
    source.write_text(SOURCE + "\n\n@handler\ndef replay_unusable(a, b, c): ...\n")
    sys.modules.pop(MODULE, None)
    result = local(id)
    assert result.exit_code == 0, result.output
    assert "as recorded" in result.output or "42" in result.output


def test_a_completed_task_runs_here_and_is_compared(cluster: Cluster) -> None:
    id = finish(cluster, 21, "replay_double")
    result = local(id)
    assert result.exit_code == 0, result.output
    assert "log       warning: doubling 21" in result.stdout
    assert "progress  50% half way" in result.stdout
    assert "result    42" in result.stdout
    assert "recorded  COMPLETED 42" in result.stdout
    assert "compared  the same" in result.stdout
    told = shown(local(id, "-o", "json"))
    assert (told["status"], told["result"], told["difference"]) == ("completed", 42, "")
    assert told["recorded"] == {"status": "COMPLETED", "result": 42}


def test_nothing_changes_in_the_cluster(cluster: Cluster) -> None:
    id = finish(cluster, 1, "replay_plan")
    before = cluster.client.get(id), len(list(cluster.client.tasks()))
    result = local(id)
    assert "follow-up replay_double: 2 (not scheduled)" in result.stdout
    assert (cluster.client.get(id), len(list(cluster.client.tasks()))) == before


def test_fields_in_another_order_are_the_same_and_other_values_are_not(cluster: Cluster, source: Path) -> None:
    id = finish(cluster, 1, "replay_plan")
    source.write_text(SOURCE.replace('{"a": number, "b": ctx.attempt}', '{"b": ctx.attempt, "a": number}'))
    sys.modules.pop(MODULE)
    assert shown(local(id, "-o", "json"))["difference"] == ""
    source.write_text(SOURCE.replace('"a": number,', '"a": number + 1,'))
    sys.modules.pop(MODULE)
    result = local(id)
    assert result.exit_code == 0
    assert "compared  the results differ" in result.stdout


def test_bytes_are_compared_as_bytes(cluster: Cluster) -> None:
    id = finish(cluster, b"abc", "replay_bytes")
    result = local(id)
    assert "result    3 bytes" in result.stdout
    assert "compared  the same" in result.stdout
    assert shown(local(id, "-o", "json"))["result"] == "Y2Jh"


def test_a_failure_is_shown_with_its_traceback_and_exits_with_1(cluster: Cluster, source: Path) -> None:
    id = finish(cluster, 21, "replay_fail")
    result = local(id)
    assert result.exit_code == 1
    assert "in replay_fail" in result.stdout
    assert "outcome   failed: ValueError: not 42" in result.stdout
    assert "recorded  ERROR" in result.stdout
    assert "compared  the same" in result.stdout
    source.write_text(SOURCE.replace("not {doubled}", "never {doubled}"))
    sys.modules.pop(MODULE)
    assert "compared  the recorded task failed with ValueError: not 42" in local(id).stdout
    source.write_text(SOURCE.replace('raise ValueError(f"not {doubled}")', "return doubled"))
    sys.modules.pop(MODULE)
    mended = local(id)
    assert mended.exit_code == 0
    assert "the recorded task failed with ValueError, and this run completed" in mended.stdout


def test_a_terminal_obeys_nothing_of_what_is_shown(cluster: Cluster, source: Path) -> None:
    id = finish(cluster, 21, "replay_fail")
    source.write_text(SOURCE.replace("not {doubled}", "\\x1b]0;title\\x07"))
    sys.modules.pop(MODULE)
    result = local(id)
    assert "\ufffd]0;title\ufffd" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_task_that_has_not_finished_is_compared_with_nothing(cluster: Cluster) -> None:
    cluster.client.schedule(21, handler="replay_double", id="waits", delay=3600)
    result = local("waits")
    assert result.exit_code == 0
    assert "recorded  PENDING" in result.stdout
    assert "compared" not in result.stdout


def test_an_edited_payload_is_tried(cluster: Cluster, tmp_path: Path) -> None:
    id = finish(cluster, 21, "replay_double")
    (tmp_path / "edited.json").write_bytes(b"4")
    result = local(id, "--payload", "edited.json")
    assert "result    8" in result.stdout
    assert "compared" not in result.stdout
    assert "result    10" in local(id, "--payload", "-", stdin=b"5").stdout
    data = finish(cluster, b"abc", "replay_bytes")
    assert shown(local(data, "--payload", "-", "-o", "json", stdin=b"\xff\x00"))["result"] == "AP8="


def test_the_new_line_of_an_editor_is_not_sent() -> None:
    task = tasks.Task(payload="old")
    replaying.with_payload(task, b"new\nlines\n")
    assert (task.payload, task.payload_form) == ("new\nlines", tasks.PAYLOAD_FORM_UNSPECIFIED)
    replaying.with_payload(task, b"\n")
    assert (task.payload, task.payload_form) == ("", tasks.PAYLOAD_FORM_TEXT)


def test_a_form_of_a_newer_client_asks_for_an_upgrade() -> None:
    task = tasks.Task(handler="echo", payload="x", payload_form=77)  # type: ignore[arg-type] # Its number.
    found, loaded = replaying.handler_of("echo", ())
    with pytest.raises(replaying.ReplayError, match="form 77, which is newer than this gowork-worker: upgrade it"):
        replaying.run(task, found, loaded, ())


def test_a_payload_that_no_client_could_schedule_is_refused(cluster: Cluster) -> None:
    id = finish(cluster, 21, "replay_double")
    large = local(id, "--payload", "-", stdin=b" " * (limits.PAYLOAD_BYTES_MAX + 1))
    assert large.exit_code == 1
    assert f"a payload has at most {limits.PAYLOAD_BYTES_MAX:,}" in large.stderr
    binary = local(id, "--payload", "-", stdin=b"\xff")
    assert "the recorded payload is text, and this is not UTF-8" in binary.stderr


def test_a_payload_that_does_not_fit_is_rejected_as_a_worker_does(cluster: Cluster) -> None:
    id = finish(cluster, 21, "replay_double")
    result = local(id, "--payload", "-", stdin=b'"many"')
    assert result.exit_code == 1
    assert "outcome   failed: PayloadError: payload: " in result.stdout


def test_an_encrypted_task_needs_its_keys(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, other = tmp_path / "keys", tmp_path / "other"
    write_file(keys, {"k1": b"1" * 32})
    write_file(other, {"k2": b"2" * 32})
    with Client(cluster.address, keys=keys) as client:
        client.schedule(21, handler="replay_double", id="secret")
    without = local("secret")
    assert without.exit_code == 1
    assert "give the keys with --keys FILE" in without.stderr
    wrong = local("secret", "--keys", str(other))
    assert wrong.exit_code == 1
    assert "the payload can't be decrypted" in wrong.stderr
    assert "result    42" in local("secret", "--keys", str(keys)).stdout
    monkeypatch.setenv("GOWORK_KEYS", str(keys))
    assert "result    42" in local("secret").stdout
    monkeypatch.delenv("GOWORK_KEYS")
    assert "result    6" in local("secret", "--payload", "-", stdin=b"3").stdout


def test_a_handler_that_is_not_here_is_named_with_the_nearest(cluster: Cluster, source: Path) -> None:
    id = finish(cluster, 21, "replay_double")
    missing = replay(id, "--local")
    assert missing.exit_code == 1
    assert "no handler 'replay_double' is installed here" in missing.stderr
    assert "--import MODULE" in missing.stderr
    near = local(id, "--handler", "replay_doubel")
    assert "did you mean --handler replay_double" in near.stderr
    assert "result    63" in local(id, "--handler", "replay_async").stdout
    source.write_text("import no_such_thing\n")
    sys.modules.pop(MODULE)
    assert "no_such_thing" in local(id).stderr


def test_a_task_that_names_no_handler_asks_for_one(cluster: Cluster) -> None:
    id = cluster.client.schedule("21").id
    cluster.wait_all(60)
    result = local(id)
    assert result.exit_code == 1
    assert "give --handler NAME" in result.stderr
    assert local(id, "--handler", "replay_double").exit_code == 0


def test_a_broken_plugin_keeps_no_other_from_being_run(cluster: Cluster, tmp_path: Path) -> None:
    id = finish(cluster, 21, "replay_double")
    (tmp_path / "replay_broken.py").write_text("raise RuntimeError\n")
    assert "result    42" in local(id, "--import", "replay_broken").stdout


def test_a_task_that_is_not_there_was_purged_or_never_scheduled(cluster: Cluster) -> None:
    result = local("gone")
    assert result.exit_code == 1
    assert "no task has the id 'gone': it was never scheduled here, or it was purged" in result.stderr


def test_without_a_leader_it_exits_with_3(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = local("a", "--leader", "127.0.0.1:1")
    assert result.exit_code == 3
    assert "no leader answers at 127.0.0.1:1" in result.stderr


def test_the_next_leader_is_asked_when_one_does_not_answer(cluster: Cluster) -> None:
    id = finish(cluster, 21, "replay_double")
    assert local(id, "--leader", f"127.0.0.1:1,{cluster.address}").exit_code == 0


def test_the_next_leader_is_asked_when_one_stays_silent(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    id = finish(cluster, 21, "replay_double")
    monkeypatch.setattr(replay_command, "_CALL_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = local(id, "--leader", f"127.0.0.1:{silent.getsockname()[1]}")
        assert (told.exit_code, "Deadline Exceeded" in told.stderr) == (3, True)
        monkeypatch.setattr(replay_command, "_CALL_SECONDS", 5.0)
        assert local(id, "--leader", f"127.0.0.1:{silent.getsockname()[1]},{cluster.address}").exit_code == 0


def run_task(task: tasks.Task, *imports: str) -> Outcome:
    found, loaded = replaying.handler_of(task.handler, imports)
    return replaying.run(task, found, loaded, imports)


def test_a_run_has_the_number_of_the_latest_attempt(source: Path) -> None:
    # Those before are not recorded any more.
    task = tasks.Task(id="t", handler="replay_plan", payload="1")
    for number in (7, 9, 8):
        task.attempts.add(number=number)
    assert run_task(task, MODULE).result == {"a": 1, "b": 9}


def test_lifespans_of_other_modules_are_entered_too(source: Path, tmp_path: Path) -> None:
    (tmp_path / "replay_lifespan.py").write_text(
        "from gowork.worker import lifespan\n@lifespan\ndef held(state):\n    state.held = 'held'\n    yield\n"
    )
    source.write_text(SOURCE + "\n@handler\ndef replay_held(ctx: Context) -> str:\n    return ctx.state.held\n")
    task = tasks.Task(id="t", handler="replay_held")
    assert run_task(task, MODULE, "replay_lifespan").result == "held"
    sys.modules.pop("replay_lifespan")


def test_a_result_of_no_bytes_is_compared_as_bytes(source: Path) -> None:
    task = tasks.Task(id="t", handler="replay_bytes", status=tasks.TASK_STATUS_COMPLETED, result_is_empty_data=True)
    task.payload_form = tasks.PAYLOAD_FORM_DATA
    recorded = replaying.readable(task, None)
    assert recorded.result == b""
    assert replaying.difference(recorded, run_task(recorded.task, MODULE)) == ""


def test_without_local_it_says_what_it_is_for() -> None:
    result = replay("a")
    assert result.exit_code == 2
    assert "give --local" in result.stderr
    assert "gowork retry" in result.stderr


# In a debugger


def debugged(id: str, *arguments: str, commands: str) -> subprocess.CompletedProcess[str]:
    program = "from gowork.worker._app.replay_command import main; main()"
    command = [sys.executable, "-c", program, id, "--local", "--import", MODULE, *arguments]
    return subprocess.run(command, input=commands, capture_output=True, text=True, timeout=120)


def test_a_debugger_opens_where_the_handler_has_failed(cluster: Cluster) -> None:
    id = finish(cluster, 21, "replay_fail")
    done = debugged(id, "--pdb", commands="p 'doubled', doubled\nq\n")
    assert "('doubled', 42)" in done.stdout, done.stderr
    assert done.returncode == 1


def test_where_nothing_was_raised_there_is_no_place_to_open_a_debugger(cluster: Cluster) -> None:
    id = finish(cluster, 21, "replay_double")
    done = debugged(id, "--pdb", commands="")
    assert "nothing was raised" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(("name", "result"), [("replay_double", "42"), ("replay_async", "63")])
def test_a_debugger_opens_at_the_first_line_of_the_handler(cluster: Cluster, name: str, result: str) -> None:
    id = finish(cluster, 21, name)
    done = debugged(id, "--break", commands="p 'number', number\nc\n")
    assert "('number', 21)" in done.stdout, done.stderr
    # At its first line, where nothing has run.
    assert "-> ctx.progress" in done.stdout or "-> tripled = 3 * number" in done.stdout
    assert f"result    {result}" in done.stdout
    assert done.returncode == 0


def test_a_debugger_and_json_do_not_share_standard_output() -> None:
    result = replay("a", "--local", "--break", "-o", "json")
    assert result.exit_code == 2
    assert "--break talks on standard output" in result.stderr
