"""A cluster in this process runs a task."""

from gowork.testing import Cluster
from gowork.worker import handler


@handler
def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


with Cluster(handlers=[double]) as cluster:
    assert cluster.client.schedule(21, handler=double).result(timeout=60) == 42
