"""The command `gowork doctor` checks a running cluster, and this machine, against what is supported and healthy.

`checkup` has the rules, and `own_machine` looks at this machine.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from gowork.base.certificates import CertificateError, read_certificates
from gowork.base.channels import parse_address
from gowork.base.handshakes import shown_by
from gowork.base.tls_files import caller_files
from gowork.cli import checkup, own_machine
from gowork.cli._version import __version__
from gowork.cli.checkup import Checked, State, finding, ok, skipped
from gowork.cli.group import EXIT_FAILED
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, table, write_records
from gowork.client import CallError, LeaderInfo, LeaderUnreachable, Member

AnswerT = TypeVar("AnswerT")

#: How long a look at the certificate of one address may take, in seconds.
_SECONDS = 2.0
_STYLES = {State.OK: "green", State.FINDING: "bold red", State.SKIPPED: "yellow"}


@click.command(
    short_help="Check versions, clocks, limits, disk and certificates.",
    epilog="""\b
Examples:
  gowork doctor
  gowork doctor --data-dir /var/lib/gowork     # on the leader's machine, as its user
  gowork doctor -o json | jq '.[] | select(.state == "FINDING")'""",
)
@click.option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also check the disk and the store in this directory of a leader on this machine. It writes a small file "
    "there for a moment.",
)
@common_options
@pass_common
def doctor(common: CommonOptions, data_dir: Path | None) -> None:
    """Check a running cluster, and this machine, against what is supported and healthy.

    It looks at the versions of leaders, workers and this environment, at clocks, lost workers, open files and
    certificates, and on the leader's machine at the disk and the store. Each finding says what to do. What can't be
    checked is named as skipped.

    Exits with 0 without findings, and with 1 otherwise, also when no leader answers.
    """
    found = [*_machine(), *_directory(data_dir), *_files(common), *_cluster(common)]
    if common.output is not OutputFormat.TABLE:
        write_records(map(asdict, found), common.output)
    else:
        _print(found)
    if any(each.state is State.FINDING for each in found):
        click.get_current_context().exit(EXIT_FAILED)


def _machine() -> Iterator[Checked]:
    yield checkup.packages(own_machine.installed())
    yield from checkup.python(sys.version_info[:3], sys.platform)
    yield checkup.open_files(own_machine.open_files_max())


def _directory(directory: Path | None) -> Iterator[Checked]:
    if directory is None:
        yield skipped("disk", "the leader's", "give --data-dir on the leader's machine")
        return
    try:
        yield from checkup.disk(
            str(directory),
            median_seconds=own_machine.sync_seconds(directory),
            free_bytes=own_machine.free_bytes(directory),
            file_system=own_machine.file_system(directory),
        )
    except OSError as error:
        yield skipped("disk", str(directory), f"{error.strerror or error}; run this as the leader's user")
    file = directory / own_machine.STORE_FILE
    try:
        yield checkup.store_format(str(file), own_machine.store_format(file))
    except OSError as error:
        yield skipped("store format", str(file), error.strerror or str(error))


def _files(common: CommonOptions) -> Iterator[Checked]:
    """Checks the certificates in the files that options and variables name."""
    files = common.tls_files or caller_files()
    now = datetime.now(UTC)
    for path in (None if files.is_public else files.ca, files.cert):
        if path is None:
            continue
        try:
            for each in read_certificates(Path(path)):
                subject = f"{os.fspath(path)}: {each.subject.rfc4514_string()}"
                yield checkup.validity(subject, each.not_valid_before_utc, each.not_valid_after_utc, now)
        except CertificateError as error:
            yield finding("certificate", os.fspath(path), str(error), "name a file with certificates in PEM form")


def _cluster(common: CommonOptions) -> Iterator[Checked]:
    addresses = common.leader or os.environ.get("GOWORK_LEADER") or "127.0.0.1:50052"
    with common.client() as client:
        asked = time.time()
        activity, refused = _told("clock", "this machine", client.activity)
        answered = time.time()
        if activity is None:
            yield refused
            if refused.state is State.FINDING:
                # Nobody answers, so the rest would only say so again.
                return
        leaders, leaders_refused = _told("leaders", "the cluster", client.leaders)
        members, members_refused = _told("workers", "the cluster", client.members)
    yield from (each for each in (leaders_refused, members_refused) if each.says)
    known: tuple[LeaderInfo, ...] = () if leaders is None else leaders.leaders
    workers: list[Member] = members or []
    if activity is not None:
        yield from checkup.versions(__version__, activity.version, known, workers)
        yield checkup.own_clock(activity.now, asked, answered)
        yield from checkup.leader_clocks(known, activity.now)
    yield from checkup.workers(workers)
    for address in addresses.split(","):
        yield _shown(address.strip())


def _told(check: str, subject: str, call: Callable[[], AnswerT]) -> tuple[AnswerT | None, Checked]:
    """Asks the leader: (its answer, None if it gave none; what to say about that)."""
    try:
        return call(), ok(check, subject, "")
    except LeaderUnreachable as error:
        advice = "start a leader with 'gowork up', or name another with --leader HOST:PORT or GOWORK_LEADER"
        return None, finding("connection", error.address, str(error), advice)
    except CallError as error:
        if error.code.name == "UNAUTHENTICATED":
            advice = "show who calls: --token-file, or --tls-cert and --tls-key"
            return None, finding("connection", subject, str(error), advice)
        return None, skipped(check, subject, str(error))


def _shown(address: str) -> Checked:
    try:
        socket.create_connection(parse_address(address), _SECONDS).close()
    except OSError as error:
        # Another one of the addresses has answered.
        advice = "start the leader there, or take the address out of --leader or GOWORK_LEADER"
        return finding("connection", address, f"nobody listens there: {error.strerror or error}", advice)
    shown = shown_by(address, _SECONDS)
    if shown is None:
        return ok("certificate", address, "none; calls are in plain text")
    return checkup.validity(address, shown.not_valid_before_utc, shown.not_valid_after_utc, datetime.now(UTC))


def _print(found: list[Checked]) -> None:
    out = console()
    rows = table("CHECK", "SUBJECT", "STATE", "SAYS")
    for each in found:
        rows.add_row(each.check, plain(each.subject), plain(str(each.state), _STYLES[each.state]), plain(each.says))
    out.print(rows)
    findings = [each for each in found if each.state is State.FINDING]
    for each in findings:
        out.print(plain(f"{each.check} of {each.subject}: {each.advice}"))
    out.print(plain(f"{len(findings)} findings" if len(findings) != 1 else "1 finding"))
