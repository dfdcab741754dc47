"""Files of other workers that show late, as on NFS; here on a clock of its own."""

import types

import pytest

from tl_distributed.errors import UserError
from tl_distributed.runtime import shared_files
from tl_distributed.runtime.workers import Workers


@pytest.mark.parametrize("shows_after", [61.0, None])
def test_what_nfs_may_show_a_minute_late_is_waited_for(tmp_path, monkeypatch, shows_after):
    seconds, path = [0.0], tmp_path / "config.json"

    def sleep(step: float) -> None:
        seconds[0] += step
        if shows_after is not None and seconds[0] > shows_after:
            path.touch()

    monkeypatch.setattr(shared_files, "time", types.SimpleNamespace(monotonic=lambda: seconds[0], sleep=sleep))
    if shows_after is None:
        with pytest.raises(UserError, match=r"worker 0 does not see .*config\.json, .* put --workdir on a file system"):
            shared_files.wait_until_visible(str(path), Workers(), flag="--workdir")
    else:
        shared_files.wait_until_visible(str(path), Workers(), flag="--workdir")
