"""The plugin: the handler `shell`."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from gowork.worker import Context, Fail, handler, lifespan
from gowork.worker.processes import Warden, settled_umask
from gowork_plugin_shell.command import Command
from gowork_plugin_shell.job import CommandFailed, ShellJob, ShellResult

#: How many bytes a result may take as JSON, where a control character takes six. The limit of all results is 1 MiB.
_RESULT_BYTES_MAX = 1_000_000


class _Surroundings:
    """The umask and the directory with which each command starts, even if other handlers change the process's own."""

    def __init__(self) -> None:
        self.umask = settled_umask()
        #: The worker's working directory; None when it has been removed.
        self.cwd: str | None = None
        with contextlib.suppress(FileNotFoundError):
            self.cwd = os.getcwd()
        #: It is started with the first command, because most runners never run one.
        self._warden: Warden | None = None

    def directory(self, wanted: str | None) -> str | None:
        """Returns the directory for a command that asks for `wanted`, relative to the worker's directory."""
        return self.cwd if wanted is None or self.cwd is None else os.path.join(self.cwd, wanted)

    def warden(self) -> Warden:
        if self._warden is None:
            self._warden = Warden()
        return self._warden

    def close(self) -> None:
        if self._warden is not None:
            self._warden.close()


@lifespan
def surroundings(state: Any) -> Iterator[None]:
    """Keeps one warden for each runner, and the umask and directory with which its commands start."""
    state.gowork_shell = _Surroundings()
    yield
    state.gowork_shell.close()


@handler("shell")
async def shell(ctx: Context, job: ShellJob) -> ShellResult:
    """Runs a command. ShellJob describes the payload, ShellResult the result.

    Raises:
        CommandFailed: when the exit code is not 0 and `check` is set.
        Fail: when there is no such program or directory, or the command cannot be started. The task may be tried again,
            because another worker may have it.
    """
    around: _Surroundings = ctx.state.gowork_shell
    cwd = around.directory(job.cwd)
    _check(job, cwd)
    command = Command(job.output_bytes_max)
    started = time.monotonic()
    try:
        exit_code = await command.run(
            job.arguments,
            stdin=job.stdin.encode(),
            env=job.env,
            cwd=cwd,
            umask=around.umask,
            warden=around.warden(),
        )
    except OSError as error:
        raise Fail(f"the command could not be started: {error}", retry=True) from error
    result = ShellResult(
        exit_code=exit_code,
        stdout=command.stdout.text(),
        stderr=command.stderr.text(),
        stdout_truncated=command.stdout.truncated,
        stderr_truncated=command.stderr.truncated,
        seconds=round(time.monotonic() - started, 6),
    )
    if exit_code != 0 and job.check:
        raise CommandFailed(result)
    return _fitting(result)


def _check(job: ShellJob, cwd: str | None) -> None:
    if cwd is not None and job.cwd is not None and not os.path.isdir(cwd):
        raise Fail(f"cwd: there is no directory {job.cwd!r} on this worker", retry=True)
    program = job.arguments[0]
    if os.sep in program and cwd is not None:
        program = os.path.join(cwd, program)
    if shutil.which(program, path=job.env.get("PATH", os.environ.get("PATH"))) is None:
        raise Fail(f"command: there is no program {job.arguments[0]!r} on this worker", retry=True)


def _fitting(result: ShellResult) -> ShellResult:
    """Cuts outputs until the result is short enough as JSON."""
    while len(msgspec.json.encode(result)) > _RESULT_BYTES_MAX:
        result = msgspec.structs.replace(
            result,
            stdout=result.stdout[: len(result.stdout) // 2],
            stderr=result.stderr[: len(result.stderr) // 2],
            stdout_truncated=True,
            stderr_truncated=True,
        )
    return result
