"""The command `gowork certs`: `check` says which certificate an address shows, and whether calls can be made there.

`init` and `make`, which make certificates, are in `certs_make`.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from gowork.base.certificates import CertificateError, names_of, time_fault
from gowork.base.channels import AddressError, parse_address
from gowork.base.handshakes import shown_by, why_no_handshake
from gowork.base.identities import IdentityError, Shown
from gowork.base.identities import shown_by as identity_of
from gowork.base.tls import tls_of_caller
from gowork.cli.commands.certs_make import init, make
from gowork.cli.group import EXIT_FAILED
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, table, write_record
from gowork.cli.suggestions import SuggestingGroup

if TYPE_CHECKING:
    from cryptography import x509

#: How long one attempt to connect may take, in seconds. It is long, because people ask once.
_SECONDS = 5.0


@click.group(
    cls=SuggestingGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  gowork certs init certs                                 # an authority for development
  gowork certs make certs leader leader-1 --host 10.0.0.5
  gowork certs make certs client web
  gowork certs check 10.0.0.5:50052
  gowork certs check 10.0.0.5:50052 --tls-ca ca.pem --tls-cert web.pem --tls-key web-key.pem""",
)
def certs() -> None:
    """Make certificates for development, look at others', and find out why a connection does not begin."""


certs.add_command(init)
certs.add_command(make)


@certs.command(
    short_help="Say which certificate is shown at HOST:PORT, and whether calls can be made there.",
    epilog="""\b
Examples:
  gowork certs check 10.0.0.5:50052                  # what is shown there, and whether it takes TLS at all
  gowork certs check 10.0.0.5:50052 --tls-ca ca.pem  # whether its certificate can be trusted
  gowork certs check worker-7:40041 --tls-ca ca.pem --tls-cert leader.pem --tls-key leader-key.pem
  GOWORK_TLS_CA=ca.pem gowork certs check 10.0.0.5:50052 -o json | jq .valid_until""",
)
@click.argument("address", metavar="HOST:PORT")
@common_options
@pass_common
def check(common: CommonOptions, address: str) -> None:
    """Say which certificate is shown at HOST:PORT, and whether calls can be made there with the files of --tls-….

    Exits with 0 if they can, and with 1 if they can't, or if nobody listens there.
    """
    try:
        tls = tls_of_caller(common.tls_files)
        shown = shown_by(address, _SECONDS)
        fault = why_no_handshake(address, tls, _SECONDS)
    except CertificateError as error:
        raise click.UsageError(str(error)) from None
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="HOST:PORT") from None
    said = None if shown is None else _said_in(shown)
    record: dict[str, Any] = {
        "address": address,
        "fault": fault or ("" if shown is not None else _nobody(address)) or None,
        "subject": shown and shown.subject.rfc4514_string(),
        "issuer": shown and shown.issuer.rfc4514_string(),
        "names": list(names_of(shown)) if shown is not None else [],
        "name": said and said.name,
        "roles": [] if said is None else sorted(said.roles),
        "valid_from": shown and shown.not_valid_before_utc.isoformat(),
        "valid_until": shown and shown.not_valid_after_utc.isoformat(),
    }
    if common.output is not OutputFormat.TABLE:
        write_record(record, common.output)
    else:
        _print(record, "" if shown is None else time_fault(shown) or _left(shown.not_valid_after_utc))
    if record["fault"] is not None:
        click.get_current_context().exit(EXIT_FAILED)


def _said_in(shown: x509.Certificate) -> Shown | None:
    """Returns what a certificate says of who shows it; None: that can't be read."""
    # Imported only now, because most commands need none of it.
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return identity_of(shown.public_bytes(Encoding.PEM))
    except IdentityError:
        return None


def _nobody(address: str) -> str:
    """Returns why nothing can be shown there; empty where somebody listens."""
    try:
        socket.create_connection(parse_address(address), _SECONDS).close()
    except OSError as error:
        return f"nobody listens there: {error.strerror or error}"
    return ""


def _print(record: dict[str, Any], time: str) -> None:
    out = console()
    if record["subject"] is not None:
        rows = table("CERTIFICATE", "")
        for name, value in (
            ("subject", record["subject"]),
            ("names", ", ".join(record["names"]) or "none"),
            ("roles", f"{', '.join(record['roles'])} of {record['name']}" if record["roles"] else "none"),
            ("issuer", record["issuer"]),
            ("valid until", f"{record['valid_until']} ({time})"),
        ):
            rows.add_row(name, plain(str(value)))
        out.print(rows)
    elif record["fault"] is None:
        out.print(f"{record['address']} takes plain text; it shows no certificate", markup=False)
    if record["fault"] is None:
        out.print("calls can be made there", markup=False)
    else:
        out.print(f"calls can't be made there: {record['fault']}", markup=False)


def _left(end: datetime) -> str:
    left = end - datetime.now(UTC)
    return f"in {left.days} days" if left.days else f"in {left.seconds // 3600} hours"
