"""What the formats of sentences have in common: rows of times and words."""

from __future__ import annotations

from typing import Any

from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment


def timed_sentences(entry: Any, where: str, reading: Reading) -> list[tuple[str, Any, Any, str]]:
    """The rows of an entry with ``timestamps`` and ``sentences``: where each is, its two times, its sentence.

    A row without words is dropped and noted.

    Raises:
        DataError: these are not two lists of one length, of pairs and of texts.
    """
    if not isinstance(entry, dict) or not {"timestamps", "sentences"} <= entry.keys():
        raise DataError(f'{where}: expected an object with "timestamps" and "sentences", got {str(entry)[:60]}.')
    stamps, sentences = entry["timestamps"], entry["sentences"]
    if not (isinstance(stamps, list) and isinstance(sentences, list) and len(stamps) == len(sentences)):
        raise DataError(f'{where}: "timestamps" and "sentences" must be lists of one length.')
    rows = []
    for i, (item, sentence) in enumerate(zip(stamps, sentences)):
        at = f"{where}, caption {i}"
        start, end = stamp(item, at)
        if not isinstance(sentence, str):
            raise DataError(f"{at}: expected a sentence, got {str(sentence)[:60]}.")
        if sentence.strip():
            rows.append((at, start, end, sentence.strip()))
        else:
            reading.note(at, "has no words", "dropped")
    return rows


def stamp(item: Any, where: str) -> tuple[Any, Any]:
    """The two times of ``[start, end]``.

    Raises:
        DataError: it is no such list.
    """
    if not (isinstance(item, list) and len(item) == 2):
        raise DataError(f"{where}: expected [start, end], got {str(item)[:60]}.")
    return item[0], item[1]


def words(segment: Segment, video: str) -> str:
    """What a person wrote about an annotation, without blanks around it.

    Raises:
        DataError: there is no sentence.
    """
    sentence = (segment.sentence or "").strip()
    if not sentence:
        raise DataError(f"an annotation of video '{video}', [{segment.start:g}, {segment.end:g}], has no sentence, and "
                        "this format is made of them; choose a format with labels, or write one.")
    return sentence
