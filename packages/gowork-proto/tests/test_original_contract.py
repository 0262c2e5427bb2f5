"""Every name, number, type and label of the original contract is still there, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf import descriptor_pb2 as pb

IMAGE = Path(__file__).parents[1] / "contract" / "go-work.binpb"
Described = pb.DescriptorProto | pb.EnumDescriptorProto | pb.ServiceDescriptorProto
DescribedT = TypeVar("DescribedT", bound=Described)


def described(files: bytes) -> dict[str, Described]:
    """Messages, enums and services by full name."""
    found: dict[str, Described] = {}
    for file in pb.FileDescriptorSet.FromString(files).file:
        parts: list[Iterable[Described]] = [file.message_type, file.enum_type, file.service]
        found |= {f"{file.package}.{item.name}": item for part in parts for item in part}
    return found


ORIGINAL = described(IMAGE.read_bytes())
SERVED = described(resources.files("gowork.proto").joinpath("descriptors.binpb").read_bytes())


def members(kind: type[Described], part: str) -> list[Any]:
    return [
        pytest.param(name, member, id=f"{name}.{member.name}")
        for name, item in ORIGINAL.items()
        if isinstance(item, kind)
        for member in getattr(item, part)
    ]


def served(kind: type[DescribedT], name: str) -> DescribedT:
    item = SERVED[name]
    assert isinstance(item, kind)
    return item


def wire_form(field: pb.FieldDescriptorProto) -> bytes:
    """A field as it goes over the wire, without the place of its oneof, which moves when fields are added."""
    copy = pb.FieldDescriptorProto()
    copy.CopyFrom(field)
    copy.ClearField("oneof_index")
    return copy.SerializeToString(deterministic=True)


def test_the_image_holds_the_whole_original() -> None:
    kinds = [type(item).__name__ for item in ORIGINAL.values()]
    assert (kinds.count("ServiceDescriptorProto"), kinds.count("EnumDescriptorProto")) == (3, 3)
    assert kinds.count("DescriptorProto") == 22
    assert ORIGINAL.keys() <= SERVED.keys()


@pytest.mark.parametrize(("message", "field"), members(pb.DescriptorProto, "field"))
def test_fields_keep_name_number_type_and_label(message: str, field: pb.FieldDescriptorProto) -> None:
    (now,) = [each for each in served(pb.DescriptorProto, message).field if each.number == field.number]
    assert wire_form(now) == wire_form(field)


@pytest.mark.parametrize(("enum", "value"), members(pb.EnumDescriptorProto, "value"))
def test_enum_values_keep_name_and_number(enum: str, value: pb.EnumValueDescriptorProto) -> None:
    assert value.SerializeToString() in [
        each.SerializeToString() for each in served(pb.EnumDescriptorProto, enum).value
    ]


@pytest.mark.parametrize(("service", "method"), members(pb.ServiceDescriptorProto, "method"))
def test_methods_are_unary_and_keep_their_messages_and_all_but_heartbeat_their_shape(
    service: str, method: pb.MethodDescriptorProto
) -> None:
    (now,) = [each for each in served(pb.ServiceDescriptorProto, service).method if each.name == method.name]
    assert (now.input_type, now.output_type) == (method.input_type, method.output_type)
    assert (method.client_streaming, method.server_streaming) == (False, False)
    shape = (now.client_streaming, now.server_streaming)
    assert shape == ((True, True) if method.name == "Heartbeat" else (False, False))


def test_the_originals_go_packages_are_kept() -> None:
    packages = {
        file.package: file.options.go_package for file in pb.FileDescriptorSet.FromString(IMAGE.read_bytes()).file
    }
    assert packages == {
        f"{name}.v1": f"github.com/paulja/go-work/proto/{name}" for name in ("cluster", "scheduler", "worker")
    }
