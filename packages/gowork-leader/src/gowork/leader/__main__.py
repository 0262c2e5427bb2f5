"""`python -m gowork.leader` is `gowork-leader`."""

from gowork.rpc.beginnings import end_on_interrupt, ending_on_interrupt

if __name__ == "__main__":
    with ending_on_interrupt():
        from gowork.leader.app.command import main
    try:
        main(prog_name="gowork-leader")
    finally:
        end_on_interrupt()
