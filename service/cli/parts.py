"""A folder of outputs that a run fills, and goes on filling after it was interrupted, even by SIGKILL.

    DIR/manifest.json       what is done, with which options, and of which inputs what has become
    DIR/NAME.jsonl          the whole output of input NAME; it appears when it is whole
    DIR/parts/NAME/000017   the output of CHUNKS_PER_PART chunks; it appears when it is whole

NAME has folders where the input is of a folder. Parts of Parquet are lines of JSON. The manifest says from
the start whose each output is: what is there and is not this run's is neither written over nor removed.

Every file is written beside its place and renamed into it. Which records are in a part depends on the
input alone, so a part that is there need not be done again, and the outputs of a run that was
interrupted are those of one that was not, to the byte. Whoever makes the parts, here or elsewhere,
in whatever order, only has to name them so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from service.cli.errors import CliError
from service.cli.places import Input

try:
    import fcntl
except ImportError:  # Windows: two runs at once are not noticed
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
CHUNKS_PER_PART = 16  # about a million characters: what an interruption costs, at most, is that
MANIFEST = "manifest.json"
_HALF = ".nametag-part"  # what a file is called that is not whole yet: .PID.nametag-part
# The manifest has a line for each input: written for each of them, many would take quadratic time. One that
# is late only makes the next run do an input once more.
_MANIFEST_EVERY_S = 1.0


def write_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    """No reader, and no later run, ever sees half of it. Raises CliError, as for a full disk: then nothing
    of it is left, and the same run goes on when there is room."""
    beside = path.with_name(f".{os.getpid()}{_HALF}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        message = f"{path}: {error.strerror or error}; what is whole stays, and the same command goes on"
        raise CliError(message, exit_code=1) from None


class Folder:
    """``options``: what the outputs depend on beside the inputs; ``suffix_of``: what an input's output
    ends with. Raises CliError."""

    def __init__(
        self,
        path: Path,
        options: dict[str, Any],
        inputs: list[Input],
        suffix_of: Callable[[Input], str],
    ) -> None:
        self.path = path
        self.is_parquet = options.get("format") == "parquet"
        self._suffix_of = suffix_of
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            before = self._manifest()
        except OSError as error:
            raise CliError(f"{error.filename or path}: {error.strerror}") from None
        if before is not None and before.get("options") != options:
            theirs = before.get("options", {})
            other = sorted(k for k in {*theirs, *options} if theirs.get(k) != options.get(k))
            raise CliError(f"{path}: was begun with another {', '.join(other)}: another folder is expected")
        self._options = options
        self._inputs: dict[str, dict[str, Any]] = (before or {}).get("inputs", {})
        self._saved_at = 0.0  # in seconds
        self._is_late = False  # the manifest, in what it says
        self._check_names(inputs)
        self._claim(inputs)
        self._remove_halves()

    def _check_names(self, inputs: list[Input]) -> None:
        names: dict[Path, str] = {}
        ours = {os.path.realpath(each.path) for each in inputs if not each.is_url}
        for each in inputs:
            output = self._path_of(each)
            if names.setdefault(output, each.name) != each.name:
                raise CliError(
                    f"{names[output]}, {each.name}: both would become {output}: do one elsewhere"
                )
            if os.path.realpath(output) in ours:
                raise CliError(f"{output}: is an input, and an output too: another folder is expected")
            if output.relative_to(self.path).parts[0] in (MANIFEST, "parts"):
                raise CliError(f"{each.name}: would become {output}, which is kept for the run itself")
        for output, name in names.items():
            for above in output.parents:
                if above in names:
                    raise CliError(f"{names[above]}, {name}: {above} would be a file and a folder")

    def _claim(self, inputs: list[Input]) -> None:
        """Says whose each output is, before any is there. Raises CliError where one is another's."""
        for each in inputs:
            output = self.output(each)
            entry = self._inputs.get(output.name, {})
            # An entry of an earlier release knows only how its input was named.
            is_ours = entry.get("at") == each.path if "at" in entry else entry.get("path") == each.name
            if not is_ours and os.path.lexists(output.path):
                whose = entry.get("at", entry.get("path"))
                of = f"the output of {whose}" if whose else "not of a run"
                raise CliError(f"{output.path}: is there already, and {of}: another folder is expected")
            before = entry if is_ours else {"path": each.name, "state": "waiting"}
            self._inputs[output.name] = {**before, "at": each.path}
        self._save()

    def _remove_halves(self) -> None:
        """What a run that was killed left half written, in the folders where runs write."""
        folders = {self.path, *((self.path / name).parent for name in self._inputs)}
        folders.update(Path(at) for at, _, _ in os.walk(self.path / "parts"))
        for folder in folders:
            for half in folder.glob(f".*{_HALF}"):
                with suppress(OSError):  # of somebody else: it is in nobody's way
                    if half.is_file() and not half.is_symlink():
                        half.unlink()

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
        # A file's name need not be UTF-8: what is not is then escaped as JSON escapes it.
        write_atomically(self.path / MANIFEST, [text.encode("utf-8", "backslashreplace"), b"\n"])
        self._saved_at = time.monotonic()
        self._is_late = False

    def begin(self, read: Input) -> bool:
        """Whether there is anything to do of an input. What is there of one that has changed since is done
        again. Raises InputError."""
        what = {"path": read.name, **read.facts()}
        output = self.output(read)
        entry = self._inputs.get(output.name, {})
        if any(entry.get(key) != value for key, value in what.items()):
            output.forget()
            output.path.unlink(missing_ok=True)  # else it would stay if the input cannot be read
        elif entry.get("state") == "done" and output.path.exists():
            output.forget()  # which a run that was killed may not have come to
            return False
        self.note(output.name, {**what, "at": read.path}, state="begun")
        return True

    def note(self, name: str, entry: dict[str, Any] | None = None, **facts: object) -> None:
        """What has become of the input whose output has this name."""
        self._inputs[name] = {**(self._inputs.get(name, {}) if entry is None else entry), **facts}
        self._is_late = True
        if time.monotonic() - self._saved_at > _MANIFEST_EVERY_S:
            self._save()

    def keep(self) -> None:
        """To be called before a part stays: it is worth nothing if the manifest does not know its input."""
        if self._is_late:
            self._save()

    def n_bad_lines(self, read: Input) -> int:
        """Of an input that is done."""
        return int(self._inputs[self.output(read).name].get("bad_lines", 0))

    def output(self, read: Input) -> Output:
        path = self._path_of(read)
        return Output(self, path, path.relative_to(self.path).as_posix())

    def _path_of(self, read: Input) -> Path:
        suffix = self._suffix_of(read)
        return self.path / (read.place if read.place.endswith(suffix) else read.place + suffix)

    def close(self) -> None:
        try:
            self._save()
        finally:
            for at, _, _ in os.walk(self.path / "parts", topdown=False):
                with suppress(OSError):
                    os.rmdir(at)  # where it is empty
            self._lock.close()


class Output:
    """One input's output, which is written in parts, in order."""

    def __init__(self, folder: Folder, path: Path, name: str) -> None:
        self._folder = folder
        self.name = name  # as the manifest says it
        self.path = path
        self._parts = folder.path / "parts" / name
        self._waiting: list[bytes] = []
        self._at = 0  # the part that they are of

    def forget(self) -> None:
        shutil.rmtree(self._parts, ignore_errors=True)

    def parts(self) -> frozenset[int]:
        """The numbers of those that are there."""
        try:
            names = os.listdir(self._parts)
        except OSError:
            return frozenset()
        return frozenset(int(name) for name in names if name.isdigit())

    def _part(self, index: int) -> Path:
        return self._parts / f"{index:06}"

    def add(self, chunk: int, output: bytes) -> None:
        """The output of the next chunk of a part that is not there."""
        if chunk // CHUNKS_PER_PART != self._at:
            self._folder.keep()
            self._flush()
            self._at = chunk // CHUNKS_PER_PART
        self._waiting.append(output)

    def _flush(self) -> None:
        if self._waiting:
            write_atomically(self._part(self._at), self._waiting)
            self._waiting = []

    def end(self, header: bytes, n_chunks: int, n_bad_lines: int) -> None:
        """Puts the whole output in its place."""
        self._flush()
        parts: Iterator[bytes] = (
            self._part(index).read_bytes() for index in range(-(-n_chunks // CHUNKS_PER_PART))
        )
        if self._folder.is_parquet:
            from service.cli.parquet import parquet_of

            parts = parquet_of(parts)
        digest = hashlib.sha256()

        def counted() -> Iterator[bytes]:
            for piece in chain([header], parts):
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
    file = (path / ".lock").open("ab")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise CliError(f"{path}: another run writes there") from None
    return file
