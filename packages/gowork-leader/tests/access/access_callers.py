"""Callers with certificates or tokens, and leaders that know them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from leader_serving import PATIENCE, ServedLeader, serving
from tls_authority import Authority

from gowork.base.bearer import showing
from gowork.base.channels import open_channel
from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles
from gowork.leader._access.access import Access
from gowork.leader._rpc.services import SERVICES

ROLES = ("client", "worker", "admin", "read-only", "leader", "proxy")
#: {call: whether it answers with a stream}
ALL_CALLS = {f"{service}/{name}": streams for service, names in SERVICES.items() for name, streams in names.items()}


def token_of(name: str) -> str:
    return f"the-token-of-{name}"


def entry(name: str, *roles: str, token: bool = True, **more: Any) -> str:
    """An [[identity]] with a token of its own."""
    lines = ["[[identity]]", f"name = {name!r}"]
    if roles:
        lines.append(f"roles = {list(roles)}")
    if token:
        lines.append(f"tokens = ['sha256:{hashlib.sha256(token_of(name).encode()).hexdigest()}']")
    return "\n".join([*lines, *(f"{key} = {value!r}" for key, value in more.items())]) + "\n"


def access_file(folder: Path, *parts: str) -> Path:
    path = folder / "access.toml"
    path.write_text("\n".join(parts))
    return path


@asynccontextmanager
async def known_by_tokens(folder: Path, *parts: str, **options: Any) -> AsyncIterator[ServedLeader]:
    """A leader on this machine whose access file has these parts."""
    async with serving(folder, access=Access(access_file(folder, *parts)), **options) as leader:
        yield leader


def with_token(leader: ServedLeader, name: str) -> ServedLeader:
    """The same leader, called with this identity's token."""
    return ServedLeader(leader.addresses, showing(leader.channel, lambda: token_of(name)), leader.stopped)


@asynccontextmanager
async def known_by_certificates(
    folder: Path, authority: Authority, access: Access | None = None, **options: Any
) -> AsyncIterator[ServedLeader]:
    """A leader with mutual TLS."""
    tls = Tls(authority.server(client_ca=authority.file))
    async with serving(folder, tls=tls, access=access or Access(), **options) as leader:
        yield leader


@asynccontextmanager
async def calling(leader: ServedLeader, files: TlsFiles) -> AsyncIterator[ServedLeader]:
    """The leader, called with these certificates."""
    async with open_channel([leader.addresses.scheduler], tls=Tls(files)) as channel:
        yield ServedLeader(leader.addresses, channel, leader.stopped)


def metadata(**keys: str) -> tuple[tuple[str, str], ...]:
    return tuple((key.replace("_", "-"), value) for key, value in keys.items())


#: What gRPC's client says of a call whose refusal came before all of its beginning had left; seen with grpcio 1.76.
_OVERTAKEN = grpc.StatusCode.INTERNAL, "Internal error from Core"


async def code_of(leader: ServedLeader, call: str, *given: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    """How a call with an empty request ends, and what is said of it. A stream that begins counts as OK."""
    while (ended := await _end_of(leader, call, given)) == _OVERTAKEN:
        pass
    return ended


async def _end_of(leader: ServedLeader, call: str, given: tuple[tuple[str, str], ...]) -> tuple[grpc.StatusCode, str]:
    stream: Any
    try:
        if call.endswith(("/Connect", "/Heartbeat")):
            stream = leader.stream_stream(f"/{call}")(_one(), metadata=given, timeout=PATIENCE)
            return await _begun(stream)
        if ALL_CALLS[call]:
            stream = leader.unary_stream(f"/{call}")(b"", metadata=given, timeout=PATIENCE)
            return await _begun(stream)
        await leader.unary_unary(f"/{call}")(b"", metadata=given, timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def _begun(stream: Any) -> tuple[grpc.StatusCode, str]:
    if await stream.read() is not grpc.aio.EOF:
        stream.cancel()
        return grpc.StatusCode.OK, ""
    return await stream.code(), await stream.details() or ""


def _one() -> Iterator[bytes]:
    yield b""
