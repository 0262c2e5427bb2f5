"""A program that schedules, waits, watches and cancels through one address: `python balanced_client.py ADDRESS`.

It prints a line when it has done all of that, and again after each line that it reads. When its input ends, it prints
as JSON what it has seen. Any call's error ends it.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import threading
from collections.abc import Callable
from functools import partial

from gowork.client import Client, NewTask, TaskStatus, TaskView

#: How many tasks are waited for at once.
TOGETHER = 5
#: How many watches there are, so that some go through each leader.
WATCHES = 3
#: How long a wait may take, in seconds. Tests wait longer for the program, so that it says what it lacks.
PATIENCE = 100.0


class Program:
    """What the threads share."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.ends = threading.Event()
        self.results: dict[str, object] = {}
        self.cancelled: list[str] = []
        #: For each watch: {task: the statuses that it has shown, in their order}
        self.watched: list[dict[str, list[str]]] = [{} for _ in range(WATCHES)]
        #: {what is done: how often}
        self._rounds: dict[str, int] = {}
        self._turned = threading.Condition()
        self._failed: list[BaseException] = []

    def waits(self, number: int) -> None:
        """Waits by a stream of answers."""
        tasks = (NewTask(f"{number}", id=f"stream-{number}-{n}", labels={"watched": "yes"}) for n in range(TOGETHER))
        for handle in self._client.as_completed(self._client.schedule_many(tasks), timeout=PATIENCE):
            self.results[handle.id] = handle.result()

    def asks(self, number: int) -> None:
        """Waits by a call with one answer."""
        handle = self._client.schedule(f"{number}", id=f"one-{number}", labels={"watched": "yes"})
        self.results[handle.id] = handle.result(timeout=PATIENCE)

    def cancels(self, number: int) -> None:
        """Cancels what nobody runs."""
        handle = self._client.schedule("", id=f"cancelled-{number}", handler="nobody-has-it")
        handle.cancel()
        assert handle.wait(timeout=PATIENCE).status is TaskStatus.CANCELLED
        self.cancelled.append(handle.id)

    def watches(self, seen: dict[str, list[str]]) -> None:
        """Watches what the others do."""
        for change in self._client.watch(labels={"watched": "yes"}):
            with self._turned:
                seen.setdefault(change.id, []).append(change.status.name)
                self._turned.notify_all()

    def again(self, what: Callable[[int], None]) -> None:
        """Does something until the program ends."""
        while not self.ends.is_set():
            what(self._rounds.get(what.__name__, 0))
            with self._turned:
                self._rounds[what.__name__] = self._rounds.get(what.__name__, 0) + 1
                self._turned.notify_all()

    def begin(self, run: Callable[[], None]) -> threading.Thread:
        """Begins a thread. An error that ends it ends the program."""

        def guarded() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                with self._turned:
                    self._failed.append(error)
                    self._turned.notify_all()

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def unseen(self) -> list[tuple[int, str, list[str]]]:
        """What watches have not shown as completed yet: (number of the watch, task, the statuses that it has shown)."""
        return [
            (number, id, seen.get(id, []))
            for number, seen in enumerate(self.watched)
            for id in self.results
            if seen.get(id, [""])[-1] != "COMPLETED"
        ]

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Waits until something is so, and raises what has ended a thread."""
        with self._turned:
            if not self._turned.wait_for(lambda: self._failed or what(), PATIENCE):
                faulthandler.dump_traceback()
                raise AssertionError(f"not so after {PATIENCE:g} s; done: {self._rounds}; unseen: {self.unseen()}")
            if self._failed:
                raise self._failed[0]

    def turn(self) -> None:
        """Returns when everything has been done twice from now on, so once from its beginning to its end."""
        names = ("waits", "asks", "cancels")
        before = {name: self._rounds.get(name, 0) for name in names}
        shown = [len(seen) for seen in self.watched]
        self.wait_for(
            lambda: (
                all(self._rounds.get(name, 0) >= before[name] + 2 for name in names)
                and all(len(seen) > before for seen, before in zip(self.watched, shown, strict=True))
            )
        )


def main() -> None:
    """Runs the program."""
    with Client(sys.argv[1], timeout=PATIENCE) as client:
        program = Program(client)
        for seen in program.watched:
            program.begin(partial(program.watches, seen))
        threads = [
            program.begin(partial(program.again, what)) for what in (program.waits, program.asks, program.cancels)
        ]
        while True:
            program.turn()
            print("did it", flush=True)
            if not sys.stdin.readline():
                break
        program.ends.set()
        for thread in threads:
            thread.join(PATIENCE)
        program.wait_for(lambda: not program.unseen() and not any(thread.is_alive() for thread in threads))
        attempts = {
            task.id: [each.outcome for each in task.attempts]
            for task in client.tasks(labels={"watched": "yes"}, view=TaskView.FULL)
        }
        told = {"results": program.results, "cancelled": program.cancelled, "watched": program.watched}
        print(json.dumps({**told, "attempts": attempts}))


if __name__ == "__main__":
    main()
