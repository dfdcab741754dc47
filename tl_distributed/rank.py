"""Command: rank backbones for a data set by what simple classifiers make of their frozen features.

  python -m tl_distributed.rank --data_dir=data/photos --backbones=mobilenet_v2,efficientnet_b0,convnext_tiny
  python -m tl_distributed.rank --data_dir=data/photos --backbones=all --weights=FOLDER_OF_FETCH_WEIGHTS

Takes minutes where training each of them takes hours. A sample of the data set goes through each backbone once; then
logistic regression, nearest neighbours and LogME say how well its features tell the classes apart. --workdir gets
report.html with accuracy against cost, ranking.csv, few_shot.csv, ranking.json and plots; the same command goes on
where it stopped. Backbones whose weights cannot be had are named and left out.
"""

import functools

from tl_distributed.api.rank import rank_with
from tl_distributed.errors import Stopped
from tl_distributed.ranking.settings import RankConfig
from tl_distributed.settings.command import refuse_positional, run_command, start_logging


def main(config: RankConfig, positional: list[str]) -> None:
    """Ranks, and prints the table."""
    refuse_positional(positional)
    start_logging()
    try:
        ranking = rank_with(config)
    except Stopped as stop:
        raise SystemExit(128 + stop.signal_number) from None
    print(ranking.text())


run = functools.partial(run_command, main, RankConfig, __doc__)  # what the console script calls

if __name__ == "__main__":
    run()
