"""A study on several workers: a process of it on each, which start their parts of the same runs at the same time."""

import dataclasses
import logging

from tl_distributed.errors import UserError
from tl_distributed.runtime.cluster import Cluster, resolve_cluster, split_address
from tl_distributed.runtime.join import join_cluster, shared_flags
from tl_distributed.runtime.workers import Workers
from tl_distributed.settings.command import set_log_name
from tl_distributed.studies.plan import StudyConfig

_LOG = logging.getLogger(__name__)


def join_study(config: StudyConfig) -> Workers:
    """Joins the study's processes on the other workers, if there are any, and checks that all were started alike.

    Their connections are beside those of the runs, and outlast them: what is trained next is the chief's word.

    Raises:
      UserError: As `workers.join_cluster`, or a port that is taken by something else of this study.
    """
    if config.strategy != "multi_worker":
        return Workers()
    cluster = resolve_cluster(config.of_runs())
    set_log_name(f"worker {cluster.index}/{len(cluster.addresses)}")
    if len(cluster.addresses) == 1:
        return Workers()
    _LOG.info("Study: this is %s of %d workers.", cluster.name(cluster.index), len(cluster.addresses))
    return join_cluster(
        _beside_the_runs(cluster, config.study_port), shared_flags(config),
        timeout_seconds=config.worker_timeout_seconds, check_ports=False,
    )  # fmt: skip


def _beside_the_runs(cluster: Cluster, port: int) -> Cluster:
    port = port or cluster.control_port - 1
    host = cluster.control_address[0]
    taken = [own for other, own in map(split_address, cluster.addresses) if other == host]
    if port < 1 or port in (*taken, cluster.control_port):
        raise UserError(f"--study_port: {port} is no port, or one of the runs' own; choose another")
    return dataclasses.replace(cluster, control_port=port)
