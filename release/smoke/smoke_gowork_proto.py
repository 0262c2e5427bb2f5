"""A message of the contract survives its bytes, and its services are there."""

from gowork.proto.cluster.v1 import leader_pb2_grpc
from gowork.proto.limits import COMPLETIONS_ROWS_MAX
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

request = scheduler_pb2.GetTaskRequest(id="some")
assert scheduler_pb2.GetTaskRequest.FromString(request.SerializeToString()) == request
assert leader_pb2_grpc.LeaderServiceStub.__name__ == "LeaderServiceStub"
assert scheduler_pb2_grpc.SchedulerServiceStub.__name__ == "SchedulerServiceStub"
assert COMPLETIONS_ROWS_MAX > 0
