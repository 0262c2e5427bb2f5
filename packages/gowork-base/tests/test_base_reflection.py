"""Reflection, as the real grpcurl and both versions of the protocol see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gowork.base.channels import open_channel
from gowork.base.reflection import add_reflection

SERVICES = [
    "cluster.v1.LeaderService",
    "grpc.health.v1.Health",
    "scheduler.v1.SchedulerService",
    "worker.v1.SessionService",
]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_reflection(server, SERVICES)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def ask(address: str, version: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    async with open_channel([address]) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=120)
        return await anext(aiter(call))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_list_the_services_and_themselves(address: str, version: str) -> None:
    answer = await ask(address, version, list_services="")
    assert sorted(service.name for service in answer.list_services_response.service) == sorted(
        [*SERVICES, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
    )


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_serve_descriptors_with_their_comments(address: str, version: str) -> None:
    answer = await ask(address, version, file_containing_symbol="cluster.v1.LeaderService.Join")
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    comments = [place.leading_comments for file in files for place in file.source_code_info.location]
    assert any("Join adds a callback worker" in comment for comment in comments)


@pytest.mark.tool("grpcurl")
@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        ("cluster.v1.LeaderService", "// Join adds a callback worker"),
        ("scheduler.v1.Task", "// What the handler works on"),
        ("cluster.v1.LeaderService.Join", "// Join adds a callback worker"),
        ("worker.v1.SessionService", "rpc Connect ( stream .worker.v1.ConnectRequest )"),
        ("grpc.health.v1.Health", "rpc Check"),
        ("grpc.reflection.v1.ServerReflection", "rpc ServerReflectionInfo"),
        ("grpc.reflection.v1alpha.ServerReflection", "rpc ServerReflectionInfo"),
    ],
)
async def test_grpcurl_describes_with_comments(address: str, symbol: str, words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "grpcurl", "-plaintext", address, "describe", symbol, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert words in out.decode()
