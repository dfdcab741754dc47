"""The study command, for tests that start several workers of it."""

from tl_distributed.settings.command import run_command
from tl_distributed.studies.plan import StudyConfig
from tl_distributed.study import main

run_command(main, StudyConfig, __doc__)
