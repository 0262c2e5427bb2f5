"""The commands `gowork certs init` and `gowork certs make`: an authority for development, and certificates of it.

Owns what the files of a folder are called: `ca.pem` and `ca-key.pem`, and for each name NAME.pem and NAME-key.pem.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gowork.base.certificates import CertificateError, names_of
from gowork.base.file_writing import write_new, write_whole
from gowork.base.identities import Role, uri_of
from gowork.base.issuing import (
    AUTHORITY_DAYS,
    DAYS,
    DAYS_MAX,
    Authority,
    Issued,
    IssuingError,
    checked_name,
    encoded,
    new_authority,
)
from gowork.base.suggestions import meant
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import ago, console, plain, table, write_record

if TYPE_CHECKING:
    from cryptography import x509

_Made = TypeVar("_Made", bound=Callable[..., Any])

_CA, _CA_KEY = "ca.pem", "ca-key.pem"


def _roles(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[Role, ...]:
    known = [str(role) for role in Role]
    words = [word.strip().lower() for word in value.split(",")]
    for word in words:
        if word not in known:
            raise click.BadParameter(f"{word!r} is none of {', '.join(known)}{meant(word, known)}")
    return tuple(dict.fromkeys(map(Role, words)))


_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


def _days(default: int, most: int, more: str = "") -> Callable[[_Made], _Made]:
    """Returns the option for how long what is made is valid, in days."""
    words = f"How long it is valid.{more}"
    return click.option("--days", type=click.IntRange(1, most), default=default, show_default=True, help=words)


@click.command(
    short_help="Make an authority for development.",
    epilog="""\b
Examples:
  gowork certs init certs                # certs/ca.pem, and its key certs/ca-key.pem
  gowork certs init certs --days 365""",
)
@_FOLDER
@_days(AUTHORITY_DAYS, AUTHORITY_DAYS)
@click.option("--force", is_flag=True, help="Replace an authority. Then nobody trusts its certificates any more.")
@common_options
@pass_common
def init(common: CommonOptions, folder: Path, days: int, *, force: bool) -> None:
    """Make an authority in DIR, for development: ca.pem, which everybody may have, and its key ca-key.pem.

    Whoever has the key can make a certificate with every role. Only its owner may read it. `gowork certs make` needs
    it, and nothing else does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or str(error)
        raise click.ClickException(f"can't make the folder {folder}: {reason}") from None
    made = new_authority(days)
    files = _write(folder, "ca", made, force=force, instead="another folder")
    record = {**files, **_record(made.certificate)}
    if common.output is not OutputFormat.TABLE:
        write_record(record, common.output)
        return
    _print("AUTHORITY", made.certificate, [("certificate", files["cert_file"]), ("key", files["key_file"])])
    console().print(
        f"Keep {files['key_file']} to yourself: whoever has it can make certificates with every role.", markup=False
    )


@click.command(
    short_help="Make a certificate with a role.",
    epilog="""\b
Examples:
  gowork certs make certs leader leader-1 --host 10.0.0.5 --host leader-1.example
  gowork certs make certs worker worker-7
  gowork certs make certs worker callback-1 --host 10.0.0.9   # a callback worker, which leaders call
  gowork certs make certs client,admin ada                    # certs/ada.pem and certs/ada-key.pem
  gowork certs make certs client web --days 30 --force        # a new one in the old one's place""",
)
@_FOLDER
@click.argument("roles", metavar="ROLE[,…]", callback=_roles)
@click.argument("name", metavar="NAME")
@click.option(
    "--host",
    "hosts",
    metavar="HOST",
    multiple=True,
    help="A name or an IP address at which others call who has it. May be repeated.  [default: localhost, 127.0.0.1 "
    "and ::1 for leaders and proxies, else none]",
)
@_days(DAYS, DAYS_MAX, " It ends with its authority at the latest.")
@click.option("--force", is_flag=True, help="Replace the certificate and the key of that name.")
@common_options
@pass_common
def make(
    common: CommonOptions,
    folder: Path,
    roles: tuple[Role, ...],
    name: str,
    hosts: tuple[str, ...],
    days: int,
    *,
    force: bool,
) -> None:
    """Make a certificate for NAME, of the authority in DIR: NAME.pem, and its key NAME-key.pem.

    ROLE is client, worker, admin, read-only, leader or proxy, or several of these. The certificate has each as a URI,
    gowork://ROLE/NAME. Files are called NAME too; what is no letter, digit, dot, dash or underscore is written as %XX.
    """
    try:
        _check_free(checked_name(name))
        made = _authority(folder).issue(name, roles, hosts, days)
    except IssuingError as error:
        raise click.UsageError(str(error)) from None
    except CertificateError as error:
        raise click.ClickException(str(error)) from None
    files = _write(folder, encoded(name), made, force=force, instead="another name")
    _note_early_end(made.certificate, days)
    certificate = made.certificate
    record: dict[str, Any] = {
        **files,
        "name": name,
        "roles": list(roles),
        "uris": [uri_of(role, name) for role in roles],
        **_record(certificate),
    }
    if common.output is not OutputFormat.TABLE:
        write_record(record, common.output)
        return
    rows = [
        ("certificate", files["cert_file"]),
        ("key", files["key_file"]),
        ("roles", ", ".join(roles)),
        ("hosts", ", ".join(names_of(certificate)) or "none"),
        ("options", _options(folder, files, roles)),
    ]
    _print("CERTIFICATE", certificate, rows)


def _check_free(name: str) -> None:
    """Raises: IssuingError: another file than this name's may be called so."""
    low = name.casefold()
    if low == "ca" or low.endswith("-key"):
        raise IssuingError(f"{name!r} is what the files of the authority, or of another name's key, are called")


def _authority(folder: Path) -> Authority:
    """Raises: CertificateError: there is none that can issue certificates."""
    try:
        os.stat(folder / _CA)
    except FileNotFoundError:
        made = shlex.join(["gowork", "certs", "init", str(folder)])
        raise CertificateError(f"{folder} has no authority; `{made}` makes one") from None
    except NotADirectoryError:
        raise CertificateError(f"{folder} is no folder; give the one that `gowork certs init` made") from None
    except OSError:
        pass  # Why not is told when the file is read.
    return Authority.read(folder / _CA, folder / _CA_KEY)


def _write(folder: Path, name: str, made: Issued, *, force: bool, instead: str) -> dict[str, str]:
    """Writes a certificate and its key, and returns where they are."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    try:
        if force:
            # A process that reads the files in between refuses them, because they don't fit, and reads them again.
            write_whole(key, made.key_pem, is_secret=True)
            write_whole(certificate, made.pem, is_secret=False)
        else:
            write_new({certificate: (made.pem, False), key: (made.key_pem, True)})
    except FileExistsError as error:
        raise click.ClickException(
            f"{error.filename} is there already; give {instead}, or --force to replace it"
        ) from None
    except OSError as error:
        raise click.ClickException(f"can't write into {folder}: {error.strerror or error}") from None
    return {"cert_file": str(certificate), "key_file": str(key)}


def _note_early_end(certificate: x509.Certificate, days: int) -> None:
    end = certificate.not_valid_after_utc
    if end - certificate.not_valid_before_utc < timedelta(days=days):
        click.echo(f"gowork: it ends with its authority, at {end:%Y-%m-%d %H:%M:%S} UTC", err=True)


def _record(certificate: x509.Certificate) -> dict[str, Any]:
    """Returns the fields that `gowork certs check` has too."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "names": list(names_of(certificate)),
        "valid_from": certificate.not_valid_before_utc.isoformat(),
        "valid_until": certificate.not_valid_after_utc.isoformat(),
    }


def _options(folder: Path, files: dict[str, str], roles: tuple[Role, ...]) -> str:
    """Returns the options with which leaders, workers and commands use these files."""
    authority = "--tls-client-ca" if set(roles) == {Role.LEADER} else "--tls-ca"
    pairs = {authority: str(folder / _CA), "--tls-cert": files["cert_file"], "--tls-key": files["key_file"]}
    return shlex.join(word for pair in pairs.items() for word in pair)


def _print(heading: str, certificate: x509.Certificate, rows: list[tuple[str, str]]) -> None:
    shown = table(heading, "")
    end = certificate.not_valid_after_utc
    for name, value in [*rows, ("valid until", f"{end.isoformat()} ({ago(end)})")]:
        shown.add_row(name, plain(value))
    console().print(shown)
