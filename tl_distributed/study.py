"""Command: compare several ways of training on equal terms, over seeds and sizes of the training set.

  python -m tl_distributed.study --recipe=mobilenet_v2_study --seeds=3
  python -m tl_distributed.study --arms="densenet121_frozen,cnn:backbone=baseline_cnn,transfer=scratch,epochs=20"

Each run trains in a process of its own; the same command goes on where it stopped, and more arms, seeds or sizes
can be added. --workdir gets report.html, report.md, results.csv and plots. With --strategy=multi_worker the same
command is started on every worker, and each run trains on all of them. Or each arm on a machine of its own:
--list_arms prints the arms' numbers, --arm_index=N trains one, --report_only reports in the end; --list_runs and
--run_index=N do so with single runs. On a node of several GPUs, --runs_per_node=N trains N runs at a time, one GPU
each. --tune=learning_rate:3 looks for each arm's own rate first.
"""

import functools

from tl_distributed.api.study import run_study
from tl_distributed.errors import Stopped
from tl_distributed.settings.command import refuse_positional, run_command, start_logging
from tl_distributed.settings.recipes import all_recipes
from tl_distributed.studies.plan import StudyConfig, make_plan


def main(config: StudyConfig, positional: list[str]) -> int:
    """Checks every arm's flags before anything runs, then runs and reports; 1 where a run failed."""
    refuse_positional(positional)
    if config.recipe == "list":
        for recipe in all_recipes():
            if recipe.is_study:
                print(f"{recipe.name:22}{recipe.summary}")
        return 0
    plan = make_plan(config)
    if config.list_arms or config.list_runs:
        for index, name in enumerate((arm.name for arm in plan.arms) if config.list_arms else plan.runs):
            print(f"{index} {name}")
        return 0
    start_logging()
    try:
        done = run_study(config, plan)
    except Stopped as stop:
        raise SystemExit(128 + stop.signal_number) from None
    if config.arm_index is not None or config.run_index is not None:
        run = done.plan.runs[0]
        name = run if config.arm_index is None else f"arm {run.arm.name}"
        print(f"{done.num_asked - done.num_failed} of the {done.num_asked} runs of {name} are done.")
    elif done.records:  # of several workers the first one reports
        finished = sum(record.status == "done" for record in done.records)
        print(f"{finished} of {len(done.records)} runs are done, {done.num_failed} failed. ", end="")
        print(f"Report: {done.workdir}/report.html")
    return 1 if done.num_failed else 0


run = functools.partial(run_command, main, StudyConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
