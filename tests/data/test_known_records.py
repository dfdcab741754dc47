"""Places of records are remembered, however many share one, and no more of them than two bytes can number."""

import numpy as np

from tl_distributed.data import known_records
from tl_distributed.data.known_records import KnownRecords


def located(record: memoryview) -> tuple[int, int, list[int]]:
    return 1, len(record), [record[0]]


def test_a_place_is_remembered_for_each_record(monkeypatch):
    monkeypatch.setattr(known_records, "_MOST_PLACES", 3)
    known = KnownRecords(6, located, lasts=True, share_places=True)
    numbers = np.array([4, 0, 2, 5, 3])
    assert not known.were_read(numbers).any() and known.places(numbers) == [None] * 5
    records = [memoryview(bytes([label, 0])) for label in (7, 8, 7, 9, 8)]
    for number, record in zip(numbers.tolist(), records, strict=True):
        assert known.place(number, record) == located(record)
    assert known.were_read(np.arange(6)).tolist() == [True, False, True, True, True, True]
    assert known.places(numbers) == [(1, 2, [7]), (1, 2, [8]), (1, 2, [7]), None, (1, 2, [8])]


def test_without_sharing_only_that_it_was_read():
    known = KnownRecords(2, located, lasts=True, share_places=False)
    known.place(1, memoryview(b"ab"))
    assert known.were_read(np.array([0, 1])).tolist() == [False, True]
    assert known.places(np.array([0, 1])) == [None, None]


def test_of_what_does_not_last_nothing_is_remembered():
    known = KnownRecords(2, located, lasts=False, share_places=True)
    assert known.place(1, memoryview(b"ab")) == (1, 2, [97])
    assert not known.were_read(np.array([0, 1])).any() and known.places(np.array([0, 1])) == [None, None]
