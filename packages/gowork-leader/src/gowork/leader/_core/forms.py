"""In which forms the workers have each handler. A form says what payloads a worker's handler reads.

While a handler is upgraded, some workers have its old form and some its new one. A task whose payload does not fit one
form is handed back, and goes to a worker with another form. When it fits none of them it ends as REJECTED.

Only workers count that may be given the task. It must not wait for a form that only a worker without its labels, or a
draining one, has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from gowork.leader._core.model import HandlerPolicy

#: How many unfit forms of a task are remembered; the latest ones are.
UNFIT_FORMS_MAX = 8


_Selector = tuple[tuple[str, str], ...]


class _Worker(Protocol):
    policies: dict[str, HandlerPolicy]
    default_policy: HandlerPolicy | None

    @property
    def is_draining(self) -> bool: ...

    def policy_for(self, handler: str) -> HandlerPolicy | None: ...

    def can_run(self, handler: str, selector: _Selector, queue: str) -> bool: ...


class Forms:
    """How many workers have each handler in each form. Only `apply` changes it."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        #: {handler; empty for the default handler: {form: how many workers}}
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, worker: _Worker) -> None:
        """Counts the handlers that a worker has now."""
        for handler, form in _forms_of(worker):
            counts = self._counts.setdefault(handler, {})
            counts[form] = counts.get(form, 0) + 1

    def remove(self, worker: _Worker) -> None:
        """Takes back what `add` counted for this worker. Its handlers must not have changed since."""
        for handler, form in _forms_of(worker):
            counts = self._counts[handler]
            counts[form] -= 1
            if not counts[form]:
                del counts[form]
                if not counts:
                    del self._counts[handler]

    def are_mixed(self, handler: str) -> bool:
        """Whether workers have this handler in more than one form."""
        counts = self._counts.get(handler)
        return counts is not None and len(counts) > 1


def open_forms(workers: Iterable[_Worker], handler: str, selector: _Selector, queue: str) -> frozenset[str]:
    """Returns the handler's forms on all workers that may be given a task of this queue with this selector."""
    return frozenset(
        policy.form
        for worker in workers
        if (policy := worker.policy_for(handler)) is not None
        and not worker.is_draining
        and worker.can_run(handler, selector, queue)
    )


def fits(policy: HandlerPolicy | None, unfit: Collection[str]) -> bool:
    """Whether a worker has the handler (`policy`) in a form that is not known to be unfit."""
    return policy is not None and policy.form not in unfit


def with_form(unfit: tuple[str, ...], form: str) -> tuple[str, ...]:
    """Returns these forms and one more, the latest UNFIT_FORMS_MAX of them."""
    return unfit if form in unfit else (*unfit[1 - UNFIT_FORMS_MAX :], form)


def _forms_of(worker: _Worker) -> Iterator[tuple[str, str]]:
    policies: Iterable[HandlerPolicy] = worker.policies.values()
    for policy in policies:
        yield policy.name, policy.form
    if worker.default_policy is not None:
        yield "", worker.default_policy.form
