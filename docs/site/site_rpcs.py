"""Generates the reference of the RPCs from the comments of the protos, and that of the reasons of refusals."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import resources

from google.protobuf import descriptor_pb2
from site_pages import HERE, ROOT
from site_text import comment, prose

from gowork.client import errors

_FIELD_TYPES = descriptor_pb2.FieldDescriptorProto.Type
#: What makes a refusal of a constant reason. `_unknown` and `_denied` are those of the leader's access.
_MAKERS = frozenset({"Refusal", "RefusalCode", "_refuse", "_unknown", "_denied"})
_REASON = re.compile(r"[A-Z][A-Z]+(?:_[A-Z]+)*")
#: The numbers of fields in descriptors, by which comments are found: those of a file, a service, a message, an enum.
_MESSAGE, _ENUM, _SERVICE, _METHOD, _FIELD, _NESTED, _NESTED_ENUM, _VALUE = 4, 5, 6, 2, 2, 3, 4, 2


def files() -> list[descriptor_pb2.FileDescriptorProto]:
    """The protos, with their comments, as leaders show them by reflection."""
    data = resources.files("gowork.proto").joinpath("descriptors.binpb").read_bytes()
    return list(descriptor_pb2.FileDescriptorSet.FromString(data).file)


def pages() -> dict[str, str]:
    """A page for each proto: {path: text}."""
    return {f"reference/rpcs/{_name(file)}.md": "\n\n".join(_page(file)) + "\n" for file in files()}


def _name(file: descriptor_pb2.FileDescriptorProto) -> str:
    return file.name.rpartition("/")[2].removesuffix(".proto")


def _page(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

    def told(*path: int) -> str:
        return comment(comments.get(path, ""))

    yield f"# {file.package}, {_name(file)}.proto"
    for number, service in enumerate(file.service):
        yield f"## {service.name}\n\n{told(_SERVICE, number)}"
        for place, method in enumerate(service.method):
            asked = ("stream " if method.client_streaming else "") + method.input_type.rpartition(".")[2]
            answered = ("stream " if method.server_streaming else "") + method.output_type.rpartition(".")[2]
            yield f"### {service.name}.{method.name}\n\n```proto\nrpc {method.name}({asked}) returns ({answered})\n```"
            yield told(_SERVICE, number, _METHOD, place)
    for number, message in enumerate(file.message_type):
        yield from _message(message, message.name, (_MESSAGE, number), comments)
    for number, kind in enumerate(file.enum_type):
        yield from _enum(kind, kind.name, (_ENUM, number), comments)


def _message(
    message: descriptor_pb2.DescriptorProto, name: str, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
) -> Iterator[str]:
    if message.options.map_entry:
        return
    yield f"## {name}\n\n{comment(comments.get(path, ''))}"
    rows = []
    for number, field in enumerate(message.field):
        words = " ".join(comment(comments.get((*path, _FIELD, number), "")).split())
        rows.append(f"- `{_type(field)} {field.name} = {field.number}`" + (f": {words}" if words else ""))
    if rows:
        yield "\n".join(rows)
    for number, nested in enumerate(message.nested_type):
        yield from _message(nested, f"{name}.{nested.name}", (*path, _NESTED, number), comments)
    for number, kind in enumerate(message.enum_type):
        yield from _enum(kind, f"{name}.{kind.name}", (*path, _NESTED_ENUM, number), comments)


def _enum(
    kind: descriptor_pb2.EnumDescriptorProto, name: str, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
) -> Iterator[str]:
    yield f"## {name}\n\n{comment(comments.get(path, ''))}"
    rows = []
    for number, value in enumerate(kind.value):
        words = " ".join(comment(comments.get((*path, _VALUE, number), "")).split())
        rows.append(f"- `{value.name} = {value.number}`" + (f": {words}" if words else ""))
    yield "\n".join(rows)


def _type(field: descriptor_pb2.FieldDescriptorProto) -> str:
    name = field.type_name.rpartition(".")[2] or _FIELD_TYPES.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {name}" if field.label == field.LABEL_REPEATED else name


@functools.cache
def raised_reasons() -> dict[str, str]:
    """The reasons of refusals that the sources have: {reason: the status code, empty where it is chosen elsewhere}."""
    found: dict[str, str] = {}
    for path in sorted(ROOT.glob("packages/*/src/**/*.py")):
        if "_pb2" in path.name:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for reason, code in _reasons_of(node):
                found[reason] = code or found.get(reason, "")
    return found


def _reasons_of(node: ast.AST) -> Iterable[tuple[str, str]]:
    if not isinstance(node, ast.Call) or not node.args:
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in _MAKERS:
        return
    words = [part.value for part in node.args[:2] if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    reasons = [word for word in words[-1:] if _REASON.fullmatch(word)]
    first = node.args[0]
    code = first.attr if isinstance(first, ast.Attribute) else words[0] if name == "RefusalCode" else ""
    code = {"_unknown": "UNAUTHENTICATED", "_denied": "PERMISSION_DENIED", "_refuse": "UNAVAILABLE"}.get(name, code)
    yield from ((reason, code) for reason in reasons)


def meanings() -> dict[str, str]:
    """What each reason means, and what to do: {reason: words}."""
    text = (HERE / "reasons.toml").read_text(encoding="utf-8")
    return {str(name): str(meaning) for name, meaning in tomllib.loads(text).items()}


def errors_page() -> str:
    """The page of errors: the client's classes, and all reasons.

    Raises:
        ValueError: reasons.toml does not have just the reasons that the sources have.
    """
    raised, told = raised_reasons(), meanings()
    if raised.keys() != told.keys():
        lacking, gone = sorted(raised.keys() - told.keys()), sorted(told.keys() - raised.keys())
        raise ValueError(f"docs/site/reasons.toml lacks {lacking}, and has {gone}, which nothing raises any more")
    rows = [f"| `{reason}` | `{raised[reason]}` | {prose(told[reason])} |" for reason in sorted(raised)]
    drawing = (errors.__doc__ or "").partition("\n\n")[2].partition("\n\nAn error without")[0]
    return (
        "\n\n".join(
            [
                "# Errors",
                "## What the client raises",
                f"```text\n{drawing}\n```",
                "[gowork.client](api/gowork.client.md) describes each class.",
                "## Reasons",
                "A refused call has a status code of gRPC, and google.rpc.ErrorInfo with a constant reason. "
                "In Python it is the `reason` of the error.",
                "| reason | code | what it means, and what to do |\n|---|---|---|\n" + "\n".join(rows),
            ]
        )
        + "\n"
    )
