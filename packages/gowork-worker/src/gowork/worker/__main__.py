"""`python -m gowork.worker` is `gowork-worker`."""

from gowork.base.beginnings import end_on_interrupt, ending_on_interrupt

if __name__ == "__main__":
    with ending_on_interrupt():
        from gowork.worker._app.command import main
    try:
        main(prog_name="gowork-worker")
    finally:
        end_on_interrupt()
