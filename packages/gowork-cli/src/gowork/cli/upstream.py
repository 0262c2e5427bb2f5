"""Draws the tasks after which a task runs, with those before them."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from gowork.cli.output import plain
from gowork.cli.tables import status_of
from gowork.client import Client, NotFound, TaskInfo

#: How many tasks are drawn, and how many levels of them; each takes a call.
TASKS_MAX = 40
LEVELS_MAX = 6


def upstream_tree(client: Client, task: TaskInfo) -> Tree:
    """Returns the tasks after which a task runs, and those after which these run, with their statuses.

    A task that several come after is drawn below the first of them. What is left out is counted.

    Raises:
        CallError: when the leader refused a call, or could not be reached.
    """
    tree = Tree(Text("runs after", style="bold"))
    drawn: set[str] = {task.id}
    level = [(tree, task.after)]
    for _ in range(LEVELS_MAX):
        below: list[tuple[Tree, tuple[str, ...]]] = []
        for branch, ids in level:
            for place, id in enumerate(ids):
                if len(drawn) > TASKS_MAX:
                    branch.add(plain(f"… and {len(ids) - place} more", "dim"))
                    break
                if id in drawn:
                    branch.add(plain(f"{id} (see above)", "dim"))
                    continue
                drawn.add(id)
                found = _found(client, id)
                leaf = branch.add(_words(id, found))
                if found is not None and found.after:
                    below.append((leaf, found.after))
        level = below
    for branch, ids in level:
        branch.add(plain(f"… and {len(ids)} before it", "dim"))
    return tree


def _found(client: Client, id: str) -> TaskInfo | None:
    try:
        return client.get(id)
    except NotFound:
        return None


def _words(id: str, task: TaskInfo | None) -> Text:
    words = plain(id)
    if task is None:
        return words.append(" (no longer kept)", "dim")
    words.append(" ").append_text(status_of(task))
    return words.append(f" {task.handler}", "dim") if task.handler else words
