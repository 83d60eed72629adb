"""A library in the browser, and moments as clips."""

from __future__ import annotations

import json as jsonlib
import secrets
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cuemark.cli.shell import From_, Several, app, examples, named, screen, tabulated
from cuemark.errors import CallError, CuemarkError
from cuemark.progress import say


@app.command(help_epilogue=examples(
    "cuemark serve --library lib",
    "cuemark serve --library lib --predictions gtad=gtad.json bmn=bmn.json",
    "cuemark serve --library lib --host 0.0.0.0 --upload 500",
))
def serve(*, library: Path, host: str = "127.0.0.1", port: int = 8765, predictions: Several = None,
          model: Path | None = None, token: Path | None = None, upload: int = 2000, rate: float = 100.0,
          device: str = "auto", open_: Annotated[bool, Parameter(name="--open")] = False) -> None:
    """A library in the browser: search it, watch the moments, correct and export them. Until Ctrl-C.

    Only this machine can reach it, unless --host says otherwise; whoever asks must then know a token.

    Parameters
    ----------
    library
        Folder of the library (`cuemark index`).
    host
        Address to listen on. One that is not this machine's own (127.0.0.1) needs a token: one is made up and printed,
        or read from --token.
    port
        Port to listen on; 0 takes a free one.
    predictions
        NAME=FILE …: predictions to show beside the truth, each in a lane of its own.
    model
        A localizer that is asked sentences: it says where moments begin and end, on request.
    token
        File with the token.
    upload
        MB that a video may have that is sent by the browser; 0 takes none.
    rate
        Requests a second from one address.
    device
        What new videos are indexed on: cpu, cuda …
    open
        Open the page in the browser of this machine.
    """
    try:
        import uvicorn

        from cuemark.app.guard import LOOPBACK, Limits
        from cuemark.app.server import create
        from cuemark.app.service import Service
    except ModuleNotFoundError as error:
        raise CallError(f"cuemark serve needs {error.name}; pip install 'cuemark[serve]'.") from None
    from cuemark.conversion import predictions_of
    from cuemark.errors import within
    from cuemark.extraction import chosen
    from cuemark.library import Library
    from cuemark.localizers.trained import TrainedLocalizer

    within("port", port, 0, 65535)
    within("upload", upload, 0, 1 << 20)
    within("rate", rate, 0.1, 1e6)
    place = chosen(device)
    lanes = {name: predictions_of(file) for name, file in named(predictions or [], "--predictions").items()}
    localizer = None if model is None else TrainedLocalizer.load(model)
    opened = Library.open(library)
    secret = _secret(token) if token is not None or host not in LOOPBACK else None
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={secret}" if secret else "")
    service = Service(opened, lanes, localizer, str(place))
    answering = create(service, token=secret, limits=Limits(upload=upload << 20, rate=rate))
    server = uvicorn.Server(uvicorn.Config(answering, log_level="warning", access_log=False, server_header=False,
                                           timeout_graceful_shutdown=3, h11_max_incomplete_event_size=64 << 10))
    print(f"{library}: {len(opened)} videos at {address}", flush=True)
    if open_:
        webbrowser.open(address)
    say("Ctrl-C ends it")
    server.run(sockets=[listening])


def _secret(file: Path | None) -> str:
    """The token of a file, or one that nobody guesses."""
    if file is None:
        return secrets.token_urlsafe(24)
    try:
        words = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CallError(f"the token cannot be read from '{file}' ({reason}); check the path.") from None
    if len(words) != 1 or not words[0].isascii() or not 16 <= len(words[0]) <= 200 or set(words[0]) & set(';,\\"'):
        raise CallError(f"'{file}' must hold one word of 16 to 200 letters and digits, which is the token.")
    return words[0]


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise CuemarkError(f"nothing can listen on {host}, port {port} ({error.strerror}); give another --port."
                           ) from None
    return listening


@app.command(help_epilogue=examples(
    "cuemark cut predictions.json --videos footage/ --out clips/",
    "cuemark cut truth.csv --videos footage/ --out clips/ --exact --top 3",
))
def cut(file: Path, *, videos: Path, out: Path, exact: bool = False, least: float | None = None,
        top: int | None = None, from_: From_ = None, json: bool = False) -> int:
    """Moments as clips: every segment of a file, cut out of its video.

    Packets are copied, which is quick and loses nothing; a clip in MP4 begins exactly where it should in players that
    know edit lists (nearly all), in Matroska and WebM at the keyframe before. Status 1 where something could not be
    cut.

    Parameters
    ----------
    file
        Truth or predictions, in any format of docs/formats.md.
    videos
        Folder of the videos.
    out
        Folder for the clips.
    exact
        Encode again: begins and ends exactly, in every player.
    least
        Only segments with at least this score.
    top
        Of each video only the so many first ones.
    json
        Print what was cut as JSON.
    """
    from cuemark.conversion import predictions_of
    from cuemark.cutting import cut_all

    made = cut_all(predictions_of(file, from_), videos, out, exact, least, top)
    if json:
        print(jsonlib.dumps({"clips": [{"file": str(c.path), "start": round(c.start, 3), "end": round(c.end, 3),
                                        "exact": c.exact} for c in made.clips], "failed": made.failed}))
    else:
        if made.failed:
            screen().print(tabulated(["not cut", "why"], sorted(made.failed.items())))
        print(f"{len(made.clips)} clips in {out}")
    return 1 if made.failed else 0
