"""The command `gowork up` runs a leader and workers on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec

import click

from gowork.base.channels import AddressError, format_address, parse_address
from gowork.cli.cluster import Addresses, ClusterPlan, run_cluster
from gowork.cli.group import EXIT_FAILED, EXIT_INTERRUPTED, need
from gowork.cli.options import CommonOptions, common_options, pass_common
from gowork.cli.output import console
from gowork.cli.parameters import duration
from gowork.cli.processes import ChildFailed
from gowork.cli.reloading import ReloadPlan, is_available
from gowork.client import Client, Member

_SCHEDULER_DEFAULT = "127.0.0.1:50052"


@click.command(
    epilog="""\b
Examples:
  gowork up
  gowork up --workers 3 --slots 8 --import hello
  gowork up --plugin echo --import hello         # without the other installed plugins, such as shell
  gowork up --import hello --reload              # new code in this folder is run at once
  gowork up --data-dir ./cluster --scheduler-listen 127.0.0.1:0 --print-addresses"""
)
@click.option(
    "--workers", type=click.IntRange(min=0, max=1000), default=1, show_default=True, help="How many workers to start."
)
@click.option(
    "--slots",
    type=click.IntRange(1, 10_000),
    help="How many tasks each worker runs at once.  [default: 4 per processor]",
)
@click.option(
    "--import",
    "modules",
    metavar="MODULE",
    multiple=True,
    help="Load the handlers of this module, which may be in the working directory. Repeatable.",
)
@click.option(
    "--plugin",
    "plugins",
    metavar="NAME",
    multiple=True,
    help="Load only these plugins, by their names or their distributions'. Repeatable.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="The directory in which tasks are kept.  [default: the user's data directory]",
)
@click.option(
    "--cluster-listen",
    metavar="HOST:PORT",
    default="127.0.0.1:50051",
    show_default=True,
    help="Workers use this address. Port 0 takes a free port.",
)
@click.option(
    "--scheduler-listen",
    metavar="HOST:PORT",
    default=_SCHEDULER_DEFAULT,
    show_default=True,
    help="Clients use this address. Port 0 takes a free port.",
)
@click.option(
    "--http-listen",
    metavar="HOST:PORT",
    default="127.0.0.1:9464",
    show_default=True,
    help="The leader serves /metrics, /healthz and /readyz here. Port 0 takes a free port.",
)
@click.option(
    "--workers-http-port",
    type=click.IntRange(0, 65_535),
    default=9465,
    show_default=True,
    help="The first worker serves the same pages on this port, the next worker on the next port. 0 takes free ports.",
)
@click.option(
    "--grace",
    type=duration,
    metavar="DURATION",
    default="10s",
    show_default=True,
    help="After Ctrl-C, running tasks have this long to finish. Then they go back to the queue.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="The least severe records that leader and workers log to standard error.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="The form of their log: text for people, or one JSON object on each line.  [default: GOWORK_LOG_FORMAT, else "
    "text]",
)
@click.option(
    "--log-failures",
    type=click.Choice(["type", "message", "traceback"]),
    help="How much workers log of a failed attempt: the exception's type, also its text, or also its traceback.  "
    "[default: GOWORK_LOG_FAILURES, else traceback]",
)
@click.option(
    "--reload",
    is_flag=True,
    help="Start the workers again when Python files change. Leader and tasks stay; running tasks have --grace to "
    "finish. Code that does not load is not run.",
)
@click.option(
    "--reload-dir",
    "reload_dirs",
    type=click.Path(exists=True, file_okay=False),
    multiple=True,
    help="With --reload: watch this folder, with those within. Repeatable.  [default: the working directory]",
)
@click.option("--print-addresses", is_flag=True, help="Print one line of JSON with the addresses instead of words.")
@common_options
@pass_common
def up(
    common: CommonOptions,
    workers: int,
    slots: int | None,
    modules: tuple[str, ...],
    plugins: tuple[str, ...],
    data_dir: str | None,
    cluster_listen: str,
    scheduler_listen: str,
    http_listen: str,
    workers_http_port: int,
    grace: float,
    log_level: str,
    log_format: str | None,
    log_failures: str | None,
    reload: bool,
    reload_dirs: tuple[str, ...],
    print_addresses: bool,
) -> None:
    """Run a leader and workers on this machine until Ctrl-C.

    Tasks are kept in a SQLite file, and are there again at the next start. The command reports a process that ends by
    itself, and does not restart it. A second Ctrl-C kills all processes at once.
    """
    for module, package in (("gowork.leader", "gowork-leader"), ("gowork.worker", "gowork-worker")):
        if find_spec(module) is None:
            raise click.ClickException(need(package))
    if reload_dirs and not reload:
        raise click.UsageError("--reload-dir is for --reload; give both")
    if reload and not is_available():
        raise click.ClickException("--reload needs watchfiles: python3 -m pip install watchfiles")
    listen = ["--cluster-listen", cluster_listen, "--scheduler-listen", scheduler_listen, "--http-listen", http_listen]
    plan = ClusterPlan(
        worker_pages=_worker_pages(http_listen, workers_http_port, workers),
        leader_options=[
            *listen,
            *(["--data-dir", data_dir] if data_dir else []),
            *(["--insecure"] if common.tls.get("insecure") else []),
        ],
        worker_options=[
            *(["--slots", str(slots)] if slots else []),
            *(["--log-failures", log_failures] if log_failures else []),
            *(["--keys", common.keys] if common.keys is not None else []),
            *(part for module in modules for part in ("--import", module)),
            *(part for plugin in plugins for part in ("--plugin", plugin)),
            # Every cluster calls its workers worker-1 and so on, so that each needs a state directory of its own.
            *(["--state-dir", os.path.join(data_dir, "workers")] if data_dir else []),
        ],
        log_level=log_level,
        log_format=log_format,
        grace=grace,
        reload=ReloadPlan(reload_dirs or (os.getcwd(),), modules) if reload else None,
    )

    ready = False
    tell = _teller(log_format)

    def started(addresses: Addresses) -> None:
        nonlocal ready
        with Client(addresses.scheduler, keys="") as client:
            members = client.members()
        for fault in _check_imports(modules, members):
            tell(fault)
        if print_addresses:
            click.echo(json.dumps(asdict(addresses)))
        else:
            _introduce(addresses, members)
        ready = True

    try:
        stopped = asyncio.run(run_cluster(plan, started, tell))
    except ChildFailed as error:
        raise click.ClickException(str(error)) from error
    if not stopped:
        click.get_current_context().exit(EXIT_FAILED)
    if not ready:
        click.get_current_context().exit(EXIT_INTERRUPTED)


def _teller(log_format: str | None) -> Callable[[str], None]:
    """Returns what writes words to standard error, in the form in which leader and workers write their log."""
    form = log_format or os.environ.get("GOWORK_LOG_FORMAT")

    def tell(words: str) -> None:
        if form == "json":
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            words = json.dumps({"time": now, "level": "info", "logger": __name__, "event": words})
        else:
            words = f"gowork: {words}"
        with contextlib.suppress(OSError):
            # The cluster goes on when nobody reads standard error.
            click.echo(words, err=True)

    return tell


def _check_imports(modules: Iterable[str], members: Sequence[Member]) -> list[str]:
    """Checks that each module of --import was loaded. Errors of other plugins do not end the command.

    Returns:
        What to say of modules some of whose handlers can't be used.

    Raises:
        ChildFailed: when no handler of a module can be used. The error has the file and the line that the worker named.
    """
    errors = dict.fromkeys(error for member in members for error in member.plugin_errors)
    offering = {plugin.name for member in members for plugin in member.plugins}
    faults = []
    for module in modules:
        about = re.compile(rf"(?<![\w.]){re.escape(module)}(?![\w.])")
        for error in errors:
            # The module's name is before the colon. The worker's reason follows it, and may name other modules.
            name = error.partition(": ")[0]
            if not about.search(name):
                continue
            reason = error.removeprefix(f"{module}: ")
            if name not in offering:
                raise ChildFailed(f"--import {module} does not load: {reason}")
            faults.append(f"--import {module}: {reason}; its other handlers are offered")
    return faults


def _worker_pages(leader_page: str, first_port: int, workers: int) -> list[str]:
    """Returns the HTTP address of each worker: the leader's host, with ports from `first_port` on, or port 0."""
    try:
        host, _ = parse_address(leader_page)
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="'--http-listen'") from error
    return [format_address(host, first_port and first_port + number) for number in range(workers)]


def _introduce(addresses: Addresses, members: Sequence[Member]) -> None:
    """Prints what runs, and commands to try."""
    out = console()
    handlers = sorted({name for member in members for name in member.handlers})
    out.print(
        f"leader    {addresses.scheduler} for clients, {addresses.cluster} for workers", style="bold", markup=False
    )
    pages = ", ".join(f"http://{address}/metrics" for address in (addresses.http, *addresses.workers_http))
    out.print(f"metrics   {pages}", markup=False)
    slots = sum(member.slots for member in members)
    out.print(f"workers   {', '.join(addresses.workers) or 'none'} ({slots} slots)", markup=False)
    out.print(f"handlers  {', '.join(handlers) or 'none'}", markup=False)
    if addresses.store:
        out.print(f"tasks     kept in {addresses.store.removeprefix('sqlite:///')}", markup=False, soft_wrap=True)
    out.print()
    if addresses.scheduler != _SCHEDULER_DEFAULT:
        out.print(f"  export GOWORK_LEADER={addresses.scheduler}", markup=False)
    if "echo" in handlers:
        # The one handler that takes tasks that name none.
        out.print("  gowork add 'some work' --wait", markup=False)
    out.print("  gowork tasks", markup=False)
    out.print("  gowork members", markup=False)
    out.print()
    out.print("Ctrl-C stops the cluster", style="dim")
