"""Several calls of a function at once, with their results in order."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def map_in_flight(function: Callable[[Any], Any], items: Iterable[Any], *, in_flight: int) -> Iterator[Any]:
    """Yields `function(item)` of each item in order, while the next ones are computed already, each in a thread.

    The first call, which may trace a `tf.function`, is made in the caller's thread; where `in_flight` is 1, all are.
    At most `in_flight` items are ahead of what has been yielded. An error is raised in its place in the order.

    Args:
      function: Safe to call from several threads.
      items: Drawn in the caller's thread.
      in_flight: Calls at once, at least 1.
    """
    items = iter(items)
    if in_flight == 1:
        yield from map(function, items)
        return
    for first in items:
        yield function(first)
        break
    waiting: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(in_flight, thread_name_prefix="in_flight") as threads:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) >= in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
