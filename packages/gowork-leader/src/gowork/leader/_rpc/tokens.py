"""Page and watch tokens: opaque to clients, and valid only for the store and the request that they came from."""

from __future__ import annotations

import base64
import binascii
import hashlib

from gowork.proto.status import FieldViolation, Refusal, invalid

_POSITION_BYTES = 8
_SEAL_BYTES = 8


def make_token(position: int, *scope: str) -> str:
    """Returns a token for going on after `position` (0 to 2^64−1). It is valid only with the same scope."""
    return _sealed(position.to_bytes(_POSITION_BYTES), scope)


def read_token(token: str, field: str, *scope: str) -> int:
    """Returns the position in a token.

    Raises:
        Refusal: INVALID_ARGUMENT on this field: the token was not made with this scope.
    """
    data = _opened(token, field, scope)
    if len(data) != _POSITION_BYTES:
        raise _fault(field)
    return int.from_bytes(data)


def make_span_token(after: int, until: int, *scope: str) -> str:
    """Returns a token for going on after one number, up to another; otherwise as make_token."""
    return _sealed(after.to_bytes(_POSITION_BYTES) + until.to_bytes(_POSITION_BYTES), scope)


def read_span_token(token: str, field: str, *scope: str) -> tuple[int, int]:
    """Returns both numbers in a token of make_span_token; otherwise as read_token."""
    data = _opened(token, field, scope)
    return int.from_bytes(data[:_POSITION_BYTES]), int.from_bytes(data[_POSITION_BYTES:])


def make_id_token(id: str, *scope: str) -> str:
    """Returns a token for going on after this id; otherwise as make_token."""
    return _sealed(id.encode(), scope)


def read_id_token(token: str, field: str, *scope: str) -> str:
    """Returns the id in a token of make_id_token; otherwise as read_token."""
    return _opened(token, field, scope).decode()


def _sealed(data: bytes, scope: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode(data + _seal(data, scope)).decode().rstrip("=")


def _opened(token: str, field: str, scope: tuple[str, ...]) -> bytes:
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        sealed = b""
    data, seal = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    if seal != _seal(data, scope):
        raise _fault(field)
    return data


def _fault(field: str) -> Refusal:
    description = "is not a token of this request; repeat the request that it came from, or send none to start again"
    return invalid([FieldViolation(field, description)])


def _seal(data: bytes, scope: tuple[str, ...]) -> bytes:
    digest = hashlib.blake2b(data, digest_size=_SEAL_BYTES)
    for part in scope:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4) + encoded)
    return digest.digest()
