"""Tokens: a secret text in a file, which callers show with each call as `authorization: Bearer TOKEN`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc

from gowork.base.certificates import CertificateError

_log = logging.getLogger(__name__)

#: How many characters a token may have.
TOKEN_CHARACTERS_MAX = 4096


def read_token(path: Path) -> str:
    """Reads a token from a file, without the white space around it.

    Raises:
        CertificateError: the file can't be read, or has no token that can be sent.
    """
    try:
        with path.open("rb") as file:
            token = file.read(2 * TOKEN_CHARACTERS_MAX).decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not token or len(token) > TOKEN_CHARACTERS_MAX or not all("!" <= each <= "~" for each in token):
        raise CertificateError(
            f"{path} has no token: 1 to {TOKEN_CHARACTERS_MAX} visible characters of ASCII, without spaces"
        )
    return token


class TokenFile:
    """A file with a token that others must show. It is read again each time, because pages are asked for seldom.

    When it can't be used any more, the last token stays, and a line of the log says so once.

    Args:
        path: the file.

    Raises:
        CertificateError: it has no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = read_token(path)
        self._fault = ""

    def newest(self) -> str:
        """Returns the token that the file has now, or the last one that it had."""
        fault = ""
        try:
            self._token = read_token(self._path)
        except CertificateError as error:
            fault = str(error)
            if fault != self._fault:
                _log.error("new token not used", extra={"reason": fault, "uses": "that from before"})
        self._fault = fault
        return self._token


def showing(channel: Any, token: Callable[[], str]) -> Any:
    """Returns a channel, for asyncio or not, whose calls show a token.

    Args:
        channel: the channel.
        token: returns the token as it is now.
    """
    return cast("grpc.aio.Channel", _Channel(channel, token))


class _Channel:
    """Stands in for a channel. No interceptor does it, because streams of intercepted calls can't be cancelled."""

    def __init__(self, channel: Any, token: Callable[[], str]) -> None:
        self._channel = channel
        self._token = token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def __enter__(self) -> _Channel:
        return self

    def __exit__(self, *raised: object) -> None:
        self._channel.__exit__(*raised)

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._channel.__aexit__(*raised)

    def unary_unary(self, *given: Any, **named: Any) -> _Method:
        return _Method(self._channel.unary_unary(*given, **named), self._token)

    def unary_stream(self, *given: Any, **named: Any) -> _Method:
        return _Method(self._channel.unary_stream(*given, **named), self._token)

    def stream_unary(self, *given: Any, **named: Any) -> _Method:
        return _Method(self._channel.stream_unary(*given, **named), self._token)

    def stream_stream(self, *given: Any, **named: Any) -> _Method:
        return _Method(self._channel.stream_stream(*given, **named), self._token)


class _Method:
    def __init__(self, method: Any, token: Callable[[], str]) -> None:
        self._method = method
        self._token = token

    def __call__(self, *given: Any, metadata: Any = None, **named: Any) -> Any:
        return self._method(*given, metadata=self._with_token(metadata), **named)

    def future(self, *given: Any, metadata: Any = None, **named: Any) -> Any:
        return self._method.future(*given, metadata=self._with_token(metadata), **named)

    def with_call(self, *given: Any, metadata: Any = None, **named: Any) -> Any:
        return self._method.with_call(*given, metadata=self._with_token(metadata), **named)

    def _with_token(self, metadata: Any) -> Any:
        return (*(metadata or ()), ("authorization", f"Bearer {self._token()}"))
