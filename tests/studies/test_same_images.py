"""Runs are compared on the same test images: by their ids, whatever the order, or not at all."""

import dataclasses

import numpy as np
import pytest

from tl_distributed.errors import UserError
from tl_distributed.studies.collect import ArmSummary, Record, compare_all, pairing, same_images
from tl_distributed.studies.plan import Arm, Run

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)
IDS = np.array([f"test/{letter}.png" for letter in "abcdefgh"])
FIRST = np.array([0, 1, 2, 0, 1, 2, 1, 0])  # the last two are wrong
SECOND = np.array([0, 1, 2, 0, 0, 0, 0, 0])  # four are right in a row, then wrong, wrong, right, wrong


def record(folder, name, predictions, *, labels=LABELS, ids=IDS) -> Record:
    """Writes a run's answers, of which each is quite sure."""
    (folder / name).mkdir()
    arrays = {"labels": labels, "probabilities": np.eye(3, dtype=np.float32)[predictions]}
    np.savez_compressed(folder / name / "predictions_test.npz", **arrays, **({} if ids is None else {"ids": ids}))
    return Record(Run(Arm(name, ()), 0, 0), str(folder / name), "done")


def compared(*records):
    (pair,) = compare_all([ArmSummary(one.run.arm.name, 0, (one,)) for one in records])
    return pair.comparison


def test_answers_are_paired_by_id_whatever_their_order(tmp_path):
    order = np.random.default_rng(0).permutation(len(LABELS))
    first = record(tmp_path, "a", FIRST)
    expected = compared(first, record(tmp_path, "b", SECOND))
    assert (expected.only_first, expected.only_second) == ((2,), (1,))
    shuffled = record(tmp_path, "c", SECOND[order], labels=LABELS[order], ids=IDS[order])
    assert not np.array_equal(shuffled.answers.right, record(tmp_path, "d", SECOND).answers.right)
    assert compared(first, shuffled) == expected
    (aligned,) = same_images([shuffled], first)
    np.testing.assert_array_equal(aligned.predictions, SECOND)
    suspects = [(str(one.ids[place]), to) for one in (aligned, shuffled.answers)
                for place, to in zip(one.suspects.places, one.suspects.suggested, strict=True)]  # fmt: skip
    half = len(suspects) // 2
    assert half and sorted(suspects[:half]) == sorted(suspects[half:])
    assert "paired by their ids" in pairing([first, shuffled])


def test_the_interval_of_several_seeds_takes_each_image_for_itself_whatever_the_order(tmp_path):
    results = {"test_accuracy": 0.75, "num_examples": {"test": len(LABELS)}}
    first, second, turned = (
        dataclasses.replace(record(tmp_path, name, FIRST[rows], labels=LABELS[rows], ids=IDS[rows]), results=results)
        for name, rows in (("a", slice(None)), ("b", slice(None)), ("c", slice(None, None, -1)))
    )
    expected = ArmSummary("a", 0, (first, second)).test_interval
    assert ArmSummary("a", 0, (first, turned)).test_interval == pytest.approx(expected)
    # Two of eight are wrong: of seeds that answer alike it is nearly that of one, and leaves room for a third.
    assert expected == pytest.approx(ArmSummary("a", 0, (first,)).test_interval, abs=0.1)
    assert expected[1] < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.array([*IDS[:-1], "test/z.png"])},
         "1 are in the first alone, such as test/h.png; 1 are in the second alone, such as test/z.png"),
        ({"labels": np.array([0, 1, 2, 0, 2, 2, 0, 1], np.int32)},
         "1 images have another label, the first test/e.png: 1, and 2"),
        ({"ids": None, "labels": LABELS[::-1].copy()}, "images have another label, the first test 0: 0, and 1"),
    ],
)  # fmt: skip
def test_other_images_or_labels_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(UserError, match=f"a and .*b were scored on other test images .*{message}"):
        compared(record(tmp_path, "a", FIRST), record(tmp_path, "b", SECOND, **changes))


def test_fewer_images_are_refused(tmp_path):
    fewer = record(tmp_path, "b", SECOND[:5], labels=LABELS[:5], ids=None)
    with pytest.raises(UserError, match="8 images, and 5"):
        compared(record(tmp_path, "a", FIRST), fewer)


def test_runs_of_older_versions_are_paired_by_their_order_which_is_said(tmp_path):
    records = record(tmp_path, "a", FIRST), record(tmp_path, "b", SECOND, ids=None)
    assert compared(*records).only_first == (2,)
    assert pairing(records).endswith("in which their labels are the same: 1 of 2 runs hold no ids.")
