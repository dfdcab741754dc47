"""A contender of the standard library alone, which does what its settings say."""

import os
import time


def start(settings):
    if settings.get("missing"):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    if settings.get("defect"):
        raise ZeroDivisionError("a defect\nwith a second line")
    if settings.get("mistake"):
        from tl_distributed.errors import UserError

        raise UserError("--colour=pink: no such colour")
    if settings.get("unable"):
        from tl_distributed.benchmarks.not_measured import NotMeasured

        raise NotMeasured("no such network there")
    return Toy(settings)


class Toy:
    def __init__(self, settings):
        print("chatter of a library")  # not an answer
        self._settings, self._blocks = settings, 0
        self.facts = {"device": "toy", "name": settings.get("name")}

    def warm_up(self):
        time.sleep(self._settings.get("warm_up_seconds", 0))
        self.facts["is_warm"] = True

    def block(self, amount):
        self._blocks += 1
        if self._blocks == self._settings.get("dies_in_block"):
            os.write(2, b"last words\n")
            os._exit(3)
        with open(self._settings["journal"], "a") as journal:
            journal.write(f"{self._settings['name']}{self._blocks} ")
        return {"seconds": self._settings.get("seconds", 1.0), "done": amount * self._settings.get("rate", 1)}
