"""A judge behind an endpoint: a local server that fails in all the ways that servers do."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from laser_lightning.verifiers import JudgeVerifier, Submission, VerifierPool, endpoint


class Server(ThreadingHTTPServer):
    """Answers as the response in the question says: `Answer with ...`, one after the other, and counts questions."""

    daemon_threads = True
    sleeps = 30.0  # seconds: far above what two attempts of 0.2 s take on a busy machine

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.asked: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = request["messages"][0]["content"]
        self.server.requests.append(request)
        self.server.headers.append(self.headers)
        number = self.server.asked[question] = self.server.asked.get(question, 0) + 1
        plan = question.split("plan: ")[1].split("\n")[0].split("|")
        word = plan[min(number, len(plan)) - 1]
        if word.isdigit():
            self.send_error(int(word))
        elif word == "sleep":
            time.sleep(self.server.sleeps)
        elif word == "drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(round(self.server.sleeps / 0.05)):
                self.wfile.write(b" ")
                time.sleep(0.05)
        elif word == "garbage":
            self.reply(b"<html>")
        elif word == "empty":
            self.reply(b'{"choices": []}')
        elif word == "drop":
            self.connection.close()
        else:
            self.reply(json.dumps({"choices": [{"message": {"content": word}}]}).encode())

    def reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the judge has hung up


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE_SECONDS", 0.01)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def make(server: Server, **settings: Any) -> JudgeVerifier:
    return JudgeVerifier(server.url, "model", **{"question": "plan: {response}\n", "seconds": 5.0} | settings)


@pytest.mark.parametrize(
    ("plan", "reward", "questions"),
    [
        ("It agrees. Score: 1", 1.0, 1),
        ("Score: 1, no: **Score:** 0", 0.0, 1),
        ("500|Score: 1", 1.0, 2),
        ("429|503|Score: 0.5", 0.5, 3),
        ("garbage|Score: 1", 1.0, 2),
        ("empty|Score: 1", 1.0, 2),
        ("drop|Score: 1", 1.0, 2),
        ("I cannot say.|Score: 1", 1.0, 2),
        ("Score: 7|Score: 1", 1.0, 2),  # above the best grade
    ],
)
def test_grades(server: Server, plan: str, reward: float, questions: int) -> None:
    assert make(server).reward(plan, "") == reward
    assert len(server.requests) == questions


@pytest.mark.parametrize(
    ("plan", "questions", "message"),
    [
        ("500", 3, "no usable reply in 3 attempts; the last time it answered with status 500"),
        ("garbage", 3, "no chat completion: b'<html>'"),
        ("no grade", 3, "the reply cannot be used: 'no grade'"),
        ("401", 1, "refuses the question: it answered with status 401"),
    ],
)
def test_what_fails_in_the_end(server: Server, plan: str, questions: int, message: str) -> None:
    with pytest.raises(endpoint.EndpointError, match=message):
        make(server, retries=2).reward(plan, "")
    assert len(server.requests) == questions


@pytest.mark.parametrize("plan", ["sleep", "drip"])
def test_time_limit(server: Server, plan: str) -> None:
    judge = make(server, seconds=0.2, retries=1)
    assert judge.own_seconds == pytest.approx(2 * 0.2 + 0.01)
    started = time.monotonic()
    with pytest.raises(endpoint.EndpointError, match=r"within 0\.2 s|after 0\.2 s"):
        judge.reward(plan, "")
    assert time.monotonic() - started < server.sleeps / 3
    assert make(server, seconds=1.0).reward(f"{plan}|Score: 1", "") == 1.0


def test_the_same_question_is_asked_once(server: Server, tmp_path: Path) -> None:
    judge = make(server)
    assert [judge.reward("Score: 1", "") for _ in range(3)] == [1.0] * 3
    assert len(server.requests) == 1
    for _ in range(2):  # another process knows what the first was told, if they share a folder
        assert make(server, cache=str(tmp_path / "cache")).reward("Score: 0", "") == 0.0
    assert len(server.requests) == 2
    assert len(list((tmp_path / "cache").glob("*/*.txt"))) == 1
    assert make(server, cache=str(tmp_path / "cache"), temperature=1.0).reward("Score: 0", "") == 0.0
    assert len(server.requests) == 3  # another request


def test_what_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "abc")
    question = "plan: {response}\n{problem}/{prompt}/{gold}/{extra.hint}/{no place}"
    judge = make(server, question=question, api_key_variable="MY_KEY", max_tokens=9)
    row = {"extra": {"hint": "look"}}
    assert judge.verify(Submission("Score: 1 {gold}", "4", None, "2+2", "What is 2+2?", row)).reward == 1.0
    # braces in the response are no places
    text = "plan: Score: 1 {gold}\n2+2/What is 2+2?/4/look/{no place}"
    assert server.requests == [
        {"max_tokens": 9, "temperature": 0.0, "model": "model", "messages": [{"role": "user", "content": text}]}
    ]
    assert server.headers[0]["Authorization"] == "Bearer abc"
    with pytest.raises(ValueError, match=r"the row has no column 'extra\.hint'"):
        judge.check_row({"answer": "4"})
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(endpoint.EndpointError, match="MY_KEY, which holds the key, is not set"):
        judge.verify(Submission("other", "4", row=row))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "must begin with http"),
        ({"question": "?"}, "has no {response}"),
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": "Score"}, "exactly one group"),
        ({"best": 0}, "must be more than 0"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeVerifier(**{"url": "http://localhost", "model": "m"} | settings)


def test_in_a_pool(server: Server, tmp_path: Path) -> None:
    judge = make(server, seconds=0.3, retries=1, cache=str(tmp_path), best=10.0)
    plans = ["Score: 5", "500|Score: 10", "garbage", "sleep", "Score: 5"]
    with VerifierPool(judge, workers=2, timeout_seconds=5.0) as pool:
        found = pool.verify([Submission(plan, "") for plan in plans])
        again = pool.verify([Submission(plan, "") for plan in plans[:2]])
    assert [one.reward for one in found] == [0.5, 1.0, 0.0, 0.0, 0.5]
    errors = [one.error or "" for one in found]
    assert [error[:15] for error in errors] == ["", "", "EndpointError: ", "EndpointError: ", ""]
    assert [one.reward for one in again] == [0.5, 1.0]
    # 1 + 2 + 2 + 2: equal responses, and those of the second call, are not asked about again
    assert len(server.requests) == 7
