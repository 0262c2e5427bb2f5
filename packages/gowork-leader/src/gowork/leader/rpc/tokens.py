"""Page and watch tokens: opaque to clients, good only for the store and the request that they came from."""

from __future__ import annotations

import base64
import binascii
import hashlib

from gowork.rpc.status import FieldViolation, invalid

_POSITION_BYTES = 8
_SEAL_BYTES = 8


def make_token(position: int, *scope: str) -> str:
    """A token for going on after `position` (0 to 2^64−1), valid with the same scope only."""
    data = position.to_bytes(_POSITION_BYTES)
    return base64.urlsafe_b64encode(data + _seal(data, scope)).decode().rstrip("=")


def read_token(token: str, field: str, *scope: str) -> int:
    """The position in a token.

    Raises:
        Refusal: INVALID_ARGUMENT on this field when it was not made with this scope.
    """
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    position, seal = data[:_POSITION_BYTES], data[_POSITION_BYTES:]
    if len(data) != _POSITION_BYTES + _SEAL_BYTES or seal != _seal(position, scope):
        raise invalid(
            [
                FieldViolation(
                    field,
                    "is not a token of this request; repeat the one that it came from, or leave it out to start anew",
                )
            ]
        )
    return int.from_bytes(position)


def _seal(data: bytes, scope: tuple[str, ...]) -> bytes:
    digest = hashlib.blake2b(data, digest_size=_SEAL_BYTES)
    for part in scope:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4) + encoded)
    return digest.digest()
