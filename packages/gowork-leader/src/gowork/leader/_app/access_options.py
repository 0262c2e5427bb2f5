"""Who is let in by the options of `gowork-leader`, and whether they suffice for where it listens.

Owns what is refused at the start: certificates and access files that can't be used, and ports that other machines reach
while nobody asks who calls there, unless `--insecure` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import click
from msgspec import Struct

from gowork.base.bearer import TokenFile
from gowork.base.certificates import CertificateError
from gowork.base.channels import AddressError, check_local
from gowork.base.identities import IdentityError
from gowork.base.tls import Tls, tls_of
from gowork.base.tls_files import TlsFiles
from gowork.leader._access.access import Access
from gowork.leader._access.access_file import AccessError
from gowork.leader._access.authenticators import Authenticator, AuthenticatorError, load_authenticator
from gowork.leader._app.leader import check_tls

_log = logging.getLogger(__name__)


class AccessOptions(Struct, frozen=True):
    """What the options of a leader's command say of who is let in."""

    #: The certificates with which it serves and calls; None: plain text.
    tls: Tls | None
    #: Who may do what; None: everybody may do everything.
    access: Access | None
    #: The path of the access file; empty: there is none.
    path: str
    #: Returns what a scrape of /metrics must show; None: nothing.
    http_token: Callable[[], str] | None

    def log(self) -> None:
        """Says whom the leader lets in."""
        if self.access is None:
            _log.info(
                "asks nobody who calls: whoever reaches a port may do everything",
                extra={"tls": self.tls is not None},
            )
            return
        by_certificate = self.tls is not None and self.tls.asks_for_certificates
        _log.info(
            "asks who calls",
            extra={"certificates": by_certificate, "access": self.path, "authenticator": self.access.authenticator},
        )
        pair = None if self.tls is None else self.tls.held.pair
        if pair is not None and not self.access.is_leader(pair.chain):
            _log.warning(
                "callback workers that want certificates take no calls from this leader",
                extra={"advice": "give it a certificate with the URI gowork://leader/NAME"},
            )


def access_options(
    files: TlsFiles,
    path: str | None,
    authenticator: str | None,
    http_token_file: str | None,
    *,
    listened: tuple[str, ...],
    has_proxy: bool,
    is_alone: bool,
    insecure: bool,
) -> AccessOptions:
    """Reads the files that the options name.

    Args:
        files: the certificates.
        path: the access file; None: there is none.
        authenticator: the name of what is asked who calls; None: nothing is.
        http_token_file: has what a scrape of /metrics must show; None: nothing.
        listened: HOST:PORT, for workers and for clients.
        has_proxy: whether a proxy says who calls.
        is_alone: whether no other leader shares a log with this one.
        insecure: whether other machines may be served without knowing who calls.

    Raises:
        click.UsageError: a file can't be used, or the options don't suffice.
    """
    tls = _tls(files, is_alone=is_alone)
    asked = _authenticator(authenticator)
    access = _access(path, asked, tls, asks=bool(path or has_proxy or asked), is_alone=is_alone)
    if not insecure and (access is None or tls is None):
        _check_local(*listened, has_tokens=access is not None)
    return AccessOptions(tls, access, path or "", _http_token(http_token_file))


def _tls(files: TlsFiles, *, is_alone: bool) -> Tls | None:
    """Raises: click.UsageError: the files can't be used, or don't suffice."""
    try:
        tls = tls_of(files)
        check_tls(tls, is_alone=is_alone)
    except CertificateError as error:
        raise click.UsageError(str(error)) from None
    return tls


def _authenticator(name: str | None) -> Authenticator | None:
    """Raises: click.UsageError: it is not there, or can't be loaded."""
    try:
        return None if name is None else load_authenticator(name)
    except AuthenticatorError as error:
        raise click.UsageError(f"--authenticator: {error}") from None


def _access(
    path: str | None, authenticator: Authenticator | None, tls: Tls | None, *, asks: bool, is_alone: bool
) -> Access | None:
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
        access = Access(None if path is None else Path(path), authenticator)
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
