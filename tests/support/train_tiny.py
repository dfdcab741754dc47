"""The train command with the tiny backbones registered, for tests that need a process of its own."""

from tiny_backbone import register_tiny_backbones

register_tiny_backbones()

from tl_distributed.settings.command import run_command  # noqa: E402
from tl_distributed.settings.config import Config  # noqa: E402
from tl_distributed.train import DESCRIPTION, main  # noqa: E402

run_command(main, Config, DESCRIPTION)
