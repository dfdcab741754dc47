"""A worker without TensorFlow: joins, and does what its arguments say.

`talk.py TIMEOUT INDEX ADDRESSES WORD...`, or `talk.py join TENSORFLOW_VERSION FLAG...`.
"""

import json
import os
import signal
import sys
import time

from tl_distributed.errors import UserError
from tl_distributed.runtime import join as joining
from tl_distributed.runtime.cluster import Cluster, split_address
from tl_distributed.runtime.cluster_workers import ClusterWorkers
from tl_distributed.runtime.settings import RuntimeSettings
from tl_distributed.settings.config import Config
from tl_distributed.settings.flags import parse_arguments


class InternalError(Exception):
    """As TensorFlow names what a collective, or much else, may end with."""


def talk(group: ClusterWorkers, words: list[str]) -> None:
    for word in words:
        action, _, value = word.partition("=")
        if action == "exchange":
            print(json.dumps(group.exchange(value, {"from": group.index, "text": value * 1000})[-1]["from"]))
        elif action == "same":
            group.require_same({"--colour": value}, "paint them alike")
        elif action == "ports":
            group.check_ports()
        elif action == "sleep":
            time.sleep(float(value))
        elif action == "freeze":
            print("frozen", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "mistake":
            raise UserError(f"--colour={value}: no such colour")
        elif action == "defect":
            raise ZeroDivisionError("a defect")
        elif action == "broken":
            with group.expect_within(0.1, "it took too long"):
                raise InternalError(value)
        elif action == "stop":
            group.announce_stop(int(value))
        elif action == "stopped":
            while group.peer_stop_signal is None:
                time.sleep(0.01)
            print(group.peer_stop_signal)


def join(version: str, *flags: str) -> None:
    """As the train command does, with a version of TensorFlow that is only said to be there."""
    joining._versions = lambda: {"tensorflow": version}
    config = parse_arguments(Config, flags)[0]
    config.validate()
    with joining.join_workers(config.part(RuntimeSettings), joining.shared_flags(config)) as joined:
        print(f"joined {joined.count}")


def main(timeout: str, index: str, addresses: str, *words: str) -> None:
    cluster = Cluster(tuple(addresses.split(",")), int(index), split_address(addresses.split(",")[0])[1] - 1)
    with ClusterWorkers(cluster, timeout_seconds=float(timeout)) as group:
        talk(group, list(words))
    print("left in order")


try:
    join(*sys.argv[2:]) if sys.argv[1] == "join" else main(*sys.argv[1:])
except UserError as error:
    print(f"error: {error}")
    raise SystemExit(error.exit_code) from None
