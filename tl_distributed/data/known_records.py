"""What a process knows of the records that it has read, so that it need not look at them twice."""

import threading
from collections.abc import Callable

import numpy as np

Place = tuple[int, int, int | list[int]]  # where a record's content begins and ends in it, and its label or labels
_SOUND = 1  # the number of no place
_MOST_PLACES = np.iinfo(np.uint16).max


class KnownRecords:
    """Which records were read, hence were sound, and where the content of each lies.

    It takes two bytes a record: the number of a place. Examples of one length share places, one for each length of a
    record and label; those beyond the 65,535th are looked for each time.
    """

    def __init__(self, num_records: int, locate: Callable[[memoryview], Place], *, lasts: bool, share_places: bool):
        """Begins with none.

        Args:
          num_records: That there are.
          locate: Of `RecordFormat`.
          lasts: Whether a record stays what it was; else nothing is remembered, since each time its bytes travel anew.
          share_places: Whether to remember places; else `locate` is asked each time.
        """
        self._locate, self._lasts, self._share_places = locate, lasts, share_places
        self._numbers = np.zeros(num_records, np.uint16)  # of places; 0 of a record that was not read yet
        self._places: list[Place | None] = [None, None]
        self._number_of: dict[tuple, int] = {}
        self._lock = threading.Lock()

    def were_read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns `[k] bool` of the records at `numbers [k]`."""
        return self._numbers[numbers] > 0

    def place(self, number: int, record: memoryview) -> Place:
        """Returns where the content of the record with this number lies, which has just been read.

        Raises:
          ValueError: It is none of this format.
        """
        place = self._locate(record)
        if self._lasts:
            self._numbers[number] = self._number(place) if self._share_places else _SOUND
        return place

    def places(self, numbers: np.ndarray) -> list[Place | None]:
        """Returns the places of the records at `numbers [k]`; `None` of those that are not known."""
        places = self._places
        return [places[number] for number in self._numbers[numbers].tolist()]

    def _number(self, place: Place) -> int:
        start, end, label = place
        key = start, end, tuple(label) if isinstance(label, list) else label
        with self._lock:
            number = self._number_of.get(key, len(self._places))
            if number > _MOST_PLACES:
                return _SOUND
            if number == len(self._places):
                self._places.append(place)
                self._number_of[key] = number
        return number
