"""The server: what it answers, and whom it does not answer."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import complaint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_library import HOSTILE, SENTENCE, listening, make_library, pointing, strange

pytest.importorskip("fastapi", reason="the server needs the extra: pip install 'cuemark[serve]'")
from starlette.testclient import TestClient

from cuemark import conversion, video
from cuemark.app import media
from cuemark.app.export import GROUPS, choices
from cuemark.app.guard import Guard, Limits, Rates
from cuemark.app.jobs import Jobs
from cuemark.app.server import create
from cuemark.app.service import SHOWN, Service, outstanding
from cuemark.errors import VideoError
from cuemark.library import Library
from cuemark.segments import Segment, read_truth

WIDE = Limits(rate=1e6, burst=10**6, dear_rate=1e6, dear_burst=10**6, upload=4 << 20)


@pytest.fixture(scope="module")
def made_once(tiny_world, tiny_text, tmp_path_factory) -> Path:
    return make_library(tmp_path_factory.mktemp("served"), tiny_world, tiny_text).parent


@pytest.fixture
def service(made_once, tmp_path):
    shutil.copytree(made_once / "library", tmp_path / "library")
    opened = Library.open(tmp_path / "library")
    pointing(opened)
    predictions = {"a": [Segment(1.0, 3.0, "rocking", 0.7), Segment(4.0, 5.0, "bouncing", 0.9)]}
    made = Service(opened, {"mine": predictions, "other": {"a": [Segment(1.2, 3.1, "rocking", 0.4)]}})
    yield made
    made.close()


@pytest.fixture
def client(service):
    with TestClient(create(service, limits=WIDE), base_url="http://localhost", raise_server_exceptions=False) as one:
        yield one


def refused(answer, status: int) -> str:
    """The one sentence of a refusal."""
    assert answer.status_code == status, answer.text
    (key, sentence), = answer.json().items()
    assert key == "error"
    assert sentence.endswith(".")
    assert "Traceback" not in sentence
    return sentence


def finished(client, job) -> dict:
    """A job's last state, by its events."""
    with client.stream("GET", f"/jobs/{job['number']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        states = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert [s for s in states[:-1] if s["state"] in ("done", "failed")] == []
    return states[-1]


# ---------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("path", ["/", "/search?q=x", "/videos", "/video?id=a", "/page/main.js", "/page/style.css"])
def test_pages_and_what_browsers_are_told(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_holds_no_code_and_nothing_from_elsewhere():
    """What the policy forbids is not there, and text is never read as HTML."""
    folder = Path(media.__file__).parent / "page"
    page = (folder / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|style=|\son\w+=", page)
    for path in folder.iterdir():
        told = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", told), path
        assert not set(re.findall(r"https?://[\w.]+", told)) - {"http://www.w3.org"}, path


@pytest.mark.parametrize("path", [
    "/page/../server.py", "/page/..%2fserver.py", "/page/%2e%2e/%2e%2e/server.py", "/page//etc/passwd",
    "/page/nothing.js", "/nothing", "/%00", "/page/%00"])
def test_nothing_else_is_served(client, path):
    refused(client.get(path), 404)


def test_the_library_as_a_whole(client):
    told = client.get("/index.json").json()
    assert (told["videos"], told["sentences"], told["refines"]) == (5, True, False)
    assert told["predictions"] == ["mine", "other"]
    assert {row["label"] for row in told["labels"]} >= {HOSTILE, "bouncing"}
    assert {form["group"] for form in told["formats"]} == {*GROUPS, "Benchmarks"}


def test_of_a_hundred_predictions_of_a_video_the_outstanding_are_shown():
    told = [Segment(1.0 + i / 50, 3.0, "rocking", 0.9 - i / 100) for i in range(20)]
    told += [Segment(1.0, 3.1, "spinning", 0.8), Segment(2.0, 6.0, "hopping", 0.3), Segment(8.0, 9.0, "faint", 0.05)]
    assert outstanding(told) == [told[0], told[21]]
    unsure = [replace(s, score=None) for s in (told[0], told[22])]
    assert outstanding(unsure) == unsure
    logarithms = [replace(s, score=score) for s, score in ((told[0], -0.5), (told[22], -3.0))]
    assert outstanding(logarithms) == logarithms
    assert outstanding([]) == []
    many = [Segment(i, i + 0.5, "x", 0.5) for i in range(100)]
    assert len(outstanding(many)) == SHOWN


def test_videos_and_their_filters(client):
    told = client.get("/videos.json?limit=2").json()["videos"]
    assert len(told) == 2
    rest = client.get("/videos.json?limit=50&offset=2").json()["videos"]
    assert {v["file"] for v in told + rest} == {"a.mp4", "b.mp4", "c d.mp4", "old.avi", f"{HOSTILE}.mp4"}
    assert [v["id"] for v in client.get("/videos.json?shorter=4.5").json()["videos"]] == ["old"]
    assert [v["id"] for v in client.get("/videos.json", params={"label": HOSTILE}).json()["videos"]] == ["b"]
    assert client.get("/videos.json?since=2100-01-01").json()["videos"] == []
    assert "day" in refused(client.get("/videos.json?since=tomorrow"), 400)


# ---------------------------------------------------------------------------------------------- searching


def test_a_sentence_leads_to_its_moment(client, made_once):
    with Library.open(made_once / "library") as opened:
        at = pointing(opened)
    found = client.get("/search.json", params={"q": SENTENCE}).json()
    best = found["hits"][0]
    assert best["id"] == "a"
    assert best["segment"][0] <= at <= best["segment"][1]
    assert best["score"] >= found["floor"]
    assert client.get("/thumbnail.jpg", params={"id": "a", "t": best["picture"]}).content[:2] == b"\xff\xd8"


def test_nothing_is_found_unless_anything_will_do(client):
    found = client.get("/search.json", params={"q": "entropy never decreases"}).json()
    assert found["hits"] == []
    assert found["best"] < found["floor"]
    assert client.get("/search.json", params={"q": "entropy never decreases", "any": True}).json()["hits"]


def test_a_class_and_an_example(client):
    found = client.get("/search.json", params={"label": HOSTILE}).json()["hits"]
    assert [(hit["id"], hit["segment"], hit["why"]) for hit in found] == [("b", [1.0, 2.0], "annotated")]
    found = client.get("/search.json", params={"like": "b", "start": 1, "end": 3, "top": 5}).json()["hits"]
    assert found[0]["id"] == "b"
    assert len(found) <= 5


@pytest.mark.parametrize(("query", "status"), [
    ("", 400), ("q=%20", 400), ("q=x&top=0", 422), ("q=x&top=abc", 422), ("q=x&refine=true", 400),
    (f"q={'x' * 501}", 422), ("like=zzz&start=0&end=1", 404), ("like=a&start=2&end=1", 400), ("q=x&longer=-1", 422),
    ("q=x&longer=nan", 422), ("q=x&since=2020", 400), ("like=..%2F..%2Fetc%2Fpasswd&start=0&end=1", 404)])
def test_what_cannot_be_searched(client, query, status):
    refused(client.get(f"/search.json?{query}"), status)


def test_a_video(client):
    told = client.get("/video.json", params={"id": "a", "q": SENTENCE}).json()
    lanes = {lane["name"]: lane for lane in told["lanes"]}
    assert list(lanes) == ["Truth", "Corrected", SENTENCE, "mine", "other", "Encoder"]
    assert lanes["Truth"]["segments"]
    assert [s["score"] for s in lanes["mine"]["segments"]] == [0.9, 0.7]
    (curve,) = told["curves"]
    assert len(curve["seconds"]) == len(curve["cosines"]) > 5
    assert max(curve["cosines"]) == pytest.approx(1.0, abs=1e-3)
    assert told["media"] == {"state": "direct", "type": "video/mp4"}
    several = client.get("/video.json", params={"id": "a", "q": [SENTENCE, "another"]}).json()
    assert [curve["query"] for curve in several["curves"]] == [SENTENCE, "another"]
    refused(client.get("/video.json?id=zzz"), 404)
    refused(client.get("/video.json"), 422)


def test_a_long_curve_keeps_its_peaks(service, monkeypatch):
    monkeypatch.setattr("cuemark.app.service.POINTS", 10)
    whole = service.library.curve("a", SENTENCE)[1]
    told = service.curve("a", SENTENCE)
    assert len(told["cosines"]) <= 10 < len(whole)
    assert max(told["cosines"]) == pytest.approx(float(whole.max()), abs=1e-4)


def test_no_answer_tells_a_path(client, made_once, service):
    asked = ["/index.json", "/videos.json?limit=100", "/jobs.json", "/corrections.json", "/metrics", "/openapi.json",
             f"/search.json?q={SENTENCE}", "/video.json?id=a", "/video.json?id=old", "/media?id=old"]
    os.rename(made_once / "footage" / "b.mp4", made_once / "away")
    try:
        told = [client.get(path).text for path in [*asked, "/media?id=b", "/thumbnail.jpg?id=b", "/video.json?id=b"]]
    finally:
        os.rename(made_once / "away", made_once / "footage" / "b.mp4")
    for text in told:
        assert str(made_once) not in text
        assert str(service.library.folder) not in text
    assert '"broken"' in told[-1]


# ---------------------------------------------------------------------------------------------- films


@pytest.fixture(scope="module")
def film(made_once):
    """A client that lives as long as the module, and the bytes of a film."""
    served = Service(Library.open(made_once / "library"))
    with TestClient(create(served, limits=WIDE), base_url="http://localhost") as client:
        yield client, (made_once / "footage" / "a.mp4").read_bytes()


def test_ranges(film):
    client, data = film
    whole = client.get("/media?id=a")
    assert whole.status_code == 200
    assert whole.content == data
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "video/mp4"
    for asked, start, end in (("0-0", 0, 1), ("100-299", 100, 300), ("-50", len(data) - 50, len(data)),
                              ("200-", 200, len(data)), (f"10-{len(data) * 5}", 10, len(data))):
        answer = client.get("/media?id=a", headers={"Range": f"bytes={asked}"})
        assert answer.status_code == 206
        assert answer.content == data[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    assert client.get("/media?id=a", headers={"Range": f"bytes={len(data)}-"}).status_code == 416
    several = client.get("/media?id=a", headers={"Range": "bytes=0-9,20-29"})
    assert several.status_code == 206
    assert data[20:30] in several.content
    head = client.head("/media?id=a")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))
    stale = client.get("/media?id=a", headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert stale.status_code == 200


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    st.builds("bytes={}".format, st.text("0123456789-, ", max_size=40)),
    st.builds("bytes={}-{}".format, st.integers(-10, 10**7), st.integers(-10, 10**20)),
    st.builds(lambda n: "bytes=" + ",".join(f"{i}-{i + 3}" for i in range(n)), st.integers(1, 300))))
def test_any_range_header(film, header):
    client, data = film
    answer = client.get("/media?id=a", headers={"Range": header})
    assert answer.status_code in (200, 206, 400, 416)
    if answer.status_code == 200:
        assert answer.content == data
    single = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("content-range", ""))
    if answer.status_code == 206 and single:
        first, last, total = map(int, single.groups())
        assert total == len(data)
        assert answer.content == data[first : last + 1]


@pytest.mark.parametrize("id", ["zzz", "../a", "/etc/passwd", "%00", "a.mp4", "..", "a%2F..%2Fb", "x" * 400])
def test_videos_are_named_by_id_alone(client, id):
    for path in ("/media", "/thumbnail.jpg", "/video.json"):
        refused(client.get(f"{path}?id={id}"), 404)


def test_a_link_that_leads_out_by_now(client, made_once, tmp_path):
    """What is in the folder today may be a link to somewhere else tomorrow."""
    secret = tmp_path / "secret.mp4"
    shutil.copy(made_once / "footage" / "b.mp4", secret)
    target = made_once / "footage" / "sub" / "c d.mp4"
    target.rename(tmp_path / "kept.mp4")
    try:
        target.symlink_to(secret)
        assert "leads out" in refused(client.get("/media", params={"id": "c d"}), 422)
        refused(client.get("/thumbnail.jpg", params={"id": "c d", "t": 3.3}), 422)
        refused(client.post("/cut", json={"id": "c d", "start": 0, "end": 1}), 422)
    finally:
        target.unlink()
        (tmp_path / "kept.mp4").rename(target)


def test_what_no_browser_plays_gets_a_proxy_in_the_background(client):
    assert client.get("/video.json?id=old").json()["media"]["state"] == "needed"
    assert "proxy" in refused(client.get("/media?id=old"), 404)
    job = client.post("/jobs", json={"kind": "proxy", "id": "old"})
    assert job.status_code == 202
    last = finished(client, job.json())
    assert last["state"] == "done", last
    answer = client.get("/media?id=old", headers={"Range": "bytes=0-99"})
    assert (answer.status_code, answer.headers["content-type"]) == (206, "video/mp4")
    assert client.get("/video.json?id=old").json()["media"]["state"] == "proxy"
    again = client.post("/jobs", json={"kind": "proxy", "id": "old"}).json()
    assert finished(client, again)["state"] == "done"
    refused(client.post("/jobs", json={"kind": "proxy"}), 422)
    refused(client.post("/jobs", json={"kind": "proxy", "id": "zzz"}), 404)
    refused(client.post("/jobs", json={"kind": "anything"}), 422)
    refused(client.get("/jobs/99999.json"), 404)
    refused(client.get("/jobs/99999/events"), 404)


def test_proxies(tmp_path, made_once):
    source = made_once / "footage" / "old.avi"
    assert media.look(source).type is None
    media.make(source, tmp_path / "p" / "proxy.mp4")
    was, now = video.probe(source), video.probe(tmp_path / "p" / "proxy.mp4")
    assert (now.codec, now.frames, now.width, now.height) == ("h264", was.frames, was.width, was.height)
    assert media.look(tmp_path / "p" / "proxy.mp4").type == "video/mp4"
    # H.264 in another container is copied, picture by picture
    import av

    with av.open(str(made_once / "footage" / "a.mp4")) as read, av.open(str(tmp_path / "a.mkv"), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    assert media.look(tmp_path / "a.mkv").type is None
    media.make(tmp_path / "a.mkv", tmp_path / "copy.mp4")
    assert media.look(tmp_path / "copy.mp4").type == "video/mp4"
    same = [video.frames_at(path, [0.0, 2.0, 4.0]) for path in (made_once / "footage" / "a.mp4", tmp_path / "copy.mp4")]
    assert (same[0] == same[1]).all()
    with pytest.raises(VideoError):
        media.make(Path(__file__), tmp_path / "no.mp4")


def test_bombs_are_refused_by_their_header(made_once, monkeypatch, client):
    monkeypatch.setattr(media, "PIXELS", 10)
    with pytest.raises(VideoError, match="claims pictures"):
        media.look(made_once / "footage" / "a.mp4")
    monkeypatch.undo()
    monkeypatch.setattr(media, "LONGEST", 1.0)
    assert "claims to last" in refused(client.get("/thumbnail.jpg?id=a&t=1.7"), 422)


# ---------------------------------------------------------------------------------------------- what people say


def test_corrections_are_kept_where_training_finds_them(client, service):
    told = [{"id": "a", "start": 2.0, "end": 3.5, "label": HOSTILE, "sentence": "it’s “so”"},
            {"id": "a", "start": 0.5, "end": 1.0, "label": "rocking"}]
    answer = client.post("/corrections.json", json={"id": "a", "segments": told})
    assert [s["start"] for s in answer.json()["segments"]] == [0.5, 2.0]
    lane = {one["kind"]: one for one in client.get("/video.json?id=a").json()["lanes"]}["correction"]
    assert lane["segments"][1]["label"] == HOSTILE
    assert read_truth(service.library.folder / "corrections.json")["a"].annotations[0] == Segment(0.5, 1.0, "rocking")
    assert list(client.get("/corrections.json").json()["corrections"]) == ["a"]
    assert client.get("/search.json", params={"label": HOSTILE}).json()["hits"][0]["why"] == "corrected"
    client.post("/corrections.json", json={"id": "a", "segments": []})
    assert client.get("/corrections.json").json()["corrections"] == {}


@pytest.mark.parametrize(("told", "status"), [
    ({"id": "zzz", "segments": []}, 404), ({"id": "a", "segments": [{"id": "a", "start": 3, "end": 2}]}, 400),
    ({"id": "a", "segments": [{"id": "a", "start": 0, "end": 9999}]}, 400), ({"id": "a"}, 422),
    ({"id": "a", "segments": [{"id": "a", "start": -1, "end": 2}]}, 422), ([], 422),
    ({"id": "a", "segments": [{"id": "a", "start": 1, "end": 2, "label": "x" * 501}]}, 422),
    ({"id": "a", "segments": [{"id": "a", "start": "NaN", "end": 2}]}, 422),
    ({"id": "a", "segments": [{"id": "a", "start": 1, "end": 2, "path": "/etc"}]}, 422)])
def test_what_cannot_be_said(client, told, status):
    refused(client.post("/corrections.json", json=told), status)
    assert client.get("/corrections.json").json()["corrections"] == {}


# ---------------------------------------------------------------------------------------------- taking away

CHOSEN = [{"id": "a", "start": 1.0, "end": 2.5, "label": "rocking", "score": 0.9},
          {"id": "a", "start": 3.0, "end": 4.0, "query": "a star spins", "score": 0.5},
          {"id": "b", "start": 0.5, "end": 1.5, "label": HOSTILE}]


@pytest.mark.parametrize("form", [choice["name"] for choice in choices()])
def test_every_format_can_be_downloaded_and_read_again(client, tmp_path, form):
    moments = CHOSEN if form not in ("didemo", "kinetics") else CHOSEN[:1]
    if form in ("thumos", "thumos-gtad", "thumos-groundtruth", "thumos-detections"):
        moments = [{**one, "label": "Diving"} for one in moments]  # these hold the classes of THUMOS
    answer = client.post("/export", json={"format": form, "moments": moments})
    if answer.status_code == 400 or answer.status_code == 422:  # a benchmark's own ids, classes or steps
        assert form in [choice["name"] for choice in choices() if choice["group"] == "Benchmarks"], answer.text
        refused(answer, answer.status_code)
        return
    assert answer.status_code == 200, answer.text
    name = re.search(r"utf-8''(.+)", answer.headers["content-disposition"])[1]
    assert answer.headers["cache-control"] == "no-store"
    place = tmp_path / name
    place.write_bytes(answer.content)
    if name.endswith(".zip"):
        with zipfile.ZipFile(place) as archive:
            assert all(not n.startswith("/") and ".." not in n for n in archive.namelist())
            archive.extractall(tmp_path / "out")
        place = next((tmp_path / "out").iterdir())
    if form in ("edl", "otio", "fcpxml", "resolve-edl", "premiere-csv"):
        assert place.exists()
        return
    segments = conversion.predictions_of(place, form, fps=30)
    assert sum(map(len, segments.values())) >= len(moments) - (form == "cvat")  # a folder of two, of which one is read


def test_one_video_is_one_file(client):
    answer = client.post("/export", json={"format": "srt", "moments": CHOSEN[:2]})
    assert "a.srt" in answer.headers["content-disposition"]
    assert "00:00:01,000 --> 00:00:02,500" in answer.text
    assert "a star spins" in answer.text
    refused(client.post("/export", json={"format": "nonsense", "moments": CHOSEN}), 400)
    refused(client.post("/export", json={"format": "csv", "moments": []}), 422)
    refused(client.post("/export", json={"format": "csv", "moments": [{**CHOSEN[0], "id": "zzz"}]}), 404)


@pytest.mark.parametrize("exact", [False, True])
def test_a_clip(client, tmp_path, exact):
    answer = client.post("/cut", json={"id": "a", "start": 1.0, "end": 2.0, "exact": exact})
    assert answer.status_code == 200
    (tmp_path / "clip.mp4").write_bytes(answer.content)
    assert video.probe(tmp_path / "clip.mp4").duration == pytest.approx(1.0, abs=0.15)
    shortest = client.post("/cut", json={"id": "old", "start": 0, "end": 1e-7, "exact": exact})
    assert shortest.status_code == 200, shortest.text
    (tmp_path / "shortest.mp4").write_bytes(shortest.content)
    assert video.probe(tmp_path / "shortest.mp4").frames == 1
    refused(client.post("/cut", json={"id": "a", "start": 0, "end": 5000}), 400)
    refused(client.post("/cut", json={"id": "a", "start": 2, "end": 1}), 400)


# ---------------------------------------------------------------------------------------------- more videos


def test_what_is_new_in_the_folders_is_indexed(client, made_once):
    new = made_once / "footage" / "new.avi"
    strange(new, 2.0)
    try:
        last = finished(client, client.post("/jobs", json={"kind": "index"}).json())
        assert (last["state"], last["result"]["done"], last["result"]["same"]) == ("done", ["new"], 5)
        assert (last["done"], last["total"], last["share"]) == (1, 1, 1.0)
        assert client.get("/index.json").json()["videos"] == 6
        assert str(made_once) not in json.dumps(last)
    finally:
        new.unlink()


def test_indexing_can_be_cancelled_and_goes_on(client, made_once, service, monkeypatch):
    films = [made_once / "footage" / f"new{i}.avi" for i in range(3)]
    for film in films:
        strange(film, 2.0)
    index = service.library.index

    def slowly(*args, progress, **options):  # cancelled when the first is done
        def told(done, total, share):
            if done >= 1:
                assert client.post("/jobs/1/cancel").status_code == 202
            return progress(done, total, share)
        return index(*args, progress=told, **options)

    monkeypatch.setattr(service.library, "index", slowly)
    try:
        last = finished(client, client.post("/jobs", json={"kind": "index"}).json())
        assert (last["state"], last["total"]) == ("cancelled", 3)
        assert 0 < last["share"] < 1
        assert 1 <= len(last["result"]["done"]) == last["done"] < 3
        monkeypatch.undo()
        rest = finished(client, client.post("/jobs", json={"kind": "index"}).json())
        assert rest["state"] == "done"
        assert sorted(last["result"]["done"] + rest["result"]["done"]) == ["new0", "new1", "new2"]
        refused(client.post("/jobs/99/cancel"), 404)
    finally:
        for film in films:
            film.unlink()


def test_a_video_can_be_sent(client, made_once, service):
    data = (made_once / "footage" / "a.mp4").read_bytes()
    job = client.post("/upload", files={"file": ("../../../x/<b>my film</b>.mp4", data)})
    assert job.status_code == 202
    last = finished(client, job.json())
    assert last["state"] == "done", last
    (vid,) = last["result"]["done"]
    path = service.library.file(vid)
    assert path.parent == service.library.folder.resolve() / "uploads"
    assert re.fullmatch(r"[\w -]+\.mp4", path.name)
    assert client.get("/media", params={"id": vid}).content == data
    for name, body, status in (("x.txt", data, 400), ("", data, 422), ("x.mp4", b"no film", 422), ("x.mp4", b"", 422),
                               ("x.mp4", bytes(6 << 20), 413)):
        refused(client.post("/upload", files={"file": (name, body)}), status)
    refused(client.post("/upload", data={"other": "x"}), 422)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "what was refused is left"


def test_uploads_can_be_closed(service):
    with TestClient(create(service, limits=Limits(upload=0)), base_url="http://localhost") as client:
        assert "takes no videos" in refused(client.post("/upload", files={"file": ("a.mp4", b"x" * 100)}), 400)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.sampled_from([
    "multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=", "application/json",
    "multipart/form-data; boundary=\"x", "text/plain"]), st.booleans())
def test_any_multipart(film, data, kind, framed):
    client, _ = film
    if framed:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
        data = head + data + b"\r\n\r\n" + data + b"\r\n--x--"
    answer = client.post("/upload", content=data, headers={"Content-Type": kind})
    assert 400 <= answer.status_code < 500
    refused(answer, answer.status_code)


def test_jobs_end_and_say_why():
    jobs, go = Jobs(), threading.Event()

    def broken(job):
        go.wait(10)
        raise VideoError("the film is damaged.")

    first = jobs.start("x", "one", broken)
    assert jobs.start("x", "one", broken) is first, "the same is not begun twice"
    second = jobs.start("y", "two", lambda job: 1 / 0)
    go.set()
    until = time.monotonic() + 10
    while not second.ended and time.monotonic() < until:
        time.sleep(0.01)
    assert (first.state, first.note) == ("failed", "the film is damaged.")
    assert (second.state, "log" in second.note) == ("failed", True)
    assert jobs.start("x", "one", lambda job: None) is not first
    jobs.close()


def test_jobs_can_be_cancelled():
    jobs, begun = Jobs(), threading.Event()

    def counting(job):
        for done in range(10_000):
            begun.set()
            if not job.progress(done, 10_000, (done + 0.5) / 10_000):
                return {"done": done, "stopped": True}
            time.sleep(0.01)

    runs, waits = jobs.start("x", "one", counting), jobs.start("x", "two", counting)
    assert begun.wait(10)
    jobs.cancel(waits)
    assert waits.state == "cancelled"
    jobs.cancel(runs)
    again = jobs.start("x", "one", lambda job: {})
    assert again is not runs, "what nobody wants any more is begun anew"
    until = time.monotonic() + 10
    while not again.ended and time.monotonic() < until:
        time.sleep(0.01)
    assert (runs.state, again.state, waits.state) == ("cancelled", "done", "cancelled")
    assert runs.result["done"] == runs.done < runs.total == 10_000
    assert runs.share == pytest.approx((runs.done + 0.5) / 10_000, abs=1e-3)
    jobs.close()


# ---------------------------------------------------------------------------------------------- whom it answers


def served(service, **options):
    return TestClient(create(service, **options), base_url="http://localhost", raise_server_exceptions=False)


def test_names_of_this_machine_alone(service):
    client = served(service)
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "["):
        refused(client.get("/index.json", headers={"Host": host}), 421)
    for host in ("localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    assert served(service, hosts=("films.lan",)).get("/health", headers={"Host": "films.lan"}).status_code == 200


def test_changes_come_from_our_own_page(service):
    client = served(service)
    told = {"id": "a", "segments": []}
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"},
                    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        refused(client.post("/corrections.json", json=told, headers=headers), 403)
    for headers in ({}, {"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}):
        assert client.post("/corrections.json", json=told, headers=headers).status_code == 200
    # what a form of another page can send without asking first is no JSON
    refused(client.post("/corrections.json", content=json.dumps(told), headers={"Content-Type": "text/plain"}), 422)


def test_a_token(service):
    token = "s3cret-and-long-enough"
    client = served(service, token=token)
    assert "token" in refused(client.get("/index.json"), 401)
    refused(client.get("/media?id=a"), 401)
    refused(client.get("/?token=wrong"), 401)
    refused(client.get("/index.json", headers={"Authorization": "Bearer wrong"}), 401)
    refused(client.get("/index.json", headers={"Cookie": "cuemark=wrong"}), 401)
    refused(client.post(f"/corrections.json?token={token}", json={"id": "a", "segments": []}), 401)
    assert client.get("/health").status_code == 200
    bearer = {"Authorization": f"Bearer {token}", "Host": "films.lan"}
    assert client.get("/index.json", headers=bearer).status_code == 200
    answer = client.get(f"/search?q=x&token={token}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/search?q=x")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=Strict" in answer.headers["set-cookie"]
    away = served(service, token=token).get(f"//evil.example?token={token}", follow_redirects=False)
    assert not away.headers.get("location", "/").startswith("//")
    assert client.get("/index.json").status_code == 200  # by the cookie


def test_how_often(service):
    client = served(service, limits=Limits(rate=0.001, burst=5))
    assert [client.get("/health").status_code for _ in range(5)] == [200] * 5
    answer = client.get("/health")
    refused(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    client = served(service, limits=Limits(dear_rate=0.001, dear_burst=2))
    told = {"format": "csv", "moments": CHOSEN}
    assert [client.post("/export", json=told).status_code for _ in range(3)] == [200, 200, 429]
    assert client.get("/jobs.json").status_code == 200


def test_buckets_fill_with_time():
    rates = Rates(2.0, 3)
    assert [rates.wait("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.wait("b", 0.0) == 0.0
    assert rates.wait("a", 0.5) == 0.0
    assert rates.wait("a", 0.5) > 0
    for i in range(20_000):
        rates.wait(str(i), 1.0)
    assert len(rates.buckets) <= 10_000


def test_how_much(service):
    client = served(service, limits=Limits(body=1000))
    refused(client.post("/corrections.json", content=b"x" * 1001), 413)

    def endless():
        for _ in range(100):
            yield b"[" * 100

    refused(client.post("/corrections.json", content=endless(), headers={"Content-Type": "application/json"}), 413)
    for length in ("-1", "1e3", "x", "9" * 30):
        refused(client.get("/health", headers={"Content-Length": length}), 400)
    deep = b"[" * 900
    refused(client.post("/corrections.json", content=deep, headers={"Content-Type": "application/json"}), 422)


def test_what_nobody_thought_of_is_one_sentence(service, monkeypatch, caplog):
    monkeypatch.setattr(service, "overview", lambda: 1 / 0)
    answer = served(service).get("/index.json")
    assert "Traceback" not in answer.text
    refused(answer, 500)


# ---------------------------------------------------------------------------------------------- whoever runs it


def test_health_metrics_and_description(client):
    client.get("/video.json?id=a")
    client.get("/video.json?id=zzz")
    client.get("/no/such/thing")
    text = client.get("/metrics").text
    assert 'cuemark_requests_total{method="GET",route="/video.json",status="200"} 1' in text
    assert 'cuemark_requests_total{method="GET",route="/video.json",status="404"} 1' in text
    assert "zzz" not in text
    assert "/no/such" not in text
    assert "cuemark_videos 5" in text
    for line in text.splitlines():
        assert re.fullmatch(r'# TYPE \w+ \w+|\w+(\{[\w="/.,+{}-]*\})? [\d.e+-]+', line), line
    told = client.get("/openapi.json").json()
    assert {"/search.json", "/video.json", "/media", "/export", "/jobs/{number}/events"} <= told["paths"].keys()
    for path, ways in told["paths"].items():
        for way in ways.values():
            assert way.get("description"), path


SCHEMATHESIS = """
[dictionaries.names]
values = ["a", "b", "c d", "old", "zzz"]
[dictionaries.words]
values = ["a", "old", "bouncing"]
[dictionaries.numbers]
values = [1, 2, 99]
[parameters]
id = { dictionary = "names", probability = 0.8 }
like = { dictionary = "names", probability = 0.8 }
number = { dictionary = "numbers", probability = 0.8 }
[generation]
database = "none"
deterministic = true
max-examples = 5
[generation.dictionaries]
string = { dictionary = "words", probability = 0.6 }
number = { dictionary = "numbers", probability = 0.3 }
# what no schema says, such as an end before its start or an upload that is no film, is 400; what one says is 422
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404]
"""


def test_every_answer_is_as_the_description_says(made_once, tmp_path):
    """Every route with whatever its description allows or does not: each answer is described, and none is 500."""
    shutil.copytree(made_once / "library", tmp_path / "library")
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    served = Service(Library.open(tmp_path / "library"))
    pointing(served.library)
    with listening(create(served, limits=WIDE)) as address:
        described = json.load(urllib.request.urlopen(f"{address}/openapi.json"))
        ended = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--checks", "all",
             "--phases", "coverage,fuzzing", "--workers", "1", "--continue-on-failure", "--no-color"],
            cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"Tested: {sum(map(len, described['paths'].values()))}" in ended.stdout, ended.stdout


def test_the_command(made_once, tmp_path):
    shutil.copytree(made_once / "library", tmp_path / "library")
    command = [sys.executable, "-m", "cuemark", "serve", "--library", str(tmp_path / "library"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
            with urllib.request.urlopen(address + "health", timeout=30) as answer:
                assert json.load(answer) == {"status": "ok"}
                assert "server" not in {name.lower() for name in answer.headers}
            server.send_signal(signal.SIGINT)
            assert server.wait(120) in (0, 130)  # what reads sentences may just be loading
            assert "Traceback" not in server.stderr.read()
        finally:
            server.kill()


def test_calls_that_cannot_be_meant(made_once, cuemark, tmp_path):
    library = made_once / "library"
    assert "no library" in complaint(cuemark("serve", "--library", tmp_path))
    assert "port" in complaint(cuemark("serve", "--library", library, "--port", 70000), 2)
    (tmp_path / "short").write_text("abc")
    assert "16 to 200" in complaint(cuemark("serve", "--library", library, "--token", tmp_path / "short"), 2)
    assert "cannot be read" in complaint(cuemark("serve", "--library", library, "--token", tmp_path / "none"), 2)
    assert "can listen" in complaint(cuemark("serve", "--library", library, "--host", "203.0.113.1"))


def test_the_guard_knows_only_http(service):
    """A websocket or the lifespan passes; there is nothing behind it that listens."""
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    import asyncio

    asyncio.run(Guard(inner, None, Limits())({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


def test_the_zip_is_read_by_others(client):
    answer = client.post("/export", json={"format": "srt", "moments": CHOSEN})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2
