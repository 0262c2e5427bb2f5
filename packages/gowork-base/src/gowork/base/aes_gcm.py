"""The codec aes-256-gcm, with keys from a file. The only module that imports cryptography for payloads.

Each key of the file is a root. For everything that is encrypted, a key of its own is derived from the root and from
what the ciphertext is bound to, and the nonce from that key and the plaintext, by HMAC-SHA-256. So the same plaintext
has the same ciphertext, which the ids of tasks need, and no key sees more than the texts of one field of one task.
docs/decisions/0021 has the reasons, and says what that tells an attacker.
"""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gowork.base.codecs import DEFAULT_CODEC, Altered, UnknownKey
from gowork.base.key_files import KeyFile

_NONCE_BYTES = 12
_TAG_BYTES = 16


class AesGcm:
    """Encrypts with AES-256-GCM. The first key of the file encrypts, all of them decrypt."""

    name = DEFAULT_CODEC

    def __init__(self, path: str) -> None:
        """Reads the file of keys. It is read again when it has changed.

        Raises:
            CodecSetupError: when the file cannot be used.
        """
        self._file = KeyFile(path)

    def encrypt(self, plain: bytes, bound: bytes, key_id: str = "") -> tuple[str, bytes]:
        """See Codec. The ciphertext is 28 bytes longer than the plaintext."""
        key_id = key_id or next(iter(self._file.keys()))
        encrypting, naming = self._derived(key_id, bound)
        nonce = hmac.digest(naming, plain, "sha256")[:_NONCE_BYTES]
        return key_id, nonce + AESGCM(encrypting).encrypt(nonce, plain, bound)

    def decrypt(self, key_id: str, ciphertext: bytes, bound: bytes) -> bytes:
        """See Codec."""
        encrypting, _ = self._derived(key_id, bound)
        if len(ciphertext) < _NONCE_BYTES + _TAG_BYTES:
            raise Altered("it is cut off")
        try:
            return AESGCM(encrypting).decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], bound)
        except InvalidTag:
            raise Altered("it was altered, or belongs to another task or field") from None

    def _derived(self, key_id: str, bound: bytes) -> tuple[bytes, bytes]:
        """Returns the key that encrypts and the key that makes nonces.

        That is HKDF-Expand (RFC 5869) with a block for each: the root is random already.
        """
        root = self._file.get(key_id)
        if root is None:
            known = ", ".join(map(repr, self._file.keys()))
            raise UnknownKey(f"there is no key {key_id!r} in {self._file.path}, which has {known}")
        return (
            hmac.digest(root, b"gowork encrypts " + bound + b"\x01", "sha256"),
            hmac.digest(root, b"gowork makes nonces " + bound + b"\x01", "sha256"),
        )
