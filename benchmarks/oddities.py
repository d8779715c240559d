"""Requests that services stumble over, and the status that each must be answered with.

What is answered with 200 says which sentences it holds, so that the answer itself can be checked.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.wire import http

PATH = "/v1/tag"


@dataclass(frozen=True)
class Oddity:
    """One request. ``sentences``: what a 200 answers, one entry for each; None where it is not checked."""

    name: str
    request: bytes
    status: int
    sentences: tuple[str, ...] | None = None


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tag(name: str, body: bytes, status: int, **headers: str) -> Oddity:
    return Oddity(name, http("POST", PATH, body, **headers), status)


def _tagged(name: str, *sentences: str) -> Oddity:
    return Oddity(name, http("POST", PATH, _json({"sentences": sentences})), 200, sentences)


STRANGE = {
    "nothing": "",
    "white space": " \t\n  ",
    "NUL": "Ada\x00Lovelace met \x00 Bob .",
    "controls": "".join(map(chr, range(1, 32))) + " Ada",
    "bidi marks": "\u202eAda Lovelace\u202c met \u2066Bob\u2069 .",
    "zero width": "A\u200bda\u200dLove\ufefflace met Bob .",
    "combining": "Z\u0351\u036b\u0343a\u0328l\u0322g\u0315o met A\u030angstro\u0308m .",
    "emoji": "👩‍👩‍👧‍👦 Ada Lovelace 🎉🇬🇧 met 👍🏽 Bob 🤷‍♀️ .",
    "Chinese": "张伟和李娜昨天在北京见了王芳。",
    "Arabic": "التقى محمد علي بفاطمة في القاهرة .",
    "Thai": "สมชายพบกับสมหญิงที่กรุงเทพ",
    "Devanagari": "राहुल गांधी दिल्ली में मिले ।",
    "astral": "𝐀𝐝𝐚 𝓛𝓸𝓿𝓮𝓵𝓪𝓬𝓮 met 🅑🅞🅑 𐍈 .",
    "non-characters": "Ada \ufffe \uffff \ufffd Lovelace .",
    "no-break spaces": "Ada\u00a0Lovelace\u2028met\u2003Bob\u3000.",
    "a long word": "Ada " + "Lovelace" * 500 + " met Bob .",
    "markup": "<b>Ada Lovelace</b> &amp; {{Bob}} <script>alert('Eve')</script>",
    "numbers": "3.14 1e400 0x7f -0 ½ ٣ Ⅻ 1,000,000.00",
}


def oddities(seed: int) -> list[Oddity]:
    """The same for the same seed. The service's limits are those it has by default."""
    random = Random(seed)
    noise = [random.randbytes(n) for n in (1, 100, 10_000)]
    fine = _json({"sentences": ["Ada Lovelace met Bob ."]})
    return [
        *(_tagged(name, text) for name, text in STRANGE.items()),
        _tagged("all of them", *STRANGE.values()),
        _tagged("no sentences"),
        _tagged("2,000 empty sentences", *[""] * 2_000),
        _tagged("one long sentence", "Ada Lovelace met Bob . " * 2_000),
        _tagged("2,000 sentences", *["Ada met Bob .", "Nobody came ."] * 1_000),
        _tag("empty body", b"", 400),
        *(_tag(f"{len(b)} bytes of noise", b, 400) for b in noise),
        _tag("not UTF-8", b'{"sentences": ["Ada \xff\xfe"]}', 400),
        _tag("UTF-16", '{"sentences": ["Ada"]}'.encode("utf-16"), 400),
        _tag("a byte order mark", b"\xef\xbb\xbf" + fine, 400),
        _tag("a lone surrogate", b'{"sentences": ["Ada \\ud800"]}', 422),
        _tag("surrogates the wrong way round", b'{"text": "\\udc00\\ud800"}', 422),
        _tag("NaN", b'{"sentences": ["Ada"], "threshold": NaN}', 400),
        _tag("Infinity", b'{"sentences": ["Ada"], "threshold": -Infinity}', 400),
        _tag("1e400", b'{"sentences": ["Ada"], "threshold": 1e400}', 400),
        _tag("a number of 100,000 digits", b'{"threshold": ' + b"9" * 100_000 + b"}", 400),
        _tag("100,000 brackets", b"[" * 100_000, 400),
        _tag("100,000 objects", b'{"a":' * 100_000, 400),
        _tag("cut off", fine[:-4], 400),
        _tag("two values", fine + fine, 400),
        _tag("a number", b"3", 422),
        _tag("null", b"null", 422),
        _tag("an unknown field", b'{"sentences": [], "sentence": 1}', 422),
        _tag("a surplus of types", b'{"sentences": [1, null, {}, [[]]]}', 422),
        _tag("a threshold of 2", b'{"sentences": ["Ada"], "threshold": 2}', 422),
        _tag("both", b'{"sentences": ["Ada"], "text": "Ada"}', 422),
        _tag("an unknown model", b'{"sentences": ["Ada"], "model": "\\u0000"}', 404),
        _tag("100,000 empty sentences", _json({"sentences": [""] * 100_000}), 413),
        _tag("a word of 1 MB", _json({"text": "A" * 1_000_000}), 413),
        _tag("2,000,000 characters", _json({"text": "Ada met Bob. " * 160_000}), 413),
        _tag("17 MiB", b" " * (17 << 20), 413),
        _tag("gzip", gzip.compress(fine, mtime=0), 415, Content_Encoding="gzip"),
        _tag("text/plain", fine, 415, content_type="text/plain"),
        _tag("multipart", fine, 415, content_type="multipart/form-data; boundary=x"),
        _tag("no content type", fine, 415, content_type=""),
        _tag("latin-1", fine, 415, content_type="application/json; charset=latin-1"),
        _tag("a deadline of never", fine, 400, X_Request_Timeout="nan"),
        Oddity("a wrong path", http("GET", "/v1/nothing/..%2f%00"), 404),
        Oddity("a path of 8,000 characters", http("GET", "/" + "a" * 8_000), 404),
        Oddity("a wrong method", http("DELETE", PATH), 405),
        Oddity("a head", http("GET", PATH), 405),
        Oddity("not HTTP", b"HELO example.org\r\n\r\n", 400),
        Oddity("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[1] + b"\r\n\r\n", 400),
    ]


def document(sentences: Sequence[str]) -> str:
    """Sentences as one text, in paragraphs."""
    return "\n\n".join(" ".join(sentences[at : at + 5]) for at in range(0, len(sentences), 5))
