"""The console script `gowork-leader`."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import re
import signal
import sys
import tomllib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import click
import msgspec
import platformdirs
import uvloop

from gowork.base import logs, process_state
from gowork.base.bearer import TokenFile
from gowork.base.beginnings import EXIT_INTERRUPTED, give_up_standard_output
from gowork.base.certificates import CertificateError
from gowork.base.channels import ALL_INTERFACES, AddressError, check_local, parse_address
from gowork.base.directories import check_not_public, make_directory
from gowork.base.identities import IdentityError
from gowork.base.local_listener import LocalListener
from gowork.base.local_probes import Question, check_and_exit
from gowork.base.proxies import is_loopback
from gowork.base.service_manager import ServiceManager
from gowork.base.telemetry import Telemetry, TelemetryError, start
from gowork.base.tls import Tls, tls_of
from gowork.base.tls_files import TlsFiles
from gowork.base.variables import hint_of
from gowork.leader._access.access import Access
from gowork.leader._access.access_file import AccessError
from gowork.leader._app.leader import Leader, advertised_host
from gowork.leader._app.node import Addresses
from gowork.leader._app.ports import ListenError
from gowork.leader._engine.retention import Kept
from gowork.leader._replication import generations
from gowork.leader._snapshots.places import PlaceError, place_at
from gowork.leader._version import __version__
from gowork.leader.log.entries import ChainError, NewerFormatError
from gowork.leader.log.protocol import Log, LogError
from gowork.leader.log.registry import open_log
from gowork.leader.store._sqlite_place import check_not_on_network
from gowork.leader.store.protocol import LoggedStore, Store, StoreError
from gowork.leader.store.registry import open_store
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.limits import ID_BYTES_MAX, RETAIN_DAYS_MAX, RETAIN_TASKS_MAX

#: How long the event loop may keep Python's lock from the store's threads, in seconds. They need it after every
#: statement. With Python's own 5 ms, a busy loop has held up single commits for seconds.
SWITCH_SECONDS = 0.0005
_DAY = 24 * 3600.0
#: The user and password that a URL may have before its host. They must not get into the log.
_PASSWORD = re.compile(r"//[^/@]*@")
#: What CloudWatch takes as the value of a dimension.
_DIMENSION = re.compile("[!-9;-~][!-~]{0,254}")

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


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from None
    # --config itself, --version and --help are left out, because they make no sense in a file.
    options = {option.name: option for option in context.command.params if option.expose_value}
    known = set(options)
    unknown = sorted(set(values) - known)
    if unknown:
        raise click.BadParameter(
            f"{path} has the unknown name {unknown[0]!r}; known are {', '.join(sorted(n for n in known if n))}"
        )
    for name, value in values.items():
        # Click would turn any value into text.
        numeric = isinstance(options[name].type, click.types.IntParamType | click.types.FloatParamType)
        if not isinstance(value, str | bool) and not (numeric and isinstance(value, int | float)):
            wanted = "a number" if numeric else "a string, or true or false"
            raise click.BadParameter(f"{path}: {name} must be {wanted}; it is {value!r}")
    context.default_map = {**(context.default_map or {}), **values}
    return path


class _Days(click.FloatRange):
    """A number of days. Click's own range lets a NaN pass."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        days = float(super().convert(value, parameter, context))
        if math.isnan(days):
            self.fail(f"{value} is not a number of days.", parameter, context)
        return days


_DAYS = _Days(min=0, max=RETAIN_DAYS_MAX)
_TASKS = click.IntRange(min=0, max=RETAIN_TASKS_MAX)


def _check_address(context: click.Context, parameter: click.Parameter, address: str) -> str:
    try:
        parse_address(address)
    except AddressError as error:
        raise click.BadParameter(str(error)) from None
    return address


def _check_name(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None and not (name.strip() and name.isprintable() and len(name.encode()) <= ID_BYTES_MAX):
        raise click.BadParameter(f"{name[:80]!r}: a name is printable text of at most {ID_BYTES_MAX} bytes")
    return name


def _check_cluster(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None and not _DIMENSION.fullmatch(name):
        raise click.BadParameter(f"{name[:80]!r}: a name is 1 to 255 visible characters of ASCII, and no colon first")
    return name


def _check_host(context: click.Context, parameter: click.Parameter, host: str | None) -> str:
    try:
        return advertised_host(host or "")
    except AddressError as error:
        raise click.BadParameter(str(error)) from None


def _not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    # As from a variable of a shell that is not set. To take it for "not given" would let everybody in.
    if value is not None and not value.strip():
        raise click.BadParameter("is empty; leave the option out, or give a path")
    return value


class _Command(click.Command):
    """A command whose errors name the variable that has a bad value.

    When it is interrupted before it serves, it ends with 130 and prints nothing.
    """

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
    "leader",
    cls=_Command,
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "GOWORK", "help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option(
    "--cluster-listen",
    default="127.0.0.1:50051",
    callback=_check_address,
    metavar="HOST:PORT",
    help="Serve workers here.",
)
@click.option(
    "--scheduler-listen",
    default="127.0.0.1:50052",
    callback=_check_address,
    metavar="HOST:PORT",
    help="Serve clients here. Both ports serve all services.",
)
@click.option(
    "--http-listen",
    default="127.0.0.1:9464",
    callback=_check_address,
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
@click.option("--retain-days", type=_DAYS, default=7.0, metavar="DAYS", help="How long finished tasks are kept.")
@click.option("--retain-tasks", type=_TASKS, default=1_000_000, metavar="N", help="How many finished tasks are kept.")
@click.option(
    "--retain-failed-days",
    type=_DAYS,
    default=14.0,
    metavar="DAYS",
    help="How long tasks with status ERROR are kept.",
)
@click.option(
    "--retain-failed-tasks",
    type=_TASKS,
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
    callback=_check_name,
    show_default="this machine's name",
    help="This leader's name among the others.",
)
@click.option(
    "--advertise",
    metavar="HOST",
    callback=_check_host,
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
    callback=_check_cluster,
    show_default="none",
    help="While this leader leads, write the backlog into the log every 30 s, in the form of which CloudWatch makes "
    "metrics of this cluster. It needs --log-format json.",
)
@click.option("--tls-cert", callback=_not_empty, metavar="FILE", show_default="none", help=_TLS_CERT_HELP)
@click.option(
    "--tls-key", callback=_not_empty, metavar="FILE", show_default="none", help="Its key (PEM), without a passphrase."
)
@click.option(
    "--tls-client-ca",
    callback=_not_empty,
    metavar="FILE",
    show_default="none",
    help="Take only callers with a certificate from one of these authorities (PEM).",
)
@click.option(
    "--tls-ca",
    callback=_not_empty,
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
    callback=_not_empty,
    metavar="FILE",
    show_default="none",
    help="Who may do what (TOML): tokens, names of certificates, queues, handlers, and who is revoked. A new file is "
    "used within seconds.",
)
@click.option(
    "--proxy-listen",
    callback=_not_empty,
    metavar="PATH",
    show_default="none",
    help="Serve a proxy on this machine at this unix socket, and believe its header x-forwarded-client-cert.",
)
@click.option(
    "--insecure", is_flag=True, help="Serve other machines without knowing who calls: whoever reaches a port runs code."
)
@click.option(
    "--http-token-file",
    callback=_not_empty,
    metavar="FILE",
    show_default="none",
    help="Give /metrics only to who shows the token in this file.",
)
@click.option("--reflection/--no-reflection", default=True, help="Describe the services to grpcurl and similar tools.")
@click.option(
    "--print-addresses", is_flag=True, help="When it serves, print one JSON line with the addresses on standard output."
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
    callback=_read_config,
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
    url = store or f"sqlite:///{_prepared(data_dir or _own_directory()) / 'gowork.db'}"
    kept = Kept(retain_tasks, retain_days * _DAY, retain_failed_tasks, retain_failed_days * _DAY)
    tls = _tls(TlsFiles(tls_ca, tls_cert, tls_key, tls_client_ca, tls_name or ""), is_alone=not log)
    identities = _access(access, tls, asks=bool(access or proxy_listen), is_alone=not log)
    if not insecure and (identities is None or tls is None):
        _check_local(cluster_listen, scheduler_listen, has_tokens=identities is not None)
    http_token = _http_token(http_token_file)
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
            tls=tls,
            tls_worker_name=tls_worker_name or "",
            access=identities,
            proxy_listen=proxy_listen or "",
            http_token=http_token,
        )
        _log.info("keeps tasks", extra={"store": _PASSWORD.sub("//", url)})
        _log_access(access, tls, identities)
        if log and (host := _reached_here_alone(log, advertise, cluster_listen, scheduler_listen)):
            _log.warning(
                "leaders on other machines can't reach this one",
                extra={"host": host, "advice": "give --cluster-listen, --scheduler-listen and --advertise"},
            )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            restoring = None if restore is None else partial(_restore, opened, restore, open_log(log) if log else None)
            runner.run(_run(leader, manager, restoring, print_addresses))
    except (*_FAULTS, BaseExceptionGroup) as error:
        # Not `except*`, because Python 3.11.2 puts what is raised within it into a group.
        faults = _leaves(error)
        if not all(isinstance(fault, _FAULTS) for fault in faults):
            raise
        raise click.ClickException("; ".join(str(fault) for fault in faults)) from None
    finally:
        if telemetry is not None:
            telemetry.stop()


def _reached_here_alone(log: str, advertise: str, *listened: str) -> str:
    """Returns the host that only this machine reaches, at which this leader is to be reached; empty: there is none.

    Two such leaders on two machines take themselves for each other. With a log on this machine the others are taken to
    be here, too.

    Args:
        log: the URL of a log that can be opened.
        advertise: see Leader; empty: the hosts that it listens on.
        listened: HOST:PORT, for workers and for clients.
    """
    places = urlsplit(log).netloc.rpartition("@")[2]
    hosts = [each.rpartition(":")[0].strip("[] ") if ":" in each else each for each in places.split(",")]
    if not places or all(map(is_loopback, hosts)):
        return ""
    # A leader that listens on all addresses gives the name of this machine.
    reached = [advertise] if advertise else [parse_address(address)[0] for address in listened]
    return next((host for host in reached if is_loopback(host) and (advertise or host not in ALL_INTERFACES)), "")


def _prepared(directory: Path) -> Path:
    """Makes the directory if it is missing. Returns its absolute path.

    Raises:
        click.UsageError, click.ClickException: it can't be made, or everybody may write to it.
    """
    try:
        directory = directory.absolute()
    except FileNotFoundError:
        raise click.UsageError("--data-dir: the working directory is gone; name an absolute path") from None
    try:
        make_directory(directory)
    except OSError as error:
        raise click.ClickException(
            f"--data-dir: {directory}/gowork.db can't be written: {error.strerror or error}. The leader's user must be "
            f"able to write to {error.filename or directory}"
        ) from None
    try:
        check_not_public(directory)
    except OSError as error:
        raise click.ClickException(f"--data-dir: {error}") from None
    return directory


def _own_directory() -> Path:
    """Returns the directory of this user's data.

    Raises:
        click.UsageError: the user has no home, as in many containers. "~" would then be a directory of that name.
    """
    try:
        directory = Path(platformdirs.user_data_dir("gowork", appauthor=False))
    except RuntimeError:
        # Newer versions of platformdirs raise this. Older ones return "~" as it is.
        directory = Path("~")
    if not directory.is_absolute():
        raise click.UsageError("--data-dir: this user has no home directory; name a directory, or set HOME")
    return directory


def _tls(files: TlsFiles, *, is_alone: bool) -> Tls | None:
    """Raises: click.UsageError: the files can't be used, or don't suffice."""
    try:
        tls = tls_of(files)
    except CertificateError as error:
        raise click.UsageError(str(error)) from None
    if tls is not None and not tls.serves:
        raise click.UsageError("tls-ca needs tls-cert and tls-key, the certificate with which this leader serves")
    if tls is not None and not (is_alone or tls.calls):
        raise click.UsageError(
            "leaders with a log call one another: give --tls-ca, the authority of their certificates"
        )
    return tls


def _access(path: str | None, tls: Tls | None, *, asks: bool, is_alone: bool) -> Access | None:
    """Returns what says who may do what; None where everybody may do everything.

    Raises:
        click.UsageError: the file can't be used, or does not suffice.
    """
    has_certificates = tls is not None and tls.asks_for_certificates
    if not (asks or has_certificates):
        return None
    if not (is_alone or has_certificates):
        raise click.UsageError(
            "leaders with a log know one another by certificates with the role leader: give --tls-client-ca"
        )
    try:
        access = Access(None if path is None else Path(path))
        pair = tls.held.pair if tls is not None and not is_alone else None
        if pair is not None and not access.is_leader(pair.chain):
            raise click.UsageError(
                "--tls-cert: other leaders take no calls from this certificate: it needs the URI gowork://leader/NAME, "
                'or a line in the access file with roles = ["leader"]'
            )
    except AccessError as error:
        raise click.UsageError(f"--access: {error}") from None
    except IdentityError as error:
        raise click.UsageError(f"--tls-cert: {error}") from None
    return access


def _log_access(path: str | None, tls: Tls | None, access: Access | None) -> None:
    """Says whom the leader lets in."""
    if access is None:
        _log.info("asks nobody who calls: whoever reaches a port may do everything", extra={"tls": tls is not None})
        return
    by_certificate = tls is not None and tls.asks_for_certificates
    _log.info("asks who calls", extra={"certificates": by_certificate, "access": path or ""})
    if tls is not None and tls.held.pair is not None and not access.is_leader(tls.held.pair.chain):
        _log.warning(
            "callback workers that want certificates take no calls from this leader",
            extra={"advice": "give it a certificate with the URI gowork://leader/NAME"},
        )


def _check_local(*listened: str, has_tokens: bool) -> None:
    """Raises: click.UsageError: other machines reach a port, and nobody is asked there, or in plain text."""
    because = "tokens can be read on their way" if has_tokens else "whoever calls a leader has workers run code"
    try:
        for address in listened:
            check_local(address, because)
    except AddressError as error:
        raise click.UsageError(str(error)) from None


def _http_token(path: str | None) -> Callable[[], str] | None:
    """Raises: click.UsageError: the file has no token."""
    if path is None:
        return None
    try:
        return TokenFile(Path(path)).newest
    except CertificateError as error:
        raise click.UsageError(f"--http-token-file: {error}") from None


class _BadVariable(click.ClickException):
    """An error with the exit code of click's UsageError but without the usage, which says nothing about variables."""

    exit_code = 2


def _telemetry() -> Telemetry | None:
    try:
        return start("gowork-leader")
    except TelemetryError as error:
        raise _BadVariable(str(error)) from None


async def _restore(store: Store, backup: Path, log: Log | None) -> None:
    """Makes the store from the backup. With a log that has begun, it begins a generation of the log.

    Raises:
        StoreError, LogError, ChainError, NewerFormatError: it was not restored, or not wholly. The message says which.
    """
    if log is None:
        await store.restore(backup)
        return
    try:
        await log.open()
        generation = await generations.restore(log, cast(LoggedStore, store), backup)
    finally:
        await log.close()
    if generation is not None:
        _log.warning(
            "log begins anew with a backup",
            extra={"generation": generation.id, "replaces": generation.replaces, "backup": str(backup)},
        )


def _leaves(error: BaseException) -> list[BaseException]:
    """Returns the exceptions of a group and of the groups in it; of another exception that alone."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in _leaves(part)]


async def _run(
    leader: Leader, manager: ServiceManager, restore: Callable[[], Awaitable[None]] | None, print_addresses: bool
) -> None:
    """Restores and serves, and tells the service manager of both. A restore may take longer than a start should."""
    stopped = asyncio.Event()
    is_restoring = restore is not None

    def ready() -> tuple[bool, str]:
        return (False, "makes the store from the backup") if is_restoring else leader.ready()

    async with manager.telling(ready, stopped.is_set):
        if restore is not None:
            await restore()
            is_restoring = False
        await _serve(leader, stopped, print_addresses)


async def _serve(leader: Leader, stopped: asyncio.Event, print_addresses: bool) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopped.is_set():
            # An operator who asks twice does not want to wait. All that was acknowledged is in the store.
            _log.warning("ended at once, because it was asked to stop again")
            logging.shutdown()
            os._exit(EXIT_INTERRUPTED)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    started: asyncio.Future[Addresses] = loop.create_future()
    started.add_done_callback(_spare_collector)
    if print_addresses:
        started.add_done_callback(_print_addresses)
    with LocalListener("leader", leader.name, leader.ready, loop):
        await leader.run(started, stopped)


def _spare_collector(_: object) -> None:
    # Objects that exist by now stay for good, and tasks make no cycles. To look at either costs a twentieth of the time
    # that a task takes, for nothing.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _print_addresses(started: asyncio.Future[Addresses]) -> None:
    if started.cancelled():
        return
    try:
        sys.stdout.write(msgspec.json.encode(started.result()).decode() + "\n")
        sys.stdout.flush()
    except (OSError, AttributeError) as error:
        # Standard output is full or closed, or there is none. The addresses are in the log, too.
        _log.error("addresses can't be printed on standard output", extra={"reason": str(error)})
        if sys.stdout is not None:
            give_up_standard_output()
