"""Only a supervisor starts `python -m gowork.worker._runner PIPE TABLE PARENT [LOCK]`."""

from gowork.worker._runner.main import main

main()
