"""A script that is its own worker, with handlers of its own: `python script.py`, and Ctrl-C ends it."""

import os

from gowork.worker import Worker, handler


@handler
def double(number: int) -> int:
    return 2 * number


if __name__ == "__main__":
    Worker(os.environ.get("WORKER_LEADER", "127.0.0.1:50051"), handlers=[double]).run()
