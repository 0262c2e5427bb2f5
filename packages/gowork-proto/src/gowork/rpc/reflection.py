"""Server reflection, v1 and v1alpha, from descriptors that keep the comments of the protos.

Generated Python drops comments, so that `grpcurl describe` would show bare fields; descriptors.binpb, made with them
from the same protos, is served instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

_V1 = "grpc.reflection.v1.ServerReflection"
_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Serves reflection for these services (full names) and for itself, before the server starts."""
    servicer = reflection.aio.ReflectionServicer([*services, _V1, _V1ALPHA], pool=_pool())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    # v1 is v1alpha under another name: same messages, same bytes.
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


def _pool() -> descriptor_pool.DescriptorPool:
    from grpc_health.v1 import health_pb2

    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files("gowork.proto").joinpath("descriptors.binpb").read_bytes()
    )
    for file in files.file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(_v1_file())
    return pool


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
