"""A searchable collection of videos: index, search."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path

from cuemark.cli.shell import From_, app, examples, screen, tabulated
from cuemark.errors import CallError
from cuemark.progress import say


@app.command(help_epilogue=examples(
    "cuemark index videos/ --library lib --encoder runs/clap/encoder.safetensors",
    "cuemark index videos/ more/talk.mkv --library lib",
    "cuemark index videos/ --library lib --truth labels.json --prune",
    "cuemark index videos/ --library lib --encoder clap.safetensors --store qdrant:http://localhost:6333",
))
def index(videos: list[Path], *, library: Path, encoder: str | None = None, text: str | None = None,
          stride: int | None = None, fps: float | None = None, bf16: bool = False, store: str = "file",
          truth: Path | None = None, from_: From_ = None, prune: bool = False, workers: int | None = None,
          device: str = "auto", json: bool = False) -> int:
    """Videos into a library that `cuemark search` finds moments in: what is new, changed or gone. Goes on when stopped.

    Subtitles beside a video (NAME.srt, NAME.en.vtt) are searched with it. What cannot be read is named, and the rest
    goes on; the exit status is then 1.

    Parameters
    ----------
    videos
        Files, or folders of them, at any depth.
    library
        Folder of the library; made when it is not there.
    encoder
        A new library: checkpoint or name of `cuemark weights list`. Sentences need one that was pre-trained by CLAP, or
        a CLIP.
    text
        A new library: what reads sentences, where the encoder does not say it.
    stride
        A new library: frames from one clip to the next; by default clips lie side by side. A localizer that refines
        (`cuemark search --model`) wants the stride of its training.
    fps
        A new library: frames a second; by default the encoder's.
    bf16
        A new library: compute in bf16.
    store
        A new library: where vectors are, file or qdrant:URL.
    truth
        Known segments of the videos, in any format of docs/formats.md: labels to filter by, sentences to find.
    prune
        Forget videos whose files are gone; otherwise they are only hidden.
    workers
        Threads that encode; by default one for each core.
    device
        cpu, cuda, cuda:1 …; auto takes a GPU where there is one.
    json
        Print what became of each as JSON.
    """
    from cuemark.conversion import truth_of
    from cuemark.encoders.weights import load as load_encoder
    from cuemark.extraction import ExtractConfig, chosen
    from cuemark.library import DESCRIPTION, Library

    place = chosen(device)
    new = {"encoder": encoder, "text": text, "stride": stride, "fps": fps, "bf16": bf16 or None,
           "store": store if store != "file" else None}
    if (library / DESCRIPTION).exists():
        for name, value in new.items():
            if value is not None:
                raise CallError(f"--{name} is for a new library, and '{library}' is there with its own; leave it out, "
                                "or give another folder.")
        opened = Library.open(library)
    else:
        if encoder is None:
            raise CallError(f"'{library}' is a new library; say what looks at its videos (--encoder).")
        eyes = load_encoder(encoder)
        config = ExtractConfig(stride=stride or eyes.clip.frames, fps=fps, bf16=bf16)
        opened = Library.create(library, eyes, text=text, config=config, store=store)
    with opened:
        known = None if truth is None else truth_of(truth, from_)
        result = opened.index(videos, truth=known, prune=prune, workers=workers, device=place)
        there = len(opened)
    if json:
        print(jsonlib.dumps({"done": result.done, "same": result.same, "moved": result.moved, "gone": result.gone,
                             "failed": result.failed, "copies": result.copies, "clips": result.clips,
                             "seconds": round(result.seconds, 2)}))
    else:
        if result.failed:
            screen().print(tabulated(["not indexed", "why"], sorted(result.failed.items())))
        print(f"{library}: {there} videos; {len(result.done)} indexed, {len(result.same)} were there, "
              f"{len(result.moved)} moved, {len(result.gone)} gone, {len(result.failed)} failed")
        if result.copies:
            print(f"{result.copies} pairs of videos hold the same footage; answers name it once")
    return 1 if result.failed else 0


@app.command(help_epilogue=examples(
    "cuemark search 'someone opens the red door' --library lib",
    "cuemark search 'a goal' --library lib --top 5 --label football --since 2026-01-01 --json",
    "cuemark search --example clip.mp4:3-7.5 --library lib",
    "cuemark search 'a red star spins' --library lib --model tan2d/localizer.safetensors",
))
def search(query: str | None = None, *, library: Path, example: str | None = None, top: int = 20,
           model: Path | None = None, label: str | None = None, folder: Path | None = None,
           longer: float | None = None, shorter: float | None = None, since: str | None = None,
           until: str | None = None, said: str | None = None, any: bool = False, thumbnails: Path | None = None,
           json: bool = False) -> int:
    """The moments of a library that a sentence says, or that are like an example. Best first.

    *match* says how far an answer stands out from chance: of all sentences about nothing that can be seen, this share
    has no answer here that is as like them. It does not say that the answer is right. Below 0.95 nothing is found,
    unless --any. Words of subtitles and annotations are found, too.

    Parameters
    ----------
    query
        A sentence.
    library
        Folder of the library (`cuemark index`).
    example
        FILE:START-END: more of what is there, in place of a sentence.
    top
        Answers at most.
    model
        A localizer that is asked sentences, trained on this encoder's features: it says where moments begin and end.
    label
        Only moments that overlap a segment with this label.
    folder
        Only videos in this folder.
    longer
        Only videos of so many seconds at least.
    shorter
        Only videos of so many seconds at most.
    since
        Only videos whose files were written on this day (2026-01-31) or later.
    until
        Only videos whose files were written on this day or earlier.
    said
        Only videos in whose subtitles, annotations or name these words are.
    any
        Show the most similar, however weak the match.
    thumbnails
        Folder for a JPEG of each answer.
    json
        Print the answers as JSON; score is the match.
    """
    from cuemark.library import FLOOR, Filter, Library
    from cuemark.localizers.trained import Shown, TrainedLocalizer

    if (query is None) == (example is None):
        raise CallError("say what to look for: a sentence, or an example (--example FILE:START-END).")
    asked = Shown.parse(example) if example is not None else query
    assert asked is not None
    filter = Filter(label, folder, longer, shorter, since, until, said)
    with Library.open(library) as opened:
        found = opened.search(asked, top, filter, localizer=None if model is None else TrainedLocalizer.load(model),
                              floor=None if any else FLOOR)
        pictures: list[str | None] = [None] * len(found.hits)
        if thumbnails is not None:
            thumbnails.mkdir(parents=True, exist_ok=True)
            for i, hit in enumerate(found.hits):
                path = thumbnails / f"{i + 1:03d}.jpg"
                path.write_bytes(opened.thumbnail(hit.video, hit.picture))
                pictures[i] = str(path)
    if json:
        print(jsonlib.dumps({
            "query": query if query is not None else example, "floor": found.floor, "best": found.best,
            "seconds": round(found.seconds, 4),
            "hits": [hit.to_json() | {"thumbnail": picture} for hit, picture in zip(found.hits, pictures)]},
            ensure_ascii=False))
        return 0
    if not found.hits:
        near = f"; the nearest is a match of {found.best:.2f} (--any shows it)" if found.best is not None else ""
        print(f"nothing found{near}")
        return 0
    screen().print(tabulated(["video", "start", "end", "match", "why"], [
        [hit.video, f"{hit.segment.start:.2f}", f"{hit.segment.end:.2f}", f"{hit.segment.score or 0:.3f}",
         hit.why + (f" (also in {', '.join(hit.also)})" if hit.also else "")] for hit in found.hits]))
    say(f"{len(found.hits)} moments in {found.seconds:.2f} s")
    return 0
