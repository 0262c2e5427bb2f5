"""`python -m gowork.worker` is `gowork-worker`."""

from gowork.worker._app.command import main

main(prog_name="gowork-worker")
