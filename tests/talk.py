"""A worker without TensorFlow: joins, and does what its arguments say. `talk.py TIMEOUT INDEX ADDRESSES WORD...`"""

import json
import os
import signal
import sys
import time

from tl_distributed.cluster import Cluster, split_address
from tl_distributed.commandline import UserError
from tl_distributed.workers import ClusterWorkers


def talk(workers: ClusterWorkers, words: list[str]) -> None:
    for word in words:
        action, _, value = word.partition("=")
        if action == "exchange":
            print(json.dumps(workers.exchange(value, {"from": workers.index, "text": value * 1000})[-1]["from"]))
        elif action == "same":
            workers.require_same({"--colour": value}, "paint them alike")
        elif action == "ports":
            workers.check_ports()
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
        elif action == "stop":
            workers.announce_stop(int(value))
        elif action == "stopped":
            while workers.peer_stop_signal is None:
                time.sleep(0.01)
            print(workers.peer_stop_signal)


def main(timeout: str, index: str, addresses: str, *words: str) -> None:
    cluster = Cluster(tuple(addresses.split(",")), int(index), split_address(addresses.split(",")[0])[1] - 1)
    with ClusterWorkers(cluster, timeout_seconds=float(timeout)) as workers:
        talk(workers, list(words))
    print("left in order")


try:
    main(*sys.argv[1:])
except UserError as error:
    print(f"error: {error}")
    raise SystemExit(error.exit_code) from None
