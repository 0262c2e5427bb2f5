"""Looks at environments when the worker starts: whether runners can be started there, and what they offer.

Nothing of an environment is loaded into this process. Each is asked twice, by a process with its Python: for its
version of gowork-worker, because a runner of another version may not understand its supervisor, and then for its
handlers, by a runner that gets no tasks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gowork.worker._desk.events import EnvironmentsKnown, EnvironmentsRefused
from gowork.worker._desk.merging import is_absence
from gowork.worker._desk.roster import READY_SECONDS_MAX
from gowork.worker._fleet.interpreters import Interpreter
from gowork.worker._fleet.process import ProcessRunner, describe_exit
from gowork.worker._runner import messages
from gowork.worker._version import __version__
from gowork.worker.processes import Warden, end_group

logger = logging.getLogger("gowork.worker")

#: Seconds that a Python has to say which version of gowork-worker it has.
VERSION_SECONDS_MAX = 30.0
#: Seconds that it has to leave the lifespans afterwards.
_STOP_SECONDS_MAX = 5.0
#: How much of the end of what a Python prints is kept, and how much of its last line is told.
_ANSWER_BYTES_MAX = 64 << 10
_LINE_CHARACTERS_MAX = 300
_MARK = "gowork-environment "
#: Runs with any Python 3, and loads nothing of gowork, which may be of another version.
_SCRIPT = f"""
import sys
sys.path = [path for path in sys.path if path]
import importlib.util, json, os, runpy
version = ""
try:
    found = importlib.util.find_spec("gowork.worker")
    if found is not None and found.origin:
        version = runpy.run_path(os.path.join(os.path.dirname(found.origin), "_version.py"))["__version__"]
except (ImportError, AttributeError, OSError, KeyError, ValueError):
    pass
os.write(1, ("\\n" + {_MARK!r} + json.dumps([list(sys.version_info[:2]), version]) + "\\n").encode())
"""
#: The oldest Python that gowork-worker runs with.
_PYTHON_MIN = [3, 11]


class EnvironmentFault(Exception):
    """An environment can't be used. The text names it, and says what to do next."""


async def look_at_all(
    paths: Sequence[str], look: Callable[[str], Awaitable[messages.Ready]], closed: asyncio.Event
) -> EnvironmentsKnown | EnvironmentsRefused | None:
    """Looks at all environments at the same time.

    Args:
        paths: where they are.
        look: looks at one. It raises EnvironmentFault.
        closed: set when the worker stops.

    Returns:
        What they offer, or what is wrong with them; None when the worker stops meanwhile.
    """

    async def settled(path: str) -> messages.Ready | EnvironmentFault:
        try:
            return await look(path)
        except EnvironmentFault as fault:
            return fault

    async with asyncio.TaskGroup() as group:
        looks = {path: group.create_task(settled(path), name=f"look at {path}") for path in paths}
        closing = group.create_task(closed.wait(), name="closing")
        pending = {*looks.values()}
        while pending and not closing.done():
            await asyncio.wait({*pending, closing}, return_when=asyncio.FIRST_COMPLETED)
            pending = {task for task in pending if not task.done()}
        for task in (*pending, closing):
            task.cancel()
    if pending:
        return None
    ready: dict[str, messages.Ready] = {}
    faults: list[str] = []
    for path, look_at in looks.items():
        found = look_at.result()
        if isinstance(found, EnvironmentFault):
            faults.append(str(found))
        else:
            ready[path] = found
            logger.info("environment loaded", extra={"environment": path, "handlers": len(found.handlers)})
    return EnvironmentsRefused(f"plugin_envs: {'; '.join(faults)}") if faults else EnvironmentsKnown(ready)


async def check_version(path: str, warden: Warden | None) -> None:
    """Checks that a path is an environment whose runners understand this worker.

    Args:
        path: where it is.
        warden: guards the process that is started for that; None without one.

    Raises:
        EnvironmentFault: when it is not.
    """
    interpreter = Interpreter.of(path)
    python = interpreter.executable
    _check_folder(path, python)
    found, version = await _ask(interpreter, warden)
    if found < _PYTHON_MIN:
        wanted, has = (".".join(map(str, each)) for each in (_PYTHON_MIN, found))
        raise EnvironmentFault(f"{path} has Python {has}, and gowork-worker needs {wanted}; make it anew with that")
    install = f"{_install(python)} gowork-worker=={__version__}"
    if not version:
        raise EnvironmentFault(f"{path} has no gowork-worker; install it: {install}")
    if version != __version__:
        versions = f"{path} has gowork-worker {version}, and this worker is {__version__}"
        raise EnvironmentFault(f"{versions}; give both the same version: {install}")


def _install(python: str) -> str:
    """Returns the command that installs packages for a Python without pip, as in environments that uv makes."""
    return f"python3 -m pip --python {shlex.quote(python)} install"


def _check_folder(path: str, python: str) -> None:
    if os.path.isfile(path):
        folder, place = os.path.split(os.path.dirname(path))
        hint = f", as in {folder}" if place == "bin" else ""
        raise EnvironmentFault(f"{path} is a file; name the folder of a virtual environment{hint}")
    make = f"python3 -m venv {shlex.quote(path)}"
    if not os.path.isdir(path):
        raise EnvironmentFault(f"{path} does not exist; make it with: {make}")
    if not os.path.exists(python):
        hint = f"name the folder of a virtual environment, or make one there with: {make}"
        if os.path.exists(os.path.join(path, "python")):
            hint = f"name the folder of a virtual environment, as in {os.path.dirname(path)}"
        raise EnvironmentFault(f"{path} has no bin/python; {hint}")


async def ready_of(path: str, runner: ProcessRunner, ready: asyncio.Future[messages.Ready]) -> messages.Ready:
    """Runs a runner of an environment until it has told what it offers.

    Args:
        path: where the environment is.
        runner: not yet started.
        ready: becomes done with what it tells.

    Raises:
        EnvironmentFault: when it ends before, takes longer, or offers nothing.
    """
    async with asyncio.TaskGroup() as group:
        process = group.create_task(_run(runner), name=runner.name)
        either: list[asyncio.Future[Any]] = [process, ready]
        await asyncio.wait(either, timeout=READY_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
        has_ended = process.done()
        if ready.done() and not has_ended:
            runner.send(messages.Stop())
            await asyncio.wait([process], timeout=_STOP_SECONDS_MAX)
        process.cancel()
    if not ready.done():
        why = f"a runner is not ready there within {READY_SECONDS_MAX:g} s"
        if has_ended:
            why = f"a runner ends there before it is ready ({process.result()})"
        raise EnvironmentFault(f"{path}: {why}; the log above says what it did. Repair the plugin, or leave it out")
    found = ready.result()
    if not found.handlers and not found.plugin_errors:
        install = f"install one there with: {_install(runner.executable)}"
        raise EnvironmentFault(f"{path} has no plugin with handlers; {install}, or leave the environment out")
    if not found.handlers and all(map(is_absence, found.plugin_errors)):
        choice = "choose one of it too, or leave the environment out"
        raise EnvironmentFault(f"{path} has none of the plugins and handlers that are chosen; {choice}")
    return found


async def _run(runner: ProcessRunner) -> str:
    """Runs a runner to its end. Returns how it ended, in words."""
    try:
        return await runner.run()
    except OSError as error:
        return f"it could not be started: {error}"


async def _ask(interpreter: Interpreter, warden: Warden | None) -> tuple[list[int], str]:
    """Returns the version of a Python, and that of its gowork-worker, which is empty when it has none."""
    python = interpreter.executable
    remedy = f"make the environment anew with: python3 -m venv --clear {shlex.quote(interpreter.environment)}"
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            _SCRIPT,
            env=interpreter.variables(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise EnvironmentFault(f"{python} can't be started: {error.strerror}; {remedy}") from error
    try:
        if warden is not None:
            warden.guard(process.pid)
        async with asyncio.timeout(VERSION_SECONDS_MAX):
            printed = await _read(process)
            code = await process.wait()
    except TimeoutError:
        raise EnvironmentFault(f"{python} did not answer within {VERSION_SECONDS_MAX:g} s; {remedy}") from None
    finally:
        end_group(process.pid)
        await asyncio.shield(process.wait())
        if warden is not None:
            warden.release(process.pid)
    lines = printed.decode(errors="replace").strip().splitlines() or [""]
    try:
        # Not always the last one: Python itself, and what its site loads, may print when it ends.
        return _answer(next((line for line in reversed(lines) if line.startswith(_MARK)), ""))
    except ValueError:
        last = lines[-1][:_LINE_CHARACTERS_MAX] or describe_exit(code).replace("the runner", "it")
        raise EnvironmentFault(f"{python} does not work: {last}; {remedy}") from None


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """Reads the end of what a process prints."""
    assert process.stdout is not None
    printed = b""
    while part := await process.stdout.read(_ANSWER_BYTES_MAX):
        printed = (printed + part)[-_ANSWER_BYTES_MAX:]
    return printed


def _answer(line: str) -> tuple[list[int], str]:
    """Reads the answer of `_SCRIPT`.

    Raises:
        ValueError: when it is none.
    """
    if not line.startswith(_MARK):
        raise ValueError(line)
    numbers, version = json.loads(line.removeprefix(_MARK))
    return [int(number) for number in numbers], str(version)
