"""`python -m gowork.leader` is `gowork-leader`."""

import os

from gowork.base.beginnings import end_on_interrupt, ending_on_interrupt

if __name__ == "__main__":
    with ending_on_interrupt():
        # See gowork_leader_start.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from gowork.leader._app.command import main
    try:
        main(prog_name="gowork-leader")
    finally:
        end_on_interrupt()
