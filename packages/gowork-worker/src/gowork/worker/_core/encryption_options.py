"""How a worker's runners decrypt payloads and encrypt what handlers say."""

from __future__ import annotations

import msgspec


class EncryptionOptions(msgspec.Struct, frozen=True):
    """Travels to the runners, which alone read keys. Without a codec and keys nothing is encrypted."""

    #: The codec's name; empty for the one that gowork ships, if there are keys.
    codec: str = ""
    #: What the codec needs to find its keys: usually the path of a file.
    keys: str = ""
    #: Whether tasks whose payloads are not encrypted are refused.
    is_required: bool = False

    def __bool__(self) -> bool:
        """Whether there is a codec."""
        return bool(self.codec or self.keys)
