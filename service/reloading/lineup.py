"""Which models are loaded, which of them a bare name means, and what a load or an unload makes of that.

A lineup is a tuple of entries. Of those with one name, the first is what the bare name means; the
first of all is the default. A load puts its entry there, and keeps the one that stood there, as
``is_replaced``, for pinned requests and for going back: one for each name, so the load after that
drops it. What NAMETAG_MODEL lists beside the first of its name is pinned by name@version, was never
replaced, and stays.

Plain data: nothing here loads, reads a folder or knows a process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


class ChangeError(Exception):
    """A change that cannot be made. ``code`` is that of a problem (service/problems.py)."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)  # all of it, so that it can be sent between processes
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Entry:
    """One loaded model, and where it came from."""

    name: str
    version: str
    folder: Path
    digest: str  # of the folder's manifest, which holds that of every file: which files exactly
    is_replaced: bool = False

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"


Lineup = tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Make the bare name mean the model of this folder, as long as it holds these files."""

    name: str
    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Drop this version, which must not be the one that the bare name means."""

    name: str
    version: str


def current(lineup: Lineup, name: str) -> Entry | None:
    """What the bare name means."""
    return next((entry for entry in lineup if entry.name == name), None)


def with_loaded(lineup: Lineup, new: Entry) -> Lineup:
    """The lineup after a load: ``new`` in the place of the entry that had its name."""
    old = current(lineup, new.name)
    if old is None:
        return (*lineup, new)
    if old.reference == new.reference:
        return lineup
    after: list[Entry] = []
    for entry in lineup:
        if entry is old:
            after += [replace(new, is_replaced=False), replace(old, is_replaced=True)]
        elif entry.reference != new.reference and not (entry.name == new.name and entry.is_replaced):
            after.append(entry)
    return tuple(after)


def without(lineup: Lineup, unload: Unload) -> Lineup:
    """The lineup after an unload. Raises ChangeError."""
    reference = f"{unload.name}@{unload.version}"
    entry = next((entry for entry in lineup if entry.reference == reference), None)
    if entry is None:
        raise ChangeError("unknown-model", f"{reference} is not loaded")
    if entry is current(lineup, unload.name):
        raise ChangeError("version-in-use", f"{unload.name} means {reference}: load another version first")
    return tuple(each for each in lineup if each is not entry)
