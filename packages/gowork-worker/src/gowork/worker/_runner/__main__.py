"""`python -m gowork.worker._runner PIPE TABLE PARENT [LOCK]`: started by a supervisor, and by nobody else."""

from gowork.worker._runner.main import main

main()
