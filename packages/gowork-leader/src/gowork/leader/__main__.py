"""`python -m gowork.leader` is `gowork-leader`."""

from gowork.leader.app.command import main

if __name__ == "__main__":
    main(prog_name="gowork-leader")
