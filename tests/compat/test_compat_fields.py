"""What the client says of older leaders' fields is what their contracts say."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from compat_versions import HERE
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor

from gowork.client._leader_fields import KNOWN_HERE, ORIGINAL, SINCE_0_1_0

CONTRACT = Path(__file__).parents[2] / "packages/gowork-proto/contract/go-work.binpb"
SERVICES = ("scheduler.v1.SchedulerService", "cluster.v1.LeaderService")
#: Fields that no client sends: the leader sets them, or workers report them.
NOT_SENT = (
    "scheduler.v1.Task.result",
    "scheduler.v1.Task.changed_",
    "scheduler.v1.Task.is_waiting",
    "scheduler.v1.Attempt.",
    "scheduler.v1.TaskCompleteRequest.",
)


def pool_of(image: bytes) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(image).file:
        pool.Add(file)
    return pool


def request_fields(pool: descriptor_pool.DescriptorPool) -> set[str]:
    def inside(message: Descriptor, seen: set[str]) -> Iterator[str]:
        if message.full_name not in seen:
            seen.add(message.full_name)
            for field in message.fields:
                yield field.full_name
                if field.message_type is not None:
                    yield from inside(field.message_type, seen)

    seen: set[str] = set()
    methods = [method for name in SERVICES for method in pool.FindServiceByName(name).methods]
    return {field for method in methods for field in inside(method.input_type, seen)}


def test_the_fields_that_came_after_0_1_0_are_those_that_its_contract_lacks() -> None:
    wheel = zipfile.ZipFile(HERE / "wheels" / "gowork_proto-0.1.0-py3-none-any.whl")
    old = request_fields(pool_of(wheel.read("gowork/proto/descriptors.binpb")))
    messages = {field.rpartition(".")[0] for field in old}
    added = {field for field in KNOWN_HERE - old if field.rpartition(".")[0] in messages}
    assert {field for field in added if not field.startswith(NOT_SENT)} == SINCE_0_1_0


def test_the_fields_of_the_original_are_those_of_its_contract() -> None:
    task = pool_of(CONTRACT.read_bytes()).FindMessageTypeByName("scheduler.v1.Task")
    assert {field.full_name for field in task.fields} == ORIGINAL
