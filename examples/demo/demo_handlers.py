"""The demo's own handlers: a plain function, which runs in a runner's thread, and an async one, which runs on its loop.

The demo's third kind of task runs in the handler `shell` of gowork-plugin-shell.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gowork.worker import handler


@dataclass
class File:
    """The file to digest."""

    path: str


@dataclass
class Digest:
    """The digest of a file, and its length."""

    sha256: str
    bytes: int


@dataclass
class Url:
    """The address to fetch."""

    host: str
    port: int
    path: str


@handler("demo.sha256")
def sha256(file: File) -> Digest:
    """Computes the SHA-256 digest of a file."""
    data = Path(file.path).read_bytes()
    return Digest(hashlib.sha256(data).hexdigest(), len(data))


@handler("demo.fetch", time_limit=20)
async def fetch(url: Url) -> dict[str, int]:
    """Gets JSON over HTTP, without blocking the other tasks of its event loop."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(f"GET {url.path} HTTP/1.0\r\nHost: {url.host}\r\n\r\n".encode())
        response = await reader.read()
    finally:
        writer.close()
    head, _, body = response.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].decode()
    if " 200 " not in status:
        raise RuntimeError(status)
    answer: dict[str, int] = json.loads(body)
    return answer
