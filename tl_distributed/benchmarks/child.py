"""The process of one contender: does blocks of work when it is told to, and nothing between them.

`python -m tl_distributed.benchmarks.child MODULE SETTINGS`, started by `benchmarks.processes`. MODULE has a function
`start(settings)` that returns a contender: an object with `facts` (JSON values), `warm_up()`, which compiles, and
`block(amount)`, which does that much work, waits for the device and returns what it measured. Requests and answers are
lines of JSON on standard input and output. Only the standard library here: a peer may live in another Python.
"""

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any, Protocol, TextIO

from tl_distributed.benchmarks.not_measured import NotMeasured

PEER_PACKAGES = (
    "torch",
    "timm",
    "tensorflow",
    "keras",
    "tf_keras",
    "jax",
    "jaxlib",
    "tensorflow_datasets",
    "grain",
    "array_record",
)


class Contender(Protocol):
    """What is measured.

    Attributes:
      facts: What it is: device, versions, bytes an image; JSON values. Warming up may add to them.
    """

    facts: dict[str, Any]

    def warm_up(self) -> None:
        """Does all that is done once: tracing, compiling, loading of kernels."""

    def block(self, amount: float) -> dict[str, float]:
        """Does a block of work; returns at least `seconds` and `done`, the number of units done."""


def main(module: str, settings: str) -> None:
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    contender, begun = None, time.perf_counter()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "start":
                contender = importlib.import_module(module).start(json.loads(settings))
                answer = {"facts": contender.facts, "seconds": time.perf_counter() - begun}
            elif request["do"] == "warm_up":
                start = time.perf_counter()
                contender.warm_up()
                answer = {"facts": contender.facts, "seconds": time.perf_counter() - start}
            else:
                answer = contender.block(request["amount"])
        except Exception as error:
            answer = _explain(error)
        _send(answers, answer)
    os._exit(0)  # what libraries do on the way out takes seconds and is no part of it


def _explain(error: Exception) -> dict[str, str]:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in PEER_PACKAGES:
        return {"not_installed": error.name.split(".")[0]}
    if isinstance(error, NotMeasured):
        return {"not_measured": str(error)}
    if hasattr(error, "exit_code"):  # a UserError: one line that says what to mend
        return {"mistake": str(error)}
    traceback.print_exc()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return {"failed": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]}


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
