"""POST /v1/tag/stream over a real socket: a line for each line, whatever the lines, however many."""

from __future__ import annotations

import itertools
import json
import select
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.lines import Lines
from service.schemas import TagLineProblem, TagLineResponse
from service.window import MAX_BATCHES, MAX_BYTES, MAX_LINES, MAX_QUEUE_SHARE
from tests.running import check_problem, process, running
from tests.strategies import brief

PATH = "/v1/tag/stream"
NDJSON = {"content-type": "application/x-ndjson"}
TEXTS = ["Harry Potter met Hermione.", "", "👩‍🚀 Zoë left. Ann stayed…", "王小明 met Angela Merkel。"]


@pytest.fixture(scope="module")
def service(tiny_artefact):
    with running(tiny_artefact) as service:
        yield service


def lines(*documents):
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def streamed(service, body, **headers):
    """The answers to a body, parsed; each is of the published schema."""
    answer = service.client.post(PATH, content=body, headers={**NDJSON, **headers})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert not answer.content or answer.content.endswith(b"\n")
    found = [json.loads(line) for line in answer.content.splitlines()]
    for each in found:
        (TagLineProblem if "code" in each else TagLineResponse).model_validate(each)
    return found


class Client:
    """Speaks to the stream over a socket, line by line, as a client in full duplex does."""

    def __init__(self, sock, path=PATH, headers=b"Transfer-Encoding: chunked\r\n"):
        self.sock = sock
        self.file = sock.makefile("rb")
        sock.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n%b\r\n"
            % (path.encode(), headers)
        )

    def send(self, body):
        """As a chunk; b"" ends the body."""
        self.sock.sendall(b"%x\r\n%b\r\n" % (len(body), body))

    def read_head(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.file.readline() or pytest.fail(f"no head: {head!r}")
        return head

    def chunks(self) -> Iterator[bytes]:
        """The chunks of the answer, up to its end."""
        while size := int(self.file.readline(), 16):
            yield self.file.read(size)
            assert self.file.read(2) == b"\r\n"
        assert self.file.read(2) == b"\r\n"

    def answers(self):
        """The answers as they come."""
        for chunk in self.chunks():
            yield from map(json.loads, chunk.splitlines())


@contextmanager
def client(service, **options):
    with socket.socket() as sock:
        # Small, so that a client that does not read is soon noticed.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", service.port))
        stream = Client(sock, **options)
        with stream.file:
            yield stream


# What is answered


@pytest.mark.parametrize("unit", ["codepoint", "utf16", "utf8"])
def test_a_line_is_answered_as_tag_answers_it(service, unit):
    documents = [{"text": text, "offset_unit": unit} for text in TEXTS]
    documents += [{"sentences": TEXTS, "offset_unit": unit, "threshold": 0.3}]
    documents += [{"sentences": [["Harry", "", "New York"], []], "model": "tiny@1"}]
    expected = [service.client.post("/v1/tag", json=document).json() for document in documents]
    found = streamed(service, lines(*documents))
    assert [answer.pop("line") for answer in found] == [1, 2, 3, 4, 5, 6]
    for answer, alone in zip(found, expected, strict=True):
        for sentence, other in zip(answer["sentences"], alone["sentences"], strict=True):
            for each, same in zip(sentence["tokens"], other["tokens"], strict=True):
                assert each.pop("score") == pytest.approx(same.pop("score"), abs=1e-4)
            for each, same in zip(sentence["persons"], other["persons"], strict=True):
                assert each.pop("score") == pytest.approx(same.pop("score"), abs=1e-4)
    assert found == expected


def test_answers_come_in_the_order_of_the_lines_however_long_these_are(service):
    documents = [{"sentences": ["a " * (i * 37 % 90)] * (1 + i % 3), "id": i} for i in range(300)]
    documents[5] = {"text": "Ann met Bob. " * 400, "id": 5}  # cut, and written, on another thread
    found = streamed(service, lines(*documents))
    assert [(answer["line"], answer["id"]) for answer in found] == [(i + 1, i) for i in range(300)]
    assert len(found[5]["sentences"]) == 400
    for answer in found[:5] + found[6:]:
        assert [s["text"] for s in answer["sentences"]] == documents[answer["id"]]["sentences"]


@pytest.mark.parametrize("name", ["a", "", "é\n", 0, -7, 1.5, 2**63, None])
def test_an_id_comes_back_with_the_answer_and_with_the_error(service, name):
    answer, error = streamed(service, lines({"text": "Ann", "id": name}, {"txt": "Ann", "id": name}))
    for each in (answer, error):
        assert each.get("id") == name
        assert type(each.get("id")) is type(name)
        assert ("id" in each) == (name is not None)
    assert error["code"] == "invalid-request"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_empty_lines_are_skipped_and_counted_and_the_last_needs_no_end(service, ending):
    body = ending.join([b"", b'{"text": "Ann"}', b"", b" \t ", b'{"text": "Bob"}'])
    assert [answer["line"] for answer in streamed(service, body)] == [2, 5]
    assert [answer["line"] for answer in streamed(service, body + ending)] == [2, 5]


@pytest.mark.parametrize("body", [b"", b"\n\n", b"  "])
def test_a_stream_of_nothing_has_an_empty_answer(service, body):
    assert streamed(service, body) == []


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b"{", 400, "not-json"),
        (b"\xff", 400, "not-utf-8"),
        (b'\xef\xbb\xbf{"text": "Ann"}', 400, "not-json"),
        (b"[" * 100_000, 400, "not-json"),
        (b"null", 422, "invalid-request"),
        (b'"Secret"', 422, "invalid-request"),
        (b'{"Secret": 1}', 422, "invalid-request"),
        (b'{"text": "a", "sentences": ["Secret"]}', 422, "invalid-request"),
        (b'{"text": "Secret", "id": true}', 422, "invalid-request"),
        (b'{"text": "Secret", "id": ["Secret"]}', 422, "invalid-request"),
        (b'{"text": "Secret \\ud83d"}', 422, "lone-surrogate"),
        (b'{"text": "Secret", "model": "nope"}', 404, "unknown-model"),
        (b'{"text": "' + b"S" * 5_000 + b'"}', 413, "too-large"),
        (b'{"sentences": [' + b'"",' * 20_000 + b'""]}', 413, "too-large"),
    ],
    ids=range(14),
)
def test_a_bad_line_has_its_error_in_its_place_and_the_rest_goes_on(service, line, status, code):
    before, wrong, after = streamed(service, lines({"text": "Ann"}) + line + b"\n" + lines({"text": "Bob"}))
    assert (before["line"], wrong["line"], after["line"]) == (1, 2, 3)
    assert (wrong["status"], wrong["code"]) == (status, code)
    assert "Secret" not in json.dumps(wrong)
    assert [s["text"] for s in before["sentences"] + after["sentences"]] == ["Ann", "Bob"]


def test_broken_json_is_said_with_its_place_in_the_stream(service):
    (wrong,) = streamed(service, b'\n\n{"text": Ann}\n')
    assert (wrong["line"], wrong["column"]) == (3, 10)
    assert "line 3, column 10" in wrong["detail"]


def test_a_bug_fails_its_line_only_and_quotes_nothing(service, monkeypatch, caplog):
    tagger = service.service.models.find(None).tagger
    tokenise = tagger.tokenise

    def broken(text):
        if "Ann" in text:
            raise ValueError(f"cannot tokenise {text}")
        return tokenise(text)

    monkeypatch.setattr(tagger, "tokenise", broken)
    wrong, right = streamed(
        service, lines({"text": "Ann Smith"}, {"text": "Bob"}), **{"x-request-id": "r-1"}
    )
    assert (wrong["code"], right["line"]) == ("internal-error", 2)
    (record,) = caplog.records
    assert record.fields["request_id"] == "r-1"
    assert "Ann" not in json.dumps(wrong) + str(vars(record))


def test_one_bad_sentence_of_a_batch_fails_its_own_line_only(service, monkeypatch):
    batcher = service.service.models.find(None).batcher
    tag_batch = batcher._tag_batch

    def poisoned(items):
        if any("poison" in item.tokens for item in items):
            raise ValueError("Ann Smith")
        return tag_batch(items)

    monkeypatch.setattr(batcher, "_tag_batch", poisoned)
    documents = [{"sentences": ["poison" if i == 50 else "Ann"]} for i in range(100)]
    found = streamed(service, lines(*documents))
    assert [answer["line"] for answer in found if "code" in answer] == [51]


# What is refused at once


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-ndjson; charset=latin-1", ""])
def test_another_content_type_is_a_415(service, content_type):
    answer = service.client.post(PATH, content=b"", headers={"content-type": content_type})
    check_problem(answer, 415, "unsupported-content-type")


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson; charset=utf-8", "application/jsonl", "application/json"]
)
def test_lines_of_json_are_welcome_however_they_are_called(service, content_type):
    assert len(streamed(service, lines({"text": "Ann"}), **{"content-type": content_type})) == 1


def test_a_content_encoding_is_a_415(service):
    answer = service.client.post(PATH, content=b"", headers={**NDJSON, "content-encoding": "gzip"})
    check_problem(answer, 415, "unsupported-content-encoding")


def test_a_deadline_that_is_none_is_a_400(service):
    answer = service.client.post(PATH, content=b"", headers={**NDJSON, "x-request-timeout": "soon"})
    check_problem(answer, 400, "invalid-timeout")


def test_a_stream_counts_as_a_request(tiny_artefact):
    with running(tiny_artefact, max_queue_requests=1) as service:
        with client(service) as stream:
            stream.read_head()
            check_problem(service.client.post(PATH, content=b"", headers=NDJSON), 429, "overloaded")
            service.refused(429, "overloaded", json={"text": "Ann"})
            stream.send(b"")
            assert list(stream.answers()) == []
        while service.service.admission.n_requests:  # its place is given back after its last byte
            pass
        assert service.tag(["Ann"])


# Full duplex


def test_each_line_is_answered_before_the_next_is_sent(service):
    with client(service) as stream:
        assert stream.read_head().startswith(b"HTTP/1.1 200 ")
        answers = stream.answers()
        for i in range(5):
            stream.send(lines({"text": f"Ann {i}"}))
            assert next(answers)["line"] == i + 1
        stream.send(b"")
        assert list(answers) == []
        # The connection is as good as new.
        stream.__init__(stream.sock)
        stream.read_head()
        stream.send(b'{"text": "An')
        stream.send(b'n"}\n{"text": "Bob"}')
        stream.send(b"")
        assert [answer["line"] for answer in stream.answers()] == [1, 2]


def test_a_body_of_known_length_is_streamed_too(service):
    half = lines({"text": "Ann"})
    with client(service, headers=b"Content-Length: %d\r\n" % (2 * len(half))) as stream:
        stream.read_head()
        answers = stream.answers()
        for i in range(2):
            stream.sock.sendall(half)
            assert next(answers)["line"] == i + 1
        assert list(answers) == []


def test_a_client_that_asks_may_send(service):
    with client(service, headers=b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n") as stream:
        assert stream.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert stream.read_head().startswith(b"HTTP/1.1 200 ")


def test_lines_that_are_in_the_queue_together_are_tagged_together(service):
    gate = service.gate()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(streamed, service, lines(*[{"sentences": ["Ann met Bob"]}] * 100))
        assert gate.came.wait(10)
        batcher = service.service.models.find(None).batcher
        while batcher.n_waiting_requests < 100:
            pass
        gate.opened.set()
        assert len(found.result()) == 100
    assert len(gate.batches) <= 2  # the first may have begun with fewer


# What is bounded


ENDLESS = b"Content-Length: 1000000000000\r\n"
# Its answer is ten times as long, and takes no time: what is not read is soon too much.
LINE = lines({"sentences": [""] * 50})


def send_on(stream, line, until):
    """Sends a line over and over, as fast as it is taken, until it is not taken and ``until`` holds."""
    body = line * (32_768 // len(line))
    n = 0
    stream.sock.setblocking(False)
    while n < 200_000_000:
        try:
            n += stream.sock.send(body[n % len(line) :])
        except (BlockingIOError, ConnectionError):
            if until():
                stream.sock.settimeout(20)
                return
            select.select([], [stream.sock], [], 0.01)  # leaves the service the interpreter
    pytest.fail(f"{n} bytes were taken, and no answer was")


def test_a_client_that_does_not_read_is_not_read_from(service):
    streams = service.service.streams
    batcher = service.service.models.find(None).batcher

    def all_is_computed_and_cannot_be_written():
        return [w.n_lines for w in streams.windows] == [MAX_LINES] and batcher.n_waiting_requests == 0

    with client(service, headers=ENDLESS) as stream:
        send_on(stream, LINE, until=all_is_computed_and_cannot_be_written)
        assert service.tag(["Ann"])  # nobody else waits for it
        assert all_is_computed_and_cannot_be_written()
    while streams.windows:  # noticed that it has hung up
        pass
    assert service.service.admission.n_requests == 0


def test_what_is_read_ahead_of_a_busy_queue_is_bounded(service):
    gate = service.gate()
    batcher = service.service.models.find(None).batcher
    most_queued = MAX_QUEUE_SHARE * service.service.settings.max_queue_requests
    most = 10 * int(min(MAX_BATCHES * batcher.max_batch_tokens // 10, most_queued))  # ten tokens a line
    with client(service, headers=ENDLESS) as stream:
        line = lines({"sentences": ["a b c d e f g h i j"]})
        send_on(stream, line, until=lambda: batcher.n_waiting_tokens >= most)
        (window,) = service.service.streams.windows
        assert batcher.n_waiting_tokens == window.n_queued_tokens == most
        assert batcher.n_waiting_requests == window.n_lines == most // 10 < MAX_LINES
    gate.opened.set()
    while service.service.streams.windows:  # noticed when its answers are written
        pass
    # What else had been received, some thousand lines, is not worked on.
    assert sum(map(len, gate.batches)) <= 2 * most // 10


def test_streams_share_what_they_may_have_of_the_queue(service):
    gate = service.gate()
    batcher = service.service.models.find(None).batcher
    with ThreadPoolExecutor(1) as pool:
        body = lines(*[{"sentences": ["a b c d e f g h i j"]}] * 500)
        with client(service) as first, client(service) as second, client(service) as third:
            for stream in (first, second, third):
                stream.send(body)
            while sum(window.n_queued_lines > 0 for window in service.service.streams.windows) < 3:
                pass
            single = pool.submit(service.tag, ["Ann"])
            gate.opened.set()
            assert single.result()
            for stream in (first, second, third):
                stream.send(b"")
                stream.read_head()
                assert len(list(stream.answers())) == 500
    while batcher.n_waiting_requests:  # an answer may be on its way before its place is given back
        pass
    assert service.service.streams.n_queueing == 0


def test_a_line_over_the_limit_is_dropped_and_only_its_error_is_given(tiny_artefact):
    with running(tiny_artefact, max_body_bytes=1000) as service:
        good = {"text": "Ann"}
        exact = json.dumps(good).encode().ljust(1000)
        (ok, *wrong, last) = streamed(
            service, exact + b"\n" + exact + b" \n" + b"x" * 100_000 + b"\n" + lines(good)
        )
        assert (ok["line"], last["line"]) == (1, 4)
        for number, each in enumerate(wrong, 2):
            assert (each["line"], each["code"], each["limit"]) == (number, "too-large", "max_body_bytes")
            assert each["maximum"] == 1000 < each["actual"]
        assert wrong[0]["actual"] == 1001


def test_a_line_that_never_ends_has_its_error_at_once_and_is_not_kept(tiny_artefact):
    with running(tiny_artefact, max_body_bytes=1000) as service, client(service) as stream:
        stream.read_head()
        answers = stream.answers()
        stream.send(b"x" * 1001)
        assert next(answers)["code"] == "too-large"
        for _ in range(1000):
            stream.send(b"x" * 10_000)
        assert service.service.admission.n_bytes <= 1000
        stream.send(b"\n" + lines({"text": "Ann"}))
        assert next(answers)["line"] == 2


def test_long_lines_count_for_the_bytes_that_are_allowed_in_all(tiny_artefact):
    with running(tiny_artefact, max_body_bytes=1_000_000, max_queue_bytes=2_500_000) as service:
        admission = service.service.admission
        long = b'{"text": "Ann"' + b" " * 900_000
        with client(service) as first, client(service) as second, client(service) as third:
            for stream in (first, second, third):
                stream.read_head()
            for i, stream in enumerate((first, second), 1):
                stream.send(long)
                while admission.n_bytes < 3 * MAX_BYTES + i * (len(long) - MAX_BYTES):
                    pass
            third.send(long)
            answers = third.answers()
            assert next(answers)["code"] == "overloaded"
            third.send(b"}\n" + lines({"text": "Ann"}))
            assert next(answers)["line"] == 2
            first.send(b"}\n")
            assert next(first.answers())["sentences"]
            while admission.n_bytes > 3 * MAX_BYTES + len(long) - MAX_BYTES:
                pass
            assert len(service.service.streams.windows) == 3  # not freed by an end of the stream
        while admission.n_requests:
            pass
        assert admission.n_bytes == 0


def test_a_full_queue_makes_a_stream_wait_and_fails_no_line(tiny_artefact):
    with running(
        tiny_artefact, max_queue_tokens=40, max_request_tokens=40, max_sentence_tokens=40
    ) as service:
        gate = service.gate()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(service.tag, ["a " * 40])
            assert gate.came.wait(10)
            found = pool.submit(
                streamed, service, lines(*[{"sentences": ["a " * (i % 40)]} for i in range(99)])
            )
            while not service.service.streams.windows:
                pass
            gate.opened.set()
            assert first.result()
            assert [len(a["sentences"][0]["tokens"]) for a in found.result()] == [i % 40 for i in range(99)]


# Ends


def test_the_work_of_a_client_that_hangs_up_is_not_done(service):
    gate = service.gate()
    batcher = service.service.models.find(None).batcher
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.tag, ["Ann"])
        assert gate.came.wait(10)
        with client(service) as stream:
            for _ in range(5):
                stream.send(lines(*[{"text": "Gone Away"}] * 10))
            while batcher.n_waiting_requests < 51:
                pass
        while batcher.n_waiting_requests > 1:  # noticed, while the batch before still computes
            pass
        gate.opened.set()
        assert first.result()
    assert service.tag(["Ann"])
    assert not any("Gone" in item.tokens for batch in gate.batches for item in batch)
    assert not service.service.streams.windows


def test_a_deadline_is_each_line_s_own(service):
    gate = service.gate()
    with client(service, headers=b"Transfer-Encoding: chunked\r\nX-Request-Timeout: 0.01\r\n") as stream:
        stream.read_head()
        answers = stream.answers()
        stream.send(lines({"text": "Ann", "id": 1}))
        late = next(answers)
        assert (late["code"], late["line"], late["id"]) == ("deadline-passed", 1, 1)
        gate.opened.set()
    with client(service, headers=b"Transfer-Encoding: chunked\r\nX-Request-Timeout: 20\r\n") as stream:
        stream.read_head()
        stream.send(lines({"text": "Ann"}))
        assert "sentences" in next(stream.answers())


def test_a_client_that_says_nothing_is_told_so_and_an_empty_line_is_something(tiny_artefact):
    with running(tiny_artefact, receive_timeout_s=1.0) as service, client(service) as stream:
        stream.read_head()
        answers = stream.answers()
        stream.send(lines({"text": "Ann"}) + b'{"text"')
        assert next(answers)["line"] == 1
        last = next(answers)
        assert (last["code"], last["status"], last["line"]) == ("body-too-slow", 408, 2)
        assert list(answers) == []


def test_a_client_that_waits_for_us_is_not_too_slow(tiny_artefact):
    with running(tiny_artefact, receive_timeout_s=0.5) as service, client(service) as stream:
        gate = service.gate()
        stream.read_head()
        stream.send(lines({"text": "Ann"}))
        assert gate.came.wait(10)
        stream.sock.settimeout(1.0)
        with pytest.raises(TimeoutError):  # the silence lasts, and is ours
            stream.sock.recv(1, socket.MSG_PEEK)
        stream.sock.settimeout(20)
        stream.send(lines({"text": "Bob"}))
        gate.opened.set()
        answers = stream.answers()
        assert [next(answers).get("code") for _ in range(2)] == [None, None]


def test_a_client_that_takes_nothing_for_too_long_is_let_go(tiny_artefact):
    with running(tiny_artefact, max_request_timeout_s=0.2, request_timeout_s=0.2) as service:
        with client(service, headers=ENDLESS) as stream:
            stream.read_head()
            send_on(stream, LINE, until=lambda: not service.service.streams.windows)
        assert service.tag(["Ann"])


def test_sigterm_answers_the_lines_that_were_accepted_and_says_where_to_go_on(tiny_artefact):
    with process(model=tiny_artefact, drain_delay_s=0) as service:
        with client(service) as stream, client(service) as endless_one:
            for each in (stream, endless_one):
                each.read_head()
            answers = stream.answers()
            stream.send(lines({"text": "Ann"}))
            assert next(answers)["line"] == 1
            with ThreadPoolExecutor(1) as pool:
                stopped = [False]

                def send_until_stopped():
                    while not stopped[0]:
                        endless_one.send(lines({"text": "Harry Potter met Hermione."}))
                    endless_one.send(b"")

                sender = pool.submit(send_until_stopped)
                numbers, codes = [], []
                for answer in endless_one.answers():
                    numbers.append(answer["line"])
                    if answer["line"] == 100:
                        service.process.send_signal(signal.SIGTERM)
                    if "code" in answer:
                        codes.append(answer["code"])
                        stopped[0] = True
                sender.result()
            assert codes == ["draining"]
            assert numbers == list(range(1, len(numbers) + 1))
            (last,) = answers
            assert (last["code"], last["line"], last["status"]) == ("draining", 2, 503)
        assert service.wait() == 0
        assert '"error"' not in "".join(service.log)


def test_a_draining_service_takes_no_new_stream(tiny_artefact):
    with running(tiny_artefact) as service:
        service.service.is_draining = True
        check_problem(service.client.post(PATH, content=b"", headers=NDJSON), 503, "draining")


def test_lines_in_the_queue_are_answered_after_sigterm(tiny_artefact):
    with running(tiny_artefact) as service, client(service) as stream:
        gate = service.gate()
        stream.send(lines(*[{"text": "Ann"}] * 3))
        while not (windows := service.service.streams.windows) or windows[0].n_queued_lines < 3:
            pass
        loop = service.service.models.find(None).batcher._loop
        loop.call_soon_threadsafe(service.service.streams.drain)
        gate.opened.set()
        stream.read_head()
        found = list(stream.answers())
        assert [(answer["line"], answer.get("code")) for answer in found] == [
            (1, None), (2, None), (3, None), (4, "draining"),
        ]  # fmt: skip


# Its parts


@brief
@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=6),
    st.booleans(),
    st.lists(st.integers(0, 80), max_size=8),
    st.integers(1, 14),
)
def test_lines_are_the_same_however_the_body_is_cut_into_chunks(contents, ends, cuts, most):
    body = b"\n".join(contents) + (b"\n" if ends else b"")
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    cutter = Lines(most)
    found = []
    for start, end in itertools.pairwise(edges):
        found += cutter.feed(body[start:end])
        assert cutter.n_held_bytes <= most
    found += cutter.end()
    expected = body.split(b"\n")
    if not expected[-1]:
        expected.pop()  # nothing comes after the last line feed
    assert [line.number for line in found] == list(range(1, len(expected) + 1))
    assert [line.content for line in found] == [e if len(e) <= most else None for e in expected]
