"""Codecs: what turns a task's bytes into bytes that leader and store cannot read, and back.

Client and worker have a codec; the leader never has one. The one that gowork ships is `aes_gcm`. Other packages
contribute codecs by entry points. This module imports no cryptography, and loads a codec only when one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Protocol

from gowork.base.extensions import ExtensionError, installed

#: The group of entry points: name = "module:function". The function takes the value of `--keys` and returns a Codec.
ENTRY_POINT_GROUP = "gowork.codecs"
#: The codec that is used where none is named.
DEFAULT_CODEC = "aes-256-gcm"
#: The environment variables that name the codec, and where its keys are.
CODEC_VARIABLE = "GOWORK_CODEC"
KEYS_VARIABLE = "GOWORK_KEYS"
_NO_KEYS = f"keys: {DEFAULT_CODEC} needs a file of keys: name it with --keys or {KEYS_VARIABLE}"
_NO_CRYPTOGRAPHY = f"keys: {DEFAULT_CODEC} needs the package cryptography: python3 -m pip install cryptography"


class CodecError(Exception):
    """Something cannot be encrypted or decrypted here. The message says what and why."""


class CodecSetupError(CodecError):
    """The codec, or its keys, cannot be used. The message names the codec or the file."""


class UnknownKey(CodecError):
    """Something is encrypted with a key that is not known here."""


class Altered(CodecError):
    """A ciphertext was changed, cut, or is of another task or field."""


class Codec(Protocol):
    """Encrypts and decrypts. Its methods may be called from any thread, and must not block for long."""

    #: Its name, as it stands in each ciphertext: 1 to 64 letters, digits, dots, dashes and underscores.
    name: str

    def encrypt(self, plain: bytes, bound: bytes, key_id: str = "") -> tuple[str, bytes]:
        """Encrypts bytes.

        The same bytes, bound and key must give the same ciphertext. Otherwise a task that is scheduled again under its
        id would be another task.

        Args:
            plain: what to encrypt.
            bound: what the ciphertext belongs to. It is not part of the ciphertext, and decrypts with no other value.
            key_id: the key to use; empty for the one that encrypts now.

        Returns:
            The id of the key, of the same characters as a codec's name, and the ciphertext.

        Raises:
            UnknownKey: when there is no key of that id.
        """

    def decrypt(self, key_id: str, ciphertext: bytes, bound: bytes) -> bytes:
        """Decrypts what `encrypt` returned.

        Raises:
            UnknownKey: when there is no key of that id. The message says which keys there are.
            Altered: when the ciphertext was changed, or `bound` is another one.
        """


def load_codec(name: str, keys: str) -> Codec:
    """Makes a codec.

    Args:
        name: its name; empty for DEFAULT_CODEC.
        keys: what the codec needs to find its keys: for DEFAULT_CODEC the path of a file.

    Raises:
        CodecSetupError: when there is no such codec, or it cannot use its keys.
    """
    name = name or DEFAULT_CODEC
    if name == DEFAULT_CODEC:
        return _default_codec(keys)
    found = [each for each in installed(ENTRY_POINT_GROUP) if each.name == name]
    if not found:
        raise CodecSetupError(_missing(name))
    if len(found) > 1:
        origins = " and ".join(each.origin or each.value for each in found)
        raise CodecSetupError(f"codec: {name!r} is contributed by {origins}: uninstall all but one")
    try:
        codec: Codec = found[0].load()(keys)
    except CodecSetupError:
        raise
    except ExtensionError as error:
        raise CodecSetupError(f"codec: {found[0].title} cannot be loaded: {error}") from error
    except Exception as error:
        raise CodecSetupError(f"codec: {found[0].title} cannot be set up: {type(error).__name__}: {error}") from error
    return codec


def check_setup(name: str, keys: str) -> None:
    """Checks what can be checked of a codec without reading keys and without importing what other packages contribute.

    Raises:
        CodecSetupError: when there is no such codec, or the file of keys is missing or others may read it.
    """
    if (name or DEFAULT_CODEC) == DEFAULT_CODEC:
        from gowork.base.key_files import check_file

        if not keys:
            raise CodecSetupError(_NO_KEYS)
        if find_spec("cryptography") is None:
            raise CodecSetupError(_NO_CRYPTOGRAPHY)
        check_file(keys)
    elif not any(each.name == name for each in installed(ENTRY_POINT_GROUP)):
        raise CodecSetupError(_missing(name))


def codec_of(keys: str | None, name: str | None, environment: Mapping[str, str]) -> Codec | None:
    """Returns the codec that arguments or environment variables ask for; None when they ask for none.

    Args:
        keys: see load_codec; None for the variable's value, and empty for no codec whatever the variables say.
        name: the codec's name; None for the variable's value.
        environment: the environment variables.

    Raises:
        CodecSetupError: as load_codec does.
    """
    if keys == "":
        return None
    keys = keys if keys is not None else environment.get(KEYS_VARIABLE, "")
    name = name if name is not None else environment.get(CODEC_VARIABLE, "")
    if not keys and not name:
        return None
    return load_codec(name, keys)


def _missing(name: str) -> str:
    others = sorted({DEFAULT_CODEC, *(each.name for each in installed(ENTRY_POINT_GROUP))})
    return f"codec: there is no {name!r} here, only {', '.join(others)}"


def _default_codec(keys: str) -> Codec:
    if not keys:
        raise CodecSetupError(_NO_KEYS)
    try:
        # Imported only here, because it needs the library cryptography, which most users do not.
        from gowork.base.aes_gcm import AesGcm
    except ImportError as error:
        raise CodecSetupError(f"{_NO_CRYPTOGRAPHY} ({error})") from error
    return AesGcm(keys)
