"""Reads values from the wire as a type: payloads as the type of a handler's argument, results as the type that a
caller names.

For every type that `reader_of` accepts, what `values` wrote is read back as the same value. A type for which that is
not possible is refused when it is named, not when the first value comes.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from gowork.base.values import FORM_DATA, FORM_TEXT, is_model, models_in, type_name

#: The types as which bytes are read.
_BYTES = (bytes, bytearray, memoryview)
_ANYTHING = (Any, object)
_FROM_BUILTINS = (int, float, str)
_nothing_read = object()


class UnreadableType(TypeError):
    """Values from the wire cannot be read as this type. The message says why."""


class Unfit(ValueError):
    """A value that is not of the type that was asked for. The message names the place in the value."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads values as one type."""

    #: The name of the type, for messages.
    wanted: str
    #: Reads JSON; None when the type is only text, only bytes, or both.
    json: Callable[[str | bytes], Any] | None
    #: Converts a plain value, such as a text, to one of the types that are read from JSON; None when it cannot.
    convert: Callable[[Any], Any] | None
    #: Takes a text as it is; None when the type has no texts.
    text: Callable[[str], Any] | None
    #: Takes bytes as they are; None when the type has no bytes.
    data: Callable[[bytes], Any] | None

    @property
    def takes_every_text(self) -> bool:
        """Whether a text is its own value, whatever is in it and whatever its form."""
        return self.json is None and self.text is _same

    def payload(self, text: str, data: bytes, form: int) -> Any:
        """Reads a payload from the fields payload, data and payload_form of scheduler.v1.Task.

        Raises:
            Unfit: the payload is not of this type.
        """
        if data or form == FORM_DATA:
            return self._of_data(data)
        if self.text is not None and (form == FORM_TEXT or self.json is None):
            return self.text(text)
        try:
            return self._of_text(text, form)
        except Unfit as error:
            if _is_json(text):
                raise
            raise Unfit(f"{error if text else 'it is empty'}; JSON of {self.wanted} is needed") from error

    def result(self, text: str, data: bytes, *, is_empty_data: bool = False) -> Any:
        """Reads a result from the fields of scheduler.v1.Task. A result's text is always JSON; no text means null.

        Raises:
            Unfit: the result is not of this type.
        """
        if data or is_empty_data:
            if self.data is None:
                raise Unfit(f"{len(data):,} bytes, not JSON")
            return self.data(data)
        if self.json is not None:
            return self.json(text or "null")
        if self.text is not None:
            return self.text(_decoded(_decode_string)(text or "null"))
        assert self.data is not None
        # Older workers send nothing for empty bytes.
        return self.data(_decoded(_decode_bytes)(text) if text else b"")

    def _of_data(self, data: bytes) -> Any:
        if self.data is not None:
            return self.data(data)
        if self.json is not None and (self.text is None or data[:1] in b'"{[-0123456789tfn '):
            try:
                return self.json(data)
            except Unfit:
                if self.text is None:
                    raise
        assert self.text is not None
        try:
            return self.text(data.decode())
        except UnicodeDecodeError as error:
            raise Unfit(f"data: not UTF-8 text: {error}") from error

    def _of_text(self, text: str, form: int) -> Any:
        if form == FORM_TEXT and (value := self._converted(text)) is not _nothing_read:
            return value
        if self.json is None:
            assert self.data is not None
            return self.data(text.encode())
        try:
            return self.json(text)
        except Unfit:
            # It is an older client's text, or one that cannot be mistaken for JSON.
            if self.text is not None:
                return self.text(text)
            if text and (value := self._converted(text)) is not _nothing_read:
                return value
            if self.data is not None:
                return self.data(text.encode())
            raise

    def _converted(self, text: str) -> Any:
        """Converts a text to an enum, a UUID, a literal or another type that JSON writes as a string.

        Returns _nothing_read when the text is none of these.
        """
        if self.convert is None:
            return _nothing_read
        try:
            return self.convert(text)
        except (msgspec.MsgspecError, ValueError, TypeError):
            return _nothing_read


def reader_of(annotation: Any) -> Reader:
    """Returns the reader for a type. It keeps the 256 readers that were used last.

    Raises:
        UnreadableType: values cannot be read as this type.
    """
    try:
        return _kept(annotation)
    except TypeError as error:
        if isinstance(error, UnreadableType):
            raise
        return _make(annotation)  # An annotation that cannot be hashed.


def _make(annotation: Any) -> Reader:
    members = list(_members(annotation))
    bases = [_base(member) for member in members]
    if any(base in _ANYTHING for base in bases):
        return Reader("any value", _decoded(msgspec.json.Decoder().decode), _same, _same, bytes)
    texts = [member for member, base in zip(members, bases, strict=True) if base is str]
    rest = [member for member, base in zip(members, bases, strict=True) if base is not str and base not in _BYTES]
    data = next((base for base in bases if base in _BYTES), None)
    text = _text_reader(texts[0]) if texts else None
    json = convert = None
    if rest:
        json, convert = _json_reader(_union(rest))
        if text is not None:
            json = _or_string(json, text)
    return Reader(type_name(annotation), json, convert, text, data)


_kept = lru_cache(256)(_make)


def _members(annotation: Any) -> Iterator[Any]:
    """Yields the members of a union, aliases resolved. Another type is its own member."""
    plain = _plain(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        for part in get_args(plain):
            yield from _members(part)
    elif get_origin(plain) is Annotated and get_origin(_plain(get_args(plain)[0])) in (Union, types.UnionType):
        if any(isinstance(note, msgspec.Meta) for note in plain.__metadata__):
            raise UnreadableType(f"{type_name(annotation)}: put msgspec.Meta around the members of the union")
        yield from _members(get_args(plain)[0])
    else:
        yield plain


def _plain(annotation: Any) -> Any:
    """Resolves type aliases and NewTypes."""
    while True:
        if hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType" and hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def _base(member: Any) -> Any:
    while True:
        member = _plain(member)
        if get_origin(member) is not Annotated:
            return member
        member = get_args(member)[0]


def _union(members: list[Any]) -> Any:
    return Union[tuple(members)]  # noqa: UP007 - it is made at run time


def _same(value: Any) -> Any:
    return value


def _text_reader(annotation: Any) -> Callable[[str], Any]:
    """Returns what reads texts: as they are, checked against the bounds of a msgspec.Meta."""
    if annotation is str or not any(isinstance(note, msgspec.Meta) for note in annotation.__metadata__):
        return _same

    def read(text: str) -> Any:
        try:
            return msgspec.convert(text, annotation)
        except msgspec.ValidationError as error:
            raise Unfit(str(error)) from error

    return read


def _decoded(decode: Callable[[str | bytes], Any]) -> Callable[[str | bytes], Any]:
    def read(text: str | bytes) -> Any:
        try:
            return decode(text)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Unfit(_violations(error)) from error

    return read


def _or_string(json: Callable[[str | bytes], Any], text: Callable[[str], Any]) -> Callable[[str | bytes], Any]:
    """Returns what reads JSON as `json` does, or else a JSON string as text, because older clients quoted texts."""

    def read(source: str | bytes) -> Any:
        try:
            return json(source)
        except Unfit as error:
            try:
                return text(_decode_string(source))
            except msgspec.MsgspecError:
                raise error from None

    return read


_decode_string = msgspec.json.Decoder(str).decode
_decode_bytes = msgspec.json.Decoder(bytes).decode


def _json_reader(annotation: Any) -> tuple[Callable[[str | bytes], Any], Callable[[Any], Any] | None]:
    if is_model(annotation):
        return _decoded(_model_reader(annotation)), None
    try:
        info = msgspec.inspect.type_info(annotation)
        foreign = list(_foreign(info, set()))
        decode = msgspec.json.Decoder(annotation, dec_hook=_from_plain).decode
    except TypeError as error:
        if not any(models_in(annotation)):
            raise UnreadableType(f"{type_name(annotation)} cannot be read from JSON: {error}") from error
        return _adapter(annotation, _names_bytes(annotation))
    validated = [kind for kind in foreign if _is_validated_dataclass(kind)]
    if validated:
        bytes_found = any(isinstance(part, _BYTES_TYPES) for part in _parts(info, set()))
        return _adapter(annotation, bytes_found)
    for kind in foreign:
        if not (is_model(kind) or kind is object or (isinstance(kind, type) and issubclass(kind, _FROM_BUILTINS))):
            raise UnreadableType(
                f"{type_name(annotation)}: {type_name(kind)} cannot be read from JSON: "
                "use a dataclass, a msgspec.Struct or a pydantic model"
            )
        if is_model(kind):
            _model_reader(kind)

    def convert(value: Any) -> Any:
        return msgspec.convert(value, annotation, dec_hook=_from_plain)

    return _decoded(decode), convert


_BYTES_TYPES = (msgspec.inspect.BytesType, msgspec.inspect.ByteArrayType, msgspec.inspect.MemoryViewType)


def _foreign(info: msgspec.inspect.Type, seen: set[Any]) -> Iterator[Any]:
    """Yields the classes in a type that msgspec cannot read, or not without pydantic's validation."""
    for part in _parts(info, seen):
        if isinstance(part, msgspec.inspect.CustomType) or (
            isinstance(part, msgspec.inspect.DataclassType) and _is_validated_dataclass(part.cls)
        ):
            yield part.cls


def _parts(info: Any, seen: set[Any]) -> Iterator[msgspec.inspect.Type]:
    """Yields a type and all types that it is made of, each class once."""
    if isinstance(info, msgspec.inspect.Type):
        kind = getattr(info, "cls", None)
        if kind is not None:
            if kind in seen:
                return
            seen.add(kind)
        yield info
        for name in info.__struct_fields__:
            yield from _parts(getattr(info, name), seen)
    elif isinstance(info, tuple):
        for part in info:
            yield from _parts(part, seen)
    elif isinstance(info, msgspec.inspect.Field):
        yield from _parts(info.type, seen)


def _is_validated_dataclass(kind: Any) -> bool:
    """Whether the class is one of pydantic's dataclasses."""
    return "__pydantic_validator__" in vars(kind) and not is_model(kind)


def _from_plain(kind: type, value: Any) -> Any:
    """Makes an object that msgspec cannot read itself from the plain value that it read."""
    if is_model(kind):
        return _decoded(_model_reader(kind))(msgspec.json.encode(value))
    if kind is object:
        return value
    if issubclass(kind, _FROM_BUILTINS) and isinstance(value, _FROM_BUILTINS):
        return kind(value)
    raise TypeError(f"expected {type_name(kind)}")


@lru_cache(1024)
def _model_reader(model: Any) -> Callable[[str | bytes], Any]:
    """Returns what reads a model by its aliases and by its fields' own names, because `values` writes either."""
    read = model.model_validate_json
    if not _takes_names(read):
        if any(field.alias or field.validation_alias for field in getattr(model, "model_fields", {}).values()):
            raise UnreadableType(f"{type_name(model)} has aliases: install pydantic 2.11 or newer to read it")
        return read  # type: ignore[no-any-return]
    return lambda text: read(text, by_alias=True, by_name=True)


def _takes_names(read: Callable[..., Any]) -> bool:
    try:
        return "by_name" in inspect.signature(read).parameters
    except (TypeError, ValueError):
        return False


def _adapter(annotation: Any, has_bytes: bool) -> tuple[Callable[[str | bytes], Any], Callable[[Any], Any] | None]:
    """Returns what reads and converts, by pydantic, its dataclasses and unions of its models with other types.

    msgspec cannot.
    """
    if has_bytes:
        raise UnreadableType(
            f"{type_name(annotation)}: pydantic does not read bytes in the form in which they are sent: "
            "put all of it into a pydantic model"
        )
    from pydantic import TypeAdapter  # The annotation has one of pydantic's types, so that it is installed.

    try:
        read = TypeAdapter(annotation).validate_json
    except Exception as error:
        raise UnreadableType(
            f"{type_name(annotation)} cannot be read by pydantic: {str(error).splitlines()[0]}"
        ) from error
    names: dict[str, Any] = {"by_alias": True, "by_name": True} if _takes_names(read) else {}

    def convert(value: Any) -> Any:
        # Strictly, or a text with digits would be taken for a number.
        return read(msgspec.json.encode(value), strict=True, **names)

    return _decoded(lambda text: read(text, **names)), convert


def _names_bytes(annotation: Any) -> bool:
    if _base(annotation) in _BYTES:
        return True
    if get_origin(annotation) is Literal:
        return False
    return any(_names_bytes(part) for part in get_args(annotation))


def _violations(error: Exception) -> str:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    return "; ".join(
        f"{violation['msg']} - at `$.{'.'.join(str(part) for part in violation['loc'])}`" for violation in errors()[:5]
    )


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeError):
        return False
    return True
