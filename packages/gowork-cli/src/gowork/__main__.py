"""`python -m gowork` is `gowork`."""

from gowork.cli.main import main

if __name__ == "__main__":
    main()
