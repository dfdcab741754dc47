"""Whether memory creeps: many steps of a tiny net, and evaluations, in one process.

  python tests/campaigns/memory_creep.py

Prints the process's resident memory as it goes; exit code 1 where it grew by more than --most_megabytes after the first
thousand steps (tensorflow/tensorflow#73457 is what one fears).
"""

import dataclasses
import os
import pathlib
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support")]

from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command  # noqa: E402
from tl_distributed.settings.flags import setting  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreepConfig:
    steps: int = setting(20_000, "Steps in all.", topic="Flags", minimum=2000)
    evaluations: int = setting(50, "Evaluations in all.", topic="Flags", minimum=1)
    replicas: int = setting(2, "Virtual devices.", topic="Flags", minimum=1, maximum=4)
    most_megabytes: float = setting(20.0, "Growth that is allowed.", topic="Flags", minimum=0)


def main(config: CreepConfig, positional: list[str]) -> int:
    refuse_positional(positional)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import_tensorflow()
    import psutil
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * (1 + config.replicas))
    import engine
    from tiny_backbone import register_tiny_backbones

    from tl_distributed.training.evaluation import Evaluator

    register_tiny_backbones()
    where = engine.runtime(config.replicas)
    made = engine.make_engine(where, learning_rate=1e-4)
    made.loop._steps_per_loop = 0  # calls of a second, as a run makes them
    sizes = {"image_size": engine.IMAGE_SIZE, "normalization": "tf"}
    evaluator = Evaluator(made.model, features=None, **sizes, runtime=where)
    process, done, first, evaluated = psutil.Process(), 0, None, 0
    while done < config.steps:
        done = made.loop.run(done, config.steps)
        made.loop.read_sums()
        while evaluated < config.evaluations * done // config.steps:
            evaluator.evaluate(made.split, batch_size=8)
            evaluated += 1
        megabytes = process.memory_info().rss / 1e6
        if done >= 1000:
            first = first or megabytes
            print(f"step {done}, {evaluated} evaluations: {megabytes:.1f} MB, {megabytes - first:+.1f}", flush=True)
    return int(megabytes - first > config.most_megabytes)


if __name__ == "__main__":
    run_command(main, CreepConfig, __doc__)
