"""`gowork plugin check` finds what the users of a plugin would stumble on."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from gowork.worker._app.plugin_command import main
from gowork.worker._authoring import check
from gowork.worker._authoring.check import PRINTED_BYTES_MAX, Check, Printed

#: A length of time after which a test fails, in seconds.
PATIENCE = 60.0
GOOD = """
from gowork.worker import Context, handler

@handler("good")
async def good(ctx: Context, payload: dict[str, int]) -> int:
    return payload["a"]
"""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Checks a module with this source, and tries its handlers: {check: its faults}."""
    monkeypatch.chdir(tmp_path)

    def run(source: str, *tries: tuple[str, str], options: tuple[str, ...] = ()) -> dict[str, list[str]]:
        (tmp_path / "plugged.py").write_text(source)
        arguments = [word for handler, payload in tries for word in ("--try", handler, payload)]
        told = CliRunner().invoke(main, ["check", "--import", "plugged", *arguments, *options, "-o", "json"])
        results = json.loads(told.output)
        faults = [result for result in results if result["faults"] and not result["is_skipped"]]
        assert told.exit_code == (1 if faults else 0)
        return {result["check"]: result["faults"] for result in results}

    return run


def faulty(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those that are faults, and not said of what could not be tried."""
    return {
        check: faults
        for check, faults in found.items()
        if faults and not faults[0].startswith(("it ended (", "not run:"))
    }


def test_a_plugin_without_faults_passes(checked: Any) -> None:
    found = checked(GOOD, ("good", '{"a": 1}'))
    assert faulty(found) == {}
    assert list(found) == [
        "load",
        "prints nothing when loaded",
        "leaves nothing behind when loaded",
        "no other plugin here has its names",
        "same handlers in each process",
        "payload has a schema",
        "runs",
        "does not block its loop",
        "leaves nothing behind",
        "stops when cancelled",
        "stops at its time limit",
    ]


def test_a_payload_whose_schema_no_client_sees_is_a_fault(checked: Any) -> None:
    fields = "".join(f"    a_field_with_a_long_name_{number}: int\n" for number in range(2_000))
    source = f"""
from dataclasses import dataclass
from gowork.worker import handler

@dataclass
class Job:
{fields}
@handler("large")
def large(job: Job) -> None: ...
"""
    (fault,) = checked(source)["payload has a schema"]
    assert "more than 65,536 bytes" in fault


def test_a_handler_is_not_run_unless_a_payload_is_given(checked: Any) -> None:
    found = checked(GOOD.replace("return", "open('run', 'w').close(); return"))
    assert "--try good" in found["runs, and stops when asked to"][0]
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("line", "check", "said"),
    [
        ("raise ValueError('no')", "load", "ValueError: no"),
        ("import nothing_like_it", "load", "No module named 'nothing_like_it'"),
        ("import os; os._exit(3)", "load", "it ends its process (exit code 3)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "load", "(SIGSEGV)"),
        ("import time; time.sleep(0.5)", "load", "--load-seconds allows 0.3"),
        ("del good", "load", "it offers no handler"),
        ("print('words')", "prints nothing when loaded", "it prints 'words'"),
        ("import os; os.chdir('/')", "leaves nothing behind when loaded", "the working directory is another: /"),
        ("import os; os.umask(0o123)", "leaves nothing behind when loaded", "the umask is another: 123"),
        ("import os; os.environ['MINE'] = 'secret'", "leaves nothing behind when loaded", "others: MINE"),
        ("kept = open('/dev/null')", "leaves nothing behind when loaded", "stay open: /dev/null"),
        (
            "import subprocess; kept = subprocess.Popen(['sleep', '60'])",
            "leaves nothing behind when loaded",
            "child processes go on: process ",
        ),
        (
            "import threading, time; threading.Thread(target=time.sleep, args=(60,), name='t', daemon=True).start()",
            "leaves nothing behind when loaded",
            "threads go on: t",
        ),
        (
            "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
            "leaves nothing behind when loaded",
            "signal handlers are others: SIGUSR1 is",
        ),
        ("import logging; logging.basicConfig()", "leaves nothing behind when loaded", "the root logger is another"),
        (
            "import os; handler(f'h{os.getpid()}')(lambda: None)\nmore = handler(f'h{os.getpid()}')(lambda: None)",
            "same handlers in each process",
            "another process has others",
        ),
        pytest.param(
            "import os\nlimited = handler('limited', time_limit=os.getpid())(lambda: None)",
            "same handlers in each process",
            "another process has others",
            id="options",
        ),
        ("@handler('echo')\ndef mine(): ...", "no other plugin here has its names", "echo"),
    ],
)
def test_what_loading_does_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, check: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugged.py").write_text(f"{GOOD}\n{line}\n")
    results = Check("plugged", is_module=True, tries=(), load_seconds=0.3).run()
    found = next(result for result in results if result.check == check)
    assert said in found.faults[0]
    assert "secret" not in found.faults[0]


@pytest.mark.parametrize(
    ("body", "check", "said"),
    [
        ("    raise ValueError('no')", "runs", "it failed: "),
        ("    return object()", "runs", "it failed: "),
        ("    import os; os._exit(3)", "runs", "it ends its process (exit code 3)"),
        pytest.param(
            "    import time; time.sleep(2); return 1",
            "does not block its loop",
            "plugged.py:6: import time; time.",
            marks=pytest.mark.longer,
        ),
        ("    global kept; kept = open('/dev/null')", "leaves nothing behind", "files or sockets stay open: /dev/null"),
    ],
)
def test_what_a_run_does_wrong_is_said(checked: Any, body: str, check: str, said: str) -> None:
    found = checked(GOOD.replace('    return payload["a"]', body), ("good", '{"a": 1}'))
    assert said in found[check][0]


def test_a_variable_that_a_plugin_removes_is_named(checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGGED", "1")
    found = checked("import os\ndel os.environ['PLUGGED']\n" + GOOD)
    assert found["leaves nothing behind when loaded"] == ["environment variables are others: PLUGGED"]


@pytest.mark.longer
def test_what_loading_has_left_behind_is_no_fault_of_a_run(checked: Any) -> None:
    found = checked("kept = open('/dev/null')\n" + GOOD, ("good", '{"a": 1}'))
    assert list(faulty(found)) == ["leaves nothing behind when loaded"]


@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize("what", ["cancel", "limit"])
def test_a_handler_that_does_not_stop_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "PROBE_SECONDS", 2.0)
    body = "    import time\n    while True:\n        time.sleep(0.01)"
    (tmp_path / "plugged.py").write_text(GOOD.replace("async def", kind).replace('    return payload["a"]', body))
    checking = Check("plugged", is_module=True, tries=(), load_seconds=0.5, run_seconds=0.5)
    found, _ = checking._probe(what, "good", '{"a": 1}')
    told = found if isinstance(found, str) else found.faults[0]
    assert "not end within" in told
    assert told.endswith("--run-seconds allows more")


def test_a_payload_that_does_not_fit_is_said_and_so_is_a_handler_that_is_not_there(checked: Any) -> None:
    found = checked(GOOD, ("good", '{"a": "x"}'), ("none", ""))
    assert found["runs"] == ["the plugin has no such handler; it has good"]
    assert found["stops when cancelled"] == ["not run: it does not take the payload of --try"]
    assert found["stops at its time limit"] == ["not run: it does not take the payload of --try"]


UNUSABLE = """
@handler
def unusable(a, b, c): ...
"""
WAITS = GOOD.replace("    return", "    import asyncio; await asyncio.sleep(1)\n    return")
LOOKS = """
from gowork.worker import Context, handler

@handler
def looks(ctx: Context, rounds: int) -> int:
    for round in range(rounds):
        if ctx.cancelled:
            return round
    return rounds
"""


@pytest.mark.longer
def test_a_handler_that_is_unusable_is_one_fault_and_the_others_are_tried(checked: Any) -> None:
    found = checked(WAITS + UNUSABLE, ("good", '{"a": 1}'))
    assert list(faulty(found)) == ["load"]
    assert len(found["load"]) == 1
    assert "stops when cancelled" in found


@pytest.mark.longer
@pytest.mark.parametrize(
    ("source", "payload", "tried"),
    [
        (GOOD, '{"a": 1}', False),
        (WAITS, '{"a": 1}', True),
        (LOOKS, "0", False),
        (LOOKS, "1000", True),
    ],
)
def test_a_run_that_ends_before_it_is_asked_to_stop_does_not_show_that_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, payload: str, tried: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugged.py").write_text(source)
    name = "looks" if source is LOOKS else "good"
    results = {
        result.check: result
        for result in Check("plugged", is_module=True, tries=[(name, payload)], load_seconds=5.0).run()
    }
    ends = {"stops when cancelled": "cancelled", "stops at its time limit": "timed out"}
    for title, ended in ends.items():
        result = results[title]
        if tried:
            assert (result.is_skipped, result.faults, result.note) == (False, [], ended)
        else:
            assert result.is_skipped
            # Cancelling waits for no look, so it may come just before or just after the end of so short a run.
            when = (
                "(before it could be cancelled|although it was asked to stop)"
                if "cancel" in title
                else "before its time ran out"
            )
            assert re.match(rf"it ended \(completed\) {when}: ", result.faults[0])
            assert "give a payload that takes longer" in result.faults[0]


@pytest.mark.longer
def test_a_run_may_take_as_long_as_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugged.py").write_text(GOOD.replace("    return", "    import time; time.sleep(0.5)\n    return"))
    faults = {}
    for seconds in ("0.2", "60"):
        told = CliRunner().invoke(
            main,
            ["check", "--import", "plugged", "--try", "good", '{"a": 1}', "--run-seconds", seconds, "-o", "json"],
        )
        faults[seconds] = {result["check"]: result["faults"] for result in json.loads(told.output)}["runs"]
    assert faults["60"] == []
    assert "did not end within 0.2 s" in faults["0.2"][0]


def test_of_what_a_plugin_prints_the_last_lines_are_shown_whole() -> None:
    lines = ["x" * 150, "y" * 110, "Error: " + "z" * 90]
    assert check._end_of("\n".join(lines)) == "…\n" + lines[2]
    assert check._end_of("a\nb") == "a\nb"
    assert check._end_of("Error: " + "z" * 300) == "Error: " + "z" * 193 + "…"


@pytest.mark.longer
def test_a_handler_that_awaits_often_does_not_block(checked: Any) -> None:
    # Nearly each look finds it at work, and no step takes as long as it may.
    body = """    import asyncio, time
    for _ in range(60):
        time.sleep(0.02)
        await asyncio.sleep(0)
    return 1"""
    assert faulty(checked(GOOD.replace('    return payload["a"]', body), ("good", '{"a": 1}'))) == {}


def test_what_a_plugin_has_started_ends_with_the_check(checked: Any) -> None:
    body = (
        "    import subprocess\n    open('pid', 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n    return 1"
    )
    checked(GOOD.replace('    return payload["a"]', body), ("good", '{"a": 1}'))
    pid = int(Path("pid").read_text())
    until = time.monotonic() + PATIENCE
    # Nobody may reap it here.
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


def test_one_plugin_or_one_module_is_named() -> None:
    for arguments in ((), ("a", "--import", "b")):
        told = invoked(*arguments)
        assert told.exit_code == 2
        assert "name either a plugin or a module" in told.output


def test_a_plugin_that_is_not_installed_is_said() -> None:
    told = invoked("nothing-like-it")
    assert told.exit_code == 1
    assert "FAULT" in told.output
    assert "no plugin of this name is installed" in told.output
    assert "installed are " in told.output
    assert "echo" in told.output
    assert "ok" not in told.output.split()


def test_the_form_of_the_findings_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWORK_OUTPUT", "json")
    (result,) = json.loads(invoked("nothing-like-it").output)
    assert result["check"] == "load"


def test_an_installed_plugin_is_checked_by_name() -> None:
    told = invoked("echo", "--try", "echo", '"x"', "-o", "jsonl")
    assert told.exit_code == 0, told.output
    assert {json.loads(line)["check"] for line in told.output.splitlines()} >= {"load", "runs"}


def test_a_plugin_that_is_killed_by_a_signal_without_a_name_is_said(checked: Any) -> None:
    (fault,) = checked("import os\nos.kill(os.getpid(), 40)\n")["load"]
    assert fault.startswith("it ends its process (signal 40)")
    assert (check.in_words(3), check.in_words(-9)) == ("exit code 3", "SIGKILL")


@pytest.mark.longer
def test_a_payload_may_be_longer_than_an_argument_once_it_is_escaped(checked: Any) -> None:
    # On the command line it is shorter than 128 KiB.
    payload = json.dumps({"a": 1, "b": '"' * 50_000})
    assert checked(GOOD.replace("dict[str, int]", "dict[str, object]"), ("good", payload))["runs"] == []


def test_an_installed_plugin_is_checked_without_the_files_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, folder = tmp_path / "site", tmp_path / "folder"
    (site / "plugged-1.dist-info").mkdir(parents=True)
    (site / "plugged-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
    (site / "plugged-1.dist-info" / "entry_points.txt").write_text("[gowork.plugins]\nplugged = plugged\n")
    (site / "plugged.py").write_text(f"import beside\n{GOOD}")
    folder.mkdir()
    # One that stands in for a library of the check itself, and one that the plugin's package has forgotten.
    (folder / "tempfile.py").write_text("raise RuntimeError\n")
    (folder / "beside.py").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    (loads, *_) = Check("plugged", is_module=False, tries=(), load_seconds=30.0).run()
    (fault,) = loads.faults
    assert "No module named 'beside'" in fault


def test_of_what_a_process_prints_the_end_is_kept() -> None:
    receiving, sending = os.pipe()
    printed = Printed(os.fdopen(receiving, "rb"))
    with os.fdopen(sending, "wb") as stream:
        for number in range(100_000):
            stream.write(b"%099d\n" % number)
    kept = printed.end()
    assert len(kept) == PRINTED_BYTES_MAX
    assert kept.endswith(b"%099d\n" % 99_999)


def test_a_check_does_not_wait_for_what_a_child_that_has_left_may_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_REST_SECONDS_MAX", 0.05)
    receiving, sending = os.pipe()
    printed = Printed(os.fdopen(receiving, "rb"))
    os.write(sending, b"said")
    while not (kept := printed.end()):
        pass
    assert kept == b"said"
    os.close(sending)
