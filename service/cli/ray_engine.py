"""Inputs that are not done in, what their chunks become out, in order: by a pool of Ray actors.

    inputs → one reader (a task: feed, in units of some chunks) → actors (a Tagger each) → here, in order

The same reading, the same work on the same chunks and the same writing as the engine of one machine, so
the same output, the same parts and the same manifest: a run may go on with the other engine. Ray Data
has the rest: the pool, how much is under way, the order, and doing again what a process that died had.

One reader, since it reads some hundred times faster than one core tags, and since lines and offsets count
from a file's beginning: a range of a file, as the unit of work, would have to be found by reading it. It
runs where the command does, so other nodes need neither the files nor the folder of outputs, but the same
package and, at the same path, the model.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model.backend import usable_cpus
from service.cli.engine import Note
from service.cli.errors import CliError
from service.cli.feed import Todo, feed
from service.cli.inputs import CHUNK_CHARS, Reading
from service.cli.records import Chunk, Done, Options, Record
from service.cli.scale import Scale
from service.cli.work import Worker, setup, work
from service.memory import collect_seldom

# Of a unit, which is one call of an actor: a second's work or so, beside which a call costs nothing.
_UNIT_CHARS = 8 * CHUNK_CHARS
_UNIT_ITEMS = 1_000
# Some times what is under way, and far less than the third of the memory that Ray would take.
_STORE_BYTES = 256 << 20
# Ray gives its own processes 30 seconds to begin, which a busy machine may exceed.
_TRIES = 3


# Ray asks Arrow to take them as they are, which says of what it cannot its whole repr: of all texts.
@dataclass(frozen=True, repr=False)
class Unit:
    items: list[Chunk | Note]


@dataclass(frozen=True, repr=False)
class UnitDone:
    items: list[Done | Note]


@dataclass(frozen=True)
class Failure:
    message: str
    exit_code: int


class TagUnits:
    """An actor."""

    def __init__(self, options: Options) -> None:
        self._ready: Worker | CliError
        try:
            self._ready = setup(options)
            collect_seldom()
        except CliError as error:
            self._ready = error  # said by the first unit: Ray would say it in fifty lines

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (unit,) = batch["unit"]
        if isinstance(self._ready, CliError):
            return _row("done", Failure(str(self._ready), self._ready.exit_code))
        done = [i if isinstance(i, Note) else work(self._ready, i) for i in unit.items]
        return _row("done", UnitDone(done))


class ReadUnits:
    """A task. Done again, it gives the same units: then Ray goes on with the one that was missing."""

    def __init__(self, how: Reading, options: Options) -> None:
        self._how = how
        self._options = options

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        items: list[Chunk | Note] = []
        n_chars = 0
        for item in feed(batch["item"], self._how, self._options):
            items.append(item)
            if isinstance(item, Chunk):
                n_chars += sum(len(r.text) for r in item.records if isinstance(r, Record))
            if n_chars >= _UNIT_CHARS or len(items) >= _UNIT_ITEMS:
                yield _row("unit", Unit(items))
                items, n_chars = [], 0
        if items:
            yield _row("unit", Unit(items))


def _row(column: str, value: object) -> dict[str, Any]:
    """A batch of one row."""
    column_of_one = np.empty(1, dtype=object)
    column_of_one[0] = value
    return {column: column_of_one}


def run(planned: list[Todo | Note], how: Reading, options: Options, scale: Scale) -> Iterator[Done | Note]:
    """Raises CliError."""
    todo = [each for each in planned if isinstance(each, Todo)]
    for each in todo:
        if each.read.is_stream:  # which another process does not have
            raise CliError(f"--engine ray: files are expected, and not {each.read.said}")
    if not todo:
        yield from (each for each in planned if isinstance(each, Note))
        return
    options = replace(options, model=options.model.absolute())
    with _cluster(scale) as ray:
        yield from _streamed(ray, planned, how, options, scale)


def _streamed(
    ray: Any, planned: list[Todo | Note], how: Reading, options: Options, scale: Scale
) -> Iterator[Done | Note]:
    from ray.data import ActorPoolStrategy, TaskPoolStrategy
    from ray.exceptions import RayError

    has_gpu = options.device == "cuda"
    n_actors = scale.n_processes or int(ray.cluster_resources().get("GPU" if has_gpu else "CPU", 1))
    _set_up_data(ray)
    where: dict[str, Any] = {}
    if not ray.util.client.ray.is_connected():
        where["label_selector"] = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    units = ray.data.from_items([{"item": each} for each in planned], override_num_blocks=1).map_batches(
        ReadUnits(how, options).__call__, batch_size=None, num_cpus=0, compute=TaskPoolStrategy(1), **where
    )
    # An actor that dies is made again, and so is what it had: Ray Data's default, without end.
    done = units.map_batches(
        TagUnits,
        fn_constructor_args=(options,),
        batch_size=1,
        compute=ActorPoolStrategy(size=n_actors),
        num_cpus=1,
        num_gpus=1 if has_gpu else 0,
    )
    try:
        for row in done.iter_rows():
            result: UnitDone | Failure = row["done"]
            if isinstance(result, Failure):
                raise CliError(result.message, exit_code=result.exit_code)
            yield from result.items
    except RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # a mistake of ours: where it is helps
        message = f"Ray: {type(error).__name__}; what is done so far stays, and the same command goes on"
        raise CliError(message, exit_code=1) from None


def _set_up_data(ray: Any) -> None:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    # A block a unit: else Ray Data would put small ones together, up to 128 MB.
    context.target_max_block_size = context.target_min_block_size = 1
    context.enable_progress_bars = False  # there is one
    context.print_on_execution_start = False


@contextmanager
def _cluster(scale: Scale) -> Iterator[Any]:
    """Ray, connected. Of a cluster of its own nothing listens beyond loopback, and nothing of it stays."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # the network is not ours
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    own = scale.address is None
    if own:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read when ray is: its address is loopback
    try:
        import ray
        import ray.data
    except ImportError:
        raise CliError("--engine ray: pip install 'nametag[ray]' first") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    at = tempfile.mkdtemp(prefix="nametag-ray-") if own else ""
    # stdout is for what was found, and Ray's words about processes that died, up to its end, are not.
    with redirect_stdout(sys.stderr):
        try:
            for n_left in reversed(range(_TRIES if own else 1)):
                try:
                    _connect(ray, scale, at)
                    break
                except Exception as error:  # of any class, where it does not answer, or not in time
                    if not n_left:
                        message = f"Ray: {' '.join(str(error).split())[:300]}"
                        raise CliError(message, exit_code=1) from None
                    ray.shutdown()
            yield ray
        finally:
            ray.shutdown()
            if own:
                shutil.rmtree(at, ignore_errors=True)


def _connect(ray: Any, scale: Scale, at: str) -> None:
    with _no_stderr():
        if scale.address is not None:
            ray.init(address=scale.address, log_to_driver=False, logging_level=logging.ERROR)
            return
        ray.init(
            address="local",
            num_cpus=scale.n_processes or usable_cpus(),
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=at,
        )


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's core says there, past Python, at which level it was told to be quiet."""
    sys.stderr.flush()
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(nowhere)
        os.close(ours)
