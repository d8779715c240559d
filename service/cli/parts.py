"""A folder of outputs that a run fills, and goes on filling after it was interrupted, even by SIGKILL.

    DIR/manifest.json       what is done, with which options, and of which inputs what has become
    DIR/NAME.jsonl          the whole output of input NAME; it appears when it is whole
    DIR/parts/NAME/000017   the output of CHUNKS_PER_PART chunks; it appears when it is whole

Every file is written beside its place and renamed into it. Which records are in a part depends on the
input alone, so a part that is there need not be done again, and the outputs of a run that was
interrupted are those of one that was not, to the byte. Whoever makes the parts, here or elsewhere,
in whatever order, only has to name them so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from service.cli.errors import CliError
from service.cli.inputs import unpacked

try:
    import fcntl
except ImportError:  # Windows: two runs at once are not noticed
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
CHUNKS_PER_PART = 16  # about a million characters: what an interruption costs, at most, is that
MANIFEST = "manifest.json"
_HALF = re.compile(r"^\..*\.\d+$")


def write_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    """No reader, and no later run, ever sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


class Folder:
    """``options``: what the outputs depend on beside the inputs. Raises CliError."""

    def __init__(self, path: Path, options: dict[str, Any], inputs: Iterable[str], suffix: str) -> None:
        self.path = path
        self._suffix = suffix
        try:
            (path / "parts").mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            for each in path.glob(".*"):
                if _HALF.search(each.name):  # of a run that was killed
                    each.unlink()
            before = self._manifest()
        except OSError as error:
            raise CliError(f"{error.filename or path}: {error.strerror}") from None
        if before is not None and before.get("options") != options:
            theirs = before.get("options", {})
            other = sorted(k for k in {*theirs, *options} if theirs.get(k) != options.get(k))
            raise CliError(f"{path}: was begun with another {', '.join(other)}: another folder is expected")
        self._options = options
        self._inputs: dict[str, dict[str, Any]] = (before or {}).get("inputs", {})
        self._check_names(list(inputs))

    def _check_names(self, inputs: list[str]) -> None:
        names: dict[Path, str] = {}
        ours = {os.path.realpath(each) for each in inputs}
        for each in inputs:
            output = self.output_path(each)
            if names.setdefault(output, each) != each:
                raise CliError(f"{names[output]}, {each}: both would become {output}: do one elsewhere")
            if os.path.realpath(output) in ours:
                raise CliError(f"{output}: is an input, and an output too: another folder is expected")

    def _manifest(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.path / MANIFEST).read_bytes())
            if not isinstance(found, dict) or found.get("format") != FORMAT:
                raise ValueError
        except FileNotFoundError:
            return None
        except ValueError:
            raise CliError(f"{self.path / MANIFEST}: is no manifest of format {FORMAT}") from None
        return found

    def _save(self) -> None:
        content = {"format": FORMAT, "options": self._options, "inputs": self._inputs}
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomically(self.path / MANIFEST, [text.encode("utf-8", "surrogateescape"), b"\n"])

    def begin(self, path: str) -> Output | None:
        """The output of an input; None where it is whole already. What is there of a file that has
        changed since is done again. Raises OSError."""
        stat = os.stat(path)
        what = {"path": path, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        output = Output(self, self.output_path(path))
        entry = self._inputs.get(output.name, {})
        if any(entry.get(key) != value for key, value in what.items()):
            output.forget()
        elif entry.get("state") == "done" and output.path.exists():
            return None
        self.note(output.name, what, state="begun")
        return output

    def note(self, name: str, entry: dict[str, Any] | None = None, **facts: object) -> None:
        """What has become of the input whose output has this name."""
        self._inputs[name] = {**(self._inputs[name] if entry is None else entry), **facts}
        self._save()

    def n_bad_lines(self, path: str) -> int:
        """Of an input that is done."""
        return int(self._inputs[self.output_path(path).name].get("bad_lines", 0))

    def output_path(self, path: str) -> Path:
        name = unpacked(path)
        return self.path / (name if name.endswith(self._suffix) else name + self._suffix)

    def close(self) -> None:
        with suppress(OSError):
            (self.path / "parts").rmdir()  # where it is empty
        self._lock.close()


class Output:
    """One input's output, which is written in parts, in order."""

    def __init__(self, folder: Folder, path: Path) -> None:
        self._folder = folder
        self.name = path.name
        self.path = path
        self._parts = folder.path / "parts" / path.name
        self._waiting: list[bytes] = []
        self._at = 0  # the part that they are of

    def forget(self) -> None:
        shutil.rmtree(self._parts, ignore_errors=True)

    def has(self, chunk: int) -> bool:
        """Whether the part that a chunk belongs to is there."""
        return self._part(chunk // CHUNKS_PER_PART).exists()

    def _part(self, index: int) -> Path:
        return self._parts / f"{index:06}"

    def add(self, chunk: int, output: bytes) -> None:
        """The output of the next chunk of a part that is not there."""
        if chunk // CHUNKS_PER_PART != self._at:
            self._flush()
            self._at = chunk // CHUNKS_PER_PART
        self._waiting.append(output)

    def _flush(self) -> None:
        if self._waiting:
            self._parts.mkdir(exist_ok=True)
            write_atomically(self._part(self._at), self._waiting)
            self._waiting = []

    def end(self, header: bytes, n_chunks: int, n_bad_lines: int) -> None:
        """Puts the whole output in its place."""
        self._flush()
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            yield header
            for index in range(-(-n_chunks // CHUNKS_PER_PART)):
                yield self._part(index).read_bytes()

        def counted() -> Iterator[bytes]:
            for piece in pieces():
                digest.update(piece)
                yield piece

        write_atomically(self.path, counted())
        self._folder.note(self.name, state="done", bad_lines=n_bad_lines, sha256=digest.hexdigest())
        self.forget()

    def fail(self, why: str) -> None:
        """The whole parts of it stay, for when the rest of the input can be read."""
        self._waiting = []
        self._folder.note(self.name, state="failed", why=why)


def _locked(path: Path) -> BinaryIO:
    file = (path / ".lock").open("wb")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise CliError(f"{path}: another run writes there") from None
    return file
