"""`python -m gowork.cli` is `gowork`."""

from gowork.cli.main import main

main()
