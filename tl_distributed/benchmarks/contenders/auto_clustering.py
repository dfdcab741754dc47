"""TensorFlow's auto-clustering: XLA compiles what it finds in a graph, also where Keras cannot ask for it."""

from typing import Any

from tensorflow.python.eager import context

from tl_distributed.benchmarks.not_measured import NotMeasured


class Clustered:
    """A contender in a process with auto-clustering, which is shown to happen."""

    def __init__(self, contender: Any):
        self._contender = contender
        self.facts, self.block = contender.facts, contender.block

    def warm_up(self) -> None:
        """Warms up, and counts the clusters of the graphs that ran.

        Raises:
          NotMeasured: There were none, so this would be a second measurement of the same without XLA.
        """
        context.context().enable_graph_collection()
        try:
            self._contender.warm_up()
        finally:
            metadata = context.context().export_run_metadata()
            context.context().disable_graph_collection()
        self.facts["xla_clusters"] = _count_clusters(metadata)
        if not self.facts["xla_clusters"]:
            raise NotMeasured("auto-clustering found nothing to compile")


def _count_clusters(metadata: Any) -> int:
    graphs = [graph for function in metadata.function_graphs for graph in function.partition_graphs]
    return sum(node.op == "_XlaRun" for graph in graphs for node in graph.node)
