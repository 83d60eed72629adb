"""METEOR of pairs of captions, counted by the authors' own program (Java).

Denkowski & Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language" (WMT 2014),
version 1.5 with its English settings: words are aligned if they are equal, share a stem, are synonyms in WordNet or
are paraphrases in a table of 60 MB. No other program aligns the same way, so this is the one; it comes with the package
``pycocoevalcap`` (``pip install "cuemark[captions]"``), which the field's evaluators call, and needs ``java``.

The program is asked only for what it alone knows, the 23 counts of a pair's alignment; the score is computed from them
here, to the last digits of a double as the program itself does. All pairs are sent to one process at once (it takes 7
seconds to load its tables, and then some 3,000 pairs a second), which ends with its input.

Score of counts (section 2 of the paper; ``alpha, beta, gamma, delta`` = 0.85, 0.2, 0.6, 0.75)
    * A match weighs 1 for equal words, 0.6 for stems, 0.8 for synonyms, 0.6 for paraphrases, times ``delta`` for a
      content word and ``1 - delta`` for a function word; so do the words of both captions.
    * ``P`` and ``R`` are the matched weight over the weight of hypothesis and of reference, ``F = 1 / ((1 - alpha) / P
      + alpha / R)``, and the score is ``F * (1 - gamma * (chunks / matched words) ** beta)``; 0 without a match.
    * Several pairs together are scored on the sums of their counts, not on the mean of their scores. A pair whose words
      all match in one chunk adds no chunk.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import DataError

COUNTS = 23
"""Numbers of one alignment: words of hypothesis and reference, function words of both; for each of four kinds of match
the content words matched in both and the function words matched in both; chunks; words matched in both."""

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1, 0.6, 0.8, 0.6])


def missing() -> str | None:
    """What METEOR lacks on this machine, as half a sentence; None when it can run."""
    if shutil.which("java") is None:
        return "there is no 'java' on the path; install a Java runtime (8 or later)"
    if _folder() is None:
        return 'the package pycocoevalcap, which brings its program, is not installed; pip install "cuemark[captions]"'
    return None


def _folder() -> Path | None:
    """Where ``meteor-1.5.jar`` and its tables are."""
    spec = importlib.util.find_spec("pycocoevalcap")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "meteor"
        if (folder / "meteor-1.5.jar").is_file() and (folder / "data" / "paraphrase-en.gz").is_file():
            return folder
    return None


def align(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """The counts of every pair's alignment.

    Args:
        pairs: hypothesis and reference, both as words of ASCII between blanks.

    Returns:
        ``(n, 23)`` whole numbers.

    Raises:
        DataError: Java or the package is missing, or the program failed; the message says what it printed.
    """
    if not pairs:
        return np.zeros((0, COUNTS))
    if lack := missing():
        raise DataError(f"METEOR cannot be counted: {lack}, or leave METEOR out.")
    # Fields are parted by |||, which no caption needs. Digits are read below as Java writes them in English.
    asked = "".join("SCORE ||| {1} ||| {0}\n".format(*(text.replace("|||", "") for text in pair)) for pair in pairs)
    command = ["java", "-Xmx2G", "-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8", "-jar",
               "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    try:  # run() writes and reads at the same time, so that neither pipe can fill up and block both sides
        with tempfile.TemporaryFile() as complaints:
            done = subprocess.run(command, cwd=_folder(), input=asked.encode("ascii"), stdout=subprocess.PIPE,
                                  stderr=complaints, check=False)
            complaints.seek(0)
            said = complaints.read().decode(errors="replace")
        lines = done.stdout.decode(errors="replace").splitlines()
        counts = np.array([line.split() for line in lines], np.float64)
        if done.returncode == 0 and counts.shape == (len(pairs), COUNTS):
            return counts
        said += "\n".join(line for line in lines if line.startswith("Error"))
    except (OSError, ValueError) as error:  # java is no program; an answer that is no row of numbers
        said = str(error)
    raise DataError(f"METEOR's program failed on {len(pairs)} pairs of captions ({' '.join(said.split())[-300:]}); "
                    "check that 'java -version' works, or leave METEOR out.")


def score(counts: ArrayLike) -> NDArray[np.float64]:
    """METEOR of ``(…, 23)`` counts: ``(…,)`` in 0..1."""
    counts = np.asarray(counts, np.float64)
    words, matched = counts[..., 0:2], counts[..., 4:20].reshape(*counts.shape[:-1], 4, 2, 2)
    weight = _DELTA * (words - counts[..., 2:4]) + (1 - _DELTA) * counts[..., 2:4]
    hit = (_WEIGHTS[:, None] * (_DELTA * matched[..., 0, :] + (1 - _DELTA) * matched[..., 1, :])).sum(axis=-2)
    any_hit = (hit > 0).all(axis=-1)
    precision, recall = np.moveaxis(np.divide(hit, weight, out=np.ones_like(hit), where=any_hit[..., None]), -1, 0)
    f = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    pieces = np.divide(2 * _chunks(counts), counts[..., 21] + counts[..., 22], out=np.zeros_like(f), where=any_hit)
    return np.where(any_hit, f * (1 - _GAMMA * pieces**_BETA), 0.0)


def _chunks(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(…,)`` chunks that count: none where all words of both captions match in one."""
    whole = (counts[..., 0:2] == counts[..., 21:23]).all(axis=-1) & (counts[..., 20] == 1)
    return np.where(whole, 0.0, counts[..., 20])


def total(counts: NDArray[np.float64], group: NDArray[np.integer], groups: int) -> NDArray[np.float64]:
    """Sums of ``(n, 23)`` counts by ``(n,)`` group: ``(groups, 23)``, for :func:`score`."""
    kept = counts.copy()
    kept[:, 20] = _chunks(counts)
    return np.stack([np.bincount(group, column, minlength=groups) for column in kept.T], axis=1)
