"""Which operations TensorFlow could not run on a GPU, from its registry of kernels: no GPU is needed to ask it."""

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels

GPU, XLA_GPU = "GPU", "XLA_GPU_JIT"
# Of a graph's own: arguments, results and transfers, which every device has.
_PLUMBING = {"_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "_DeviceArg", "_DeviceRetval"}


def lower(function: Callable, *arguments: Any) -> str:
    """Returns the HLO of a function compiled for GPUs."""
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return compiled.experimental_get_compiler_ir(*arguments)(stage="hlo", platform_name="GPU")


def values_of(variables: Iterable[Any]) -> list[tf.Tensor]:
    """Returns zeros in place of Keras's variables."""
    return [tf.zeros(variable.shape, variable.value.dtype) for variable in variables]


def load_xla_kernels() -> None:
    """XLA's kernels are in the registry only once something was compiled for a GPU."""
    one = tf.function(lambda x: x + 1, jit_compile=True)
    one.experimental_get_compiler_ir(tf.zeros([1]))(stage="hlo", platform_name="GPU")


def without_kernel(nodes: Iterable[tf.compat.v1.NodeDef], device: str) -> list[str]:
    """Returns a line for each operation and type that `device` has no kernel of."""
    asked = (node for node in nodes if node.op not in _PLUMBING and not node.op.startswith("_Mkl"))  # the CPU's own
    return sorted({line for node in asked if (line := _missing(node, device))})


def _missing(node: tf.compat.v1.NodeDef, device: str) -> str:
    registered = kernels.get_registered_kernels_for_op(node.op).kernel
    usable = [kernel for kernel in registered if kernel.device_type in (device, "DEFAULT")]
    if any(all(_allows(constraint, node) for constraint in kernel.constraint) for kernel in usable):
        return ""
    types = {name: tf.DType(value.type).name for name, value in node.attr.items() if value.type}
    return f"{node.op} {types}"


def _allows(constraint: object, node: tf.compat.v1.NodeDef) -> bool:
    value = node.attr[constraint.name]
    given = list(value.list.type) or [value.type]
    return all(one in constraint.allowed_values.list.type for one in given)
