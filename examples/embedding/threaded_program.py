"""A program without an event loop: the worker has a thread of its own beside its work."""

import os

from gowork.client import Client
from gowork.worker import Worker, handler


@handler
def double(number: int) -> int:
    return 2 * number


if __name__ == "__main__":
    leader = os.environ.get("WORKER_LEADER", "127.0.0.1:50051")
    with Worker(leader, handlers=[double], runners=1), Client() as client:
        print(client.schedule(21, handler=double).result())
