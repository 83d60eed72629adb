"""A library in the browser: ``cuemark serve``.

    guard      who may ask: host, token, origin, how much and how often
    media      what a browser can play, and what has to be converted first
    jobs       what takes long: in the background, with its progress
    export     chosen moments as a file of any format
    answers    the shape of what is answered
    service    what is answered, as plain values
    server     the same over HTTP
    page/      what the browser shows: modules and a style sheet as they are, without a build
"""

from __future__ import annotations
