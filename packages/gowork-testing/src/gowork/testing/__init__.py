"""A cluster in one process, for tests of programs that schedule tasks and of the handlers that run them."""

from gowork.testing._async_cluster import AsyncCluster, ClusterError
from gowork.testing._cluster import Cluster
from gowork.testing._version import __version__

__all__ = ["AsyncCluster", "Cluster", "ClusterError", "__version__"]
