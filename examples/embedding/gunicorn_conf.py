"""Configures gunicorn to run a worker of gowork in each process: `gunicorn --config gunicorn_conf.py flask_app:app`.

With `preload_app`, as with --preload, the application is imported before the fork. So its worker is started after it.
"""

from typing import Any

preload_app = True
workers = 2


def post_worker_init(worker: Any) -> None:
    """Starts gowork's worker in each process that serves."""
    from flask_app import start_worker

    worker.gowork_worker = start_worker()


def worker_exit(server: Any, worker: Any) -> None:
    """Drains it before the process ends."""
    worker.gowork_worker.stop()
    worker.gowork_worker.join()
