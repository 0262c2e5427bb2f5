"""`gowork up --reload`, with real processes: new code is run, code that does not load is not, and tasks stay."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from gowork.cli.processes import Child, Nursery
from gowork.cli.reloading import ReloadError, _check_modules, _named, _short, check_syntax
from gowork.cli.workers import Workers
from gowork.client import Client

MODULE = "cli_test_reloaded"
SOURCE = """
from gowork.worker import Context, handler

@handler
def answer() -> int:
    return 1

@handler
def wait(ctx: Context) -> str:
    print("begun", flush=True)
    return "stopped" if ctx.cancelled.wait(300) else "waited"
"""


@pytest.fixture
def reloaded(up_in: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    """A cluster with one worker whose code is in `tmp_path / "src"`, and that waits no time for running tasks."""
    (tmp_path / "src").mkdir()
    source = tmp_path / "src" / f"{MODULE}.py"
    source.write_text(SOURCE)
    options = ("--reload", "--reload-dir", str(tmp_path / "src"), "--import", MODULE, "--grace", "0s", "--slots", "2")
    path = os.pathsep.join([str(tmp_path / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with up_in(tmp_path, *options, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="") as up:
        up.source = source
        up.told("watching the Python files in")
        yield up
        up.process.send_signal(signal.SIGINT)
        # Also the check of new code has ended, if one was on.
        assert up.process.wait() == 0


def add(up: Any, invoke: Callable[..., Any], *arguments: str) -> str:
    result = invoke(["--leader", up.scheduler, "add", *arguments])
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def worker_pids(up: Any) -> list[int]:
    return [child.pid for child in psutil.Process(up.process.pid).children() if "gowork.worker" in child.cmdline()]


def test_new_code_is_run_and_the_leader_stays(reloaded: Any, invoke: Callable[..., Any]) -> None:
    up = reloaded
    (leader,) = [c for c in psutil.Process(up.process.pid).children() if "gowork.leader" in c.cmdline()]
    assert add(up, invoke, "--handler", "answer", "", "--wait") == "1\n"
    before = worker_pids(up)
    # As long as before, and of the same second: Python's cache would take it for the old one.
    written = up.source.stat()
    up.source.write_text(SOURCE.replace("return 1", "return 2"))
    os.utime(up.source, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert f"{MODULE}.py changed: the workers start again" in up.told("changed")
    # Nobody is told that the workers have ended, because they were asked to.
    line = up.told("worker")
    assert "the workers run the new code" in line
    assert add(up, invoke, "--handler", "answer", "", "--wait") == "2\n"
    # The new one serves its pages where the old one did.
    (page,) = up.addresses["workers_http"]
    with urllib.request.urlopen(f"http://{page}/healthz", timeout=60) as answer:
        assert answer.status == 200
    assert leader.is_running()
    after = worker_pids(up)
    assert len(after) == len(before) == 1
    assert after != before


@pytest.mark.longer
def test_code_that_does_not_load_leaves_the_workers_as_they_are(reloaded: Any, invoke: Callable[..., Any]) -> None:
    up = reloaded
    before = worker_pids(up)
    up.source.write_text(SOURCE + "def f(:\n")
    line = up.told("the workers ")
    assert "the workers go on with the code that they have" in line
    assert f"{MODULE}.py, line 12: " in line
    up.source.write_text(SOURCE + "import no_such_thing\n")
    line = up.told("the workers ")
    assert "the workers go on with the code that they have" in line
    assert f"--import {MODULE} does not load: " in line
    assert "no_such_thing" in line
    # It leaves no words of its own, as a crash in native code.
    up.source.write_text(SOURCE + "import os; os._exit(7)\n")
    line = up.told("the workers ")
    assert "the workers go on with the code that they have" in line
    assert f"{MODULE} does not load: it ends the process that loads it (exit code 7)" in line
    assert worker_pids(up) == before
    assert add(up, invoke, "--handler", "answer", "", "--wait") == "1\n"
    up.source.write_text(SOURCE.replace("return 1", "return 3"))
    up.told("the workers run the new code")
    assert add(up, invoke, "--handler", "answer", "", "--wait") == "3\n"


def test_a_task_that_runs_meanwhile_goes_back_and_runs_the_new_code(reloaded: Any, invoke: Callable[..., Any]) -> None:
    up = reloaded
    add(up, invoke, "--handler", "wait", "running", "")
    up.told("begun")
    up.source.write_text(SOURCE.replace("if ctx.cancelled.wait(300)", "if False"))
    up.told("the workers run the new code")
    with Client(up.scheduler, keys="") as client:
        assert client.handle("running").result(str, timeout=120) == "waited"
        task = client.get("running")
        assert task.attempts_used == 1
        assert len(task.attempts) == 2


@pytest.mark.longer
def test_a_worker_that_has_ended_is_there_again_after_a_change(reloaded: Any, invoke: Callable[..., Any]) -> None:
    up = reloaded
    (pid,) = worker_pids(up)
    psutil.Process(pid).kill()
    up.told("worker-1 ended with exit code -9")
    up.source.write_text(SOURCE.replace("return 1", "return 4"))
    up.told("the workers run the new code")
    assert add(up, invoke, "--handler", "answer", "", "--wait") == "4\n"
    # It is reported on again.
    (pid,) = worker_pids(up)
    psutil.Process(pid).kill()
    up.told("worker-1 ended with exit code -9")


def test_without_watchfiles_it_says_how_to_get_it(
    invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    result = invoke(["up", "--reload", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "--reload needs watchfiles: python3 -m pip install watchfiles" in result.stderr


def test_a_folder_to_watch_without_reload_is_wrong_usage(invoke: Callable[..., Any], tmp_path: Path) -> None:
    result = invoke(["up", "--reload-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "--reload-dir is for --reload" in result.stderr


def test_a_file_that_is_not_python_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad, odd = tmp_path / "good.py", tmp_path / "bad.py", tmp_path / "odd.py"
    good.write_text("raise SystemExit\n")
    bad.write_text("x = 1\ny = (\n")
    odd.write_bytes(b"# -*- coding: no-such -*-\n")
    check_syntax([str(good), str(tmp_path / "removed.py")])
    with pytest.raises(ReloadError, match=r"^bad\.py, line 2: "):
        check_syntax([str(good), str(bad)])
    with pytest.raises(ReloadError, match=r"^odd\.py: "):
        check_syntax([str(odd)])


def test_a_few_files_are_named_and_the_rest_is_counted() -> None:
    assert _named(["/a.py", "/b.py", "/c.py"]) == "/a.py, /b.py, /c.py"
    assert _named([f"/{name}.py" for name in "abcde"]) == "/a.py, /b.py, /c.py and 2 more"
    assert _short("/elsewhere/a.py") == "/elsewhere/a.py"


async def test_a_stop_while_workers_start_again_is_a_stop_and_no_failure() -> None:
    starting = asyncio.Event()

    class Slow(Child):
        async def ready(self, key: str, timeout: float) -> dict[str, Any]:
            starting.set()
            return await super().ready(key, timeout)

    class Nursing(Nursery):
        async def start(self, *arguments: Any, **more: Any) -> Child:
            child = await super().start("worker-1", ["-c", "import signal; signal.pause()"])
            child.__class__ = Slow
            return child

    async with Nursing() as nursery:
        workers = Workers(nursery, ["127.0.0.1:0"], [], {}, print)

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                workers.watch(group)
                group.create_task(workers.restart(0.0))

        running = asyncio.create_task(run())
        await starting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        workers.stop_watching()


async def test_a_child_that_was_forgotten_is_not_killed_by_the_warden() -> None:
    """Its id may be another process's by then. Here it is still its own, so that the test can see the difference."""
    code = "import sys; print('{\"on\": 1}', flush=True); sys.stdin.read(); import signal; signal.pause()"
    async with Nursery() as nursery:
        forgotten = await nursery.start("forgotten", ["-c", code])
        kept = await nursery.start("kept", ["-c", code])
        await forgotten.ready("on", 120)
        await kept.ready("on", 120)
        nursery.forget(forgotten)
        # As when this process dies.
        nursery._warden_input.close()
        nursery._warden.wait()
        assert await kept.ended() is kept
        assert forgotten.code is None
        forgotten.kill()
        await forgotten.ended()


class Killed:
    """A check of new code that is killed before it has said anything."""

    code = -9

    async def lines(self) -> list[dict[str, object]]:
        return []

    def kill(self) -> None:
        pass

    async def ended(self) -> None:
        pass


class KilledNursery:
    """Starts nothing but checks that are killed."""

    async def start(self, *_: object) -> Killed:
        return Killed()

    def forget(self, child: Killed) -> None:
        pass


async def test_a_check_that_is_killed_takes_no_code_for_good() -> None:
    with pytest.raises(ReloadError, match="--import a b does not load: the process that tried it ended with exit code"):
        await _check_modules(["b", "a"], cast("Nursery", KilledNursery()))


async def test_an_installed_plugin_that_is_broken_keeps_no_new_code_away() -> None:
    class Loads(Killed):
        code = 0

        async def lines(self) -> list[dict[str, object]]:
            return [{"plugin": "a", "errors": []}, {"plugin": "installed (x 1.0)", "errors": ["installed: no"]}]

    class LoadingNursery(KilledNursery):
        async def start(self, *_: object) -> Killed:
            return Loads()

    await _check_modules(["a"], cast("Nursery", LoadingNursery()))
    with pytest.raises(ReloadError, match="--import installed does not load: no"):
        await _check_modules(["a", "installed"], cast("Nursery", LoadingNursery()))


async def test_new_code_with_one_unusable_handler_is_run_for_the_others() -> None:
    class Loads(Killed):
        code = 0

        async def lines(self) -> list[dict[str, object]]:
            return [{"plugin": "a", "handlers": [{"name": "usable"}], "errors": ["handler 'b' takes (c, d, e)"]}]

    class LoadingNursery(KilledNursery):
        async def start(self, *_: object) -> Killed:
            return Loads()

    assert await _check_modules(["a"], cast("Nursery", LoadingNursery())) == [
        "--import a: handler 'b' takes (c, d, e); its other handlers are offered"
    ]
