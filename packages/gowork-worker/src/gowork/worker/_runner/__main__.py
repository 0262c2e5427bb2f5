"""A supervisor, and nobody else, starts `python -m gowork.worker._runner PIPE TABLE PARENT [LOCK]`."""

from gowork.worker._runner.main import main

main()
