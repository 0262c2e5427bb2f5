"""Tokens: what a file with one may hold, when a new one is used, and which calls show it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from gowork.base.bearer import TOKEN_CHARACTERS_MAX, TokenFile, read_token, showing
from gowork.base.certificates import CertificateError
from gowork.base.channels import AddressError, check_token
from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles

PATIENCE = 30.0


@pytest.mark.parametrize(
    "text", [b"", b" \n", b"two words", b"caf\xc3\xa9", b"a\x00b", b"a\x7fb", b"x" * (TOKEN_CHARACTERS_MAX + 1)]
)
def test_what_can_not_be_sent_is_no_token(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "t").write_bytes(text)
    with pytest.raises(CertificateError, match="t has no token: 1 to 4096 visible characters"):
        read_token(tmp_path / "t")


def test_the_longest_token_is_read_without_the_space_around_it(tmp_path: Path) -> None:
    token = "~" * TOKEN_CHARACTERS_MAX
    (tmp_path / "t").write_text(f" {token}\n")
    assert read_token(tmp_path / "t") == token


def test_the_token_that_a_file_has_now_counts_and_without_one_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t"
    path.write_text("old")
    file = TokenFile(path)
    path.write_text("new")
    assert file.newest() == "new"
    path.write_text("")
    assert [file.newest() for _ in range(2)] == ["new", "new"]
    path.unlink()
    assert file.newest() == "new"
    reasons = [record.__dict__["reason"] for record in caplog.records if record.msg == "new token not used"]
    assert [reason.partition(f"{path} ")[2].split(":")[0] for reason in reasons] == ["has no token", "can't be read"]


# Where it goes.


@pytest.mark.parametrize("others", [["192.0.2.1:1"], ["127.0.0.1:1", "192.0.2.1:1"], ["192.0.2.1:1", "localhost:1"]])
def test_a_token_goes_to_this_machine_alone_in_plain_text(tmp_path: Path, others: list[str]) -> None:
    (tmp_path / "t").write_text("secret")
    tls = Tls(TlsFiles(token=tmp_path / "t"))
    check_token(["127.0.0.1:1", "[::1]:1", "localhost:1"], tls)
    with pytest.raises(AddressError, match="the token would go to .* in plain text"):
        check_token(others, tls)
    check_token(others, Tls(TlsFiles(token=tmp_path / "t", insecure=True)))
    check_token(others, None)
    check_token(others, Tls(TlsFiles(ca="public", token=tmp_path / "t")))


# Which calls show it.


class Repeating(grpc.GenericRpcHandler):
    """Answers each call with the tokens, and the other metadata, that it came with."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        kind = handler_call_details.method.rpartition("/")[2]
        said = [value for key, value in handler_call_details.invocation_metadata if key in ("authorization", "other")]

        def one(_: object, context: grpc.ServicerContext) -> bytes:
            return ",".join(map(str, said)).encode()

        def several(_: object, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield ",".join(map(str, said)).encode()

        handler: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        return handler(several if kind.endswith("stream") else one)


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((Repeating(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


SHOWN = b"kept,Bearer 1"
GIVEN: dict[str, Any] = {"metadata": (("other", "kept"),), "timeout": PATIENCE}


def test_each_kind_of_call_shows_the_token_of_its_moment(address: str) -> None:
    tokens = iter("123456789")
    with grpc.insecure_channel(address) as opened, showing(opened, lambda: next(tokens)) as channel:
        unary = channel.unary_unary("/s/unary_unary")
        assert unary(b"", **GIVEN) == SHOWN
        assert unary.with_call(b"", **GIVEN)[0] == SHOWN.replace(b"1", b"2")
        assert unary.future(b"", **GIVEN).result() == SHOWN.replace(b"1", b"3")
        assert list(channel.unary_stream("/s/unary_stream")(b"", **GIVEN)) == [SHOWN.replace(b"1", b"4")]
        assert channel.stream_unary("/s/stream_unary")(iter([b""]), **GIVEN) == SHOWN.replace(b"1", b"5")
        assert list(channel.stream_stream("/s/stream_stream")(iter([b""]), **GIVEN)) == [SHOWN.replace(b"1", b"6")]
        assert unary(b"", timeout=PATIENCE) == b"Bearer 7"


async def test_so_does_each_kind_of_an_asyncio_channel(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as opened:
        channel = showing(opened, lambda: "1")
        assert await channel.unary_unary("/s/unary_unary")(b"", **GIVEN) == SHOWN
        assert [each async for each in channel.unary_stream("/s/unary_stream")(b"", **GIVEN)] == [SHOWN]
        assert await channel.stream_unary("/s/stream_unary")(iter([b""]), **GIVEN) == SHOWN
        assert [each async for each in channel.stream_stream("/s/stream_stream")(iter([b""]), **GIVEN)] == [SHOWN]
