"""Schedules tasks and waits for them until its input ends: `python3 upgrade_load.py ADDRESSES NAME`.

After each line that it reads, it does one more round from its beginning to its end, and prints a line. When its input
ends, it prints as JSON how the attempts of each task ended. Any call's error ends it. Its module path begins with the
packages of the version under test.
"""

from __future__ import annotations

import json
import sys
import threading

from gowork.client import Client

#: How many tasks of a round go in one batch.
TOGETHER = 5
#: The deadline of each call, and how long a wait may take, in seconds.
PATIENCE = 120.0


class Rounds(threading.Thread):
    """Does one round after the other."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._name = name
        self._turned = threading.Condition()
        self._count = 0
        self._failed = False
        self.ends = threading.Event()
        self.ids: list[str] = []

    def run(self) -> None:
        try:
            while not self.ends.is_set():
                self._round()
        except BaseException:
            self._failed = True
            raise
        finally:
            with self._turned:
                self._turned.notify_all()

    def _round(self) -> None:
        alone = self._client.schedule(10, handler="noted", id=f"{self._name}-{self._count}")
        handles = [alone, *self._client.schedule_many([50] * TOGETHER, handler="noted")]
        for handle in self._client.as_completed(handles, timeout=PATIENCE):
            handle.result()
        self.ids += [handle.id for handle in handles]
        with self._turned:
            self._count += 1
            self._turned.notify_all()

    def turn(self) -> None:
        """Returns when a round that begins from now on has ended."""
        with self._turned:
            until = self._count + 2
            assert self._turned.wait_for(lambda: self._failed or self._count >= until, PATIENCE)
        assert not self._failed


def main() -> None:
    """Runs the program."""
    addresses, name = sys.argv[1:]
    with Client(addresses, timeout=PATIENCE) as client:
        rounds = Rounds(client, name)
        rounds.start()
        while sys.stdin.readline():
            rounds.turn()
            print("did it", flush=True)
        rounds.ends.set()
        rounds.join(PATIENCE)
        attempts = {id: [attempt.outcome.name for attempt in client.get(id).attempts] for id in rounds.ids}
    json.dump(attempts, sys.stdout)


if __name__ == "__main__":
    main()
