"""Errors by image: against plain loops over the definitions, and on planted errors."""

import numpy as np
import pytest

from tl_distributed.errors import UserError
from tl_distributed.reporting.answers import Answers
from tl_distributed.reporting.image_errors import errors_section
from tl_distributed.reporting.label_errors import find_suspects
from tl_distributed.reporting.mistakes import Group, right_for_one, surest_wrong, wrong_for_all


def _noisy(num_examples: int, num_classes: int, *, seed: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and probabilities of a model that is mostly right."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_examples)
    logits = generator.normal(0, 1, (num_examples, num_classes))
    logits[np.arange(num_examples), labels] += signal
    probabilities = np.exp(logits)
    return labels, (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)


def test_suspects_are_the_off_diagonal_of_the_confident_joint():
    labels, probabilities = _noisy(400, 4, seed=0, signal=1.0)
    thresholds = [np.mean([p[c] for p, y in zip(probabilities, labels, strict=True) if y == c]) for c in range(4)]
    expected = {}
    for place, (p, y) in enumerate(zip(probabilities, labels, strict=True)):
        counts_for = [c for c in range(4) if p[c] >= thresholds[c]]
        best = max(counts_for, key=lambda c: p[c], default=y)
        if best != y:
            expected[place] = best
    found = find_suspects(labels, probabilities)
    assert dict(zip(found.places.tolist(), found.suggested.tolist(), strict=True)) == expected
    assert len(expected) > 10 and (np.diff(found.margins) <= 0).all()


def test_planted_label_errors_come_first():
    labels, probabilities = _noisy(1000, 10, seed=1, signal=4.0)
    planted = np.flatnonzero(probabilities.argmax(1) == labels)[:50]
    given = labels.copy()
    given[planted] = (labels[planted] + 3) % 10
    found = find_suspects(given, probabilities)
    first = set(found.places[:50].tolist())
    assert len(first & set(planted.tolist())) > 35
    right = [to == labels[place] for place, to in zip(found.places, found.suggested, strict=True) if place in planted]
    assert np.mean(right) > 0.95


def test_a_class_without_examples_suggests_nothing():
    labels, probabilities = _noisy(100, 3, seed=2, signal=2.5)
    wider = np.concatenate([probabilities * 0.5, np.full((100, 1), 0.5, np.float32)], axis=1)
    assert 3 not in find_suspects(labels, wider).suggested


def _answers(labels, predictions, confidences) -> Answers:
    labels, predictions = np.array(labels), np.array(predictions)
    probabilities = np.full((len(labels), 3), 0.1, np.float32)
    probabilities[np.arange(len(labels)), predictions] = confidences
    return Answers(labels, predictions, np.array(confidences), find_suspects(labels, probabilities))


@pytest.fixture
def runs() -> dict[str, list[Answers]]:
    """Images 0: all right, 1: all wrong, 2: only b right, 3: a right in one of its two runs, 4: only a right."""
    labels = [0, 1, 2, 0, 1]
    return {
        "a": [_answers(labels, [0, 0, 0, 0, 1], [0.9, 0.6, 0.7, 0.5, 0.8]),
              _answers(labels, [0, 2, 1, 1, 1], [0.9, 0.7, 0.9, 0.5, 0.8])],
        "b": [_answers(labels, [0, 0, 2, 2, 0], [0.9, 0.8, 0.6, 0.5, 0.7])],
    }  # fmt: skip


def test_images_are_sorted_by_who_gets_them_right(runs):
    groups = {name: Group.of(own) for name, own in runs.items()}
    assert wrong_for_all(groups).tolist() == [1]
    assert {name: places.tolist() for name, places in right_for_one(groups).items()} == {"a": [4], "b": [2]}
    assert surest_wrong(groups["a"], runs["a"][0].labels).tolist()[0] == 2  # 0.9 in one of the runs


def test_section_shows_pictures_and_says_where_it_cannot(runs):
    groups, given = {name: Group.of(own) for name, own in runs.items()}, [one for own in runs.values() for one in own]
    asked = []

    def read(places):
        asked.extend(int(place) for place in places)
        return {place: np.full((8, 8, 3), 50, np.uint8) for place in asked}

    section = errors_section(groups, given, "a", ("x", "y", "z"), read)
    assert [len(gallery.items) for gallery in section.galleries] == [1, 2, 2]
    assert all(item.image.startswith("data:image/jpeg") for gallery in section.galleries for item in gallery.items)
    assert section.galleries[0].items[0].text == "y, taken for x (1 of 2), z (1 of 2)"
    assert section.galleries[0].items[0].id == "test 1"

    def fail(places):
        raise UserError("it is gone")

    without = errors_section(groups, given, "a", ("x", "y", "z"), fail)
    assert "it is gone" in without.sentences[0]
    assert not any(item.image for gallery in without.galleries for item in gallery.items)
