"""All workers switch, or none: played through without processes, in every order of events."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.reloading.agreement import (
    COMMIT_WITHIN_S,
    Abort,
    Agreement,
    Asked,
    Commit,
    Committed,
    Outcome,
    Prepare,
    Prepared,
    Up,
)
from service.reloading.lineup import ChangeError, Entry, Load, Unload, with_loaded, without
from tests.strategies import brief


def entry(version, name="tiny", *, is_replaced=False):
    return Entry(name, version, Path(f"/models/{name}-{version}"), f"digest {version}", is_replaced)


V1, V2, V3, OTHER = entry("1"), entry("2"), entry("3"), entry("1", "other")
LOAD = Load("tiny", V2.folder, V2.digest)


def shown(lineup):
    return " ".join(each.reference + "~" * each.is_replaced for each in lineup)


# Lineups


def test_a_load_takes_the_place_of_what_had_the_name_which_stays_until_the_next():
    lineup = (V1, OTHER)
    for new, after in (
        (V2, "tiny@2 tiny@1~ other@1"),
        (V2, "tiny@2 tiny@1~ other@1"),  # which changes nothing
        (V3, "tiny@3 tiny@2~ other@1"),
        (V2, "tiny@2 tiny@3~ other@1"),  # and back
        (entry("9", "other"), "tiny@2 tiny@3~ other@9 other@1~"),
        (entry("1", "third"), "tiny@2 tiny@3~ other@9 other@1~ third@1"),
    ):
        lineup = with_loaded(lineup, new)
        assert shown(lineup) == after


def test_a_version_that_was_configured_beside_the_first_stays():
    lineup = with_loaded(with_loaded((V1, entry("pinned")), V2), V3)
    assert shown(lineup) == "tiny@3 tiny@2~ tiny@pinned"
    assert shown(with_loaded(lineup, entry("pinned"))) == "tiny@pinned tiny@3~"


def test_what_a_bare_name_means_is_not_unloaded():
    lineup = with_loaded((V1, OTHER), V2)
    assert shown(without(lineup, Unload("tiny", "1"))) == "tiny@2 other@1"
    for name, version, code in (
        ("tiny", "2", "version-in-use"),
        ("other", "1", "version-in-use"),
        ("tiny", "3", "unknown-model"),
        ("nope", "1", "unknown-model"),
    ):
        with pytest.raises(ChangeError) as raised:
            without(lineup, Unload(name, version))
        assert raised.value.code == code


# Agreement


class Workers:
    """An agreement of three workers, and what it has told them."""

    def __init__(self, n=3):
        self.now = 0.0
        self.told = []
        self.stuck = []
        self.agreement = Agreement(
            lambda worker, message: self.told.append((worker, message)),
            timeout_s=60,
            is_stuck=self.stuck.append,
            clock=lambda: self.now,
        )
        for worker in range(n):
            self.agreement.join(worker)
            self.agreement.receive(worker, Up((V1, OTHER)))

    def say(self, worker, message):
        self.agreement.receive(worker, message)

    def heard(self, kind):
        """The messages of a kind told since the last time; to whom."""
        found = [(worker, message) for worker, message in self.told if isinstance(message, kind)]
        self.told = [told for told in self.told if told not in found]
        return found

    def ask(self, change=LOAD):
        self.say(0, Asked(7, change))
        told = self.heard(Prepare | Commit)
        return told[0][1].number

    def outcome(self):
        ((worker, outcome),) = self.heard(Outcome)
        assert (worker, outcome.token) == (0, 7)
        return outcome


def test_when_all_have_prepared_the_same_all_commit_and_then_the_asker_is_told():
    workers = Workers()
    number = workers.ask()
    workers.say(1, Prepared(number, V2))
    workers.say(0, Prepared(number, V2))
    assert not workers.told
    assert shown(workers.agreement.lineup) == "tiny@1 other@1"
    workers.say(2, Prepared(number, V2))
    commits = workers.heard(Commit)
    assert [worker for worker, _ in commits] == [0, 1, 2]
    assert {shown(commit.lineup) for _, commit in commits} == {"tiny@2 tiny@1~ other@1"}
    for worker in (2, 0, 1):
        assert not workers.told
        assert workers.agreement.is_busy
        workers.say(worker, Committed(number))
    outcome = workers.outcome()
    assert outcome.error is None
    assert outcome.after == workers.agreement.lineup
    assert not workers.agreement.is_busy


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_a_failure_a_death_and_a_delay_abort_on_all_and_change_nothing(n_before):
    def fails(workers, number):
        workers.say(2, Prepared(number, error=ChangeError("load-failed", "a score is off")))

    def dies(workers, _):
        workers.agreement.leave(2)

    def is_late(workers, _):
        workers.agreement.tick()
        assert workers.agreement.is_busy
        workers.now += 60
        workers.agreement.tick()

    def has_others(workers, number):
        for worker in set(range(3)) - set(range(n_before)):
            workers.say(worker, Prepared(number, V3))

    for event, code in (
        (fails, "load-failed"),
        (dies, "load-aborted"),
        (is_late, "load-aborted"),
        (has_others, "load-failed"),
    ):
        if event is has_others and n_before == 0:
            continue
        workers = Workers()
        number = workers.ask()
        for worker in range(n_before):
            workers.say(worker, Prepared(number, V2))
        event(workers, number)
        assert [worker for worker, _ in workers.heard(Abort)] == ([0, 1] if event is dies else [0, 1, 2])
        outcome = workers.outcome()
        assert outcome.error.code == code
        assert outcome.after == outcome.before == workers.agreement.lineup == (V1, OTHER)
        assert not workers.agreement.is_busy
        workers.say(0, Prepared(number, V2))  # too late
        assert not workers.told


def test_a_second_change_is_refused_while_one_is_under_way():
    workers = Workers()
    workers.ask()
    for change in (LOAD, Unload("tiny", "1")):
        workers.say(1, Asked(3, change))
        ((worker, outcome),) = workers.heard(Outcome)
        assert (worker, outcome.token, outcome.error.code) == (1, 3, "load-in-progress")
    assert workers.agreement.is_busy


def test_who_dies_or_hangs_after_the_decision_does_not_undo_it():
    workers = Workers()
    number = workers.ask()
    for worker in range(3):
        workers.say(worker, Prepared(number, V2))
    workers.say(0, Committed(number))
    workers.agreement.leave(1)
    assert workers.agreement.is_busy
    workers.now += COMMIT_WITHIN_S
    workers.agreement.tick()
    assert workers.stuck == [2]
    workers.agreement.leave(2)
    assert workers.outcome().error is None
    assert shown(workers.agreement.lineup) == "tiny@2 tiny@1~ other@1"


def test_nobody_waits_for_an_asker_that_died():
    workers = Workers()
    number = workers.ask()
    workers.agreement.leave(0)
    assert [worker for worker, _ in workers.heard(Abort)] == [1, 2]
    assert not workers.told
    assert not workers.agreement.is_busy
    workers.say(1, Prepared(number, V2))
    assert not workers.told


def test_an_unload_needs_no_preparation_and_a_wrong_one_reaches_nobody():
    workers = Workers()
    workers.say(0, Asked(7, Unload("tiny", "1")))
    assert workers.outcome().error.code == "version-in-use"
    assert not workers.told
    workers.agreement.lineup = with_loaded((V1, OTHER), V2)
    number = workers.ask(Unload("tiny", "1"))
    for worker in range(3):
        workers.say(worker, Committed(number))
    assert shown(workers.outcome().after) == "tiny@2 other@1"


class Played:
    """A worker that does as it is told, when the test lets it; it may fail or be killed."""

    def __init__(self, lineup):
        self.lineup = lineup
        self.waiting = []


@brief
@given(
    st.lists(
        st.tuples(st.sampled_from("step fail die start ask late".split()), st.integers(0, 2)), max_size=60
    )
)
def test_in_whatever_order_things_happen_those_who_live_serve_what_was_agreed_on(events):
    clock = [0.0]
    played = {}

    def send(worker, message):
        if worker in played:
            played[worker].waiting.append(message)

    def die(worker):
        if played.pop(worker, None):
            agreement.leave(worker)

    def start(worker):
        if worker not in played and not agreement.is_busy:
            played[worker] = Played(agreement.lineup or (V1,))
            agreement.join(worker)
            agreement.receive(worker, Up(played[worker].lineup))

    def step(worker, *, fails=False):
        if worker not in played or not played[worker].waiting:
            return
        message = played[worker].waiting.pop(0)
        if isinstance(message, Prepare):
            made = Entry("tiny", message.load.digest[-1], message.load.folder, message.load.digest)
            error = ChangeError("load-failed", "") if fails else None
            agreement.receive(worker, Prepared(message.number, None if fails else made, error))
        elif isinstance(message, Commit):
            played[worker].lineup = message.lineup
            agreement.receive(worker, Committed(message.number))
        elif isinstance(message, Outcome):
            outcomes[message.token] = message

    agreement = Agreement(send, timeout_s=60, is_stuck=die, clock=lambda: clock[0])
    asked, outcomes = {}, {}
    for worker in range(3):
        start(worker)
    for event, worker in events:
        if event == "ask" and worker in played:
            wanted = (V1, V2, V3)[len(asked) % 3]
            asked[len(asked)] = played[worker]
            agreement.receive(worker, Asked(len(asked) - 1, Load("tiny", wanted.folder, wanted.digest)))
        elif event == "late":
            clock[0] += 60
            agreement.tick()
        elif event in ("step", "fail"):
            step(worker, fails=event == "fail")
        elif event == "start":
            start(worker)
        elif event == "die":
            die(worker)
        if not agreement.is_busy:  # all agree, but for what is on its way
            for each in played.values():
                assert each.lineup == agreement.lineup
    while any(each.waiting for each in played.values()):
        for worker in list(played):
            step(worker)
    assert not agreement.is_busy
    assert all(each.lineup == agreement.lineup for each in played.values())
    for token, asker in asked.items():
        assert token in outcomes or asker not in played.values()
