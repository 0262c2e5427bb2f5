"""Who a certificate says that its owner is, and what a proxy's header says of its caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tls_authority import Authority

from gowork.base.identities import (
    NAME_BYTES_MAX,
    IdentityError,
    Role,
    caller_shown,
    proxied_certificate,
    shown_by,
    uri_of,
)

PEM = "-----BEGIN CERTIFICATE-----\nMII+/=\n-----END CERTIFICATE-----\n"
CERT = f'Cert="{quote(PEM, safe="")}"'


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def certificate(authority: Authority, *uris: str, hosts: tuple[str, ...] = ()) -> bytes:
    return authority.issue("common", *hosts, uris=uris)[0].read_bytes()


# Certificates.


def test_a_certificate_names_its_roles_and_all_other_names(authority: Authority) -> None:
    uris = ("gowork://client/web", "gowork://read-only/web", "gowork://of-later/web", "spiffe://example.org/web")
    shown = shown_by(certificate(authority, *uris, hosts=("web.example", "10.0.0.1")))
    assert (shown.name, shown.roles) == ("web", frozenset({Role.CLIENT, Role.READ_ONLY}))
    assert shown.names == ("CN=common", "DNS:web.example", "IP:10.0.0.1", "URI:spiffe://example.org/web")
    assert shown.words == "web"


def test_a_certificate_without_such_names_is_called_by_its_first_other_one(authority: Authority) -> None:
    shown = shown_by(certificate(authority))
    assert (shown.name, shown.roles, shown.words) == ("", frozenset(), "CN=common")


@pytest.mark.parametrize("name", ["web", "a b", "x/y", "ü€", "50%", "a+b", "n" * NAME_BYTES_MAX])
def test_a_name_is_the_same_in_a_certificate(authority: Authority, name: str) -> None:
    assert shown_by(certificate(authority, uri_of(Role.ADMIN, name))).name == name


@pytest.mark.parametrize(
    "uris",
    [
        ("gowork://client/a", "gowork://client/b"),
        ("gowork://client/a", "gowork://of-later/b"),
        ("gowork://admin/a#b",),
        ("gowork://admin/a?b",),
        ("gowork://admin/a%00",),
        ("gowork://admin/a%0Ab",),
        ("gowork://admin/%20",),
        ("gowork://admin/%FF",),
        ("gowork://admin/",),
        ("gowork://admin",),
        (f"gowork://admin/{'n' * (NAME_BYTES_MAX + 1)}",),
    ],
)
def test_a_certificate_that_names_nobody_or_several_is_refused(authority: Authority, uris: tuple[str, ...]) -> None:
    with pytest.raises(IdentityError):
        shown_by(certificate(authority, *uris))


@pytest.mark.parametrize(
    "uri", ["gowork://Admin/a", "gowork://admin@client/a", "gowork://admin:1/a", "GOWORK://admin/a"]
)
def test_a_uri_that_is_almost_one_gives_no_role(authority: Authority, uri: str) -> None:
    assert shown_by(certificate(authority, uri)).roles == frozenset()


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(IdentityError, match="can't be read"):
        shown_by(pem)


# The header of a proxy.


@pytest.mark.parametrize(
    "value",
    [
        CERT,
        CERT.replace("Cert=", "cert="),
        f'By=spiffe://x;Hash=0a;{CERT};Chain="{quote(PEM, safe="")}"',
        f'Subject="CN=a,O=\\"b;Cert=c\\"";{CERT};URI=gowork://client/a',
        f'Subject="a\\\\";{CERT}',
        f"Hash=0a; {CERT}",
        CERT.replace('"', ""),
    ],
)
def test_the_certificate_in_the_header_is_found(value: str) -> None:
    assert proxied_certificate([value]) == PEM.encode()


@pytest.mark.parametrize("values", [[], [""], ['Cert=""'], ["Cert="]])
def test_a_caller_without_a_certificate_has_none(values: list[str]) -> None:
    assert proxied_certificate(values) is None


@pytest.mark.parametrize(
    "values",
    [
        [CERT, CERT],
        [CERT, ""],
        ["", CERT],
        [f"{CERT},{CERT}"],
        [f"Hash=0a,{CERT}"],
        [f"{CERT};{CERT}"],
        ['Cert="";' + CERT],
        # A quotation mark that a caller smuggles in does not hide what follows it.
        [f'Subject="a\\\\",{CERT}'],
        ["Hash=0a"],
        ['Subject="Cert=x"'],
    ],
)
def test_a_header_with_several_certificates_or_none_is_refused(values: list[str]) -> None:
    with pytest.raises(IdentityError):
        proxied_certificate(values)


class Context:
    """As gRPC's, of a call with this certificate and these metadata."""

    def __init__(self, pem: bytes | None, *metadata: tuple[str, str | bytes]) -> None:
        self._pem, self._metadata = pem, metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {} if self._pem is None else {"x509_pem_cert": [self._pem]}

    def invocation_metadata(self) -> Any:
        return self._metadata


def test_a_callback_worker_s_caller_is_who_a_proxy_says_and_of_others_who_they_are(authority: Authority) -> None:
    leader, client, proxy = (
        certificate(authority, f"gowork://{role}/{role}-1") for role in ("leader", "client", "proxy")
    )
    header = ("x-forwarded-client-cert", f'Cert="{quote(leader.decode(), safe="")}"')

    def name(*given: Any) -> str:
        shown = caller_shown(Context(*given))  # type: ignore[arg-type]
        return "" if shown is None else shown.name

    assert name(leader) == "leader-1"
    assert name(client, header) == "client-1"
    assert name(proxy, header) == "leader-1"
    assert name(proxy) == ""
    assert name(None, header) == ""
