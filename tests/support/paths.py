"""Where the tests find what they start."""

import pathlib

SUPPORT = pathlib.Path(__file__).resolve().parent
REPO = SUPPORT.parent.parent
# Of processes that run a script of `support`.
PYTHONPATH = f"{REPO}:{SUPPORT}"
