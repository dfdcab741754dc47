"""Why a peer is left out, where nothing is wrong; standard library alone, as `child`, which reads it."""


class NotMeasured(Exception):
    """A contender cannot do the work that is compared; the message is one line that says why."""
