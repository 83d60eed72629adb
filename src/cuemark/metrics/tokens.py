r"""The words of a caption as the caption metrics count them: Penn Treebank tokens, lower-cased, without punctuation.

BLEU, METEOR, ROUGE-L and CIDEr of dense captioning are counted on the output of Stanford's PTBTokenizer (CoreNLP 3.4.1,
options ``-preserveLines -lowerCase``, as the COCO caption evaluation calls it), from which a short list of
punctuation is then dropped. That program needs Java; :func:`tokenize` gives the same words without it. Its rules were
found by asking the program, and are checked against it: of 138,061 different sentences of ActivityNet Captions,
Charades, TACoS, DiDeMo, QVHighlights and a captioning model all but 11 come out the same, and those are the first of
the departures below; of sentences spoiled by random characters 99.9 % do.

What happens to a caption
    * A character outside ASCII is a blank (densevid_eval does this before tokenizing), and so is a control character.
    * Words are runs of letters and digits; hyphens, and one or two slashes, keep a word together (``t-shirt``,
      ``his/her``), a full stop or ``!`` inside does too (``room.The``); so do ``&`` and ``+`` between capitals
      (``R&B``), ``_``, addresses, ``@name``, ``#tag``. Numbers keep ``. , :`` between digits and a sign before.
    * Contractions come apart: ``can't`` -> ``ca n't``, ``he'll`` -> ``he 'll``, ``John's`` -> ``john 's``,
      ``cannot`` -> ``can not``, ``gonna`` -> ``gon na``; but ``o'clock``, ``O'Brien``, ``ma'am`` do not.
    * Abbreviations keep their full stop (``Mr.``, ``etc.``, ``T.V.``, one letter), some of them only before a number
      (``fig. 2``). A single letter loses it before a word that likely begins a sentence (``vitamin A. The``).
    * Brackets become ``-lrb- -rrb- -lsb- -rsb- -lcb- -rcb-``.
    * Dropped at last: ``'' ' `` ` . ? ! , : - -- ... ;``. Brackets are on the official list too, but in capitals, which
      lower-casing has removed by then: they stay words. ``??`` and ``?!`` stay, too.

Departures from the official program, all rare
    * Java reads all captions as one text, so that a caption ending in a single letter (``… to person b.``) loses its
      full stop when the *next* caption begins with a word like "The". Here a caption stands alone.
    * Java binds a number and its fraction (``7 1/2``) or the groups of a telephone number with a no-break blank.
      BLEU and CIDEr split there, ROUGE-L and METEOR do not. Here they are words of their own for all.
    * Markup, smileys and addresses in odd surroundings may come apart differently.
"""

from __future__ import annotations

import re
from functools import lru_cache

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that no metric counts."""

_TITLES = """
    adj adm adv al ala alex apr ariz assn asst attys aug ave bancorp bhd blvd brig bros calif capt cf cie cmdr co col
    colo comdr conn corp cos cpl ct dak dec dept det dr drs ens esq est etc ext feb fla fri ft ga gen gov govs hon inc
    ind intl jan jos jr jul jun kan ky lieut lt ltd maj mar md messrs mich minn mme mo mon mont mr mrs ms mt neb nev nov
    oct okla pfc ph plc pres prof profs pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt
    supts sys tel tenn thu thurs tue tues univ va vs vt wed wis wm wyo ed.d ph.d"""
_CAPITALIZED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX WASH"
_NOT_ALL_CAPITALS = "mfg mtg pte pty Mfg Mtg Pte Pty"
_BEFORE_A_NUMBER = "art ca fig figs no nos op pp prop"
_OPENERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One
    Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You"""


def _any(words: str) -> str:
    return "(?:" + "|".join(map(re.escape, words.split())) + ")"


_WORD = r"[A-Za-z][A-Za-z0-9]*(?:[.!?][A-Za-z][A-Za-z0-9]*)*"
_PIECE = r"(?:[dDlLoO]['`][A-Za-z0-9])?[A-Za-z0-9]+"  # of a hyphenated word; l'eau, d'or
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_NUMBER = r"(?:[0-9]*(?:[.:,][0-9]+)+|[0-9]+)"
_HOST = r"""[^\s"`'<>|.!?(){},\-_$]+"""
_PATH = r"""(?:/[^\s"<>|()]+[^\s"<>|.!?(){},-])?"""

# (what a token may begin with: a letter, 0 a digit, . the rest; the rule). Group 1 is the token, the whole match also
# what must follow it. Of all rules the longest whole match wins, of equally long ones the first.
_RULES = [(first, re.compile(pattern)) for first, pattern in (
    ("a", r"(?i:(can)not|(gon|wan)na|(got)ta|(lem|gim)me)"),
    ("a", rf"({_WORD})(?i:['`](?:[msd]|re|ve|ll))"),  # he'll: the word before a contraction
    ("a", r"(?i:([a-z]+?)n['`]t|(n['`]t))"),  # ca n't
    ("a", rf"({_WORD})"),
    ("a", r"(?i:(ol'|dunkin'|somethin'|[no]?e'er|o'er|c'mon|s'mores|nat'l|li'l|ev'ry|nor'easter))"),
    ("a", r"([djlDJL]')|([yY]')[^\s']"),  # y'all
    ("a", r"([A-HJ-XZn]['`][A-Za-z]{2,})"),  # O'Brien
    ("a", r"([A-Za-z]+[aeiouyAEIOUY]['`][aeiouA-Z][A-Za-z]*)"),  # ma'am
    ("a", r"([A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)"),  # R&B
    ("a", r"([Cc]\+\+|[CcFf]#|[A-Z]+\$)"),  # US$
    ("a", rf"((?i:{_any(_TITLES)})\.|{_any(_CAPITALIZED + ' ' + _NOT_ALL_CAPITALS)}\.)"),
    ("a", rf"((?i:{_any(_BEFORE_A_NUMBER)})\.)\s*[0-9]"),
    ("a", r"([A-Za-z](?:\.[A-Za-z])*\.)"),  # T.V.
    ("a", rf"([A-Za-z])\.\s+{_any(_OPENERS)}(?:\s|$)"),
    ("a0", r"([A-Za-z0-9]+(?:[-_./!?][A-Za-z0-9]+)*\.)[,;:]"),  # a full stop before a comma belongs to the word
    ("a", rf"((?i:https?://)[^\s\"<>|()]+[^\s\"<>|.!?(){{}},-]|(?i:www\.(?:{_HOST}\.)+[a-z]{{2,4}}){_PATH})"),
    ("a", rf"([A-Za-z]{_HOST}(?:\.{_HOST})*\.(?i:com|net|org|edu){_PATH})"),
    ("a0", rf"({_PIECE}(?:[-_]{_PIECE})*)"),
    ("a0", r"([A-Za-z0-9][A-Za-z0-9.,]{0,200}(?:-(?:[A-Za-z0-9]+|[A-Za-z](?:\.[A-Za-z])+\.))+)"),  # U.S.-born
    ("a0", rf"({_SLASHED}(?:\\?/{_SLASHED}){{1,2}})"),
    ("a0.", r"""(<?[A-Za-z0-9][^\s"<>|(){}]{0,200}@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.]+>?)"""),
    ("0.", rf"([-+]?{_NUMBER})"),
    ("0", r"((?:[0-9]{1,4}[- ])?[0-9]{1,4}/[0-9]{1,4})"),  # 7 1/2
    ("0.", r"((?:\([0-9]{2,3}\) ?|(?:\+\+?)?(?:[0-9]{2,4}[- ])?[0-9]{2,4}[- ])[0-9]{3,4}[- ]?[0-9]{3,5})"),  # telephone
    (".", r"(?i:('t)(?:is|was)|('n'|'em|'cause|'till?)|('n)(?:\s|$))"),
    (".", r"(?i:('(?:[msd]|re|ve|ll))(?:[^a-z]|$))"),
    (".", r"('[0-9]{2})(?:\s|$)|('[2-9]0s)"),  # years
    (".", r"(</?[A-Za-z][A-Za-z0-9:.-]*(?: +[A-Za-z][A-Za-z0-9:.-]*(?: *= *(?:'[^']*'|\"[^\"]*\"|[A-Za-z]+))?)* */?>)"),
    (".", r"(<[!?][A-Za-z-][^>]*>|<<|>>)"),
    (".", r"([<>]?[:;=][-o*']?[()\[\]|\\@{dDpP])(?:[^A-Za-z0-9]|$)"),  # smileys
    ("a.", r"([-^x=~<>']_[-^x=~<>'])"),
    (".", r"(@[A-Za-z_][A-Za-z0-9_]*|#[A-Za-z]+)"),
    (".", r"(&(?:amp|lt|gt|quot|apos|nbsp|ndash|mdash);)"),
    (".", r"(\?[?!]*|![?!]*|\.\.\.|-{2,}|\*{1,3}|#+|@+|_+|\\\*|''|``|.)"),
    ("a0", r"(.)"),
)]
_RULES_OF = {c: tuple(rule for first, rule in _RULES if ("a" if c.isalpha() else "0" if c.isdigit() else ".") in first)
             for c in map(chr, range(33, 127))}

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_WRITTEN = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": ".", "&ndash;": "--",
            "&mdash;": "--", **_BRACKETS}
_BLANK = re.compile(r"[^!-~]")
_ACROSS_BLANKS = re.compile(r"[0-9<]|(?<![A-Za-z])[A-Za-z]\. ")
"""Where a rule may look beyond a blank; a caption without this is lexed piece by piece."""


def tokenize(caption: str) -> list[str]:
    """The words of a caption that metrics count; the module's docstring says which.

    >>> tokenize("Someone can't open the t-shirt's box, etc. (He laughs!)")
    ['someone', 'ca', "n't", 'open', 'the', 't-shirt', "'s", 'box', 'etc.', '-lrb-', 'he', 'laughs', '-rrb-']
    """
    text = _BLANK.sub(" ", caption)
    if _ACROSS_BLANKS.search(text):
        return list(_lex(text))
    return [token for piece in text.split() for token in _piece(piece)]


def _lex(text: str) -> tuple[str, ...]:
    tokens: list[str] = []
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        best = max((m for rule in _RULES_OF[text[at]] if (m := rule.match(text, at))), key=re.Match.end)
        token = best[best.lastindex or 0]
        at += len(token)
        tokens += _written(token).lower().split()
    return tuple(token for token in tokens if token not in DROPPED)


_piece = lru_cache(maxsize=1 << 16)(_lex)


def _written(token: str) -> str:
    """How a token is spelled: brackets, entities, and punctuation that is dropped whatever its length."""
    if token in _WRITTEN:
        return _WRITTEN[token]
    if token in ('"', "``", "''") or set(token) == {"."} or token.startswith("--"):
        return "."
    return token.replace("(", "-lrb-").replace(")", "-rrb-") if token[0] != "<" else token
