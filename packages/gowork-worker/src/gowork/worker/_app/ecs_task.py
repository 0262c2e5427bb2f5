"""What a worker that runs as a task of Amazon ECS knows of itself: a name, and labels by which tasks may select it.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from gowork.proto import limits
from gowork.worker._app.ecs_agent import AgentError, ask

#: The variable that ECS sets in each container of a task.
METADATA_VARIABLE = "ECS_CONTAINER_METADATA_URI_V4"
#: How often the agent is asked at most, how long each call may take, and the pause after it, in seconds. The worker
#: starts without labels after that.
TRIES = 3
TRY_SECONDS = 2.0
PAUSE_SECONDS = 0.5
#: {label: field of the agent's answer}
LABELS = {"zone": "AvailabilityZone", "ecs.task": "TaskARN", "ecs.family": "Family", "ecs.revision": "Revision"}
_FAMILY_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class EcsTask:
    """What the agent says of the task. All of it fits the limits of names and labels."""

    #: A name for the worker, which no other worker of the task has; None: the agent did not say enough.
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Why nothing is known of a task; empty: something is, or there is no task.
    unknown: str = ""


def find_task(environment: Mapping[str, str]) -> EcsTask:
    """Asks the agent about the task that this process is in; it waits a few seconds at most.

    Without the variable that ECS sets, nobody is asked.

    Args:
        environment: this process's.
    """
    uri = environment.get(METADATA_VARIABLE)
    if not uri:
        return EcsTask()
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            status, answer = ask(uri, "/task", seconds=TRY_SECONDS)
        except AgentError as error:
            reason = str(error)
            continue
        if status == 200:
            return task_of(answer)
        reason = f"status {status}"
    return EcsTask(unknown=reason)


def task_of(answer: Mapping[str, object]) -> EcsTask:
    """Returns what is to be known of the task. What can't be a label is left out."""
    labels = {label: text for label, name in LABELS.items() if (text := _label(answer.get(name)))}
    id = labels.get("ecs.task", "").rpartition("/")[2][:12]
    family = labels.get("ecs.family", "")[:_FAMILY_CHARACTERS]
    # Two containers of a task may be workers, and names must differ.
    name = f"{family}-{id}-{secrets.token_hex(3)}" if id and family else None
    return EcsTask(name, labels)


def with_labels(given: Mapping[str, str], task: EcsTask) -> dict[str, str]:
    """Returns the labels that were given and, as far as there is room, those of the task. A given one counts more."""
    merged = dict(given)
    for key, value in task.labels.items():
        if len(merged) < limits.LABELS_MAX:
            merged.setdefault(key, value)
    return merged


def _label(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return ""
    return value if len(value) <= limits.LABEL_VALUE_BYTES_MAX else ""
