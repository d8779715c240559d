"""Costs, documents and arrival times in, what became of each request out: the service, simulated.

    arrival ─► balancer ─► event loop: read ─► admission ─► cut ─► backlog ─► inference thread: a batch
                                                                                        │
    answer  ◄──────────────────────────────── event loop: write ◄── told ◄──────────────┘

Of a worker process it simulates what decides its latency: an event loop that goes round in turns, and
computes what is little itself, a thread for the text of large documents, an inference thread, and the
one CPU that they share, each for a slice of time. Who is let in and what makes a batch is not
imitated: it is service/admission.py's Admission and service/batching.py's Backlog and small_batches
themselves.

Discrete events, by simpy. Pure: no clock, no socket, nothing random but the balancer's choice, by seed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import simpy

from model.backend import CPU_BATCH_TOKENS
from service.admission import Admission
from service.batching import BATCHES_AT_ONCE, Backlog, Job, Place, small_batches
from service.models import KERNEL_TOKENS_AT_ONCE
from service.problems import Problem
from service.server import _LOOK_S
from service.settings import Settings
from service.steps import INLINE_CHARS

COLD_S = 0.005  # by then most of ``wake`` is due: measured, it was 0.3 after 1 ms, and all after 20
WARM_S = 0.03
ABREAST = 16  # sentences under way at once: MOST of model/kernel/recurrence.c
_NOTHING_S = 1e-12  # what rounding leaves of work that is done

Resume = Callable[[], None]
Clock = Callable[[], float]  # seconds, as the service reads them
# A request's way is a generator of steps: each is given what to call when it is done.
Way = Generator[Callable[[Resume], None], None, None]
Sharing = Literal["least", "round", "random"]


@dataclass(frozen=True, slots=True)
class Document:
    """What the costs of a request depend on."""

    n_bytes: int
    lengths: tuple[int, ...]  # tokens of each of its sentences, none 0
    again: tuple[int, ...] = ()  # of those that are looked at again, once all have an answer

    @property
    def n_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def is_small(self) -> bool:
        """Whether the event loop reads and writes it, and not the text thread."""
        return self.n_bytes <= INLINE_CHARS


def steps(lengths: Sequence[int]) -> float:
    """Of a batch whose sentences take the place of those that end."""
    return max(max(lengths), sum(lengths) / ABREAST)


@dataclass(frozen=True)
class Costs:
    """Seconds of one CPU, each for one of what its name says; fitted by ``capacity.py measure``.

    The event loop spends ``request``, ``read_byte`` and ``write_token``, or the text thread the latter two
    of a body of more than INLINE_CHARS; the inference thread the rest, or the event loop what is little. A
    step is one walk over the recurrence's weights, which up to ABREAST sentences share.
    """

    request: float  # HTTP, admission, the access log; half of it before the answer is computed
    read_byte: float  # JSON, tokens, sentences
    write_token: float
    batch: float
    batch_step: float
    batch_token: float
    batch_sentence: float
    refusal: float  # reading a request and saying 429; it is part of ``request``
    # A CPU that computes again after it was idle has cold caches: it takes so much more at once, and for up
    # to WARM_S so many times as long for everything; both in part where it was idle for less than COLD_S.
    wake: float = 0.0
    cold: float = 1.0
    # What a token of a body of more than INLINE_CHARS costs beside: threads that take turns, each of which
    # finds the caches full of another's things. The text thread's, half of it before the answer is there.
    apart: float = 0.0
    # Between client and service: no CPU of the service, and nothing waits for it.
    wire: float = 0.0
    # Both CPUs of a core are slower when both compute. 1: they are cores of their own.
    together: float = 1.0

    def times(self, factor: float) -> Costs:
        """All of the service's own so many times as large: a slower CPU, or a busier neighbour."""
        own = {name: factor * getattr(self, name) for name in _OWN}
        return Costs(**own, cold=self.cold, wire=self.wire, together=self.together)

    def read_s(self, document: Document) -> float:
        return self.read_byte * document.n_bytes + self._apart_s(document) / 2

    def write_s(self, document: Document) -> float:
        return self.write_token * document.n_tokens + self._apart_s(document) / 2

    def _apart_s(self, document: Document) -> float:
        return 0.0 if document.is_small else self.apart * document.n_tokens

    def batch_s(self, lengths: Sequence[int]) -> float:
        return (
            self.batch
            + self.batch_step * steps(lengths)
            + self.batch_token * sum(lengths)
            + self.batch_sentence * len(lengths)
        )


_OWN = (
    "request", "read_byte", "write_token", "batch", "batch_step", "batch_token",
    "batch_sentence", "refusal", "wake", "apart",
)  # fmt: skip


@dataclass(frozen=True)
class Design:
    """What is built of the workers, and its limits."""

    workers: int = 1
    sharing: Sharing = "least"  # the balancer's: fewest in hand, in turn, or any, as the kernel does
    most_in_hand: int = 0  # requests a worker is given at once, others wait in one queue; 0: no such queue
    max_batch_tokens: int = CPU_BATCH_TOKENS
    max_tokens_at_once: int = KERNEL_TOKENS_AT_ONCE
    max_requests: int = Settings.max_queue_requests
    balancer_s: float = 0.0  # of the balancer's CPU, for a request
    client_s: float = 0.0  # of the client's, likewise; 0: it is not simulated
    guests: bool = False  # these two compute on the workers' CPUs, instead of on one of their own
    pairs: bool = False  # workers 2n and 2n + 1 are on the two CPUs of a core
    on_one_cpu: bool = False  # all of them, instead of each on its own
    # How long a thread computes while another waits for the CPU. EEVDF's base slice on a few CPUs.
    slice_s: float = 0.003


@dataclass(slots=True)
class Outcome:
    """What became of one request. Seconds from the simulation's beginning."""

    due_s: float
    done_s: float = math.inf
    is_refused: bool = False

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


@dataclass
class Run:
    """A simulation's outcomes, in order of arrival, and how busy the CPUs were."""

    outcomes: list[Outcome]
    seconds: float
    busy_s: float  # of all workers' CPUs together
    busy_at_s: list[float] = field(default_factory=list)  # the same, by the times that were asked for

    @property
    def latencies_s(self) -> list[float]:
        return [each.latency_s for each in self.outcomes if not each.is_refused]

    @property
    def n_refused(self) -> int:
        return sum(each.is_refused for each in self.outcomes)


class Thread:
    """Work in order, on a CPU that others use too."""

    __slots__ = ("cpu", "work")

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.work: deque[tuple[float, Resume]] = deque()

    def add(self, seconds: float, then: Resume) -> None:
        """``then`` is called when this has been computed, after all that was added before."""
        self.work.append((seconds, then))
        if len(self.work) == 1:
            self.cpu.wake(self)

    def does(self, seconds: float) -> Callable[[Resume], None]:
        """As ``add``, as a step of a request's way."""
        return lambda then: self.add(seconds, then)


class Cpu:
    """Computes for its threads in turn, each for a slice or until it has nothing to do.

    ``sibling``: the other CPU of its core, where there is one. While both compute, each is ``together``
    times as fast as alone.
    """

    def __init__(
        self, env: simpy.Environment, slice_s: float, together: float = 1.0, wake_s: float = 0.0,
        cold: float = 1.0,
    ) -> None:  # fmt: skip
        self._env = env
        self._slice_s = slice_s
        self._together = together
        self._wake_s = wake_s
        self._cold = cold
        self._warm_at = WARM_S
        self.sibling: Cpu | None = None
        self.busy_s = 0.0
        self._waiting: deque[Thread] = deque()
        self._on: Thread | None = None
        self._slice_left = 0.0
        self._since = 0.0
        self._speed = 1.0
        self._number = 0  # of what is under way, so that what was put off is told from it

    @property
    def is_busy(self) -> bool:
        return self._on is not None

    @property
    def n_wanting(self) -> int:
        """Threads that compute or wait for it, without one that is just done."""
        is_done = self._on is not None and all(left_s <= _NOTHING_S for left_s, _ in self._on.work)
        return self.is_busy - is_done + len(self._waiting)

    def busy_by_now_s(self) -> float:
        return self.busy_s + (self._env.now - self._since if self.is_busy else 0.0)

    def wake(self, thread: Thread) -> None:
        if self._on is thread:
            return  # it added to its own work while it was told that the last was done
        if self._on is None:
            seconds, then = thread.work[0]
            coldness = -math.expm1(-(self._env.now - self._since) / COLD_S)
            thread.work[0] = (seconds + self._wake_s * coldness, then)
            self._warm_at = max(self._warm_at, self._env.now + WARM_S * coldness)
            self._switch_to(thread)
            if self.sibling is not None and self.sibling.is_busy:
                self.sibling._at_another_speed()
        else:
            self._waiting.append(thread)
            if self._slice_left == math.inf:
                self._at_another_speed()

    def _switch_to(self, thread: Thread) -> None:
        self._on = thread
        self._slice_left = self._slice_s
        self._go()

    def _go(self) -> None:
        """Until the work is done, or the slice is over and others wait."""
        assert self._on is not None
        both = self.sibling is not None and self.sibling.is_busy
        self._speed = self._together if both else 1.0
        is_cold = self._cold > 1 and self._env.now < self._warm_at - _NOTHING_S
        if is_cold:
            self._speed /= self._cold
        self._since = self._env.now
        self._number += 1
        number = self._number
        seconds = self._on.work[0][0]
        is_alone = not self._waiting
        if not is_alone:
            seconds = min(seconds, self._slice_left)
        else:
            self._slice_left = math.inf
        took_s = max(0.0, seconds) / self._speed
        if is_cold:
            took_s = min(took_s, self._warm_at - self._env.now)
        event = self._env.timeout(took_s)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: self._reached(number))

    def _account(self) -> float:
        """Seconds of work done since the last look; the thread's first piece is that much shorter."""
        assert self._on is not None
        elapsed = self._env.now - self._since
        self._since = self._env.now
        self.busy_s += elapsed
        done = elapsed * self._speed
        seconds, then = self._on.work[0]
        self._on.work[0] = (seconds - done, then)
        self._slice_left -= done
        return done

    def _at_another_speed(self) -> None:
        """Others wait for this CPU now, or its sibling has begun to compute or stopped."""
        self._account()
        if self._slice_left == math.inf and self._waiting:
            self._slice_left = self._slice_s
        self._go()

    def _reached(self, number: int) -> None:
        if number != self._number:
            return
        thread = self._on
        assert thread is not None
        self._account()
        while thread.work and thread.work[0][0] <= _NOTHING_S:
            # It stays first of the work meanwhile, so that nobody wakes what is awake.
            thread.work[0][1]()
            thread.work.popleft()
        if thread.work and (self._slice_left > _NOTHING_S or not self._waiting):
            self._go()
            return
        if thread.work:
            self._waiting.append(thread)
        if self._waiting:
            self._switch_to(self._waiting.popleft())
            return
        self._on = None
        self._number += 1  # what was just done may have woken the sibling, which is told of here already
        if self.sibling is not None and self.sibling.is_busy:
            self.sibling._at_another_speed()


class Guest(Thread):
    """A thread that no CPU is its own: when it is woken up it goes where fewest want to compute."""

    __slots__ = ("_cpus",)

    def __init__(self, cpus: Sequence[Cpu]) -> None:
        super().__init__(cpus[0])
        self._cpus = cpus

    def add(self, seconds: float, then: Resume) -> None:
        if not self.work:
            self.cpu = min(self._cpus, key=lambda cpu: cpu.n_wanting)
        super().add(seconds, then)


class EventLoop(Thread):
    """A thread whose work comes in turns: what is added during one is done in the next.

    The order is the same as without turns. They are there for the admission, which looks how late one
    begins (service/server.py, Lookout).
    """

    __slots__ = ("_admission", "_due_s", "_now_s", "_oldest_wait_s")

    def __init__(
        self, cpu: Cpu, now_s: Clock, admission: Admission, oldest_wait_s: Callable[[], float]
    ) -> None:
        super().__init__(cpu)
        self._now_s = now_s
        self._admission = admission
        self._oldest_wait_s = oldest_wait_s
        self._due_s = _LOOK_S

    def add(self, seconds: float, then: Resume) -> None:
        if not self.work:
            # It slept, so it looked in time, each time that it was due.
            now_s = self._now_s()
            while self._due_s <= now_s:
                self._admission.looked(self._due_s, 0.0)
                self._due_s += _LOOK_S
                if self._admission.max_requests == self._admission.most_requests:
                    self._due_s += _LOOK_S * max(0, (now_s - self._due_s) // _LOOK_S)
            super().add(seconds, then)
            self._end_turn()
        else:
            super().add(seconds, then)

    def _end_turn(self) -> None:
        """After all that is there by now, one that costs nothing: the timers of the next turn."""
        super().add(0.0, self._look)

    def _look(self) -> None:
        now_s = self._now_s()
        if now_s >= self._due_s:
            self._admission.looked(now_s, now_s - self._due_s, self._oldest_wait_s())
            self._due_s = now_s + _LOOK_S
        if len(self.work) > 1:  # beside this one
            self._end_turn()


class _Open:
    """What the backlog asks of a request's future: nobody hangs up here."""

    def done(self) -> bool:
        return False


class Worker:
    """One process of the service."""

    def __init__(self, now_s: Clock, costs: Costs, design: Design, cpu: Cpu) -> None:
        self._now_s = now_s
        self._costs = costs
        self._max_batch_tokens = design.max_batch_tokens
        self._max_tokens_at_once = design.max_tokens_at_once
        self.cpu = cpu
        self._admission = Admission(design.max_requests, Settings.max_queue_bytes)
        self._loop = EventLoop(self.cpu, now_s, self._admission, self._oldest_wait_s)
        self._text = Thread(self.cpu)
        self._inference = Thread(self.cpu)
        self._backlog: Backlog[int, None] = Backlog(is_padded=False)  # as the kernel
        self._is_for_one = False  # the inference thread computes for a single request
        self._little: list[Job[int, None]] = []  # of this turn of the loop
        self._resume: dict[Job[int, None], Resume] = {}
        self.n_in_hand = 0

    def take(self, document: Document, answered: Callable[[bool], None]) -> None:
        """``answered`` is called with whether it was refused."""
        self.n_in_hand += 1

        def done(is_refused: bool) -> None:
            self.n_in_hand -= 1
            answered(is_refused)

        _go(self._way(document, done))

    def _way(self, document: Document, done: Callable[[bool], None]) -> Way:
        costs, loop = self._costs, self._loop
        admission = self._admission
        yield loop.does(costs.refusal)
        if max(admission.n_requests, admission.n_under_way) >= admission.max_requests:
            done(True)  # as service/refusal.py does; the others pass, and may be refused below
            return
        admission.n_under_way += 1
        half_s, read_s, write_s = costs.request / 2, costs.read_s(document), costs.write_s(document)
        # A step of the loop's is a turn of it: whoever waits for the text thread waits for more of them.
        yield loop.does(max(0.0, half_s - costs.refusal) + (read_s if document.is_small else 0.0))
        try:
            with admission.hold():
                if not document.is_small:
                    yield self._text.does(read_s)
                    yield loop.does(0.0)
                if document.lengths:
                    yield lambda then: self._submit(document, then)
                if not document.is_small:
                    yield loop.does(0.0)
                    yield self._text.does(write_s)
                yield loop.does(half_s + (write_s if document.is_small else 0.0))
        except Problem:
            admission.n_under_way -= 1
            done(True)
        else:
            admission.n_under_way -= 1
            done(False)

    def _submit(self, document: Document, then: Resume) -> None:
        def answered() -> None:
            self._queue(document.again, then)

        self._queue(document.lengths, answered if document.again else then)

    def _queue(self, lengths: Sequence[int], then: Resume) -> None:
        future: Any = _Open()
        job: Job[int, None] = Job(lengths, list(lengths), future, submitted=self._now_s())
        self._resume[job] = then
        if sum(job.lengths) <= self._max_tokens_at_once:
            if not self._little:
                self._loop.add(0.0, self._compute_little)
            self._little.append(job)
        else:
            self._hand_over([job])

    def _oldest_wait_s(self) -> float:
        """As Batcher's."""
        now_s = self._now_s()
        return max([now_s - job.submitted for job in self._resume if not job.has_begun], default=0.0)

    def _compute_little(self) -> None:
        """As Batcher's."""
        jobs, self._little = self._little, []
        batches = small_batches(jobs, self._max_tokens_at_once)
        is_in_turn = self._inference.work and not self._is_for_one
        if len(batches) > BATCHES_AT_ONCE or is_in_turn:
            self._hand_over(jobs)
        else:
            told = [self._resume.pop(job) for job in jobs]
            seconds = sum(self._costs.batch_s([place.length for place in batch]) for batch in batches)
            self._loop.add(seconds, lambda: _call_all(told))

    def _hand_over(self, jobs: Sequence[Job[int, None]]) -> None:
        for job in jobs:
            self._backlog.add(job)
        if not self._inference.work:
            self._next_batch()

    def _next_batch(self) -> None:
        batch, _ = self._backlog.take(self._max_batch_tokens, self._now_s())
        if batch:
            for place in batch:
                place.job.has_begun = True
            self._is_for_one = all(place.job is batch[0].job for place in batch)
            seconds = self._costs.batch_s([place.length for place in batch])
            self._inference.add(seconds, lambda: self._computed(batch))

    def _computed(self, batch: list[Place[int, None]]) -> None:
        told = []
        for place in batch:
            job = place.job
            job.n_unanswered -= 1
            if not job.n_unanswered:
                told.append(self._resume.pop(job))
        if told:
            self._loop.add(0.0, lambda: _call_all(told))
        self._next_batch()


def _call_all(told: Sequence[Resume]) -> None:
    for then in told:
        then()


def _go(way: Way) -> None:
    """Takes the next step of a request's way, if there is one."""
    step = next(way, None)
    if step is not None:
        step(lambda: _go(way))


class Balancer:
    """Gives each request to a worker, by the design's rule."""

    def __init__(
        self, env: simpy.Environment, costs: Costs, design: Design, seed: int,
        clock: Callable[[float], float] = float,
    ) -> None:  # fmt: skip
        def now_s() -> float:
            return clock(env.now)

        n_cpus = 1 if design.on_one_cpu else design.workers
        self.cpus = [
            Cpu(env, design.slice_s, costs.together, costs.wake, costs.cold) for _ in range(n_cpus)
        ]
        self.workers = [Worker(now_s, costs, design, self.cpus[n % n_cpus]) for n in range(design.workers)]
        if design.pairs:
            for one, other in zip(self.cpus[::2], self.cpus[1::2], strict=False):
                one.sibling, other.sibling = other, one
        self._design = design
        self._random = Random(seed)
        cpus = self.cpus if design.guests else [Cpu(env, math.inf)]
        self._client, self._own = Guest(cpus), Guest(cpus)
        self._queue: deque[tuple[Document, Callable[[bool], None]]] = deque()
        self._turn = 0

    def take(self, document: Document, answered: Callable[[bool], None]) -> None:
        _go(self._way(document, answered))

    def _way(self, document: Document, answered: Callable[[bool], None]) -> Way:
        """Half of what the client and the balancer do is done before the answer, half with it."""
        said: list[bool] = []

        def worked(then: Resume) -> None:
            def told(is_refused: bool) -> None:
                said.append(is_refused)
                then()

            self._hand_out(document, told)

        yield from self._half(self._client, self._design.client_s)
        yield from self._half(self._own, self._design.balancer_s)
        yield worked
        yield from self._half(self._own, self._design.balancer_s)
        yield from self._half(self._client, self._design.client_s)
        answered(said[0])

    @staticmethod
    def _half(thread: Thread, seconds: float) -> Way:
        if seconds:
            yield thread.does(seconds / 2)

    def _hand_out(self, document: Document, answered: Callable[[bool], None]) -> None:
        self._queue.append((document, answered))
        self._serve()

    def _serve(self) -> None:
        most = self._design.most_in_hand or math.inf
        while self._queue:
            worker = self._chosen()
            if worker.n_in_hand >= most:
                return
            document, answered = self._queue.popleft()
            worker.take(document, lambda is_refused, told=answered: self._answered(told, is_refused))  # type: ignore[misc]

    def _answered(self, told: Callable[[bool], None], is_refused: bool) -> None:
        told(is_refused)
        if self._queue:
            self._serve()

    def _chosen(self) -> Worker:
        n = len(self.workers)
        if self._design.sharing == "random" and not self._design.most_in_hand:
            return self.workers[self._random.randrange(n)]
        start = self._turn
        self._turn = (start + 1) % n
        if self._design.sharing == "round" and not self._design.most_in_hand:
            return self.workers[start]
        order = self.workers[start:] + self.workers[:start]
        return min(order, key=lambda worker: worker.n_in_hand)


@dataclass
class _Ledger:
    """Writes down what becomes of requests."""

    env: simpy.Environment
    costs: Costs
    outcomes: list[Outcome] = field(default_factory=list)

    def of(self, then: Resume = lambda: None) -> Callable[[bool], None]:
        outcome = Outcome(self.env.now)
        self.outcomes.append(outcome)

        def answered(is_refused: bool) -> None:
            outcome.done_s = self.env.now + self.costs.wire
            outcome.is_refused = is_refused
            then()

        return answered


def simulate(
    documents: Sequence[Document], due_s: Sequence[float], costs: Costs, design: Design, seed: int = 0,
    looks_s: Sequence[float] = (), clock: Callable[[float], float] = float,
) -> Run:  # fmt: skip
    """An open loop: each document is sent when it is due, whatever has become of the others.

    ``looks_s``: at which times to look how busy the CPUs have been, in order. ``clock``: what the service
    reads on its clock at a time of the simulation, where that is another.
    """
    if len(documents) != len(due_s):
        raise ValueError(f"{len(due_s)} times for {len(documents)} documents: as many are expected")
    env = simpy.Environment()
    balancer = Balancer(env, costs, design, seed, clock)
    ledger = _Ledger(env, costs)

    def arrivals() -> Generator[simpy.Event, None, None]:
        for document, due in zip(documents, due_s, strict=True):
            if due > env.now:
                yield env.timeout(due - env.now)
            balancer.take(document, ledger.of())

    busy_at_s = []

    def looks() -> Generator[simpy.Event, None, None]:
        for at_s in looks_s:
            if at_s > env.now:
                yield env.timeout(at_s - env.now)
            busy_at_s.append(sum(cpu.busy_by_now_s() for cpu in balancer.cpus))

    env.process(arrivals())
    env.process(looks())
    env.run()
    busy_s = sum(cpu.busy_s for cpu in balancer.cpus)
    return Run(ledger.outcomes, env.now, busy_s, busy_at_s)


def saturate(
    documents: Sequence[Document], clients: int, seconds: float, costs: Costs, design: Design, seed: int = 0
) -> Run:
    """A closed loop: so many clients that each send the next document once they have an answer."""
    env = simpy.Environment()
    balancer = Balancer(env, costs, design, seed)
    ledger = _Ledger(env, costs)
    n_sent = 0

    def send() -> None:
        nonlocal n_sent
        document = documents[n_sent % len(documents)]
        n_sent += 1

        def later() -> None:
            event = env.timeout(costs.wire)
            assert event.callbacks is not None
            event.callbacks.append(lambda _: send())

        balancer.take(document, ledger.of(later))

    for _ in range(clients):
        send()
    env.run(until=seconds)
    return Run(ledger.outcomes, seconds, sum(cpu.busy_s for cpu in balancer.cpus))
