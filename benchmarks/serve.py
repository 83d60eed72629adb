"""How the server holds up: many searches and many films at once, from this machine, over HTTP.

    python benchmarks/serve.py --library LIB [--searches 100] [--streams 20] [--seconds 20]

A server of its own (a process with uvicorn) answers; ``--searches`` people each ask one sentence after another (from a
list of words of the library's labels, every one different), while ``--streams`` players each read a film by ranges of
256 kB. Printed: requests, errors, requests a second, and percentiles of the time until an answer was complete. Any
error is status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlencode, urlsplit

import numpy as np

PIECE = 256 << 10


async def request(host: str, port: int, path: str, headers: str = "") -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own, read to its end."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        body = await reader.read()
        status = int(head.split(" ", 2)[1])
        told = dict(re.findall(r"^([\w-]+): (.*?)\r$", head.lower(), re.MULTILINE))
        if "content-length" in told and int(told["content-length"]) != len(body):
            raise ConnectionError("an answer was cut short")
        return status, told, body
    finally:
        writer.close()


class Tally:
    """Times of what went well, and what did not."""

    def __init__(self, name: str) -> None:
        self.name, self.times, self.errors, self.bytes = name, list[float](), list[str](), 0

    def row(self, seconds: float) -> str:
        """A line of the table."""
        if not self.times:
            return f"| {self.name} | 0 | {len(self.errors)} | – | – | – | – | – |"
        p50, p95, p99 = (1000 * np.percentile(self.times, q) for q in (50, 95, 99))
        count = len(self.times)
        return (f"| {self.name} | {count} | {len(self.errors)} | {count / seconds:.1f} | {p50:.0f} | {p95:.0f} | "
                f"{p99:.0f} | {self.bytes / seconds / 2**20:.1f} |")


async def load(host: str, port: int, searches: int, streams: int, seconds: float) -> tuple[Tally, Tally, float]:
    """Everybody at once, until the time is up."""
    asked, watched = Tally(f"{searches} people searching"), Tally(f"{streams} films playing")
    told = json.loads((await request(host, port, "/index.json"))[2])
    words = [row["label"] for row in told["labels"]] or ["a person walks"]
    films = [v["id"] for v in json.loads((await request(host, port, "/videos.json?limit=500"))[2])["videos"]
             if v["state"] == "ok"]
    numbers = itertools.count()
    began = time.monotonic()

    async def search() -> None:
        while time.monotonic() < began + seconds:
            number = next(numbers)
            sentence = f"something {words[number % len(words)]} number {number}"
            await timed(asked, "/search.json?" + urlencode({"q": sentence, "any": "true"}), "", 200)

    async def play(number: int) -> None:
        film, at, size = films[number % len(films)], 0, PIECE
        while time.monotonic() < began + seconds:
            headers = await timed(watched, "/media?" + urlencode({"id": film}),
                                  f"Range: bytes={at}-{at + size - 1}\r\n", 206)
            total = int(headers.get("content-range", "/0").rpartition("/")[2] or 0)
            at = at + size if at + size < total else 0

    async def timed(tally: Tally, path: str, headers: str, wanted: int) -> dict[str, str]:
        start = time.monotonic()
        try:
            status, told, body = await asyncio.wait_for(request(host, port, path, headers), 120)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            tally.errors.append(repr(error))
            return {}
        if status == wanted:
            tally.times.append(time.monotonic() - start)
            tally.bytes += len(body)
        else:
            tally.errors.append(f"{status}: {body[:200]!r}")
        return told

    await asyncio.gather(*(search() for _ in range(searches)), *(play(i) for i in range(streams)))
    return asked, watched, time.monotonic() - began


def main() -> int:
    """Serve, load, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    command = [sys.executable, "-m", "cuemark", "serve", "--library", given.library, "--port", "0", "--rate", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found, "the server did not start"
            place = urlsplit(found[0])
            first = "/search.json?q=warm&any=true"
            began = time.monotonic()
            with urllib.request.urlopen(f"http://{place.hostname}:{place.port}{first}", timeout=300) as answer:
                answer.read()
            print(f"the first search, with loading what reads sentences: {time.monotonic() - began:.1f} s\n")
            asked, watched, seconds = asyncio.run(
                load(str(place.hostname), int(place.port or 0), given.searches, given.streams, given.seconds))
        finally:
            server.terminate()
    print("| what | requests | errors | a second | p50 ms | p95 ms | p99 ms | MB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for tally in (asked, watched):
        print(tally.row(seconds))
        for error in sorted(set(tally.errors))[:5]:
            print(f"    {error}", file=sys.stderr)
    return 1 if asked.errors or watched.errors else 0


if __name__ == "__main__":
    sys.exit(main())
