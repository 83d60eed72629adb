"""BLEU, ROUGE-L and CIDEr of many pairs of captions at once, as pycocoevalcap 1.2 (the COCO evaluation) has them.

Every pair has one hypothesis and one reference, as dense captioning makes them. Captions are lists of words
(:func:`cuemark.metrics.tokens.tokenize`); pairs name them by index. Pairs are scored in groups, the videos.

BLEU (Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002) of a group
    ``p_k`` is the number of k-grams that hypothesis and reference share (each counted as often as both have it), summed
    over the group's pairs, over the number of the hypotheses' k-grams; a reference's length is its own, there being no
    closer one. ``BLEU@n = (p_1 … p_n) ** (1/n)``, times ``exp(1 - r/c)`` where the hypotheses' ``c`` words are fewer
    than the references' ``r``. The program adds 1e-15 to what is divided and 1e-9 to what it is divided by, also in
    ``c/r``, so that nothing is ever 0/0; so does this.

CIDEr (Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015) of a pair
    What the program calls CIDEr is the paper's CIDEr-D. A k-gram weighs its count times ``ln(N / max(1, d))``: ``N``
    pairs in the group, ``d`` of them with the k-gram in the reference. For k = 1 … 4 the cosine of the two weight
    vectors is taken with the hypothesis' weights cut to the reference's, times ``exp(-(l - m)**2 / 72)`` for ``l`` and
    ``m`` bigrams; the mean over k times 10 is the pair's score, the mean over pairs the group's. A group of one pair,
    and any pair whose words all are in every reference of its group, gets 0: ``ln 1`` weighs nothing.

ROUGE-L (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL 2004 workshop) of a pair
    With the length of the longest common subsequence over the length of the hypothesis (``P``) and of the reference
    (``R``): ``(1 + b²) P R / (R + b² P)``, ``b = 1.2``; 0 without a common word. A caption without words counts as one
    empty word. The group's score is the mean over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N = 4
"""The longest n-grams."""
_BLOCK = 1 << 16
"""Pairs compared at once: bounds the memory."""


@dataclass(frozen=True, eq=False)
class Grams:
    """The n-grams of C captions, one entry for each caption and different n-gram in it, E in all."""

    words: NDArray[np.int64]
    """``(C,)`` how many words a caption has."""
    first: NDArray[np.int64]
    """``(C + 1,)`` where each caption's entries begin."""
    gram: NDArray[np.int64]
    """``(E,)`` which n-gram: a number, rising inside a caption."""
    order: NDArray[np.int64]
    """``(E,)`` its length less one, 0 … N-1."""
    count: NDArray[np.int64]
    """``(E,)`` how often the caption has it."""

    def entries(self, captions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All entries of ``(n,)`` captions, one after the other: position in ``captions`` and entry."""
        count = np.diff(self.first)[captions]
        which = np.repeat(np.arange(len(captions)), count)
        return which, np.arange(len(which)) + np.repeat(self.first[captions] - (count.cumsum() - count), count)


def grams(captions: Sequence[Sequence[str]]) -> Grams:
    """Count the n-grams of captions, each once."""
    number: dict[str, int] = {}
    words = np.array([len(caption) for caption in captions], np.int64)
    token = np.array([number.setdefault(word, len(number)) for caption in captions for word in caption], np.int64)
    owner = np.repeat(np.arange(len(words)), words)
    left = np.repeat(words.cumsum(), words) - np.arange(len(token))  # words from here to the caption's end
    owners, names, orders = [], [], []
    at, name, named = np.arange(len(token)), token, 0
    for k in range(N):
        if k:  # a longer n-gram is a shorter one and the word after it
            keep = left[at] > k
            at, name = at[keep], name[keep] * len(number) + token[at[keep] + k]
        _, name = np.unique(name, return_inverse=True)
        owners.append(owner[at])
        names.append(name + named)
        orders.append(np.full(len(at), k))
        named += int(name.max(initial=-1)) + 1
    key, count = np.unique(np.concatenate(owners) * named + np.concatenate(names), return_counts=True)
    order_of = np.zeros(named, np.int64)
    order_of[np.concatenate(names)] = np.concatenate(orders)
    gram = key % max(named, 1)
    first = np.searchsorted(key, np.arange(len(words) + 1) * named)
    return Grams(words, first, gram, order_of[gram], count)


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of captions and the n-grams they share."""

    grams: Grams
    group: NDArray[np.int64]
    """``(P,)`` 0 … groups-1."""
    groups: int
    hypothesis: NDArray[np.int64]
    """``(P,)`` captions."""
    reference: NDArray[np.int64]
    """``(P,)`` captions."""
    who: NDArray[np.int64]
    """``(S,)`` the pair of each shared n-gram."""
    mine: NDArray[np.int64]
    """``(S,)`` its entry for the hypothesis."""
    theirs: NDArray[np.int64]
    """``(S,)`` its entry for the reference."""


def pair(counted: Grams, group: NDArray[np.int64], groups: int, hypothesis: NDArray[np.int64],
         reference: NDArray[np.int64]) -> Pairs:
    """Look up what each pair shares."""
    many = int(counted.gram.max(initial=-1)) + 1
    key = np.repeat(np.arange(len(counted.words)), np.diff(counted.first)) * many + counted.gram
    shared: list[tuple[NDArray[np.int64], ...]] = [(np.zeros(0, np.int64),) * 3]
    for begin in range(0, len(group), _BLOCK):
        who, mine = counted.entries(hypothesis[begin:begin + _BLOCK])
        wanted = reference[begin:begin + _BLOCK][who] * many + counted.gram[mine]
        theirs = np.searchsorted(key, wanted)
        has = theirs < len(key)
        has[has] = key[theirs[has]] == wanted[has]
        shared.append((who[has] + begin, mine[has], theirs[has]))
    return Pairs(counted, group, groups, hypothesis, reference, *(np.concatenate(part) for part in zip(*shared)))


def bleu(pairs: Pairs, used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """BLEU@1 … BLEU@N of every group: ``(groups, N)``, over the ``(P,)`` pairs that are used; 0 without any."""
    counted = pairs.grams
    hit = used[pairs.who]
    shared = np.minimum(counted.count[pairs.mine], counted.count[pairs.theirs])[hit]
    row = pairs.group[pairs.who[hit]] * N + counted.order[pairs.mine[hit]]
    correct = np.bincount(row, shared, minlength=pairs.groups * N).reshape(pairs.groups, N)
    group, words = pairs.group[used], counted.words[pairs.hypothesis[used]]
    guessed = np.stack([np.bincount(group, (words - k).clip(min=0), minlength=pairs.groups) for k in range(N)], axis=1)
    said = np.bincount(group, words, minlength=pairs.groups)
    wanted = np.bincount(group, counted.words[pairs.reference[used]], minlength=pairs.groups)
    tiny, small = 1e-15, 1e-9
    score = ((correct + tiny) / (guessed + small)).cumprod(axis=1) ** (1 / np.arange(1, N + 1))
    ratio = (said + tiny) / (wanted + small)
    score *= np.where(ratio < 1, np.exp(np.minimum(0, 1 - 1 / ratio)), 1)[:, None]
    return np.where(np.bincount(group, minlength=pairs.groups)[:, None] > 0, score, 0.0)


def cider(pairs: Pairs, used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """CIDEr of every group: ``(groups,)``, over the ``(P,)`` pairs that are used; 0 without any."""
    counted, group = pairs.grams, pairs.group[used]
    size = np.bincount(group, minlength=pairs.groups)
    log_size = np.log(np.maximum(size, 1))
    # A caption weighs by its group, so captions are told apart by group: (group, caption), each once.
    references, as_reference = np.unique(group * len(counted.words) + pairs.reference[used], return_inverse=True)
    hypotheses, as_hypothesis = np.unique(group * len(counted.words) + pairs.hypothesis[used], return_inverse=True)
    many = int(counted.gram.max(initial=-1)) + 1

    def entries(captions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        where, caption = np.divmod(captions, len(counted.words))
        who, entry = counted.entries(caption)
        return who, entry, where[who] * many + counted.gram[entry]

    who, entry, key = entries(references)
    keys, key = np.unique(key, return_inverse=True)
    frequency = np.bincount(key, np.bincount(as_reference, minlength=len(references))[who], minlength=len(keys))
    rarity = log_size[keys // max(many, 1)] - np.log(np.maximum(frequency, 1))

    def lengths(who: NDArray[np.int64], entry: NDArray[np.int64], weight: NDArray[np.float64], captions: int
                ) -> NDArray[np.float64]:
        squares = np.bincount(who * N + counted.order[entry], (counted.count[entry] * weight) ** 2, captions * N)
        return np.sqrt(squares).reshape(-1, N)

    length_reference = lengths(who, entry, rarity[key], len(references))
    # What no reference of the group has is as rare as can be.
    who, entry, wanted = entries(hypotheses)
    found = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    known = keys[found] == wanted if len(keys) else np.zeros(len(wanted), np.bool_)
    weight = log_size[wanted // max(many, 1)]
    weight[known] = rarity[found[known]]
    length_hypothesis = lengths(who, entry, weight, len(hypotheses))

    number = np.cumsum(used) - 1  # of a used pair among the used
    hit = used[pairs.who]
    who, mine, theirs = number[pairs.who[hit]], pairs.mine[hit], pairs.theirs[hit]
    weight = rarity[np.searchsorted(keys, group[who] * many + counted.gram[theirs])]
    product = np.minimum(counted.count[mine], counted.count[theirs]) * counted.count[theirs] * weight**2
    dot = np.bincount(who * N + counted.order[mine], product, len(group) * N).reshape(-1, N).astype(np.float64)
    both = length_hypothesis[as_hypothesis] * length_reference[as_reference]
    cosine = np.divide(dot, both, out=np.zeros_like(dot), where=both > 0)
    bigrams = (counted.words - 1).clip(min=0)
    apart = bigrams[pairs.hypothesis[used]] - bigrams[pairs.reference[used]]
    score = 10 * cosine.mean(axis=1) * np.exp(-(apart**2) / 72)
    return np.bincount(group, score, minlength=pairs.groups) / np.maximum(size, 1)


def rouge(captions: Sequence[Sequence[str]], hypothesis: NDArray[np.int64], reference: NDArray[np.int64]
          ) -> NDArray[np.float64]:
    """ROUGE-L of ``(P,)`` pairs: ``(P,)``."""
    words = [tuple(caption) or ("",) for caption in captions]
    places: dict[int, dict[str, int]] = {}  # of a reference's words, as bits
    for r in set(reference.tolist()):
        places[r] = dict.fromkeys(words[r], 0)
        for i, word in enumerate(words[r]):
            places[r][word] |= 1 << i
    pairs = list(zip(hypothesis.tolist(), reference.tolist()))
    known = {(h, r): _common(words[h], places[r], len(words[r])) for h, r in set(pairs)}
    common = np.array([known[p] for p in pairs], np.float64)
    length = np.array([len(w) for w in words], np.float64)
    precision, recall, b2 = common / length[hypothesis], common / length[reference], 1.2**2
    return np.divide((1 + b2) * precision * recall, recall + b2 * precision, out=np.zeros(len(pairs)), where=common > 0)


def _common(words: Sequence[str], places: dict[str, int], length: int) -> int:
    """Length of the longest common subsequence, a row of the usual table at a time.

    The row is kept as bits: 0 where the table rises by one. Adding carries a rise to the next place that matches
    (Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004).
    """
    full = (1 << length) - 1
    row = full
    for word in words:
        rise = row & places.get(word, 0)
        row = ((row + rise) | (row - rise)) & full
    return length - row.bit_count()
