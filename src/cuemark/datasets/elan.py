"""ELAN's annotation documents (``.eaf``), one file a video.

::

    <ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-31T12:00:00+01:00" FORMAT="3.0" VERSION="3.0" …>
      <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
        <MEDIA_DESCRIPTOR MEDIA_URL="file:///videos/kitchen_01.mp4" MIME_TYPE="video/mp4" …/> … </HEADER>
      <TIME_ORDER> <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="12500"/> <TIME_SLOT TIME_SLOT_ID="ts2" …/> </TIME_ORDER>
      <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="actions">
        <ANNOTATION>
          <ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
            <ANNOTATION_VALUE>pour</ANNOTATION_VALUE> …

Times are whole milliseconds. **Every tier** with time-aligned annotations is read: the value is the label, and where
it is empty the tier's name is. In a tier called sentence, caption or description (or their plural, with or without a
number after it) the value is the sentence instead. Tiers whose annotations refer to those of another tier instead of to
times (``REF_ANNOTATION``: notes, translations, glosses) are not read, and noted. Slots without a time, which ELAN makes
when it divides an annotation, are spread evenly between their neighbours, as ELAN shows them.

The video is called as the file; where the first linked medium is called otherwise, that is noted. When the medium has a
``TIME_ORIGIN``, the milliseconds of it that ELAN leaves out at the beginning, it is added, so that times are those of
the medium. A segment that ends before it starts is dropped and noted. The file tells neither length nor split. Other
time units than milliseconds, and a document type, are refused.

Writing gives a tier ``labels``, and a tier ``sentences`` for segments with a sentence (or a query) but no label; since
the annotations of one tier cannot overlap, what overlaps goes to ``labels 2``, ``labels 3`` …. Times are rounded to
milliseconds, a zero length becomes 1 ms, which is the shortest ELAN has. The medium is linked as id + ``.mp4`` beside
the file; ELAN asks for it where it is elsewhere. Not held: scores, a sentence beside a label, ids, lengths, splits,
rates. A segment that starts before 0, or that has no text at all, is an error.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from cuemark.datasets.files import file_id, file_name, first_of, parse_each, write_each
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.markup import read_xml, write_xml, xml_text
from cuemark.datasets.timeline import in_order, layers
from cuemark.errors import DataError
from cuemark.segments import Truth, VideoTruth

_SENTENCES = re.compile(r"(sentence|caption|description)s?( \d+)?", re.IGNORECASE)
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


def looks(path: Path, head: str) -> Kind | None:
    """XML whose root is ``ANNOTATION_DOCUMENT``, or a folder of such."""
    head = first_of(path, head, ".eaf")[1]
    return "truth" if re.match(r"\ufeff?\s*(<\?xml[^>]*\?>)?\s*<ANNOTATION_DOCUMENT\b", head) else None


def parse(path: Path, reading: Reading) -> Truth:
    """Read a document, or every ``.eaf`` of a folder.

    Raises:
        DataError: naming the file, the tier or annotation and what was expected there.
    """
    return parse_each(path, reading, ".eaf", _parse_one)


def _parse_one(path: Path, reading: Reading) -> VideoTruth:
    root = read_xml(path, "ELAN", "ANNOTATION_DOCUMENT")
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise DataError(f"'{path}', HEADER: times are in {units[:40]}, expected milliseconds; save it with ELAN.")
    origin = 0
    if (medium := root.find("HEADER/MEDIA_DESCRIPTOR")) is not None:
        name = file_id(unquote(medium.get("MEDIA_URL") or medium.get("RELATIVE_MEDIA_URL") or ""))
        if name and name != path.stem:
            reading.note(f"'{path}'", f"links the medium '{name}', and the video is called '{path.stem}'", "kept")
        origin = _milliseconds(medium.get("TIME_ORIGIN", "0"), f"'{path}', MEDIA_DESCRIPTOR")
    slots = {}
    for slot in root.iterfind("TIME_ORDER/TIME_SLOT"):
        where = f"'{path}', time slot {slot.get('TIME_SLOT_ID')}"
        value = slot.get("TIME_VALUE")
        slots[slot.get("TIME_SLOT_ID")] = None if value is None else _milliseconds(value, where)

    segments = []
    for tier in root.iterfind("TIER"):
        name = tier.get("TIER_ID") or ""
        where = f"'{path}', tier '{name}'"
        aligned = tier.findall("ANNOTATION/ALIGNABLE_ANNOTATION")
        if not aligned and tier.find("ANNOTATION/REF_ANNOTATION") is not None:
            reading.note(where, "refers to another tier instead of to times", "dropped")
        at = _times(aligned, slots, where)
        for annotation in aligned:
            place = f"{where}, annotation {annotation.get('ANNOTATION_ID')}"
            start, end = (at[annotation.get(f"TIME_SLOT_REF{i}")] for i in (1, 2))
            text = (annotation.findtext("ANNOTATION_VALUE") or "").strip()
            fields = {"sentence": text} if text and _SENTENCES.fullmatch(name) else {"label": text or name or None}
            segment = reading.segment((start + origin) / 1000, (end + origin) / 1000, place, **fields)
            if segment is not None:
                segments.append(segment)
    return VideoTruth(reading.length(path.stem, segments), tuple(in_order(segments)), reading.subset)


def _milliseconds(text: str, where: str) -> int:
    if not re.fullmatch(r"\s*-?\d{1,15}\s*", text, re.ASCII):
        raise DataError(f"{where}: expected a whole number of milliseconds, got {text[:40]!r}.")
    return int(text)


def _times(annotations: list[ElementTree.Element], slots: dict[str | None, int | None], where: str
           ) -> dict[str | None, float]:
    """Milliseconds of every slot a tier uses; those without a time are spread between their neighbours."""
    order: list[str | None] = []
    for annotation in annotations:
        for i in (1, 2):
            slot = annotation.get(f"TIME_SLOT_REF{i}")
            if slot not in slots:
                raise DataError(f"{where}, annotation {annotation.get('ANNOTATION_ID')}: its time slot {slot!r} does "
                                "not exist.")
            if not order or order[-1] != slot:
                order.append(slot)
    known = [(i, time) for i, slot in enumerate(order) if (time := slots[slot]) is not None]
    times: dict[str | None, float] = {order[i]: time for i, time in known}
    for (i, a), (j, b) in pairwise(known):
        for k in range(i + 1, j):
            times[order[k]] = a + (b - a) * (k - i) / (j - i)
    if lost := next((slot for slot in order if slot not in times), None):
        raise DataError(f"{where}: time slot '{lost}' has no time and no neighbour with one; align it in ELAN.")
    return times


def write(path: Path, truth: Truth) -> None:
    """Write one document for one video (a path that ends in ``.eaf``), else a folder of them.

    Raises:
        DataError: a segment starts before 0 or has no text.
    """
    documents = {vid: _document(vid, video) for vid, video in truth.items()}  # before the first file is written
    write_each(path, truth, ".eaf", lambda file, vid, _: write_xml(file, documents[vid]))


def _document(vid: str, video: VideoTruth) -> ElementTree.Element:
    spans: dict[str, list[tuple[int, int, str]]] = {"labels": [], "sentences": []}
    for i, s in enumerate(video.annotations):
        text = s.label or s.sentence or s.query
        start, end = round(s.start * 1000), round(s.end * 1000)
        if not text or start < 0:
            fault = "starts before 0" if text else "has no label and no sentence"
            raise DataError(f"segment {i} of video '{vid}' {fault}, which ELAN cannot hold; mend it.")
        spans["labels" if s.label else "sentences"].append(
            (start, max(end, start + 1), xml_text(text, f"segment {i} of video '{vid}'")))

    root = ElementTree.Element("ANNOTATION_DOCUMENT", {
        "AUTHOR": "cuemark", "DATE": datetime.now(UTC).isoformat(timespec="seconds"), "FORMAT": "3.0", "VERSION": "3.0",
        "xmlns:xsi": _XSI, "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"})
    header = ElementTree.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    address = quote(xml_text(file_name(vid), f"video '{vid}'"))
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", {
        "MEDIA_URL": f"file:///{address}", "MIME_TYPE": "video/mp4", "RELATIVE_MEDIA_URL": f"./{address}"})
    order = ElementTree.SubElement(root, "TIME_ORDER")

    slots: list[tuple[int, ElementTree.Element, str]] = []
    number = 0
    for kind, texts in spans.items():
        for depth, row in enumerate(layers(texts) or ([[]] if kind == "labels" else []), 1):
            tier = ElementTree.SubElement(root, "TIER", {"LINGUISTIC_TYPE_REF": "default-lt",
                                                         "TIER_ID": kind if depth == 1 else f"{kind} {depth}"})
            for start, end, text in row:
                number += 1
                annotation = ElementTree.SubElement(ElementTree.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION",
                                                    {"ANNOTATION_ID": f"a{number}"})
                ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = text
                slots += [(start, annotation, "TIME_SLOT_REF1"), (end, annotation, "TIME_SLOT_REF2")]
    for i, (time, annotation, attribute) in enumerate(sorted(slots, key=lambda slot: slot[0]), 1):  # ELAN wants order
        ElementTree.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": f"ts{i}", "TIME_VALUE": str(time)})
        annotation.set(attribute, f"ts{i}")
    ElementTree.SubElement(header, "PROPERTY", {"NAME": "lastUsedAnnotationId"}).text = str(number)
    ElementTree.SubElement(root, "LINGUISTIC_TYPE", {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "default-lt",
                                                     "TIME_ALIGNABLE": "true"})
    return root


FORMAT = Format(
    name="elan",
    title="ELAN annotation document",
    source="MPI for Psycholinguistics, ELAN Annotation Format 3.0",
    layout="<ANNOTATION_DOCUMENT> with time slots in milliseconds and tiers of annotations whose values are the labels",
    looks=looks, parse=parse, write=write, several=False,
    traps="Annotations of one tier cannot overlap; a medium with a time origin begins later than its annotations say.",
)
