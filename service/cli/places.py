"""What a command is told to read in, the inputs that this stands for out: files, folders, URLs.

A folder stands for the files below it, in the order of their names, whose names say what they are. A URL
is whatever fsspec opens (s3://, gs://, https://, …), with the extra `corpus` and the store's own package;
file:// is a path of this machine, as any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from service.cli.errors import CliError, InputError

STDIN = "-"
PACKED = (".gz", ".xz")
KIND_OF = {
    ".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet",
}  # fmt: skip
EXTRA = "pip install 'nametag[corpus]' first"
_LOCAL = ("file://", "local://")  # as fsspec calls it, which takes what follows as it is


@dataclass(frozen=True, slots=True)
class Input:
    name: str  # as outputs and messages say it; STDIN
    path: str  # where it is, from any working directory: absolute, or a URL; STDIN
    place: str  # its own below a folder of outputs; ends as the input does, without .gz or .xz

    @property
    def is_url(self) -> bool:
        return "://" in self.path

    @property
    def said(self) -> str:
        """What messages call it."""
        return "stdin" if self.name == STDIN else self.name

    @property
    def is_stream(self) -> bool:
        """Whether it can be read only once: stdin, a pipe, a device."""
        if self.name == STDIN:
            return True
        if self.is_url or not os.path.exists(self.path):  # which is said when it is opened
            return False
        return not os.path.isfile(self.path) and not os.path.isdir(self.path)

    def open(self) -> BinaryIO:
        """To be closed. Raises InputError; CliError where there is no fsspec."""
        try:
            if not self.is_url:
                return Path(self.path).open("rb")
            store, path = _store_of(self.path)
            opened: BinaryIO = store.open(path, "rb")
            return opened
        except Exception as error:
            raise _wrong(self.name, error, self.is_url) from None

    def facts(self) -> dict[str, Any]:
        """Its size in bytes, and what changes when its content does. Raises as ``open``."""
        try:
            if not self.is_url:
                stat = os.stat(self.path)
                return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
            store, path = _store_of(self.path)
            return {"bytes": store.info(path).get("size") or 0, "version": store.ukey(path)}
        except Exception as error:
            raise _wrong(self.name, error, self.is_url) from None

    def size(self) -> int:
        """Bytes, 0 where that is not known."""
        try:
            return 0 if self.name == STDIN else int(self.facts()["bytes"])
        except InputError:
            return 0


def _wrong(name: str, error: Exception, is_url: bool) -> Exception:
    if isinstance(error, IsADirectoryError):
        ends = ", ".join(KIND_OF)
        return InputError(f"{name}: holds no files that can be read: names that end in {ends} are expected")
    if isinstance(error, OSError):
        # Of a URL fsspec says more in the message, where it has no number.
        return InputError(f"{name}: {error.strerror or error or 'cannot be read'}")
    if isinstance(error, CliError) or not is_url:
        return error
    # A store's own package may raise anything.
    return InputError(f"{name}: {type(error).__name__}: {error}")


def _store_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise CliError(f"{url}: {EXTRA}") from None
    try:
        store, path = url_to_fs(url)
    except (ImportError, ValueError) as error:  # the store's package is missing, or there is no such store
        raise CliError(f"{url}: {error}") from None
    return store, str(path)


def unpacked(name: str) -> str:
    """A file's name without .gz or .xz."""
    path = Path(name)
    return path.stem if path.suffix in PACKED else path.name


def kind_of(name: str) -> str:
    return KIND_OF.get(Path(unpacked(name)).suffix.lower(), "txt")


def inputs_of(names: list[str], kind: str | None, out: Path | None) -> list[Input]:
    """``kind``: what all files are, where that is said: then every file of a folder is one. ``out`` is
    never an input, and with it none is there twice: it would have one output. Raises CliError."""
    found: list[Input] = []
    for name in names:
        path = _without_scheme(name)
        if name == STDIN:
            found.append(Input(STDIN, STDIN, STDIN))
        elif "://" in path:
            found += _of_url(name, kind)
        elif os.path.isdir(path):
            found += [_at(name, each) for each in _below(path, kind, out)] or [_alone(name)]
        else:
            found.append(_alone(name))
    return found if out is None else _each_once(found)


def _each_once(inputs: list[Input]) -> list[Input]:
    once: dict[str, Input] = {}
    for each in inputs:
        once.setdefault(each.path, each)
    return list(once.values())


def _without_scheme(name: str) -> str:
    """A path where it is the URL of one of this machine; else the name as it is."""
    scheme = next((each for each in _LOCAL if name.startswith(each)), "")
    return name.removeprefix(scheme)


def _alone(name: str) -> Input:
    path = _without_scheme(name)
    return Input(_shown(name), path if "://" in path else os.path.abspath(path), unpacked(name))


def _at(folder: str, below: str) -> Input:
    path = os.path.abspath(os.path.join(_without_scheme(folder), below))
    place = Path(below).with_name(unpacked(below)).as_posix()
    return Input(_shown(os.path.join(folder, below)), path, place)


def _shown(name: str) -> str:
    """A name that outputs, which are UTF-8, can say."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_wanted(name: str, kind: str | None) -> bool:
    is_known = kind is not None or Path(unpacked(name)).suffix.lower() in KIND_OF
    return is_known and not name.startswith(".")


def _below(folder: str, kind: str | None, out: Path | None) -> Iterator[str]:
    """Paths from the folder."""
    ours = None if out is None else os.path.realpath(out)
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(
            each for each in folders
            if not each.startswith(".") and os.path.realpath(os.path.join(at, each)) != ours
        )  # fmt: skip
        for file in sorted(files):
            if _is_wanted(file, kind):
                yield os.path.relpath(os.path.join(at, file), folder)


def _of_url(url: str, kind: str | None) -> list[Input]:
    store, path = _store_of(url)
    try:
        below = sorted(store.find(path)) if store.isdir(path) else []
    except Exception as error:
        raise CliError(f"{url}: {error or type(error).__name__}") from None
    root = path.rstrip("/") + "/"
    found = []
    for each in below:
        rest = each.removeprefix(root)
        if all(_is_wanted(part, "any") for part in rest.split("/")) and _is_wanted(Path(rest).name, kind):
            place = Path(rest).with_name(unpacked(rest)).as_posix()
            found.append(Input(f"{url.rstrip('/')}/{rest}", store.unstrip_protocol(each), place))
    return found or [_alone(url)]
