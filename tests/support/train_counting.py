"""The train command with the counting backbone registered."""

from tl_distributed.settings.command import import_tensorflow, run_command

import_tensorflow()

from counting_backbone import register_counting_backbone  # noqa: E402

from tl_distributed.settings.config import Config  # noqa: E402
from tl_distributed.train import DESCRIPTION, main  # noqa: E402

register_counting_backbone()
run_command(main, Config, DESCRIPTION)
