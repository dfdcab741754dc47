"""What TensorFlow really runs: the graph of each device, after inlining and placement, and what goes between them."""

import contextlib
import dataclasses
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.eager import context


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A tensor, or a control edge (`dtype` "control"), from one device to another; `in_loop` if in each iteration."""

    source: str
    target: str
    dtype: str
    operation: str
    in_loop: bool


@dataclasses.dataclass
class Executed:
    """Nodes by device of every function that ran for the first time within `executed_graphs`."""

    functions: list[list[tf.compat.v1.GraphDef]] = dataclasses.field(default_factory=list)

    def nodes(self) -> Iterator[tuple[str, tf.compat.v1.NodeDef]]:
        """Yields (device, node), e.g. ("CPU:1", ...)."""
        for partitions in self.functions:
            for graph in partitions:
                for node in graph.node:
                    yield device_of(node), node

    def transfers(self) -> list[Transfer]:
        found = []
        for partitions in self.functions:
            nodes = {node.name: node for graph in partitions for node in graph.node}
            looping = _in_loops(nodes)
            for node in nodes.values():
                if node.op != "_Send":
                    continue
                source = nodes[_name(node.input[0])]
                is_control = source.op == "Const" and "/ctrl/" in source.name
                found.append(
                    Transfer(
                        source=_short(node.attr["send_device"].s.decode()),
                        target=_short(node.attr["recv_device"].s.decode()),
                        dtype="control" if is_control else tf.DType(node.attr["T"].type).name,
                        operation=source.input[0].lstrip("^") if is_control else f"{source.op} {source.name}",
                        in_loop=source.name in looping,
                    )
                )
        return found


@contextlib.contextmanager
def executed_graphs() -> Iterator[Executed]:
    """Collects the graphs of functions that run for the first time within the block."""
    executed = Executed()
    context.context().enable_graph_collection()
    try:
        yield executed
    finally:
        metadata = context.context().export_run_metadata()
        context.context().disable_graph_collection()
        executed.functions += [list(graphs.partition_graphs) for graphs in metadata.function_graphs]


def device_of(node: tf.compat.v1.NodeDef) -> str:
    return _short(node.device)


def _short(device: str) -> str:
    return device.split("device:")[-1]


def _name(reference: str) -> str:
    return reference.lstrip("^").split(":")[0]


def _in_loops(nodes: dict[str, tf.compat.v1.NodeDef]) -> set[str]:
    """Returns the names of the nodes that run in each iteration: what follows a Merge, up to the Exit."""
    consumers: dict[str, list[str]] = {}
    for node in nodes.values():
        for reference in node.input:
            consumers.setdefault(_name(reference), []).append(node.name)
    waiting = [
        node.name
        for node in nodes.values()
        if node.op == "Merge" and any("NextIteration" in nodes[_name(i)].op for i in node.input if _name(i) in nodes)
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found and nodes[name].op != "Exit":
            found.add(name)
            waiting += consumers.get(name, [])
    return found


def needed_within_an_iteration(executed: Executed, name: str) -> set[str]:
    """Returns the names of the nodes that a node of a loop waits for in its own iteration, on any device."""
    for partitions in executed.functions:
        nodes = {node.name: node for graph in partitions for node in graph.node}
        if name not in nodes:
            continue
        sends = {node.attr["tensor_name"].s: node.name for node in nodes.values() if node.op == "_Send"}
        found: set[str] = set()
        waiting = [name]
        while waiting:
            node = nodes[waiting.pop()]
            if node.name in found or node.op == "Merge":
                continue
            found.add(node.name)
            waiting += map(_name, node.input)
            if node.op == "_Recv" and node.attr["tensor_name"].s in sends:
                waiting.append(sends[node.attr["tensor_name"].s])
        return found - {name}
    raise KeyError(name)
