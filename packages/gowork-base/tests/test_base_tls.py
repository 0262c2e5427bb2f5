"""Certificates: what files may hold, when new ones are used, and what is said when a connection does not begin."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace
from tls_authority import DAY, NOW, Authority

from gowork.base.certificates import CertificateError, read_authorities, read_pair
from gowork.base.channels import AddressError, bind, may_be_handshake, open_blocking_channel, open_channel
from gowork.base.handshakes import why_no_handshake
from gowork.base.issuing import new_authority
from gowork.base.tls import Tls, tls_of, tls_of_caller
from gowork.base.tls_files import TlsFiles, caller_files

PATIENCE = 30.0
HELLO = "/test.Service/Hello"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Greeter(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def hello(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return b",".join(context.auth_context().get("x509_common_name", [b"nobody"]))

        return grpc.unary_unary_rpc_method_handler(hello)


@asynccontextmanager
async def serving(tls: Tls | None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Greeter(),))
    port = bind(server, "127.0.0.1:0", tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def call(address: str, tls: Tls | None) -> str:
    """Returns who the server says that called, or why there was no call."""
    async with open_channel([address], tls=tls) as channel:
        method: Any = channel.unary_unary(HELLO)
        try:
            answer: bytes = await method(b"", timeout=PATIENCE)
            return answer.decode()
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            assert may_be_handshake(details), details
            return "no call"


def show(tls: Tls, certificate: Path, key: Path) -> None:
    """Has a process show a certificate that expired, or will be valid, after it was read."""
    assert tls.held.pair is not None
    pair = replace(tls.held.pair, chain=certificate.read_bytes(), key=key.read_bytes())
    tls._held = replace(tls.held, pair=pair)


def call_blocking(address: str, tls: Tls) -> bytes:
    with open_blocking_channel([address], tls=tls) as channel:
        method: Any = channel.unary_unary(HELLO)
        answer: bytes = method(b"", timeout=PATIENCE)
        return answer


# What files hold.


def test_a_pair_is_read_with_its_names_and_its_end(authority: Authority) -> None:
    until = (NOW + 3 * DAY).replace(microsecond=0)
    pair = read_pair(*authority.issue("leader", "localhost", "127.0.0.1", until=until))
    assert (pair.names, pair.expires) == (("localhost", "127.0.0.1"), until)


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    certificate, _ = authority.issue("one", "one")
    _, key = authority.issue("two", "two")
    with pytest.raises(CertificateError, match=r"two\.key is not the key of the certificate in .*one\.pem"):
        read_pair(certificate, key)


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [(NOW - 3 * DAY, NOW - DAY, "expired at 20"), (NOW + DAY, NOW + 3 * DAY, "is not valid before 20")],
)
def test_a_certificate_out_of_its_time_is_refused(authority: Authority, since: Any, until: Any, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        read_pair(*authority.issue("leader", "localhost", since=since, until=until))


def test_a_chain_in_the_wrong_order_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("leader", "localhost")
    other, _ = Authority(tmp_path, "other").issue("other-leader", "localhost")
    certificate.write_bytes(certificate.read_bytes() + other.read_bytes())
    with pytest.raises(CertificateError, match="put the own certificate first"):
        read_pair(certificate, key)


def test_a_key_with_a_passphrase_is_refused(authority: Authority) -> None:
    certificate, key = authority.issue("leader", "localhost")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match="has a passphrase"):
        read_pair(certificate, key)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\0" * 100, b"-----BEGIN CERTIFICATE-----\nxx\n"])
def test_a_file_that_holds_something_else_is_named(authority: Authority, tmp_path: Path, content: bytes) -> None:
    certificate, key = authority.issue("leader", "localhost")
    bad = tmp_path / "bad.pem"
    bad.write_bytes(content)
    for read in (lambda: read_pair(bad, key), lambda: read_pair(certificate, bad), lambda: read_authorities(bad)):
        with pytest.raises(CertificateError, match=r"bad\.pem"):
            read()


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="none.pem can't be read: No such file"):
        read_authorities(tmp_path / "none.pem")
    with pytest.raises(CertificateError, match="can't be read: Is a directory"):
        read_authorities(tmp_path)
    with pytest.raises(CertificateError, match="can't be read"):
        read_authorities(Path("a\0b"))


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(CertificateError, match="is no file of certificates"):
        read_authorities(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cert": "a"}, "tls-cert needs tls-key"),
        ({"key": "a"}, "tls-key needs tls-cert"),
        ({"client_ca": "a"}, "tls-client-ca needs tls-cert and tls-key"),
        ({"name": "a"}, "tls-name needs tls-ca"),
    ],
)
def test_what_needs_another_file_says_which(given: dict[str, Any], words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        tls_of(TlsFiles(**given))


def test_no_files_are_plain_text() -> None:
    assert tls_of(TlsFiles()) is None
    assert tls_of_caller(None, {"GOWORK_TLS_CA": ""}) is None


def test_a_caller_takes_its_files_from_the_environment(authority: Authority) -> None:
    certificate, key = authority.issue("client", "client")
    environment = {
        "GOWORK_TLS_CA": str(authority.file),
        "GOWORK_TLS_CERT": str(certificate),
        "GOWORK_TLS_KEY": str(key),
        "GOWORK_TLS_NAME": "leader",
    }
    tls = tls_of_caller(None, environment)
    assert tls is not None
    assert tls.files == TlsFiles(str(authority.file), str(certificate), str(key), None, "leader")
    del environment["GOWORK_TLS_CA"], environment["GOWORK_TLS_NAME"]
    with pytest.raises(CertificateError, match="tls-cert needs tls-ca"):
        tls_of_caller(None, environment)


@pytest.mark.parametrize(
    ("value", "insecure"),
    [
        ("1", True),
        ("true", True),
        ("YES", True),
        ("on", True),
        ("0", False),
        ("false", False),
        ("no", False),
        ("", False),
    ],
)
def test_only_a_clear_yes_is_insecure(value: str, insecure: bool) -> None:
    assert caller_files({"GOWORK_INSECURE": value}).insecure is insecure
    assert not caller_files({}).insecure


def test_a_chain_ends_with_its_first_certificate_to_expire(authority: Authority, tmp_path: Path) -> None:
    until = (NOW + 3 * DAY).replace(microsecond=0)
    issuer = new_authority(1)
    authority._certificate = issuer.certificate
    key = serialization.load_pem_private_key(issuer.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority._key = key
    certificate, key_file = authority.issue("leader", "localhost", until=until)
    assert read_pair(certificate, key_file).expires == until
    certificate.write_bytes(certificate.read_bytes() + issuer.pem)
    end = issuer.certificate.not_valid_after_utc
    assert read_pair(certificate, key_file).expires == end
    with pytest.raises(CertificateError, match=r"the certificate of 'CN=gowork authority .*' expired at"):
        read_pair(certificate, key_file, end + DAY / 24)


def test_an_authority_that_is_expired_is_trusted_no_more(authority: Authority, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    short = new_authority(1)
    both.write_bytes(short.pem + authority.file.read_bytes())
    later = short.certificate.not_valid_after_utc + DAY
    assert read_authorities(both).count(b"BEGIN CERTIFICATE") == 2
    assert read_authorities(both, later).count(b"BEGIN CERTIFICATE") == 1
    assert short.pem.strip() not in read_authorities(both, later)


# Who may call whom.


async def test_who_has_a_certificate_of_the_authority_may_call_and_is_known(authority: Authority) -> None:
    async with serving(Tls(authority.server(client_ca=authority.file))) as address:
        tls = Tls(authority.client("alice"))
        assert await call(address, tls) == "alice"
        assert await asyncio.to_thread(call_blocking, address, tls) == b"alice"
        assert why_no_handshake(address, tls) == ""


async def test_who_has_none_may_call_where_none_is_asked_for(authority: Authority) -> None:
    async with serving(Tls(authority.server())) as address:
        tls = Tls(TlsFiles(authority.file))
        assert await call(address, tls) == "nobody"
        assert why_no_handshake(address, tls) == ""


async def test_a_name_takes_the_place_of_the_address(authority: Authority) -> None:
    async with serving(Tls(authority.server("leader", "leader.example"))) as address:
        tls = Tls(TlsFiles(authority.file, name="leader.example"))
        assert await call(address, tls) == "nobody"
        assert why_no_handshake(address, tls) == ""


def test_several_addresses_need_a_name(authority: Authority) -> None:
    tls = Tls(TlsFiles(authority.file))
    with pytest.raises(AddressError, match="need tls-name"):
        open_blocking_channel(["127.0.0.1:1", "127.0.0.2:1"], tls=tls)


async def test_who_may_not_call_learns_why(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    expired = Tls(TlsFiles(authority.file, *authority.issue("expired", "a")))
    show(expired, *authority.issue("expired", "a", since=NOW - 3 * DAY, until=NOW - DAY))
    refusals = {
        "it ended the connection when no certificate was shown to it; give tls-cert and tls-key": Tls(
            TlsFiles(authority.file)
        ),
        "it ended the connection when it was shown .*stranger.pem; it may not know its authority: .*O=other": Tls(
            TlsFiles(authority.file, *other.issue("stranger", "stranger"))
        ),
        "its certificate is from an authority that is not in .*other.pem: .*O=ca": Tls(
            TlsFiles(other.file, *authority.issue("client", "client"))
        ),
        "it takes TLS alone, and was called in plain text; give tls-ca": None,
        "it ended the connection: the certificate .*expired.pem expired at 20": expired,
    }
    async with serving(Tls(authority.server(client_ca=authority.file))) as address:
        for words, tls in refusals.items():
            assert await call(address, tls) == "no call"
            why = why_no_handshake(address, tls)
            assert re.match(words, why), why


async def test_what_the_server_shows_is_judged(authority: Authority) -> None:
    tls = Tls(TlsFiles(authority.file))
    server = Tls(authority.server("leader", "elsewhere.example", "10.0.0.1"))
    async with serving(server) as address:
        assert await call(address, tls) == "no call"
        assert why_no_handshake(address, tls) == (
            "its certificate is not for 127.0.0.1: it is for elsewhere.example, 10.0.0.1; call it by one of these, or "
            "give tls-name"
        )


async def test_an_expired_certificate_of_the_server_is_told_with_its_time(authority: Authority) -> None:
    tls = Tls(TlsFiles(authority.file))
    server = Tls(authority.server())
    show(server, *authority.issue("late", "127.0.0.1", until=NOW - DAY / 2))
    async with serving(server) as address:
        assert await call(address, tls) == "no call"
        assert why_no_handshake(address, tls).startswith(f"its certificate expired at {NOW - DAY / 2:%Y-%m-%d %H:%M}")


async def test_plain_text_is_told_from_tls(authority: Authority) -> None:
    async with serving(None) as address:
        tls = Tls(authority.client())
        assert await call(address, tls) == "no call"
        assert why_no_handshake(address, tls).startswith("it takes plain text alone, and was called by TLS")
        assert why_no_handshake(address, None) == ""


def test_nobody_there_is_no_matter_of_tls(authority: Authority) -> None:
    assert why_no_handshake("127.0.0.1:1", None) == ""
    assert why_no_handshake("127.0.0.1:1", Tls(TlsFiles(authority.file))) == ""


# New files.


async def test_new_files_are_used_for_new_connections_and_open_ones_go_on(authority: Authority) -> None:
    server, client = Tls(authority.server(client_ca=authority.file)), Tls(authority.client("alice"))
    async with serving(server) as address, open_channel([address], tls=client) as open_one:
        method: Any = open_one.unary_unary(HELLO)
        assert await method(b"", timeout=PATIENCE) == b"alice"
        authority.issue("leader", "elsewhere.example")
        authority.issue("client", "client")
        server.refresh(0.0)
        assert (server.generation, server.fault) == (1, "")
        assert "is not for 127.0.0.1" in why_no_handshake(address, client)
        assert await method(b"", timeout=PATIENCE) == b"alice"


async def test_a_caller_shows_its_new_certificate_in_a_new_channel(authority: Authority) -> None:
    client = Tls(authority.client("client"))
    async with serving(Tls(authority.server(client_ca=authority.file))) as address:
        assert await call(address, client) == "client"
        before = client.held
        authority.issue("client", "client")
        client.refresh(0.0)
        assert client.held != before
        assert await call(address, client) == "client"


async def test_a_channel_that_is_opened_later_has_the_newest_certificate(authority: Authority, tmp_path: Path) -> None:
    async with serving(Tls(authority.server(client_ca=authority.file))) as address:
        tls = Tls(authority.client("before"))
        assert await call(address, tls) == "before"
        for new, old in zip(authority.issue("after"), ("before.pem", "before.key"), strict=True):
            new.rename(tmp_path / old)
        tls.refresh(0.0)
        assert await call(address, tls) == "after"
        assert await asyncio.to_thread(call_blocking, address, tls) == b"after"


async def test_a_server_asks_for_certificates_of_its_newest_authorities(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.file.read_bytes())
    server = Tls(authority.server(client_ca=trusted))
    old, new = authority.client("old"), TlsFiles(authority.file, *other.issue("new"))
    async with serving(server) as address:
        assert [await call(address, Tls(files)) for files in (old, new)] == ["old", "no call"]
        trusted.write_bytes(other.file.read_bytes())
        server.refresh(0.0)
        assert [await call(address, Tls(files)) for files in (old, new)] == ["no call", "new"]


@pytest.mark.parametrize("name", ["ca", "cert", "client_ca", "token"])
def test_each_file_is_read_again(authority: Authority, tmp_path: Path, name: str) -> None:
    paths = {kind: tmp_path / f"live-{kind}" for kind in ("ca", "cert", "key", "client_ca", "token")}
    issued = authority.issue("leader", "localhost", until=NOW + 2 * DAY)
    for kind, content in zip(paths, (authority.file, *issued, authority.file, None), strict=True):
        paths[kind].write_bytes(b"old" if content is None else content.read_bytes())
    tls = Tls(TlsFiles(paths["ca"], paths["cert"], paths["key"], paths["client_ca"], token=paths["token"]))
    before = tls.held
    if name == "cert":
        for kind, new in zip(("cert", "key"), authority.issue("leader", "localhost"), strict=True):
            paths[kind].write_bytes(new.read_bytes())
    elif name == "token":
        paths[name].write_text("new")
    else:
        paths[name].write_bytes(Authority(tmp_path, "other").file.read_bytes())
    tls.refresh(0.0)
    changed = "pair" if name == "cert" else name
    assert getattr(tls.held, changed) != getattr(before, changed)
    assert replace(tls.held, **{changed: getattr(before, changed)}) == before
    # Calls show the newest token, so that channels stay for it.
    assert tls.generation == (0 if name == "token" else 1)


async def test_the_authorities_of_callers_are_those_of_who_is_called_too(authority: Authority) -> None:
    files = authority.server(client_ca=authority.file)
    async with serving(Tls(files)) as address:
        assert await call(address, Tls(replace(files, ca=None))) == "leader"


def test_bad_new_files_are_refused_and_the_old_ones_stay(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(authority.server())
    before = tls.held
    _, key = authority.issue("other", "localhost")
    os.replace(key, tls.files.key or "")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            tls.refresh(0.0)
    assert tls.held == before
    assert tls.generation == 0
    assert "is not the key of the certificate" in tls.fault
    # Once, and not each time that it is looked at.
    assert [record.message for record in caplog.records] == ["new certificates not used"]
    authority.issue("leader", "localhost")
    tls.refresh(0.0)
    assert (tls.generation, tls.fault) == (1, "")
    assert tls.held != before


def test_what_expires_first_is_told_for_each_file(authority: Authority, tmp_path: Path) -> None:
    until = (NOW + 3 * DAY).replace(microsecond=0)
    certificate, key = authority.issue("leader", "localhost", until=until)
    own = certificate.read_bytes()
    first, last = new_authority(20), new_authority(30)
    authorities = tmp_path / "both.pem"
    authorities.write_bytes(last.pem + first.pem)
    tls = Tls(TlsFiles(authorities, certificate, key, authorities))
    end = first.certificate.not_valid_after_utc.timestamp()
    assert tls.ends() == {"cert": until.timestamp(), "ca": end, "client_ca": end}
    # What is refused does not count.
    certificate.write_bytes(b"")
    tls.refresh(0.0)
    assert tls.ends()["cert"] == until.timestamp()
    certificate.write_bytes(own)
    # The authorities of those who call are trusted for calls too, and are told of once.
    assert Tls(TlsFiles(None, certificate, key, authorities)).ends().keys() == {"cert", "client_ca"}
    assert Tls(TlsFiles("public")).ends() == {}


def test_a_new_certificate_is_used_when_its_time_has_come(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = Tls(authority.server())
    authority.issue("leader", "localhost", since=NOW + DAY, until=NOW + 3 * DAY)
    tls.refresh(0.0)
    assert "is not valid before" in tls.fault
    monkeypatch.setattr("gowork.base.certificates.time_fault", lambda certificate, now=None: "")
    tls.refresh(0.0)
    assert (tls.generation, tls.fault) == (1, "")


def test_files_are_not_looked_at_too_often(authority: Authority) -> None:
    tls = Tls(authority.server())
    authority.issue("leader", "localhost")
    tls.refresh()
    assert tls.generation == 0
    tls.refresh(0.0)
    assert tls.generation == 1


def test_two_authorities_at_once_are_trusted(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    both = tmp_path / "both.pem"
    both.write_bytes(authority.file.read_bytes() + other.file.read_bytes())
    assert read_authorities(both).count(b"BEGIN CERTIFICATE") == 2
