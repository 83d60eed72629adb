"""What the tests of cut lists and of markers share: truths to write, and files of other programs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import strategies as st

from cuemark.datasets import editing, markers
from cuemark.datasets.format import Reading
from cuemark.segments import Segment, VideoTruth

FORMATS = {form.name: form for form in (*editing.FORMATS, *markers.FORMATS)}
SUFFIX = {"otio": ".otio", "edl": ".edl", "fcpxml": ".fcpxml", "resolve-edl": ".edl", "premiere-csv": ".csv"}
CUTS = ("otio", "edl", "fcpxml")
MARKERS = ("resolve-edl", "premiere-csv")
RATES = (24.0, 25.0, 30.0, 15.0, 12.5, 60.0, 23.976, 23.98, 24000 / 1001, 29.97, 30000 / 1001, 59.94, 29.83)
EXACT = {23.976: Fraction(24000, 1001), 23.98: Fraction(24000, 1001), 24000 / 1001: Fraction(24000, 1001),
         29.97: Fraction(30000, 1001), 30000 / 1001: Fraction(30000, 1001), 59.94: Fraction(60000, 1001),
         29.83: Fraction(29.83).limit_denominator(1001)}

SOME = VideoTruth(120.0, (
    Segment(12.0, 18.24, "pour", 0.8125, "She pours the batter.", None, "7"),
    Segment(3.3333, 4.9, "stir"),
    Segment(30.0, 30.0, sentence="A doorbell, \"twice\" | <loud> & clear."),
    Segment(12.5, 60.0, query="when does it rain?", score=0.25),
    Segment(119.0, 121.5, "player's throw"),
    Segment(40.0, 41.0),
), "testing", 25.0)


def at(frame):
    """Seconds at 29.97 frames a second."""
    return float(frame * Fraction(1001, 30000))


def ordered(video):
    return replace(video, annotations=tuple(sorted(video.annotations, key=lambda s: (s.start, s.end))))


def read(form, path, **known):
    reading = Reading(**known)
    return form.parse(path, reading), reading.problems


def frames(segment, fps, shortest):
    """Slow and obvious: the nearest frames, at least ``shortest`` apart, back in seconds."""
    rate = EXACT.get(fps, Fraction(fps))
    first, beyond = round(Fraction(segment.start) * rate), round(Fraction(segment.end) * rate)
    return float(first / rate), float(max(beyond, first + shortest) / rate)


texts = st.none() | st.sampled_from(["pour", "* LOC: x", "|C:a |M:b |D:1", "a\nb\t\"c\"", "", "日本 <&>", "12"])
seconds = st.floats(0, 3000)


@st.composite
def segments(draw):
    start, end = sorted((draw(seconds), draw(seconds)))
    return Segment(start, end, draw(texts), draw(st.none() | st.floats(-1, 1)), draw(texts), draw(texts), draw(texts))


videos = st.builds(VideoTruth, seconds, st.lists(segments(), max_size=4).map(tuple),
                   st.sampled_from(["training", "x"]), st.sampled_from(RATES))


OTHERS = """TITLE: From another program
FCM: DROP FRAME

001  AX       V     C        00:00:59;29 00:01:00;02 01:00:00;00 01:00:00;01
* FROM CLIP NAME: street.MOV
* LOC: 01:00:00;00 RED     honk
002  AX       A2    C        00:00:00;00 00:00:10;00 01:00:00;01 01:00:10;01
* FROM CLIP NAME: street.MOV
003  BL       V     C        00:00:00;00 00:00:10;00 01:00:00;01 01:00:10;01
004  REEL2    B     C        00:10:00;00 00:10:00;00 01:00:10;01 01:00:10;01
004  REEL3    AA/V  D    015 00:10:00;00 00:10:10;00 01:00:10;01 01:00:20;01
* FROM CLIP NAME: street.MOV
* TO CLIP NAME: shot 12
* TO CLIP: /footage/day 1/park.mp4
M2   park.mp4       045.0                00:10:00;00
005  AX       V     C        00:00:05;00 00:00:04;00 01:00:20;01 01:00:19;01
006  AX       V     C        00:00:05;00 00:00:06;00 01:00:20;01 01:00:21;01
"""

FCP = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE fcpxml>
<fcpxml version="1.10">
  <resources>
    <format id="r1" name="FFVideoFormat1080p2997" frameDuration="1001/30000s"/>
    <asset id="r2" name="park" start="36000s" duration="60060/1000s" hasVideo="1" format="r1">
      <media-rep kind="original-media" src="file:///Volumes/day%201/my%20park.mov"/></asset>
    <asset id="r3" name="music" src="file:///music.wav" start="0s" duration="100s" hasAudio="1" hasVideo="0"/>
    <effect id="r4" name="Title"/>
  </resources>
  <library><event name="e">
    <asset-clip ref="r2" name="my park" duration="60060/1000s"/>
    <project name="p"><sequence format="r1" duration="100s"><spine>
      <asset-clip ref="r2" name="my park" offset="0s" start="36001s" duration="1001/1000s">
        <asset-clip ref="r3" lane="-1" name="music" offset="36001s" duration="5s"/>
        <video ref="r4" lane="1" name="Title" offset="36001s" duration="5s"/>
      </asset-clip>
      <gap name="Gap" offset="2s" duration="5s"/>
      <clip name="throw" offset="7s" start="10s" duration="2s">
        <timeMap/>
        <video ref="r2" offset="5s" start="36020s" duration="60s"/>
      </clip>
      <asset-clip ref="r2" name="whole" offset="9s"/>
      <ref-clip ref="r9" name="compound" offset="70s" duration="5s"/>
    </spine></sequence></project>
  </event></library>
</fcpxml>
"""

RESOLVE = """TITLE: Timeline 1
FCM: NON-DROP FRAME

001  001      V     C        01:00:05:00 01:00:05:01 01:00:05:00 01:00:05:01  
 |C:ResolveColorBlue |M:Marker 1 |D:1

002  001      V     C        01:01:00:12 01:01:00:13 01:01:00:12 01:01:00:13  
3 people | enter |C:ResolveColorRed |M:enter |D:50
"""

PREMIERE = ("Marker Name\tDescription\tIn\tOut\tDuration\tMarker Type\t\n"
            "pour\tShe pours.\t00;01;00;02\t00;01;01;02\t00;00;01;00\tComment\t\n"
            "\t\t00;00;05;00\t00;00;05;00\t00;00;00;00\tChapter\t\n")
