"""What the name of a folder says of it: train, val or test in any spelling, or pictures without labels."""

import re
from collections.abc import Collection, Iterable

# No two of these can stand for the same letters: a name is matched in one pass, however long.
_DECORATION = r"(?:sets?|data|images?|imgs?|pictures?|pics?|photos?|samples?|splits?|folders?|seg|\d)"
_NAMES = {
    "train": "training|train|trn",
    "val": "validation|validate|valid|val|development|devel|dev|evaluation|eval",
    "test": "testing|test|tst",
    "unlabelled": "unlabell?ed|prediction|predict|pred|submission",
    "held out": "holdout|heldout",  # some mean validation, some test
}
_ROLES = {role: re.compile(f"{_DECORATION}*(?:{names}){_DECORATION}*") for role, names in _NAMES.items()}
_PLAIN = re.compile(f"{_DECORATION}+|all|unknown")
_WORDS = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+|[^\W\d_]+")


def role_of(name: str) -> str | None:
    """Returns what a folder's name says of it: train, val, test, unlabelled, "held out", or nothing."""
    return _role_of_words(words_of(name))


def is_plain(name: str) -> bool:
    """Tells whether a folder's name says nothing of what is in it, e.g. `images`."""
    return bool(_PLAIN.fullmatch("".join(words_of(name))))


def roles_of(names: Collection[str]) -> dict[str, str]:
    """Returns the roles of folders that lie beside one another, where they have one.

    Words that all of them share say nothing: `alphabet_train` and `alphabet_test` are train and test.
    """
    words = {name: words_of(name) for name in names}
    shared = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    found = {name: _role_of_words([word for word in words[name] if word not in shared]) for name in names}
    if len(set(found.values()) - {None}) < 2:  # shared words are left out only where several splits remain
        found = {name: _role_of_words(words[name]) for name in names}
    return {name: role for name, role in found.items() if role}


def words_of(name: str) -> list[str]:
    """Returns the words of a name in small letters, also where capitals or digits part them."""
    return [word.casefold() for word in _WORDS.findall(name)]


def _role_of_words(words: Iterable[str]) -> str | None:
    text = "".join(words)
    return next((role for role, pattern in _ROLES.items() if pattern.fullmatch(text)), None)
