"""A client says which leader it does not reach, and has no server parts beside it."""

import importlib.util
import socket

from gowork.client import Client, LeaderUnreachable

for server_part in ("gowork.leader", "gowork.worker", "apsw", "click", "prometheus_client", "rich", "uvloop"):
    assert importlib.util.find_spec(server_part) is None, server_part
# A port that nothing listens on, because it is taken without listening.
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    told = ""
    try:
        with Client(address, timeout=2) as client:
            client.get("some")
    except LeaderUnreachable as error:
        told = str(error)
    assert address in told, told
