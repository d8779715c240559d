"""What can go wrong, as exceptions; an answer of the service in, the exception that it means out.

    NametagError
     ├─ ConnectionFailed   the service cannot be reached, or hung up
     ├─ TimedOut           the deadline passed, here or there (504)
     └─ Said               it answered with a problem: ``status``, ``code``, ``problem``
         ├─ Unavailable    still refused after all attempts, or no time is left for another (429, 503)
         ├─ KeyRefused     a key is missing, or wrong, or may not do this (401, 403)
         ├─ Refused        something is wrong with the request (other 4xx)
         │   └─ TooLarge   something is over a limit (413): ``limit``, ``maximum``, ``actual``
         └─ ServiceFailed  the service made a mistake, or what answered is not the service

No message holds submitted text.
"""

from __future__ import annotations

from typing import Any

import httpx

Object = dict[str, Any]


class NametagError(Exception):
    """Anything that went wrong. The message never holds submitted text."""


class ConnectionFailed(NametagError):  # noqa: N818 - says it as it is
    """The service cannot be reached, or hung up."""


class TimedOut(NametagError):  # noqa: N818 - says it as it is
    """The deadline passed."""


class Said(NametagError):  # noqa: N818 - says it as it is
    """The service answered with a problem, RFC 9457; ``problem`` has all of its members."""

    def __init__(self, status: int, problem: Object) -> None:
        self.status = status
        self.problem = problem
        self.code: str = problem.get("code", "")
        super().__init__(f"{status} {self.code}: {problem.get('detail', 'no problem+json came with it')}")


class Unavailable(Said):
    """Refused for now, and no time or attempt is left."""


class KeyRefused(Said):
    """A key is missing, or wrong, or may not do this."""


class Refused(Said):
    """Something is wrong with the request."""


class TooLarge(Refused):
    """Something is over a limit of the service."""

    @property
    def limit(self) -> str:
        return str(self.problem.get("limit", ""))

    @property
    def maximum(self) -> int:
        return int(self.problem.get("maximum", 0))

    @property
    def actual(self) -> int:
        return int(self.problem.get("actual", 0))


class ServiceFailed(Said):
    """The service made a mistake, or what answered is not the service."""


def problem_of(answer: httpx.Response) -> Object:
    try:
        problem = answer.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def error_of(status: int, problem: Object) -> NametagError:
    if status == 504:
        return TimedOut(problem.get("detail", "the service's deadline passed"))
    kinds: dict[int, type[Said]] = {
        401: KeyRefused, 403: KeyRefused, 413: TooLarge, 429: Unavailable, 503: Unavailable,
    }  # fmt: skip
    kind = kinds.get(status, Refused if 400 <= status < 500 else ServiceFailed)
    return kind(status, problem)


def checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != 200:
        raise error_of(answer.status_code, problem_of(answer))
    return answer


def object_of(answer: httpx.Response) -> Object:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ServiceFailed(answer.status_code, {"detail": "what came is not the service's JSON"})
    return value
