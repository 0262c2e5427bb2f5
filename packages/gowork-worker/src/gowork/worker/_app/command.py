"""The command `gowork-worker`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from gowork.base import process_state
from gowork.base.beginnings import EXIT_INTERRUPTED
from gowork.base.codecs import DEFAULT_CODEC
from gowork.base.local_probes import Question, check_and_exit
from gowork.base.service_manager import ServiceManager
from gowork.base.telemetry import Telemetry, TelemetryError, start
from gowork.base.tls_files import PUBLIC, TlsFiles
from gowork.base.variables import hint_of
from gowork.worker._core import logs
from gowork.worker._core.plugins import add_search_path
from gowork.worker._core.selection import Selection
from gowork.worker._version import __version__
from gowork.worker.errors import ConfigurationError

logger = logging.getLogger("gowork.worker")

_EXAMPLES = """\b
Examples:
  gowork-worker                                     # works for 127.0.0.1:50051 with all installed plugins
  gowork-worker --import hello                      # with the handlers of ./hello.py too
  gowork-worker --leader a:50051,b:50051 --slots 64 # for whichever of two leaders leads, also when that changes
  gowork-worker --plugin-env /srv/envs/reports      # with the plugins of another virtual environment too
  gowork-worker --plugin shell --label disk=ssd     # runs shell commands only, where tasks select disk=ssd
  gowork-worker --queue images --queue mail         # takes tasks of these queues alone
  GOWORK_SLOTS=64 gowork-worker                     # each option is a variable too
  gowork-worker --check                             # ends with 0 if the worker on this machine has a session
"""


def _labels(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        key, separator, rest = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        labels[key] = rest
    return labels


def _read_config(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Takes defaults of options from a TOML file, where they have their long names."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    names = {option: known.name for known in context.command.params for option in known.opts}
    settings: dict[str, Any] = {}
    for key, value in table.items():
        name = names.get(f"--{key.replace('_', '-')}")
        if name is None:
            raise click.BadParameter(f"{path}: {key!r} is no option of {context.info_name}")
        if name == "labels" and isinstance(value, dict):
            value = [f"{label}={text}" for label, text in value.items()]
        settings[name] = value
    context.default_map = {**(context.default_map or {}), **settings}


class _Command(click.Command):
    """Names the variable that gave a bad value. Exits with 130, silently, when it is interrupted before it works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            error.param_hint = hint_of(ctx, error.param) or error.param_hint
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.command(
    cls=_Command,
    epilog=_EXAMPLES,
    context_settings={"auto_envvar_prefix": "GOWORK", "help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="A TOML file with any of these options, as in: slots = 64.",
)
@click.option(
    "--leader",
    default="127.0.0.1:50051",
    show_default=True,
    metavar="ADDR[,ADDR]",
    help="HOST:PORT of the leader. If you give several, at most 16, the worker finds the one that leads. A name with "
    "several addresses counts as these.",
)
@click.option("--name", help="A name unique in the cluster.  [default: the host's name and a random suffix]")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --name: a restarted worker finds proof here that its predecessor's processes have ended. "
    "So its tasks run again at once after a crash.  [default: in XDG_STATE_HOME, else where temporary files are]",
)
@click.option("--slots", type=click.IntRange(1, 10_000), help="How many tasks run at once.  [default: 4 per processor]")
@click.option(
    "--runners",
    type=click.IntRange(0, 1000),
    help="How many processes run tasks. 0 runs them in the worker's own.  [default: 1 per processor]",
)
@click.option(
    "--label",
    "labels",
    envvar="GOWORK_LABEL",
    multiple=True,
    callback=_labels,
    metavar="KEY=VALUE",
    help="A label by which tasks select workers. May be repeated.",
)
@click.option(
    "--queue",
    "queues",
    envvar="GOWORK_QUEUE",
    multiple=True,
    metavar="NAME",
    help="Take only tasks of the queues that are named so. May be repeated.  [default: all queues]",
)
@click.option(
    "--handler",
    "handlers",
    envvar="GOWORK_HANDLER",
    multiple=True,
    metavar="NAME",
    help="Offer only these handlers. May be repeated.",
)
@click.option(
    "--plugin",
    "plugins",
    envvar="GOWORK_PLUGIN",
    multiple=True,
    metavar="NAME",
    help="Load only these plugins, by their names or their distributions'. May be repeated.",
)
@click.option(
    "--import",
    "imports",
    envvar="GOWORK_IMPORT",
    multiple=True,
    metavar="MODULE",
    help="Load a module with handlers, also from the working directory. May be repeated.",
)
@click.option(
    "--plugin-env",
    "plugin_envs",
    envvar="GOWORK_PLUGIN_ENV",
    multiple=True,
    metavar="PATH",
    help="Offer the plugins of this virtual environment too, at most 16. It has gowork-worker in the same version. Its "
    "tasks run in processes of its Python, one at a time in each. May be repeated.",
)
@click.option(
    "--default-handler",
    default="echo",
    show_default=True,
    metavar="NAME",
    help="The handler of tasks that name none.",
)
@click.option("--http-listen", metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz here.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Join as a callback worker, as in the original contract, and serve worker.v1.WorkerService at this address.",
)
@click.option(
    "--advertise", metavar="HOST:PORT", help="With --listen: the address that the leader calls.  [default: as --listen]"
)
@click.option(
    "--scheduler",
    default="127.0.0.1:50052",
    show_default=True,
    metavar="ADDR[,ADDR]",
    help="With --listen: the address at which the leader takes TaskComplete. If there are several leaders, give those "
    "of all.",
)
@click.option(
    "--tls-ca",
    metavar="FILE",
    help="Call leaders by TLS; the authorities of their certificates (PEM), or 'public' for public ones.",
)
@click.option("--tls-cert", metavar="FILE", help="The own certificate, followed by its issuers' (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its key (PEM).")
@click.option(
    "--tls-client-ca",
    metavar="FILE",
    help="With --listen: the authorities of the leaders that call (PEM).  [default: those of --tls-ca]",
)
@click.option("--tls-name", metavar="NAME", help="The name that leaders' certificates have, if not their address.")
@click.option(
    "--tls-leader",
    metavar="NAME",
    multiple=True,
    help="With --listen: a name of leaders' certificates that have no role, such as CN=leader or DNS:leader-1.example.",
)
@click.option("--token-file", metavar="FILE", help="Show leaders the token in this file.")
@click.option(
    "--insecure",
    is_flag=True,
    help="Without TLS: send the token to other machines, and with --listen, run what anybody there asks for.",
)
@click.option(
    "--http-token-file",
    metavar="FILE",
    help="Give /metrics only to who shows the token in this file.  [default: to all]",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=110.0,
    show_default=True,
    help="Seconds that running tasks have to finish after SIGTERM. A second signal hands them back at once.",
)
@click.option(
    "--ecs-protection",
    "ecs_protection",
    type=click.IntRange(0, 2880),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="In Amazon ECS: while the worker has work, protect its task from being stopped when the service scales in or "
    "is deployed, for so long at a time. 0: never.",
)
@click.option(
    "--blocked-timeout",
    type=float,
    default=600.0,
    show_default=True,
    help="Seconds that a handler may keep a runner's loop from answering before the runner is ended. "
    "When a task that runs there has a time limit, the worker waits for that first.",
)
@click.option(
    "--runner-tasks-max",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="TASKS",
    help="Replace a runner process when it has finished this number of tasks. 0: never.",
)
@click.option(
    "--runner-memory-max",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="MIB",
    help="Replace a runner process when it takes this much memory: it finishes its tasks first. 0: never.",
)
@click.option(
    "--trace-parent",
    is_flag=True,
    help="Make the span of an attempt a child of the span that scheduled its task, instead of a linked trace.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The form of the log on standard error: text for people, or one JSON object a line.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    help="The least severe lines to log.",
)
@click.option(
    "--log-failures",
    type=click.Choice(["type", "message", "traceback"]),
    default="traceback",
    show_default=True,
    help="How much the log tells of a failed attempt: the exception's type, its message too, or its traceback too.",
)
@click.option(
    "--check",
    type=click.Choice(["ready", "alive"]),
    is_flag=False,
    flag_value="ready",
    help="Ask the worker that runs on this machine whether it has a session, or whether its event loop turns (alive), "
    "and end with 0 or 1. With several here, --name says which.",
)
@click.option(
    "--keys",
    metavar="FILE",
    help="Decrypt payloads with the keys of this file, and encrypt what their handlers say. `gowork keys new` makes "
    "one.",
)
@click.option(
    "--codec",
    metavar="NAME",
    help="The codec that uses the keys: this one, or one that a package contributes.  [default: aes-256-gcm]",
)
@click.option("--require-encryption", is_flag=True, help="Refuse tasks whose payloads are not encrypted.")
@click.option("--print-ready", is_flag=True, help="When a leader has accepted the worker, print one line of JSON.")
@click.version_option(__version__, prog_name="gowork-worker")
def main(
    *,
    leader: str,
    name: str | None,
    state_dir: Path | None,
    slots: int | None,
    runners: int | None,
    labels: dict[str, str],
    queues: tuple[str, ...],
    handlers: tuple[str, ...],
    plugins: tuple[str, ...],
    imports: tuple[str, ...],
    plugin_envs: tuple[str, ...],
    default_handler: str,
    http_listen: str | None,
    listen: str | None,
    advertise: str | None,
    scheduler: str,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    tls_name: str | None,
    tls_leader: tuple[str, ...],
    token_file: str | None,
    insecure: bool,
    http_token_file: str | None,
    drain_timeout: float,
    ecs_protection: int,
    blocked_timeout: float,
    runner_tasks_max: int,
    runner_memory_max: int,
    trace_parent: bool,
    log_format: str,
    log_level: str,
    log_failures: str,
    check: Question | None,
    keys: str | None,
    codec: str | None,
    require_encryption: bool,
    print_ready: bool,
) -> None:
    """Run handlers as a worker of a gowork cluster.

    Handlers come from installed plugins (entry points in the group gowork.plugins) and from modules named with
    --import. The worker never stops trying to reach its leader. SIGTERM and Ctrl-C drain it.
    """
    if check:
        check_and_exit("worker", name, check)
    process_state.settle()
    manager = ServiceManager.of_environment()
    telemetry = _telemetry()
    if imports:
        # A working directory that has been removed has no path; the modules may be installed.
        with contextlib.suppress(FileNotFoundError):
            add_search_path(os.getcwd())
    # The worker logs broken connections itself, in one line each. gRPC would log them again, and it blocks when nobody
    # reads standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported only now, because `--help` and `--version` should not wait for gRPC.
    from gowork.base.bearer import TokenFile
    from gowork.base.certificates import CertificateError
    from gowork.base.channels import AddressError, check_local
    from gowork.base.tls import tls_of
    from gowork.worker._app.daemon import Listeners, run_worker
    from gowork.worker._app.ecs_task import find_task, with_labels
    from gowork.worker._core.encryption_options import EncryptionOptions
    from gowork.worker._core.options import Options
    from gowork.worker._supervisor.instances import default_state_dir

    if name is None:
        # A name that is new at each start has no predecessor.
        state_dir = None
    elif state_dir is None:
        state_dir = default_state_dir()
    encryption = EncryptionOptions(codec or "", _absolute(keys, codec), require_encryption)
    if encryption and listen is not None:
        raise click.UsageError(
            "give --keys or --listen, not both: a callback worker has no labels, so no encrypted task would reach it"
        )
    if queues and listen is not None:
        raise click.UsageError("give --queue or --listen, not both: a callback worker is given tasks of all queues")
    ecs_task = find_task(os.environ)
    if name is None:
        name = ecs_task.name
    given: dict[str, Any] = {"name": name, "state_dir": state_dir, "slots": slots, "runners": runners}
    try:
        options = Options(
            **{key: value for key, value in given.items() if value is not None},
            labels=with_labels(labels, ecs_task),
            queues=tuple(dict.fromkeys(queues)),
            selection=Selection(
                plugins=plugins or None, handlers=handlers or None, imports=imports, default_handler=default_handler
            ),
            # Absolute, because a Python is started by its path. An empty one stays, and is refused.
            plugin_envs=tuple(path and os.path.abspath(path) for path in plugin_envs),
            log_format=log_format,
            log_level=log_level,
            log_failures=log_failures,
            drain_timeout=drain_timeout,
            blocked_timeout=blocked_timeout,
            runner_tasks_max=runner_tasks_max,
            runner_memory_max=runner_memory_max,
            trace_parent=trace_parent,
            encryption=encryption,
        )
        logs.configure(log_format, log_level, options.name)
        logs.take_standard_error()
        if ecs_task.unknown:
            logger.warning("worker has no labels of its ECS task", extra={"reason": ecs_task.unknown})
        http_token = None if http_token_file is None else TokenFile(Path(http_token_file)).newest
        listeners = Listeners(http_listen, listen, advertise, scheduler, http_token, tls_leader)
        ready = _print_ready if print_ready else None
        # Whoever may call a callback worker can have it run whatever its handlers run.
        asks = tls_client_ca or (tls_ca if listen and tls_cert and tls_ca != PUBLIC else None)
        tls = tls_of(TlsFiles(tls_ca, tls_cert, tls_key, asks, tls_name or "", token_file, insecure))
        if listen and not (insecure or (tls is not None and tls.asks_for_certificates)):
            check_local(listen, "whoever calls a callback worker has it run handlers", name="--listen")
        asyncio.run(
            run_worker(
                options,
                leader,
                listeners,
                tls=tls,
                ready=ready,
                manager=manager,
                ecs_protection_minutes=ecs_protection,
            )
        )
    except (AddressError, CertificateError, ConfigurationError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    finally:
        if telemetry is not None:
            telemetry.stop()


def _absolute(keys: str | None, codec: str | None) -> str:
    """Returns the path of a file of keys. A codec of another package may call its keys as it likes."""
    return "" if not keys else os.path.abspath(keys) if codec in (None, "", DEFAULT_CODEC) else keys


class _BadVariable(click.ClickException):
    """Is like click's UsageError without the usage, which says nothing about variables."""

    exit_code = 2


def _telemetry() -> Telemetry | None:
    try:
        return start("gowork-worker")
    except TelemetryError as error:
        raise _BadVariable(str(error)) from None


def _print_ready(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
