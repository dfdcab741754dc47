#!/usr/bin/env bash
# Sets up a virtual environment and runs the checks and the whole test suite; arguments go to pytest.
#   bash launch/test.sh                 everything
#   bash launch/test.sh -k resample     some of it
# Tests on real images need their folder in TL_DISTRIBUTED_TEST_DATA; they skip without it and say so.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment dev
cd "$repository"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
# Two processes, a whole file to each, since tests of a file share what they have compiled.
exec "$VENV/bin/python" -m pytest --numprocesses=2 --dist=loadfile "$@"
