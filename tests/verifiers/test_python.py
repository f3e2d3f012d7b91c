"""Unit tests of generated code: what passes, what does not, and what code is kept from doing."""

import time

import pytest

from laser_lightning.verifiers import PythonVerifier, Submission, VerifierPool
from laser_lightning.verifiers.sandbox import run_python

ADD = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."


@pytest.mark.parametrize(
    ("response", "tests", "reward"),
    [
        (ADD, "assert add(1, 2) == 3", 1.0),
        (ADD, "assert add(1, 2) == 4", 0.0),
        (ADD, '["assert add(1, 2) == 3", "assert add(1, 2) == 4"]', 0.0),
        (ADD, "from solution import add\ndef test_add():\n    assert add(1, 2) == 3", 1.0),
        (ADD, "from solution import add\ndef test_add():\n    assert add(1, 2) == 4", 0.0),
        (ADD, "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 2), 3)", 1.0),
        (ADD, "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(add(1, 2), 4)", 0.0),
        ("print(2 * int(input()))", '{"inputs": ["3", "4\\n"], "outputs": ["6\\n", "8"]}', 1.0),
        ("print(2 * int(input()))", '{"inputs": ["3", "4"], "outputs": ["6", "9"]}', 0.0),
        ("def add(a, b: return", "assert add(1, 2) == 3", 0.0),
        ("", "assert True", 0.0),
        # A program that leaves before the tests do has passed none of them.
        ("import sys\nsys.exit(0)", "assert add(1, 2) == 3", 0.0),
        ("import os\nos._exit(0)", "assert add(1, 2) == 3", 0.0),
        ("def add(a, b):\n    raise SystemExit(0)", "assert add(1, 2) == 3", 0.0),
        # It may end so where its output is compared.
        ("print(6)\nraise SystemExit", '{"inputs": [""], "outputs": ["6"]}', 1.0),
        ("print(6)\nraise ValueError", '{"inputs": [""], "outputs": ["6"]}', 0.0),
        ("import asyncio\nasync def f(): return 3\nassert asyncio.run(f()) == 3", "assert True", 1.0),
        ("from threading import Thread\nt = Thread(target=int)\nt.start()\nt.join()", "assert True", 1.0),
    ],
)
def test_reward(response: str, tests: str, reward: float) -> None:
    assert PythonVerifier(seconds=10).reward(response, tests) == reward


def test_the_row_has_tests_setup_and_call() -> None:
    verifier = PythonVerifier("extra.test", setup_column="imports", call="check({name})", partial=True)
    row = {
        "extra": {"test": ["def check(f):\n    assert f(9) == 3", "def check(f):\n    assert f(4) == 3"]},
        "imports": "from math import isqrt",
        "name": "root",
    }
    verifier.check_row(row)
    program = "def root(n):\n    return isqrt(n)"
    found = verifier.verify(Submission(program, "", row=row))
    assert (found.reward, found.answer) == (0.5, program)  # isqrt(9) is 3, isqrt(4) is not


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("def check(f):\n    assert f(1) == 2", "every program would pass"),
        ("def check(f:", "not Python code"),
        ('{"inputs": ["1"], "outputs": []}', "lists `inputs` and `outputs`"),
        ("[]", "there are no tests"),
        ("[1]", "the tests are a list"),
        ("if __name__ == '__main__':\n    assert False", "every program would pass"),
    ],
)
def test_tests_that_test_nothing_are_refused(tests: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PythonVerifier().check_gold(tests)
    with pytest.raises(ValueError, match=message):
        PythonVerifier("tests").check_row({"tests": tests})


def test_a_row_without_the_column_is_refused() -> None:
    with pytest.raises(ValueError, match="the row has no column 'tests'; it has answer, problem"):
        PythonVerifier("tests").check_row({"answer": "", "problem": ""})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import socket\nsocket.socket()", "PermissionError"),
        ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')", "Operation not permitted"),
        ("import os\nwhile True:\n    os.fork()", "PermissionError"),
        ("import subprocess\nsubprocess.run(['true'])", "PermissionError"),
        ("import multiprocessing\nmultiprocessing.Process(target=print).start()", "PermissionError"),
        ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
        ("import os\nos.execv('/bin/true', ['true'])", "ended early"),
        ("x = 'a' * 3 * 10**9", "MemoryError"),
        ("x = []\nwhile True:\n    x.append(bytearray(10**8))", "MemoryError"),
        ("print('a' * 10**8)", "File too large"),
        ("while True:\n    pass", "was not done after 1 s"),
        ("import time\ntime.sleep(100)", "was not done after 1 s"),
    ],
)
def test_code_is_confined(code: str, reason: str) -> None:
    seconds = 1.0 if "1 s" in reason else 10.0  # a busy machine may be slow to fill the memory, or a file
    started = time.monotonic()
    outcome = run_python([code, "assert True"], "", seconds, memory_megabytes=256)
    assert (outcome.finished, reason in outcome.reason) == (False, True), outcome.reason
    assert time.monotonic() - started < 10


def test_code_sees_no_variables_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "key")
    outcome = run_python(["import os\nprint(sorted(os.environ))"], "", 10.0, 256)
    assert outcome.finished
    assert "PATH" in outcome.output
    assert "SECRET" not in outcome.output


def test_a_pool_goes_on_behind_bad_code() -> None:
    bad = ["while True:\n    pass", "import os\nwhile True:\n    os.fork()", "x = 'a' * 3 * 10**9"]
    submissions = [
        Submission(code, "", row={"tests": "assert add(1, 2) == 3"}) for code in (ADD, *bad, "no code", ADD + "\n")
    ]
    with VerifierPool(
        PythonVerifier("tests", seconds=1.0, memory_megabytes=256), workers=2, timeout_seconds=5.0
    ) as pool:
        verifications = pool.verify(submissions)
    assert [verification.reward for verification in verifications] == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert [verification.error for verification in verifications] == [None] * 6
    assert pool.failures == 0
