"""The common ground can be imported, and needs no server parts."""

import importlib.util

from gowork.base.channels import ADDRESSES_MAX
from gowork.base.suggestions import meant

assert ADDRESSES_MAX > 0
assert meant("helo", ["hello"]) == "; did you mean 'hello'?"
for server_part in ("prometheus_client", "opentelemetry.sdk", "grpc_health"):
    top = server_part.partition(".")[0]
    assert importlib.util.find_spec(top) is None or importlib.util.find_spec(server_part) is None, server_part
