"""Serves server reflection, v1 and v1alpha, from descriptors that keep the comments of the protos.

Generated Python drops comments, so that `grpcurl describe` would show bare fields. So descriptors.binpb is served
instead, which is made from the same protos with their comments.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

_V1 = "grpc.reflection.v1.ServerReflection"
_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Adds reflection for these services (full names) and for itself. Call it before the server starts."""
    servicer = reflection.aio.ReflectionServicer([*services, _V1, _V1ALPHA], pool=_pool())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    # v1 has the same messages and bytes as v1alpha; only the names differ.
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                _V1,
                {
                    "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                        servicer.ServerReflectionInfo,
                        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
                    )
                },
            ),
        )
    )


class _File:
    """A file with the attributes that grpcio-reflection's servicer reads. A pool's own file has lost its comments."""

    def __init__(self, proto: descriptor_pb2.FileDescriptorProto, dependencies: list[_File]) -> None:
        self.name = proto.name
        self.dependencies = dependencies
        self._proto = proto

    def CopyToProto(self, proto: descriptor_pb2.FileDescriptorProto) -> None:  # noqa: N802 - the descriptor's own name for it
        proto.CopyFrom(self._proto)


class _CommentedPool:
    """Finds files by name and symbol as a DescriptorPool does."""

    def __init__(self, protos: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        """Takes the files in an order in which each file comes after those that it imports."""
        self._pool = descriptor_pool.DescriptorPool()
        self._files: dict[str, _File] = {}
        for proto in protos:
            if proto.name not in self._files:
                self._pool.Add(proto)
                self._files[proto.name] = _File(proto, [self._files[name] for name in proto.dependency])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileByName(self, name: str) -> _File:  # noqa: N802 - DescriptorPool's name for it
        return self._files[name]

    def FindFileContainingSymbol(self, symbol: str) -> _File:  # noqa: N802 - DescriptorPool's name for it
        try:
            return self._files[self._pool.FindFileContainingSymbol(symbol).name]
        except KeyError:
            # The protocol also asks for methods by their full name. The pool finds methods only by FindMethodByName.
            return self._files[self._pool.FindMethodByName(symbol).containing_service.file.name]


def _pool() -> _CommentedPool:
    data = resources.files("gowork.proto").joinpath("descriptors.binpb").read_bytes()
    # The types of error details are included, so that clients can show them.
    modules = (any_pb2, duration_pb2, error_details_pb2, health_pb2, reflection_pb2)
    return _CommentedPool(
        [
            *descriptor_pb2.FileDescriptorSet.FromString(data).file,
            *(descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb) for module in modules),
            _v1_file(),
        ]
    )


def _v1_file() -> descriptor_pb2.FileDescriptorProto:
    text = reflection_pb2.DESCRIPTOR.serialized_pb
    file = descriptor_pb2.FileDescriptorProto.FromString(text)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace("v1alpha", "v1")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace("v1alpha", "v1")
            method.output_type = method.output_type.replace("v1alpha", "v1")
    return file
