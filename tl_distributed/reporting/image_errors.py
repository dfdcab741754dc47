"""Errors by image, as parts of a page: pictures that are got wrong, and labels that are likely wrong."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from tl_distributed.errors import UserError, printable
from tl_distributed.reporting.answers import Answers
from tl_distributed.reporting.mistakes import Group, right_for_one, surest_wrong, wrong_for_all
from tl_distributed.reporting.page.render import Cell, Table, words
from tl_distributed.reporting.page.section import Gallery, Item, Section
from tl_distributed.reporting.page.thumbnails import thumbnail_url

MOST_PICTURES = 12  # of a gallery
_MOST_OF_ONE_ARM, _MOST_SUSPECTS, _SMALL_PIXELS = 3, 40, 96

Pictures = Mapping[int, np.ndarray]
ReadPictures = Callable[[Iterable[int]], Pictures]


def errors_section(
    groups: Mapping[str, Group], runs: Sequence[Answers], best: str, class_names: Sequence[str], read: ReadPictures
) -> Section:
    """Returns the section; its pictures are the data set's, where it can still be read.

    Args:
      groups: What each arm answered, by name; one, or several on the same test images.
      runs: All runs of the groups.
      best: The arm whose surest errors are shown.
      class_names: Names of the classes.
      read: Returns the pictures at places of the test split; raises `UserError` where it cannot.
    """
    answers = runs[0]
    chosen: list[tuple[str, list[tuple[int, str]], str]] = []
    surest = surest_wrong(groups[best], answers.labels)
    if len(groups) > 1:
        wrong = wrong_for_all(groups)
        chosen.append((
            f"Wrong for every arm: {len(wrong):,} of {len(answers.labels):,} images",
            [(place, _of_all(place, answers, groups, class_names)) for place in wrong[:MOST_PICTURES]],
            "No run of any arm gets them right: hard, of another class than their label says, or of two classes.",
        ))  # fmt: skip
        alone = right_for_one(groups)
        counts = ", ".join(f"{name} {len(places):,}" for name, places in alone.items())
        shown = [(place, f"only {name}: {class_names[answers.labels[place]]}") for name, places in alone.items()
                 for place in places[:_MOST_OF_ONE_ARM]]  # fmt: skip
        chosen.append((f"Right for one arm alone: {counts}", shown[:MOST_PICTURES],
                       "All runs of that arm get them right, and no run of another arm does."))  # fmt: skip
    title = "The surest wrong answers" + (f" of {best}" if len(groups) > 1 else "")
    taken = [(place, _taken(place, answers, groups[best], class_names)) for place in surest[:MOST_PICTURES]]
    chosen.append((title, taken, ""))
    pictures, sentences = _read(read, [place for _, items, _ in chosen for place, _ in items])
    galleries = tuple(
        Gallery(
            title,
            tuple(Item(thumbnail_url(pictures[place]) if place in pictures else "", text, _name(answers, place))
                  for place, text in items),
            note, small=any(max(picture.shape[:2]) < _SMALL_PIXELS for picture in pictures.values()),
        )
        for title, items, note in chosen if items
    )  # fmt: skip
    count = int(np.sum(groups[best].right < 1)) if len(groups) == 1 else len(surest)
    suspects = _suspects(runs, class_names)
    return Section(
        "errors", "Errors by image", f"{count:,} wrong for {best}", sentences, galleries=galleries, tables=suspects
    )  # fmt: skip


def _read(read: ReadPictures, places: Iterable[int]) -> tuple[Pictures, tuple[str, ...]]:
    try:
        return read(places), ()
    except UserError as error:
        return {}, (f"The pictures are not shown, since the data set cannot be read: {error}",)


def _name(answers: Answers, place: int) -> str:
    return printable(answers.id_of(place))


def _taken(place: int, answers: Answers, group: Group, class_names: Sequence[str]) -> str:
    true, taken = class_names[answers.labels[place]], class_names[group.predictions[place]]
    return f"{true}, taken for {taken} ({group.confidences[place]:.0%})"


def _of_all(place: int, answers: Answers, groups: Mapping[str, Group], class_names: Sequence[str]) -> str:
    taken, counts = np.unique([group.predictions[place] for group in groups.values()], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:2]
    listed = ", ".join(f"{class_names[taken[index]]} ({counts[index]} of {len(groups)})" for index in order)
    return f"{class_names[answers.labels[place]]}, taken for {listed}"


def _suspects(runs: Sequence[Answers], class_names: Sequence[str]) -> tuple[Table, ...]:
    """Returns the images of which most runs say that the label is wrong."""
    votes, margins, suggested = np.zeros(len(runs[0].labels), int), np.zeros(len(runs[0].labels)), {}
    for run in runs:
        votes[run.suspects.places] += 1
        margins[run.suspects.places] += run.suspects.margins
        for place, to in zip(run.suspects.places.tolist(), run.suspects.suggested.tolist(), strict=True):
            suggested.setdefault(place, []).append(to)
    places = np.flatnonzero(2 * votes > len(runs))
    places = places[np.lexsort((-margins[places], -votes[places]))]
    if not len(places):
        return ()
    rows = tuple(
        (
            words(_name(runs[0], place)), words(class_names[runs[0].labels[place]]),
            words(class_names[max(set(suggested[place]), key=suggested[place].count)]),
            Cell(f"{votes[place]} of {len(runs)}", votes[place]),
            Cell(f"{margins[place] / votes[place]:.2f}", margins[place] / votes[place]),
        )
        for place in places[:_MOST_SUSPECTS].tolist()
    )  # fmt: skip
    more = f" The {_MOST_SUSPECTS} likeliest of {len(places):,}." if len(places) > _MOST_SUSPECTS else ""
    note = (
        "By confident learning (Northcutt, Jiang and Chuang 2021) on the probabilities of the test "
        "images, which no run was trained on; the margin is the probability of the suggested class less that of the "
        f"label, mean of the runs that say so. Look at them before you believe it.{more}"
    )
    return (
        Table(
            ("image", "label", "suggested", "runs that say so", "margin"), rows, note, "Labels that are likely wrong"
        ),
    )
