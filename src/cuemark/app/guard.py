"""Who may ask, how much, and how often; and what browsers are told about every answer.

- **Host.** Without a token only requests to this machine's own names are answered: a page elsewhere whose name was
  pointed here (DNS rebinding) is refused.
- **Token.** Where one is set, it comes as ``Authorization: Bearer``, as a cookie, or once in the address
  (``/?token=…``), which sets the cookie and leads to the address without it.
- **Origin.** What changes something is taken from our own page only, or from programs, which send no origin.
- **Rate.** A bucket of tokens for every address that asks, and a smaller one for what is dear.
- **Body.** Counted while it comes, whatever its header says.
- **Headers.** A content security policy that lets nothing run or load but our own files.
"""

from __future__ import annotations

import hmac
import json
import time
from collections import OrderedDict
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "cuemark"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
          "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()"}
SAFE = ("GET", "HEAD", "OPTIONS")
DEAR = ("/export", "/upload", "/jobs", "/cut")
"""Paths that cost much; what only looks at them is not counted."""
REMEMBERED = 10_000
"""Addresses whose buckets are kept."""


@dataclass(frozen=True)
class Limits:
    """How much and how often."""

    body: int = 1 << 20
    """Bytes of a request."""
    upload: int = 2 << 30
    """Bytes of a video that is sent; 0: none is taken."""
    rate: float = 100.0
    """Requests a second from one address, in the long run."""
    burst: int = 600
    """Requests at once."""
    dear_rate: float = 1.0
    """Of what costs much."""
    dear_burst: int = 30


@dataclass
class Rates:
    """Buckets of tokens that fill with time."""

    rate: float
    burst: int
    buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait(self, who: str, now: float) -> float:
        """Take a token; seconds to wait where there is none, else 0."""
        left, then = self.buckets.pop(who, (float(self.burst), now))
        left = min(float(self.burst), left + (now - then) * self.rate)
        self.buckets[who] = (left - 1 if left >= 1 else left), now
        if len(self.buckets) > REMEMBERED:
            self.buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self.rate


class _TooMuch(Exception):
    pass


class Guard:
    """The outermost layer of the server."""

    def __init__(self, app: ASGIApp, token: str | None, limits: Limits, hosts: tuple[str, ...] = LOOPBACK) -> None:
        self.app, self.token, self.limits, self.hosts = app, token, limits, hosts
        self.rates = Rates(limits.rate, limits.burst)
        self.dear = Rates(limits.dear_rate, limits.dear_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        started = over = False

        async def sent(message: Message) -> None:
            nonlocal started
            if over and not started:  # whatever the inside makes of it, it was too much
                return
            if message["type"] == "http.response.start":
                started = True
                told = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    told.setdefault(name, value)
                told.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(scope, headers)
        if refused is not None:
            await _answer(sent, *refused)
            return
        most = self.limits.upload + (1 << 20) if scope["path"] == "/upload" else self.limits.body
        if int(headers.get("content-length") or 0) > most:
            await _answer(sent, 413, f"a request may have {most} bytes at most.")
            return
        seen = 0

        async def received() -> Message:
            nonlocal seen, over
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > most:
                    over = True
                    raise _TooMuch
            return message

        with suppress(_TooMuch):
            await self.app(scope, received, sent)
        if over and not started:
            over = False
            await _answer(sent, 413, f"a request may have {most} bytes at most.")

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str, dict[str, str]] | None:
        """Why not: status, sentence and headers; None: it may pass."""
        path, method = str(scope["path"]), str(scope["method"])
        told = headers.get("content-length", "0")
        if not (told.isascii() and told.isdigit() and len(told) < 19):
            return 400, "the request's length is no number.", {}
        host = _name(headers.get("host", ""))
        if self.token is None and host not in self.hosts:
            return 421, "this server answers only to its own names; open it as http://localhost.", {}
        if self.token is not None and path != "/health" and not self._knows(headers):
            asked = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
            if method == "GET" and self._is(asked.pop("token", "")):
                to = path + (f"?{urlencode(asked)}" if asked else "")
                to = "/" + to.lstrip("/\\")  # "//elsewhere" would lead elsewhere
                return 303, "", {"Location": to, "Set-Cookie": f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; "
                                                               "Path=/; Max-Age=31536000"}
            return 401, "this library is protected; open the address with its token that cuemark serve printed.", {
                "WWW-Authenticate": "Bearer"}
        if method not in SAFE and not _ours(headers):
            return 403, "changes are taken from the library's own page only.", {}
        who, now = str((scope.get("client") or ("", 0))[0]), time.monotonic()
        wait = self.rates.wait(who, now)
        if not wait and method not in SAFE and path.startswith(DEAR):
            wait = self.dear.wait(who, now)
        if wait:
            return 429, "that was too much at once; try again in a moment.", {"Retry-After": str(int(wait) + 1)}
        return None

    def _is(self, token: str) -> bool:
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def _knows(self, headers: Headers) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is(bearer.strip()):
            return True
        return self._is(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))


def _name(host: str) -> str:
    """The host of a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _ours(headers: Headers) -> bool:
    """Whether a browser says that the request is of a page from here, or no browser speaks."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower().partition("//")[2] == headers.get("host", "").lower()


async def _answer(send: Send, status: int, sentence: str, headers: MutableMapping[str, Any] | None = None) -> None:
    body = json.dumps({"error": sentence}).encode() if sentence else b""
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
           *((name.encode("latin-1"), str(value).encode("latin-1")) for name, value in (headers or {}).items())]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
