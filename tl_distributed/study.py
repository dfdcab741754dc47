"""Command: compare several ways of training on equal terms, over seeds and sizes of the training set.

  python -m tl_distributed.study --recipe=mobilenet_v2_study --seeds=3
  python -m tl_distributed.study --arms="densenet121_frozen,cnn:backbone=baseline_cnn,transfer=scratch,epochs=20"

Each run trains in a process of its own; the same command goes on where it stopped, and more arms, seeds or sizes
can be added. --workdir gets report.html, report.md, results.csv and plots. With --strategy=multi_worker the same
command is started on every worker, and each run trains on all of them. Or each arm on a machine of its own:
--list_arms prints the arms' numbers, --arm_index=N trains one, --report_only reports in the end.
"""

import functools

from tl_distributed.errors import UserError
from tl_distributed.settings.command import import_tensorflow, refuse_positional, run_command, start_logging
from tl_distributed.settings.recipes import all_recipes
from tl_distributed.studies.plan import StudyConfig, make_plan, plan_of_arm


def main(config: StudyConfig, positional: list[str]) -> int:
    """Checks every arm's flags before anything runs, then runs and reports; 1 where a run failed."""
    refuse_positional(positional)
    if config.recipe == "list":
        for recipe in all_recipes():
            if recipe.is_study:
                print(f"{recipe.name:22}{recipe.summary}")
        return 0
    plan = make_plan(config)
    if config.list_arms:
        for index, arm in enumerate(plan.arms):
            print(f"{index} {arm.name}")
        return 0
    own = plan if config.arm_index is None else plan_of_arm(plan, config.arm_index)

    start_logging()
    import_tensorflow()
    from tl_distributed.data.records import read_manifest
    from tl_distributed.studies.report import write_report
    from tl_distributed.studies.runner import open_study, run_plan, train_in_process
    from tl_distributed.studies.together import join_study

    info = read_manifest(config.data_dir)
    missing = [name for name in ("train", "val", "test") if name not in info.splits]
    if missing:
        raise UserError(f"--data_dir={config.data_dir}: no {missing[0]} split; a study needs train, val and test")
    workdir = (config.workdir or f"runs/{config.recipe or 'study'}").rstrip("/")
    folders = {"data_dir": config.data_dir, "workdir": workdir}
    with join_study(config) as workers:
        if workers.is_chief:
            open_study(workdir, plan, info)
        failed = 0
        if not config.report_only:
            cluster = config.cluster_arguments()
            copy = config.data_copy_dir
            failed = run_plan(
                own, info, **folders, data_copy_dir=copy, train=train_in_process, workers=workers,
                cluster_arguments=cluster,
            )  # fmt: skip
        if config.arm_index is not None:
            print(f"{len(own.runs) - failed} of the {len(own.runs)} runs of arm {own.runs[0].arm.name} are done.")
        elif workers.is_chief:
            records = write_report(plan, info, **folders)
            done = sum(record.status == "done" for record in records)
            print(f"{done} of {len(records)} runs are done, {failed} failed. Report: {workdir}/report.html")
        return 1 if failed else 0


run = functools.partial(run_command, main, StudyConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
