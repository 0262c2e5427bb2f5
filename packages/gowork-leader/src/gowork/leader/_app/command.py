"""The console script `gowork-leader`."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from functools import partial
from pathlib import Path

import click
import uvloop

from gowork.base import logs, process_state
from gowork.base.local_probes import Question, check_and_exit
from gowork.base.service_manager import ServiceManager
from gowork.base.telemetry import Telemetry, TelemetryError, start
from gowork.base.tls_files import TlsFiles
from gowork.leader._app import serving
from gowork.leader._app.access_options import access_options
from gowork.leader._app.advertised import reached_here_alone
from gowork.leader._app.data_directory import own_directory, prepared
from gowork.leader._app.leader import Leader
from gowork.leader._app.option_types import (
    DAYS,
    TASKS,
    LeaderCommand,
    check_address,
    check_cluster,
    check_host,
    check_name,
    not_empty,
    read_config,
)
from gowork.leader._app.ports import ListenError
from gowork.leader._engine.retention import Kept
from gowork.leader._snapshots.places import PlaceError, place_at
from gowork.leader._version import __version__
from gowork.leader.log.entries import ChainError, NewerFormatError
from gowork.leader.log.protocol import LogError
from gowork.leader.log.registry import open_log
from gowork.leader.store._sqlite_place import check_not_on_network
from gowork.leader.store.protocol import StoreError
from gowork.leader.store.registry import open_store
from gowork.leader.store.sqlite import SqliteStore

#: How long the event loop may keep Python's lock from the store's threads, in seconds. They need it after every
#: statement. With Python's own 5 ms, a busy loop has held up single commits for seconds.
SWITCH_SECONDS = 0.0005
_DAY = 24 * 3600.0
#: The user and password that a URL may have before its host. They must not get into the log.
_PASSWORD = re.compile(r"//[^/@]*@")

#: What ends the leader with one line.
_FAULTS = (StoreError, LogError, PlaceError, ChainError, NewerFormatError, ListenError)

_log = logging.getLogger(__name__)

_EPILOG = """\b
Examples:
  gowork-leader
  gowork-leader --store sqlite:////var/lib/gowork/gowork.db
  gowork-leader --cluster-listen 0.0.0.0:50051 --scheduler-listen 0.0.0.0:50052 --insecure
  gowork-leader --tls-cert leader.pem --tls-key leader-key.pem --tls-client-ca ca.pem --access access.toml
  gowork-leader --store sqlite:////var/lib/gowork/gowork.db --restore gowork-2026-11-24.backup
  gowork-leader --retain-days 2 --retain-tasks 200000
  gowork-leader --log etcd://10.0.0.1:2379/gowork --snapshots /mnt/gowork
  gowork-leader --log postgresql://gowork@db/gowork --snapshots postgresql://gowork@db/gowork
  GOWORK_LOG_FORMAT=json gowork-leader --config /etc/gowork/leader.toml
  gowork-leader --check

Every option can be set as a variable GOWORK_NAME and in the TOML file of
--config, where names have underscores: cluster_listen = "0.0.0.0:50051".
"""

_TLS_CERT_HELP = (
    "Serve by TLS alone, with this certificate, followed by its issuers' (PEM). New files are used at once."
)


@click.command(
    "leader",
    cls=LeaderCommand,
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "GOWORK", "help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option(
    "--cluster-listen",
    default="127.0.0.1:50051",
    callback=check_address,
    metavar="HOST:PORT",
    help="Serve workers here.",
)
@click.option(
    "--scheduler-listen",
    default="127.0.0.1:50052",
    callback=check_address,
    metavar="HOST:PORT",
    help="Serve clients here. Both ports serve all services.",
)
@click.option(
    "--http-listen",
    default="127.0.0.1:9464",
    callback=check_address,
    metavar="HOST:PORT",
    help="Serve /metrics, /healthz and /readyz here.",
)
@click.option(
    "--store", metavar="URL", show_default="gowork.db in the data directory", help="Keep tasks here: sqlite:///PATH."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    show_default="the user's data directory",
    help="The directory of the default store.",
)
@click.option(
    "--store-on-network-file-system",
    is_flag=True,
    help="Use a store on NFS, EFS, SMB, 9p or FUSE all the same. SQLite can lose tasks there.",
)
@click.option(
    "--restore",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="BACKUP",
    show_default=False,
    help="Make the store from this backup first. It is refused when there is a store already. With --log, the log "
    "begins anew with it: stop all leaders first.",
)
@click.option("--retain-days", type=DAYS, default=7.0, metavar="DAYS", help="How long finished tasks are kept.")
@click.option("--retain-tasks", type=TASKS, default=1_000_000, metavar="N", help="How many finished tasks are kept.")
@click.option(
    "--retain-failed-days",
    type=DAYS,
    default=14.0,
    metavar="DAYS",
    help="How long tasks with status ERROR are kept.",
)
@click.option(
    "--retain-failed-tasks",
    type=TASKS,
    default=100_000,
    metavar="N",
    help="How many tasks with status ERROR are kept.",
)
@click.option(
    "--log",
    metavar="URL",
    show_default="none; this is the only leader",
    help="Share this log with other leaders: etcd://HOST:2379,HOST:2379/PREFIX.",
)
@click.option(
    "--name",
    metavar="NAME",
    callback=check_name,
    show_default="this machine's name",
    help="This leader's name among the others.",
)
@click.option(
    "--advertise",
    metavar="HOST",
    callback=check_host,
    show_default="the host that it listens on",
    help="The host at which the other leaders, workers and clients reach this one.",
)
@click.option(
    "--one-copy",
    type=click.Choice(["accept", "refuse"]),
    default="accept",
    help="What to do with new tasks when the log is full of what only this leader's store has.",
)
@click.option(
    "--snapshots",
    metavar="PLACE",
    show_default="none",
    help="Share snapshots of the store with the other leaders: in a folder that all of them mount, or in postgresql://….",
)
@click.option(
    "--check",
    type=click.Choice(["ready", "alive"]),
    is_flag=False,
    flag_value="ready",
    help="Ask the leader that runs on this machine whether it is ready, or whether its event loop turns (alive), and "
    "end with 0 or 1. With several here, --name says which.",
)
@click.option(
    "--cloudwatch-metrics",
    metavar="CLUSTER",
    callback=check_cluster,
    show_default="none",
    help="While this leader leads, write the backlog into the log every 30 s, in the form of which CloudWatch makes "
    "metrics of this cluster. It needs --log-format json.",
)
@click.option("--tls-cert", callback=not_empty, metavar="FILE", show_default="none", help=_TLS_CERT_HELP)
@click.option(
    "--tls-key", callback=not_empty, metavar="FILE", show_default="none", help="Its key (PEM), without a passphrase."
)
@click.option(
    "--tls-client-ca",
    callback=not_empty,
    metavar="FILE",
    show_default="none",
    help="Take only callers with a certificate from one of these authorities (PEM).",
)
@click.option(
    "--tls-ca",
    callback=not_empty,
    metavar="FILE",
    show_default="those of --tls-client-ca",
    help="The authorities of other leaders and of callback workers, which this leader calls (PEM).",
)
@click.option(
    "--tls-name", metavar="NAME", show_default="their addresses", help="The name that other leaders' certificates have."
)
@click.option(
    "--tls-worker-name",
    metavar="NAME",
    show_default="their addresses",
    help="The name that callback workers' certificates have.",
)
@click.option(
    "--access",
    callback=not_empty,
    metavar="FILE",
    show_default="none",
    help="Who may do what (TOML): tokens, names of certificates, queues, handlers, and who is revoked. A new file is "
    "used within seconds.",
)
@click.option(
    "--authenticator",
    callback=not_empty,
    metavar="NAME",
    show_default="none",
    help="Ask this one who calls, where certificate and token say nothing. Packages contribute authenticators.",
)
@click.option(
    "--proxy-listen",
    callback=not_empty,
    metavar="PATH",
    show_default="none",
    help="Serve a proxy on this machine at this unix socket, and believe its header x-forwarded-client-cert.",
)
@click.option(
    "--insecure", is_flag=True, help="Serve other machines without knowing who calls: whoever reaches a port runs code."
)
@click.option(
    "--http-token-file",
    callback=not_empty,
    metavar="FILE",
    show_default="none",
    help="Give /metrics only to who shows the token in this file.",
)
@click.option("--reflection/--no-reflection", default=True, help="Describe the services to grpcurl and similar tools.")
@click.option(
    "--print-addresses",
    is_flag=True,
    help="When it serves, print one JSON line with the addresses and the store on standard output.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", help="How to write the log, on standard error."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="Lowest level to log."
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="Read options from this TOML file.",
)
@click.version_option(__version__, prog_name="gowork-leader")
def main(
    cluster_listen: str,
    scheduler_listen: str,
    http_listen: str,
    store: str | None,
    data_dir: Path | None,
    store_on_network_file_system: bool,
    restore: Path | None,
    retain_days: float,
    retain_tasks: int,
    retain_failed_days: float,
    retain_failed_tasks: int,
    log: str | None,
    name: str | None,
    advertise: str,
    one_copy: str,
    snapshots: str | None,
    check: Question | None,
    cloudwatch_metrics: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    tls_ca: str | None,
    tls_name: str | None,
    tls_worker_name: str | None,
    access: str | None,
    authenticator: str | None,
    proxy_listen: str | None,
    insecure: bool,
    http_token_file: str | None,
    reflection: bool,
    print_addresses: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Run the leader of a gowork cluster, which keeps the members and the tasks."""
    if check:
        check_and_exit("leader", name, check)
    process_state.settle()
    manager = ServiceManager.of_environment()
    sys.setswitchinterval(SWITCH_SECONDS)
    logs.configure(log_format, log_level)
    logs.take_standard_error()
    if snapshots and not log:
        raise click.UsageError("--snapshots is for leaders that share a log; give --log, too, or leave it out")
    if cloudwatch_metrics and (log_format != "json" or log_level not in ("debug", "info")):
        raise click.UsageError(
            "--cloudwatch-metrics needs --log-format json and --log-level info or debug, because the metrics are lines "
            "of the log"
        )
    url = store or f"sqlite:///{prepared(data_dir or own_directory()) / 'gowork.db'}"
    kept = Kept(retain_tasks, retain_days * _DAY, retain_failed_tasks, retain_failed_days * _DAY)
    let_in = access_options(
        TlsFiles(tls_ca, tls_cert, tls_key, tls_client_ca, tls_name or ""),
        access,
        authenticator,
        http_token_file,
        listened=(cluster_listen, scheduler_listen),
        has_proxy=bool(proxy_listen),
        is_alone=not log,
        insecure=insecure,
    )
    telemetry = _telemetry()
    try:
        opened = open_store(url)
        if isinstance(opened, SqliteStore) and not store_on_network_file_system:
            check_not_on_network(opened.path)
        leader = Leader(
            opened,
            cluster_listen=cluster_listen,
            scheduler_listen=scheduler_listen,
            http_listen=http_listen,
            kept=kept,
            reflection=reflection,
            log=open_log(log) if log else None,
            name=name or "",
            advertise=advertise,
            may_be_one_copy=one_copy == "accept",
            snapshots=place_at(snapshots) if snapshots else None,
            cloudwatch=cloudwatch_metrics or "",
            tls=let_in.tls,
            tls_worker_name=tls_worker_name or "",
            access=let_in.access,
            proxy_listen=proxy_listen or "",
            http_token=let_in.http_token,
        )
        shown = _PASSWORD.sub("//", url)
        _log.info("keeps tasks", extra={"store": shown})
        let_in.log()
        if log and (host := reached_here_alone(log, advertise, cluster_listen, scheduler_listen)):
            _log.warning(
                "leaders on other machines can't reach this one",
                extra={"host": host, "advice": "give --cluster-listen, --scheduler-listen and --advertise"},
            )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            restoring = None
            if restore is not None:
                restoring = partial(serving.restore, opened, restore, open_log(log) if log else None)
            runner.run(serving.run(leader, manager, restoring, shown if print_addresses else None))
    except (*_FAULTS, BaseExceptionGroup) as error:
        # Not `except*`, because Python 3.11.2 puts what is raised within it into a group.
        faults = _leaves(error)
        if not all(isinstance(fault, _FAULTS) for fault in faults):
            raise
        raise click.ClickException("; ".join(str(fault) for fault in faults)) from None
    finally:
        if telemetry is not None:
            telemetry.stop()


class _BadVariable(click.ClickException):
    """An error with the exit code of click's UsageError but without the usage, which says nothing about variables."""

    exit_code = 2


def _telemetry() -> Telemetry | None:
    try:
        return start("gowork-leader")
    except TelemetryError as error:
        raise _BadVariable(str(error)) from None


def _leaves(error: BaseException) -> list[BaseException]:
    """Returns the exceptions of a group and of the groups in it; of another exception that alone."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in _leaves(part)]
