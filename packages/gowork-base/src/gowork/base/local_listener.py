"""Listens on a unix socket for probes from the same machine; see gowork.base.local_probes.

A socket that can't be made never keeps the process from starting: the log warns, and the probes over HTTP still answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from gowork.base import local_probes
from gowork.base.directories import make_private
from gowork.base.http import HttpListener, Probe, probe
from gowork.base.local_probes import PAGES, Role, short_path

_log = logging.getLogger(__name__)

#: Connections that may wait to be taken.
_WAITING_MAX = 16


class LocalListener:
    """Answers the questions of `local_probes.check` while it is entered.

    Args:
        role: what this process is.
        name: its name, by which several on one machine are told apart.
        ready: is called on `loop`.
        loop: the process's event loop.
    """

    def __init__(self, role: Role, name: str, ready: Probe, loop: asyncio.AbstractEventLoop) -> None:
        self._role: Role = role
        self._name = name
        self._pages = {
            PAGES["alive"]: probe(lambda: (True, "alive"), loop),
            PAGES["ready"]: probe(ready, loop),
        }
        self._listener: HttpListener | None = None
        #: Where it listens; None: nowhere.
        self.path: Path | None = None

    def __enter__(self) -> Self:
        reasons: list[str] = []
        for made in _places():
            try:
                self._listen(made())
                return self
            except (OSError, RuntimeError) as error:
                # RuntimeError: no thread can be started.
                reasons.append(str(error))
        _log.warning("can't be asked by --check", extra={"role": self._role, "reason": "; ".join(reasons)})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.__exit__(kind, error, trace)
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _listen(self, directory: Path) -> None:
        local_probes.remove_stale(directory, self._role)
        # A number of its own, because processes in two containers may have the same id and share a directory.
        path = directory / f"{local_probes.prefix_of(self._role, self._name)}{secrets.token_hex(4)}.sock"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(path) as short:
                listening.bind(short)
            # Nobody can connect before it listens.
            path.chmod(0o600)
            listening.listen(_WAITING_MAX)
            listener = HttpListener("", self._pages, listening=listening)
            listener.__enter__()
        except BaseException:
            listening.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._listener, self.path = listener, path


def _places() -> Iterator[Callable[[], Path]]:
    """Yields what makes a directory for the socket, the best one first."""
    given, session = local_probes.given_directory(), local_probes.session_directory()
    if given is not None:
        # Whoever started this process has made it.
        yield lambda: given
    if session is not None:
        yield lambda: _private(session)
    yield lambda: _private(local_probes.own_directory())


def _private(directory: Path) -> Path:
    make_private(directory)
    return directory
