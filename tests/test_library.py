"""A library: what is indexed, what is found, what a kill leaves, who gets out of its folders (nobody)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import complaint, make_encoder
from tiny_library import clap_encoder

from cuemark import library as library_module
from cuemark import video
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, VideoError
from cuemark.extraction import ExtractConfig
from cuemark.feature_folder import FeatureFolder
from cuemark.filters import match_of
from cuemark.library import Filter, Library
from cuemark.localization import Shown
from cuemark.localizers import build
from cuemark.localizers.trained import TrainedLocalizer
from cuemark.segments import Segment, VideoTruth, read_truth
from cuemark.similarity import Space
from cuemark.vectors import FileVectors

CONFIG = ExtractConfig(stride=4)
SRT = "1\n00:00:01,000 --> 00:00:02,500\nThe weather stays fine.\n"


def filmed(folder: Path, world) -> Path:
    """A folder of four videos, one with subtitles."""
    (folder / "sub").mkdir(parents=True)
    for vid, place in (("training_0000", "a.mp4"), ("training_0001", "b.mp4"), ("training_0002", "sub/a.mp4"),
                       ("testing_0000", "c d.mp4")):
        shutil.copy(world.videos[vid], folder / place)
    (folder / "b.srt").write_text(SRT)
    return folder


@pytest.fixture
def footage(tiny_world, tmp_path) -> Path:
    return filmed(tmp_path / "footage", tiny_world)


@pytest.fixture(scope="session")
def made_once(tiny_world, tiny_text, tmp_path_factory):
    """The footage, indexed; tests get a copy."""
    base = tmp_path_factory.mktemp("library")
    footage = filmed(base / "footage", tiny_world)
    with Library.create(base / "library", clap_encoder(tiny_text), config=CONFIG) as library:
        result = library.index([footage])
        assert not result.failed
        assert len(result.done) == 4
    return base


@pytest.fixture
def lib(made_once, tmp_path):
    shutil.copytree(made_once / "library", tmp_path / "lib")
    with Library.open(tmp_path / "lib") as opened:
        yield opened


def pointing(library: Library, **at: tuple[str, int]) -> None:
    """Make the library read a sentence as the vector of a clip: (video, number); any other as one far from all."""
    seen = library.space
    assert seen is not None
    rows = {word: seen.see(library.features(vid).data)[i] for word, (vid, i) in at.items()}
    far = -np.concatenate([seen.see(library.features(v.id).data) for v in library.videos(Filter())]).mean(0)
    far /= np.linalg.norm(far)
    noise = np.random.default_rng(0)

    def read(sentences):
        out = []
        for sentence in sentences:
            vague = far + 0.05 * noise.standard_normal(len(far))
            out.append(rows.get(sentence, vague / np.linalg.norm(vague)))
        return np.array(out, np.float32)

    library.__dict__["space"] = Space(seen.see, read, seen.dim)


# ---------------------------------------------------------------------------------------------- indexing


def test_what_is_indexed(lib):
    ids = [v.id for v in lib.videos()]
    assert ids[0] == "a"
    assert ids[1].startswith("a-")  # another folder's a.mp4
    assert ids[2:] == ["b", "c d"]
    assert len(lib) == 4
    folder = FeatureFolder.open(lib.folder / "features")
    assert set(folder) == set(ids)
    for entry in lib.videos():
        features = lib.features(entry.id)
        assert features.grid == folder[entry.id].grid
        np.testing.assert_array_equal(features.data, folder[entry.id].data.astype(np.float32))
        assert entry.clips == features.grid.count
        stretches = lib.segments(entry.id, "stretch")
        assert stretches[0].start == 0
        assert stretches[-1].end == entry.duration
        assert all(a.end == b.start for a, b in pairwise(stretches))
        assert {s.label for s in stretches} <= {"bouncing", "rocking"}
    # the vectors are those that are compared
    live = lib._alive()
    rows = lib._store("clips", 0).rows(int(live.clips[-1, 2]))
    for number, first, last in live.clips.tolist():
        np.testing.assert_allclose(rows[first:last], lib._rows_of(number), atol=1e-3)


def test_only_what_is_new_or_changed_is_looked_at(footage, tiny_text, tmp_path, tiny_world):
    with Library.create(tmp_path / "lib", clap_encoder(tiny_text), config=CONFIG) as lib:
        first = lib.index([footage / "a.mp4", footage / "sub"])
        assert sorted(first.done) == sorted(v.id for v in lib.videos())
        again = lib.index([footage / "a.mp4", footage / "sub"])
        assert (again.done, sorted(again.same)) == ([], sorted(first.done))
        os.utime(footage / "a.mp4", (1, 1))  # touched
        assert lib.index([footage / "a.mp4"]).same == ["a"]
        assert lib.video("a").modified == 1
        shutil.copy(tiny_world.videos["training_0003"], footage / "a.mp4")  # another video
        assert lib.index([footage / "a.mp4"]).done == ["a"]
        (footage / "bad.mp4").write_bytes(b"nonsense" * 100)
        more = lib.index([footage])
        assert more.done == ["b", "c d"] or sorted(more.done) == ["b", "c d"]
        assert list(more.failed) == [str(footage / "bad.mp4")]
        assert lib.video("bad").state == "failed"
        assert "bad.mp4" in (lib.video("bad").reason or "")
        shutil.copy(tiny_world.videos["training_0004"], footage / "bad.mp4")  # mended
        assert lib.index([footage]).done == ["bad"]
        assert lib.video("bad").state == "ok"


def test_what_is_gone_is_hidden_until_it_is_back(footage, tiny_text, tmp_path):
    with Library.create(tmp_path / "lib", clap_encoder(tiny_text), config=CONFIG) as lib:
        lib.index([footage])
        (footage / "b.mp4").rename(tmp_path / "b.mp4")
        assert lib.index([footage]).gone == ["b"]
        assert lib.video("b").state == "gone"
        assert len(lib) == 3
        assert "b" not in {hit.video for hit in lib.search("a star", 50, floor=None).hits}
        assert not lib.search("weather stays fine", floor=0.999999).hits
        (tmp_path / "b.mp4").rename(footage / "b.mp4")
        back = lib.index([footage])
        assert (back.done, len(back.same)) == ([], 4)
        assert lib.search("weather stays fine", floor=0.999999).hits[0].video == "b"
        # moved within the library: known again by its content
        (footage / "b.mp4").rename(footage / "sub" / "other.mp4")
        moved = lib.index([footage])
        assert (moved.done, moved.moved) == ([], ["b"])
        assert lib.file("b") == footage / "sub" / "other.mp4"
        (footage / "sub" / "other.mp4").unlink()
        assert lib.index([footage], prune=True).gone == ["b"]
        assert "b" not in {v.id for v in lib.videos()}
        assert not (lib.folder / "features" / "b.npy").exists()
        assert "b" not in FeatureFolder.open(lib.folder / "features")


def test_many_holes_make_a_smaller_file(lib, monkeypatch):
    before = lib.search("a star", floor=None)
    with lib._writing() as db:  # as if most had been removed
        db.execute("UPDATE meta SET value = 5000 WHERE key = 'clip'")
    lib._settle(library_module.Indexed())
    live = lib._alive()
    assert live.generation == 1
    assert live.clips[0, 1] == 0
    assert (live.clips[1:, 1] == live.clips[:-1, 2]).all()
    assert not (lib.folder / "clips-0.f16").exists()
    after = lib.search("a star", floor=None)
    assert [h.to_json() for h in after.hits] == [h.to_json() for h in before.hits]


KILLED = """
import json, os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from cuemark import copies, extraction, feature_folder, folders, library, vectors
from cuemark.library import Library
folders.PATIENCE = 0  # a kill frees the lock at once

def dying(owner, name, after):
    whole = getattr(owner, name)
    def work(*given, **named):
        nonlocal after
        after -= 1
        if after < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given, **named)
    setattr(owner, name, work)

vectors.APPROXIMATE_FROM = 10
for line in sys.stdin:  # a moment: what is called when the run dies, and how often it was called before
    owner, name, after = json.loads(line)
    child = os.fork()
    if not child:
        dying(eval(owner), name, after)
        with Library.open({folder!r}) as lib:
            lib.index([{footage!r}])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def twice(tiny_world, tiny_text, tmp_path):
    """Footage, some of it twice, and a library of it; and one that is empty."""
    footage = filmed(tmp_path / "footage", tiny_world)
    shutil.copy(footage / "a.mp4", footage / "sub" / "again.mp4")
    for name in ("calm", "lib"):
        Library.create(tmp_path / name, clap_encoder(tiny_text), config=CONFIG).close()
    with Library.open(tmp_path / "calm") as calm:
        assert calm.index([footage]).copies == 1
    return footage


def test_a_kill_loses_nothing(twice, tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "lib"), footage=str(twice))
    moments = [("extraction._Video", "finish", 1), ("vectors.FileVectors", "put", 0), ("vectors.FileVectors", "put", 3),
               ("library.Library", "_read_texts", 0), ("library.Library", "_read_texts", 2),
               ("feature_folder.Book", "write", 0), ("library.Library", "_settle", 0), ("copies", "aligned", 0),
               ("library.Library", "_find_copies", 4), ("vectors.FileVectors", "settle", 0)]
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as runs:
        assert runs.stdin is not None
        assert runs.stdout is not None
        died = []
        for moment in moments:
            print(json.dumps(moment), file=runs.stdin, flush=True)
            died.append(int(runs.stdout.readline()))
            with Library.open(tmp_path / "lib") as lib:  # what is there is whole
                for entry in lib.videos(Filter()):
                    assert lib.features(entry.id).grid.count == entry.clips
                lib.search("a star", floor=None)
        runs.stdin.close()
    assert died == [-9] * len(moments)
    with Library.open(tmp_path / "lib") as lib, Library.open(tmp_path / "calm") as calm:
        lib.index([twice])
        assert [(v.id, v.state, v.clips) for v in lib.videos()] == [(v.id, v.state, v.clips) for v in calm.videos()]
        assert lib.copies() == calm.copies()
        for entry in lib.videos():
            np.testing.assert_array_equal(lib.features(entry.id).data, calm.features(entry.id).data)
            assert lib.segments(entry.id) == calm.segments(entry.id)
        for sentence in ("a star", "weather stays fine"):
            hits = [[h.to_json() for h in one.search(sentence, floor=None).hits] for one in (lib, calm)]
            assert hits[0] == hits[1]


def test_what_has_been_compared_is_not_compared_again(lib, made_once, monkeypatch):
    """Nor where an earlier cuemark has left no note of how far it was, and a run ended early since."""
    with lib._writing() as db:
        db.execute("DELETE FROM meta WHERE key = 'compared'")
    compare, compared = Library._find_copies, []

    def until(library, number, pairs):
        if len(compared) == 2:
            raise InterruptedError
        compare(library, number, pairs)
        compared.append(number)

    monkeypatch.setattr(Library, "_find_copies", until)
    with pytest.raises(DataError):
        lib.index([made_once / "footage"])
    monkeypatch.setattr(Library, "_find_copies", lambda library, number, pairs: compared.append(number))
    lib.index([made_once / "footage"])
    lib.index([made_once / "footage"])
    assert sorted(compared) == sorted(lib._number(v.id) for v in lib.videos())


def test_what_nothing_finds_is_measured_again_with_another_index(lib, made_once, monkeypatch):
    lib.search("a star")
    assert lib._meta("nothing") is not None
    lib.index([made_once / "footage"])
    assert lib._meta("nothing") is not None
    monkeypatch.setattr(FileVectors, "settle", lambda store, spans, end: {"candidates": 1000, "recall": 1.0})
    lib.index([made_once / "footage"])
    assert lib._meta("nothing") is None
    lib.search("a star")
    assert lib._meta("nothing") is not None


def test_one_run_at_a_time(lib, monkeypatch):
    monkeypatch.setattr("cuemark.folders.PATIENCE", 0)
    with lib._alone(), pytest.raises(CuemarkError, match="another run is indexing into"):
        lib.index([])


def test_libraries_that_cannot_be_opened(lib, tmp_path, tiny_text):
    with pytest.raises(DataError, match="is no library"):
        Library.open(tmp_path)
    with pytest.raises(DataError, match="is a library already"):
        Library.create(lib.folder, clap_encoder(tiny_text))
    told = json.loads((lib.folder / "library.json").read_text())
    (lib.folder / "library.json").write_text(json.dumps({**told, "version": 99}))
    with pytest.raises(DataError, match="of version 99"):
        Library.open(lib.folder)
    (lib.folder / "library.json").write_text("[]")
    with pytest.raises(DataError, match="does not describe a library"):
        Library.open(lib.folder)


# ---------------------------------------------------------------------------------------------- searching


def test_a_sentence_leads_to_the_moment(lib):
    pointing(lib, it=("b", 7))
    found = lib.search("it", 5)
    hit = found.hits[0]
    assert hit.video == "b"
    assert hit.similarity == pytest.approx(1, abs=1e-3)
    assert hit.segment.start <= lib.features("b").grid.centres[7] <= hit.segment.end
    assert hit.segment.query == "it"
    assert hit.segment.score is not None
    assert hit.segment.score > 0.999
    assert hit.segment.start <= hit.picture <= hit.segment.end
    assert hit.why == "looks like it"
    assert [h.similarity for h in found.hits] == sorted((h.similarity for h in found.hits), reverse=True)


def test_nothing_is_found_below_the_floor(lib):
    pointing(lib, it=("b", 7))
    nothing = lib.search("something else")
    assert (nothing.hits, nothing.floor) == ([], 0.95)
    assert nothing.best is not None
    assert nothing.best < 0.95
    unsure = lib.search("something else", floor=None)
    assert unsure.hits
    assert unsure.floor is None


def test_answers_do_not_overlap(lib):
    hits = lib.search("a red star", 100, floor=None).hits
    assert hits
    for i, a in enumerate(hits):
        for b in hits[:i]:
            if a.video == b.video:
                shared = a.segment.overlap(b.segment)
                assert shared <= 0.5 * min(a.segment.duration, b.segment.duration) + 1e-6


def test_words_that_were_said_are_found(lib):
    hit = lib.search("the weather stays fine", floor=0.999999).hits[0]
    assert hit.video == "b"
    assert (hit.segment.start, hit.segment.end) == (1.0, 2.5)
    assert hit.why == "said “The weather stays fine.”"
    assert lib.search("weather", floor=None).hits
    assert not lib.search("whether stays", floor=0.999999).hits
    for strange in ('weather" OR "', "NEAR(a b)", "*", "text:weather", "-", "💥"):
        lib.search(strange, floor=None)
    assert match_of('a "b* NEAR(c)') == '"a" "b" "NEAR" "c"'


def test_both_rankings_make_one(lib):
    lib.annotate({"c d": VideoTruth(3.0, (Segment(0.0, 9.0, "jump", sentence="it leaps"),))})
    pointing(lib, **{"it leaps": ("c d", 3)})
    hit = lib.search("it leaps").hits[0]
    assert hit.video == "c d"
    assert hit.why == "looks like it; described as “jump it leaps”"


def test_an_example_leads_to_its_like(lib, tiny_world, made_once):
    inside = lib.file("b")
    hit = lib.search(Shown(inside, 2.0, 3.0), 3).hits[0]
    assert hit.video == "b"
    assert hit.similarity is not None
    assert hit.similarity > 0.99
    assert hit.why == "looks like the example"
    assert hit.segment.query == f"{inside}:2-3"
    outside = tiny_world.videos["training_0001"]  # the same file, elsewhere
    assert lib.search(Shown(outside, 2.0, 3.0), 3).hits[0].video == "b"
    with pytest.raises(CallError, match="shows no clip"):
        lib.search(Shown(inside, 200.0, 201.0))
    with pytest.raises(VideoError, match="does not exist"):
        lib.search(Shown(Path("gone.mp4"), 0, 1))


def test_a_localizer_refines(lib, tiny_text):
    small = {"clips": 16, "nodes": 8, "scales": [8], "hidden": 8, "kernel": 3, "layers": 1, "text_dim": 24,
             "text_width": 8, "text_layers": 1}
    torch.manual_seed(0)
    told = {k: v for k, v in FeatureFolder.open(lib.folder / "features").meta.items() if k != "videos"}
    model = TrainedLocalizer(build("tan2d", small, 32, []).eval(), "tan2d", told, None, {}, str(tiny_text))
    found = lib.search("a star", 5, localizer=model, floor=None)
    assert found.hits
    assert found.hits[0].why == "looks like it, bounds by tan2d"
    for hit in found.hits:
        assert 0 <= hit.segment.start < hit.segment.end <= lib.video(hit.video).duration + 1e-6
    wrong = replace(model, features={**told, "weights": "other"})
    with pytest.raises(ModelError, match="weights"):
        lib.search("a star", localizer=wrong)
    with pytest.raises(CallError, match="cannot refine an example"):
        lib.search(Shown(lib.file("b"), 0, 1), localizer=model)


@pytest.mark.parametrize(("filter", "left"), [
    (Filter(ids=("a", "b")), {"a", "b"}),
    (Filter(text="weather fine"), {"b"}),
    (Filter(text="weather rain"), set()),
    (Filter(longer=1e6), set()),
    (Filter(shorter=1e6, until="2100-01-01"), {"a", "b", "c d"}),
    (Filter(since="2100-01-01"), set()),
])
def test_filters(lib, filter, left):
    assert {v.id.split("-")[0] for v in lib.videos(filter)} == left
    allowed = {v.id for v in lib.videos(filter)}
    hits = lib.search("a star", 50, filter, floor=None).hits
    assert {h.video for h in hits} <= allowed
    assert bool(hits) == bool(allowed)


def test_filter_by_folder_and_label(lib, made_once):
    inner, = lib.videos(Filter(folder=made_once / "footage" / "sub"))
    assert inner.path == made_once / "footage" / "sub" / "a.mp4"
    assert not lib.videos(Filter(folder=made_once / "foot"))
    lib.annotate({"b": VideoTruth(5.0, (Segment(1.0, 2.0, "jump"),)), "unknown": VideoTruth(1.0)})
    hits = lib.search("a star", 50, Filter(label="jump"), floor=None).hits
    assert all(h.video == "b" and h.segment.start <= 2.0 and h.segment.end >= 1.0 for h in hits)
    assert hits
    assert lib.labels()["jump"] == 1


def test_filters_add_up(lib, made_once):
    """Each alone leaves something; what passes all of them passes each."""
    footage = made_once / "footage"
    for vid, day in (("a", "2026-03-01"), ("b", "2026-03-02")):
        moment = time.mktime(time.strptime(f"{day} 12:00", "%Y-%m-%d %H:%M"))
        with lib._writing() as db:
            db.execute("UPDATE videos SET modified = ? WHERE id = ?", (moment, vid))
    days = [Filter(since="2026-03-01", until="2026-03-02", folder=footage), Filter(since="2026-03-02", folder=footage),
            Filter(until="2026-03-01"), Filter(since="2026-03-02", until="2026-03-01")]
    assert [{v.id for v in lib.videos(f)} & {"a", "b"} for f in days] == [{"a", "b"}, {"b"}, {"a"}, set()]
    length = lib.video("b").duration
    assert "b" in {v.id for v in lib.videos(Filter(longer=length, shorter=length))}
    assert [v.id for v in lib.videos(Filter(text="WEATHER", ids=("a", "b"), longer=0.5))] == ["b"]
    assert lib.videos(Filter(text="weather", ids=("a",))) == []
    assert lib.videos(Filter(ids=("nobody",))) == lib.videos(Filter(ids=())) == []
    assert lib.search("a star", filter=Filter(ids=("nobody",)), floor=None).hits == []
    assert lib.videos(Filter(folder=f"{footage}/")) == lib.videos(Filter(folder=footage)) == lib.videos(Filter())


def test_a_filter_of_labels_the_encoder_gave(lib):
    """Its class head names stretches; a moment that is found lies in one with that name."""
    for label in lib.labels():
        inside = {v.id: [s for s in lib.segments(v.id) if s.label == label] for v in lib.videos(Filter(label=label))}
        assert all(inside.values())
        for hit in lib.search("a star", 50, Filter(label=label), floor=None).hits:
            assert any(hit.segment.start <= s.end and hit.segment.end >= s.start for s in inside[hit.video])


def test_words_are_found_behind_a_filter_however_common_they_are(lib, monkeypatch):
    monkeypatch.setattr(library_module, "WORDS", 3)
    number = lib._number("a")
    with lib._writing() as db:
        db.executemany("INSERT INTO texts (video, kind, start, end, text) VALUES (?, 'said', ?, ?, 'weather fine')",
                       [(number, i / 10, i / 10 + 0.05) for i in range(20)])
    pointing(lib)
    assert "b" not in {h.video for h in lib.search("weather fine").hits}  # twenty shorter texts are before it
    assert [h.video for h in lib.search("weather fine", filter=Filter(ids=("b",))).hits] == ["b"]


def test_filters_that_cannot_be_meant(lib):
    for filter, words in ((Filter(since="yesterday"), "2026-01-31"), (Filter(text="!"), "no word"),
                          (Filter(longer=-1), "longer")):
        with pytest.raises(CallError, match=words):
            lib.videos(filter)
    with pytest.raises(CallError, match="nothing to look for"):
        lib.search("  ")
    with pytest.raises(CallError, match="top"):
        lib.search("x", 0)


def test_an_encoder_without_sentences_finds_words_and_examples(footage, tmp_path, capsys):
    with Library.create(tmp_path / "lib", make_encoder(0), config=CONFIG) as lib:
        assert "Sentences are found by words alone." in capsys.readouterr().err
        lib.index([footage])
        assert [h.video for h in lib.search("weather").hits] == ["b"]
        assert lib.search("a star").hits == []
        assert lib.search(Shown(footage / "b.mp4", 2, 3)).hits[0].video == "b"
        with pytest.raises(ModelError, match="cannot compare videos with sentences"):
            lib.curve("b", "a star")


def test_curves(lib):
    pointing(lib, it=("b", 7))
    seconds, cosines = lib.curve("b", "it")
    assert len(seconds) == len(cosines) == lib.video("b").clips
    assert int(cosines.argmax()) == 7


def test_searches_from_many_threads_while_it_grows(lib, tiny_world):
    wrong: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(5):
                assert lib.search("a star", 5, floor=None).hits
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    lib.index([tiny_world.videos["training_0005"]])
    for thread in threads:
        thread.join()
    assert not wrong
    assert "training_0005" in {v.id for v in lib.videos()}


def test_closing_under_a_thread_that_searches_is_a_sentence(made_once):
    """Not the end of the process, which SQLite makes of a connection that is closed under its user."""
    def ask(lib: Library) -> None:
        while True:
            lib.search("weather", 5, floor=None)
            lib.videos()

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            lib = Library.open(made_once / "library")
            asking = [pool.submit(ask, lib) for _ in range(4)]
            time.sleep(0.1)
            lib.close()
            for one in asking:
                with pytest.raises(CallError, match="is closed; open it again"):
                    one.result(30)
    with pytest.raises(CallError, match="is closed"):
        lib.videos()
    lib.close()  # once more is nothing


def test_progress_is_told_and_can_end_a_run(footage, tiny_text, tmp_path):
    with Library.create(tmp_path / "lib", clap_encoder(tiny_text), config=CONFIG) as lib:
        told: list[tuple[int, int, float]] = []

        def once(*now) -> bool:
            told.append(now)
            return now[0] < 1

        first = lib.index([footage], progress=once)
        assert first.stopped
        assert 1 <= len(first.done) < 4
        assert {total for _, total, _ in told} == {4}
        told.clear()
        rest = lib.index([footage], progress=lambda *now: told.append(now) or True)
        assert not rest.stopped
        assert sorted(first.done + rest.done) == sorted(v.id for v in lib.videos())
        assert [share for _, _, share in told] == sorted(share for _, _, share in told)
        assert told[0] == (0, len(rest.done), 0.0)
        assert told[-1] == (len(rest.done), len(rest.done), 1.0)


# ---------------------------------------------------------------------------------------------- copies


def test_footage_that_is_there_twice_answers_once(lib, made_once, tmp_path):
    """The same video, smaller, and without its first second."""
    source = lib.file("b")
    pictures = [picture for _, picture in video.frames(source)]
    rate = video.probe(source).fps
    late = round(rate * 16 / 15)  # four clips' starts later, so that grids fall together
    video.write(tmp_path / "again.mp4", pictures[late:], fps=rate, quality=28)
    result = lib.index([tmp_path / "again.mp4"])
    assert result.copies >= 1
    (a, b, back, correlation), = lib.copies()
    assert (a, b) == ("b", "again")
    shift = -back  # seconds to add to a time of the smaller one
    assert shift == pytest.approx(16 / 15, abs=0.3)
    assert correlation > 0.8
    pointing(lib, it=("b", 20))
    hits = lib.search("it", 50).hits
    both = [h for h in hits if h.video in ("b", "again")]
    moment = both[0].segment
    assert "again" in both[0].also or "b" in both[0].also
    mine = [h for h in both[1:] if Segment(h.segment.start + (shift if h.video == "again" else 0),
                                           h.segment.end + (shift if h.video == "again" else 0)).overlap(moment)
            > 0.6 * moment.duration]
    assert not mine


def test_different_videos_are_no_copies(lib):
    assert lib.copies() == []


# ---------------------------------------------------------------------------------------------- files


def test_no_file_outside_the_folders(footage, tiny_text, tmp_path, tiny_world):
    outside = tmp_path / "outside.mp4"
    shutil.copy(tiny_world.videos["training_0003"], outside)
    (footage / "link.mp4").symlink_to(outside)
    with Library.create(tmp_path / "lib", clap_encoder(tiny_text), config=CONFIG) as lib:
        result = lib.index([footage])
        assert "leads out of the folder" in result.failed[str(footage / "link.mp4")]
        assert "link" not in {v.id for v in lib.videos()}
        assert lib.file("b") == footage / "b.mp4"
        (footage / "b.mp4").unlink()
        (footage / "b.mp4").symlink_to(outside)  # after it was indexed
        with pytest.raises(VideoError, match="leads out of the folders"):
            lib.file("b")
        (footage / "c d.mp4").unlink()
        with pytest.raises(VideoError, match="does not exist"):
            lib.file("c d")
        for vid in ("../outside", "x", "", "a' OR 1=1 --"):
            with pytest.raises(CallError, match="has no video"):
                lib.file(vid)


def test_strange_names(tiny_world, tiny_text, tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    names = ["<b>x<b>.mp4", "a;b'c\"d.mp4", "features.mp4", "é" * 100 + ".mp4"]
    for name in names:
        shutil.copy(tiny_world.videos["training_0000"], folder / name)
    with Library.create(tmp_path / "lib", clap_encoder(tiny_text), config=CONFIG) as lib:
        result = lib.index([folder])
        assert not result.failed
        assert len(lib) == len(names)
        assert {lib.file(v.id).name for v in lib.videos()} == set(names)
        assert len(lib.search("a star", 50, floor=None).hits) >= 1
        assert len(lib.copies()) == 6  # the same bytes under four names


def test_thumbnails(lib, monkeypatch):
    first = lib.thumbnail("b", 1.23)
    assert first[:2] == b"\xff\xd8"
    kept, = (lib.folder / "thumbnails").iterdir()
    assert kept.read_bytes() == first == lib.thumbnail("b", 1.21)
    assert lib.thumbnail("b", 1e6) == lib.thumbnail("b", lib.video("b").duration)
    for wrong in ((float("nan"), 100), (0.0, 1), (0.0, 5000)):
        with pytest.raises(CallError):
            lib.thumbnail("b", *wrong)
    monkeypatch.setattr(library_module, "THUMBNAILS", 1)
    lib._bound_pictures()
    assert not list((lib.folder / "thumbnails").iterdir())


# ---------------------------------------------------------------------------------------------- corrections


def test_corrections_are_a_truth(lib):
    said = [Segment(0.5, 1.5, "wave", sentence="she waves"), Segment(2.0, 3.0, "wave")]
    lib.correct("b", said)
    truth = read_truth(lib.folder / "corrections.json")
    assert truth == lib.corrections()
    assert truth["b"].annotations == tuple(said)
    assert truth["b"].duration == pytest.approx(lib.video("b").duration)
    assert [s.label for s in lib.segments("b", "correction")] == ["wave", "wave"]
    assert lib.labels()["wave"] == 2
    assert lib.search("she waves", floor=0.999999).hits[0].video == "b"
    with pytest.raises(CallError, match="must lie within"):
        lib.correct("b", [Segment(0.0, 1e6)])
    with pytest.raises(CallError, match="has no video"):
        lib.correct("x", said)
    lib.index([lib.video("b").path])
    assert lib.segments("b", "correction")  # indexing leaves them
    lib.correct("b", [])
    assert lib.corrections() == {}
    assert "wave" not in lib.labels()


def test_corrections_of_many_at_once(lib):
    ids = [v.id for v in lib.videos()]
    threads = [threading.Thread(target=lib.correct, args=(vid, [Segment(0.0, 1.0, vid)])) for vid in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {vid: v.annotations[0].label for vid, v in lib.corrections().items()} == {vid: vid for vid in ids}


# ---------------------------------------------------------------------------------------------- the command line


def test_the_commands(cuemark, footage, tiny_text, tmp_path):
    clap_encoder(tiny_text).save(tmp_path / "clap.safetensors")
    (footage / "bad.mp4").write_bytes(b"nonsense" * 100)
    lib = tmp_path / "lib"
    words = ("index", footage, "--library", lib)
    assert "--encoder" in complaint(cuemark(*words), 2)
    ended = cuemark(*words, "--encoder", tmp_path / "clap.safetensors", "--stride", 4)
    assert ended.status == 1
    assert "bad.mp4" in ended.out
    assert "4 videos; 4 indexed, 0 were there, 0 moved, 0 gone, 1 failed" in ended.out
    (footage / "bad.mp4").unlink()
    again = cuemark(*words, "--json")
    assert again.status == 0
    told = json.loads(again.out)
    assert (told["done"], len(told["same"]), told["gone"]) == ([], 4, ["bad"])
    assert "--stride is for a new library" in complaint(cuemark(*words, "--stride", 8), 2)

    found = cuemark("search", "a star", "--library", lib, "--any", "--top", 3)
    assert found.status == 0
    assert "looks like it" in found.out
    ended = cuemark("search", "a star", "--library", lib, "--any", "--json", "--thumbnails", tmp_path / "t")
    hits = json.loads(ended.out)["hits"]
    assert {"video", "path", "segment", "score", "similarity", "picture", "why", "also", "thumbnail"} == hits[0].keys()
    assert Path(hits[0]["thumbnail"]).read_bytes()[:2] == b"\xff\xd8"
    example = cuemark("search", "--example", f"{footage / 'b.mp4'}:2-3", "--library", lib, "--json", "--top", 1)
    assert [h["video"] for h in json.loads(example.out)["hits"]] == ["b"]
    assert "nothing found" in cuemark("search", "whatever", "--library", lib, "--longer", 1e6).out
    assert "say what to look for" in complaint(cuemark("search", "--library", lib), 2)
    assert "is no library" in complaint(cuemark("search", "x", "--library", tmp_path))


def test_help_has_examples(cuemark):
    for command in ("index", "search"):
        ended = cuemark(command, "--help")
        assert ended.status == 0
        assert f"cuemark {command}" in ended.out.split("Examples:")[1]


def test_the_database_is_sound(lib):
    with sqlite3.connect(lib.folder / "library.db") as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    db.close()
