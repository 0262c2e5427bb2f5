"""In which order hooks are called: `tryfirst` before all others, `trylast` after them, else as they were registered.

pluggy itself calls the last registered first. Plugins are registered by name, so the first is the better one to begin
with, and what is set up in order is taken down in reverse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pluggy


def outermost_first(caller: Any) -> list[pluggy.HookImpl]:
    """Returns the implementations of a hook in the order in which they are entered.

    Args:
        caller: pluggy's caller of the hook, as in `manager.hook.gowork_around_task`.
    """
    # pluggy keeps them in the reverse of its order of calls: last, others, first.
    found: Iterable[pluggy.HookImpl] = caller.get_hookimpls()
    last = [each for each in found if each.trylast]
    others = [each for each in found if not each.trylast and not each.tryfirst]
    first = [each for each in found if each.tryfirst]
    # It puts each `trylast` before those that it has.
    return [*first, *others, *reversed(last)]
