"""Flask: `flask --app flask_app run`, or by gunicorn with gunicorn_conf.py.

The client is made here and first used by a request, so that it connects in the process that serves it.
"""

import os

from flask import Flask

from gowork.client import Client
from gowork.worker import Worker, handler

app = Flask(__name__)
client = Client()


@handler
def double(number: int) -> int:
    return 2 * number


def start_worker() -> Worker:
    """Starts the worker of this process. Call it after the fork, where a server forks."""
    return Worker(os.environ.get("WORKER_LEADER", "127.0.0.1:50051"), handlers=[double], runners=1).start()


@app.get("/double/<int:number>")
def answer(number: int) -> str:
    return str(client.schedule(number, handler=double).result(int))
