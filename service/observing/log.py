"""Log records in, JSON lines on stderr out. Never submitted text: of an error only type and place.

An exception's message may quote what it choked on, and so may what asyncio prints of a task; so
messages of exceptions are never formatted here, whoever logged them.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from types import TracebackType
from typing import Any

import orjson

LOGGER = "nametag"


def place_of(error: BaseException) -> str:
    """Where an exception was raised, innermost first: "tagger.py:93 in tag < steps.py:20 in tagged"."""
    frames = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        name = code.co_filename.rpartition("/")[2]
        frames.append(f"{name}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    return " < ".join(reversed(frames[-4:]))


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def utc(created: float) -> str:
    seconds = int(created)
    return f"{_second(seconds)}.{int((created - seconds) * 1000):03d}Z"


class JsonLines(logging.Formatter):
    """One JSON object a record. ``logging``'s extra={"fields": {…}} adds members."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        # asyncio and uvicorn append contexts and tracebacks, which quote values, after a line break.
        entry: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message.partition("\n")[0],
            **getattr(record, "fields", {}),
        }
        if record.exc_info and (error := record.exc_info[1]) is not None:
            entry["error"] = type(error).__name__
            entry["at"] = place_of(error)
        return orjson.dumps(entry, default=str).decode()


def configure(level: str) -> None:
    """Sends every logger's records, warnings included, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Starting and stopping is said by us.
    logging.getLogger("uvicorn.error").setLevel("WARNING")
