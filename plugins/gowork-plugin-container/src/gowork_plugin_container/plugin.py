"""The plugin: the handler `container`."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from gowork.worker import Context, Fail, PluginRegistry, handler, hookimpl, lifespan
from gowork_plugin_container.engine import ENGINE_SECONDS, Engine, Run
from gowork_plugin_container.job import ContainerFailed, ContainerJob, ContainerResult
from gowork_plugin_container.settings import ENGINE_VARIABLE, Settings

#: How many processes a container may have.
PIDS_MAX = 512
#: The exit code of `podman run` and `docker run` when the engine itself has failed.
_ENGINE_FAILED = 125
#: How many bytes a result may take as JSON, where a control character takes six. The limit of all results is 1 MiB.
_RESULT_BYTES_MAX = 1_000_000
#: Seconds for a container to stop and be removed, before its runner is ended. Then its keeper removes it.
_GRACE_SECONDS = 2 * ENGINE_SECONDS + 10


class Containers:
    """The handler, for the settings of one worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @handler("container", grace=_GRACE_SECONDS)
    async def run(self, ctx: Context, job: ContainerJob) -> ContainerResult:
        """Runs a container. ContainerJob describes the payload, ContainerResult the result.

        Raises:
            ContainerFailed: when the exit code is not 0 and `check` is set.
            Fail: when the job asks for what is not allowed here, or the engine fails. After the latter the task may be
                tried again, because another worker may have the image, or a working engine.
        """
        try:
            self._settings.check(job.image, job.network, job.memory_mib, job.cpus)
        except ValueError as error:
            raise Fail(str(error)) from None
        engine: Engine = ctx.state.gowork_container
        if shutil.which(engine.command) is None:
            raise Fail(f"there is no program {engine.command!r} on this worker ({ENGINE_VARIABLE})", retry=True)
        run = Run(engine, name_of(ctx), job.output_bytes_max)
        began = time.monotonic()
        try:
            code = await run.run(self._options(ctx, job, engine.command), job.stdin.encode())
        except OSError as error:
            raise Fail(f"the engine's command could not be started: {error}", retry=True) from error
        result = ContainerResult(
            exit_code=code if code >= 0 else 128 - code,
            stdout=run.stdout.text(),
            stderr=run.stderr.text(),
            stdout_truncated=run.stdout.truncated,
            stderr_truncated=run.stderr.truncated,
            seconds=round(time.monotonic() - began, 6),
        )
        if code == _ENGINE_FAILED:
            raise Fail(f"the engine failed: {result.stderr.strip()[-1500:]}", retry=True)
        if code != 0 and job.check:
            raise ContainerFailed(result)
        return _fitting(result)

    def _options(self, ctx: Context, job: ContainerJob, engine: str) -> list[str]:
        memory = f"{job.memory_mib}m"
        return [
            f"--pull={self._settings.pull}",
            "--interactive",
            f"--network={job.network}",
            # Podman hands the worker's own proxies to containers, with the passwords in their URLs.
            *(["--http-proxy=false"] if os.path.basename(engine) == "podman" else []),
            f"--memory={memory}",
            # The same number: no swap.
            f"--memory-swap={memory}",
            f"--cpus={job.cpus:g}",
            f"--pids-limit={PIDS_MAX}",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            # The output comes here. The engine need not keep it on its disk, too.
            "--log-driver=none",
            f"--label=gowork.fence={ctx.fence}",
            *(f"--env={name}={value}" for name, value in job.env.items()),
            job.image,
            *job.args,
        ]


@hookimpl
def gowork_register_handlers(registry: PluginRegistry) -> None:
    """Adds the handler and its lifespan, with the settings as they are now.

    Raises:
        ValueError: when a setting can't be read. So the plugin is named with this error, and offers no handler.
    """
    settings = Settings.read(os.environ)

    @lifespan
    def engine(state: Any) -> Iterator[None]:
        """Keeps one warden for each runner."""
        state.gowork_container = Engine(settings.engine)
        yield
        state.gowork_container.close()

    registry.add(Containers(settings).run)
    registry.add_lifespan(engine)


def name_of(ctx: Context) -> str:
    """Returns the name of the container of an attempt. No other attempt has it: a store gives each fence once.

    Leaders of two clusters may give the same fence. So the name also has a part of the id's digest.
    """
    return f"gowork-{ctx.fence}-{hashlib.sha256(ctx.id.encode()).hexdigest()[:12]}"


def _fitting(result: ContainerResult) -> ContainerResult:
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
