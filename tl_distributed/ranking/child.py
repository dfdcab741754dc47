"""The process of the sample, or of one candidate: `python -m tl_distributed.ranking.child JOB`, of `runner.job_of`."""

import json
import sys

from tl_distributed.errors import UserError
from tl_distributed.ranking.settings import RankConfig
from tl_distributed.settings.command import import_tensorflow, run_to_exit, start_logging


def main() -> None:
    """Writes the sample, or measures the job's candidate."""
    job = json.loads(sys.argv[1])
    start_logging()
    import_tensorflow()
    lists = {name: tuple(value) for name, value in job["config"].items() if isinstance(value, list)}
    config = RankConfig(**{**job["config"], **lists})
    config.validate()
    if job["candidate"] is None:
        from tl_distributed.data.records import read_manifest
        from tl_distributed.ranking.sample import write_sample

        write_sample(job["sample"], config, read_manifest(config.data_dir))
        return
    from tl_distributed.ranking.measure import measure

    candidate = next((one for one in config.candidates() if one.name == job["candidate"]), None)
    if candidate is None:  # one of `all` that the program that asked has registered
        raise UserError(f"{job['candidate']}: no such backbone in a process of its own; name its module by --plugin")
    measure(config, candidate, job["sample"], job["settings"])


if __name__ == "__main__":
    run_to_exit(main)
