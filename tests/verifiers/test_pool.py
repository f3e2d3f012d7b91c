import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from laser_lightning.metrics.answers import representatives
from laser_lightning.verifiers import ExactVerifier, MathVerifier, Verification, VerifierPool

MODULE = "verifier_of_the_pool_test"

# A response is a word that says what the verifier shall do, and perhaps an argument; otherwise it is the answer.
SOURCE = """
import os, re, signal, subprocess, sys, time
from laser_lightning.verifiers import Verifier

class Obedient(Verifier):
    def extract(self, response):
        word, _, argument = response.partition(" ")
        if word == "sleep":
            time.sleep(float(argument))
        elif word == "backtrack":
            re.match(r"(a+)+$", "a" * 60 + "b")
        elif word == "raise":
            raise ValueError(argument)
        elif word == "exit":
            os._exit(int(argument))
        elif word == "kill":
            os.kill(os.getpid(), getattr(signal, argument))
        elif word == "log":
            with open(argument.strip(), "a") as file:
                file.write("extract\\n")
        elif word == "print":
            print(argument)
            os.write(1, b"not through Python\\n")
        elif word == "pid":
            return str(os.getpid())
        elif word == "modules":
            return " ".join(name for name in ("torch", "lightning", "transformers") if name in sys.modules)
        elif word == "children":
            subprocess.run(["sh", "-c", "while sleep 0.05; do echo >> '" + argument + "'; done"])
        return response

    def equivalent(self, answer, gold):
        if answer.startswith("log "):
            with open(answer.removeprefix("log "), "a") as file:
                file.write("equivalent\\n")
        if answer == "incomparable":
            raise TypeError("incomparable")
        return answer == gold
"""


@pytest.fixture
def make_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VerifierPool]]:
    """Makes pools of an `Obedient` verifier, which workers find through `sys.path` only, and closes them."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)
    pools = []

    def make(workers: int = 1, timeout_seconds: float = 30.0) -> VerifierPool:
        pools.append(VerifierPool(import_module(MODULE).Obedient(), workers, timeout_seconds))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    sys.modules.pop(MODULE, None)


def answers(verifications: list[Verification]) -> list[str | None]:
    return [verification.answer for verification in verifications]


def test_it_says_how_far_it_is(make_pool: Callable[..., VerifierPool]) -> None:
    told: list[tuple[int, int]] = []
    pairs = [(str(number % 40), "1") for number in range(50)]  # 40 different ones
    make_pool(2).verify(pairs, lambda done, total: told.append((done, total)))
    done = [count for count, _ in told]
    assert {total for _, total in told} == {40}
    assert done == sorted(done)
    assert 0 < done[0] < 40


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_is_kept(workers: int) -> None:
    pairs = [(f"#### {i}", str(i - i % 2)) for i in range(200)]
    with VerifierPool(ExactVerifier("#### (.*)"), workers) as pool:
        verifications = pool.verify(pairs)
    assert verifications == [Verification(float(i % 2 == 0), str(i)) for i in range(200)]
    assert pool.failures == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_answers_without_gold_ones(make_pool: Callable[..., VerifierPool], workers: int) -> None:
    pool = make_pool(workers)
    assert pool.answers(["a", "raise it", " b ", "a"]) == ["a", None, "b", "a"]
    assert pool.failures == 1


def test_text_arrives_as_it_is(make_pool: Callable[..., VerifierPool]) -> None:
    texts = ["two\nlines", "ünïcödé 数", "half a pair: \ud83d", "\0", "x" * 1_000_000]
    assert answers(make_pool().verify([(text, "") for text in texts])) == [text.strip() for text in texts]


def test_nothing_to_verify_starts_nothing(make_pool: Callable[..., VerifierPool]) -> None:
    pool = make_pool()
    assert pool.verify([]) == []
    assert pool._running == []


@pytest.mark.parametrize("hang", ["sleep 100", "backtrack"])
def test_a_response_that_hangs_costs_only_itself(make_pool: Callable[..., VerifierPool], hang: str) -> None:
    # Backtracking happens in C code that no signal handler and no thread can interrupt.
    pool = make_pool(timeout_seconds=1.0)
    before = answers(pool.verify([("pid", "")]))
    started = time.monotonic()
    verifications = pool.verify([("a", "a"), (hang, "a"), *[(f"b{i}", f"b{i}") for i in range(30)]])
    assert time.monotonic() - started < 20
    assert verifications[1] == Verification(0.0, None, "timed out after 1 s")
    assert [verification.reward for verification in verifications] == [1.0, 0.0] + [1.0] * 30
    assert pool.failures == 1
    assert pool.last_errors == [f"timed out after 1 s (on '{hang}')"]
    assert answers(pool.verify([("pid", "")])) != before


def test_mathematics_that_hangs() -> None:
    with VerifierPool(MathVerifier(), workers=1, timeout_seconds=1.0) as pool:
        endless = r"\boxed{\prod_{k=1}^{10^9} (k^2+1)}"
        hung, fine = pool.verify([(endless, r"\sqrt{7}"), (r"\boxed{\frac{2}{4}}", "0.5")])
    assert hung.error == "timed out after 1 s"
    assert fine == Verification(1.0, "1/2")


def test_the_limit_is_for_each_response_and_not_for_the_start(
    make_pool: Callable[..., VerifierPool], tmp_path: Path
) -> None:
    pool = make_pool(timeout_seconds=1.0)
    module = tmp_path / "modules" / f"{MODULE}.py"
    module.write_text(SOURCE + "time.sleep(1.2)\n")
    # 8 responses for 1 worker travel in chunks of 2; the first chunk takes 1.2 s.
    verifications = pool.verify([(f"sleep {seconds}", "") for seconds in (0.59, 0.61, 0, 0.01, 0.02, 0.03, 0.04, 0.05)])
    assert [verification.error for verification in verifications] == [None] * 8


def test_a_verifier_that_raises(make_pool: Callable[..., VerifierPool]) -> None:
    verifications = make_pool().verify([("raise no", "a"), ("a", "a")])
    assert verifications == [Verification(0.0, None, "ValueError: no"), Verification(1.0, "a")]


@pytest.mark.parametrize(("response", "ending"), [("exit 3", "exit code 3"), ("kill SIGSEGV", "SIGSEGV")])
def test_a_worker_that_dies_costs_one_response(
    make_pool: Callable[..., VerifierPool], response: str, ending: str
) -> None:
    pool = make_pool()
    pairs = [*[(f"a{i}", f"a{i}") for i in range(20)], (response, "a"), *[(f"b{i}", f"b{i}") for i in range(20)]]
    verifications = pool.verify(pairs)
    assert verifications[20] == Verification(0.0, None, f"the verifier's process died ({ending})")
    assert [verification.reward for verification in verifications] == [1.0] * 20 + [0.0] + [1.0] * 20
    assert pool.verify([("c", "c")]) == [Verification(1.0, "c")]
    assert pool.failures == 1


def test_many_failures_at_once(make_pool: Callable[..., VerifierPool]) -> None:
    pool = make_pool(workers=2)
    verifications = pool.verify([(f"exit {i}", "a") if i % 3 == 0 else (f"a{i}", f"a{i}") for i in range(1, 13)])
    assert [verification.reward for verification in verifications] == [float(i % 3 != 0) for i in range(1, 13)]
    assert pool.failures == 4


def test_a_worker_that_dies_idle_is_replaced_without_a_failure(make_pool: Callable[..., VerifierPool]) -> None:
    pool = make_pool()
    [pid] = answers(pool.verify([("pid", "")]))
    assert pid is not None
    os.kill(int(pid), signal.SIGKILL)
    pool._running[0]._process.wait(timeout=10)
    assert pool.verify([("a", "a")]) == [Verification(1.0, "a")]
    assert pool.failures == 0


def test_signals_for_the_job_do_not_end_a_worker(make_pool: Callable[..., VerifierPool]) -> None:
    names = ["SIGTERM", "SIGUSR1", "SIGUSR2"]
    pool = make_pool()
    assert answers(pool.verify([(f"kill {name}", "") for name in names])) == [f"kill {name}" for name in names]


def test_what_a_verifier_starts_is_killed_with_it(make_pool: Callable[..., VerifierPool], tmp_path: Path) -> None:
    file = tmp_path / "alive"
    [verification] = make_pool(timeout_seconds=1.0).verify([(f"children {file}", "")])
    assert verification.error == "timed out after 1 s"
    size = file.stat().st_size
    assert size > 0
    time.sleep(0.3)
    assert file.stat().st_size == size


def test_equal_pairs_and_equal_answers_are_verified_once(
    make_pool: Callable[..., VerifierPool], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    pool = make_pool()
    # The second response strips to the same answer as the first; the third has another gold answer.
    verifications = pool.verify([(f"log {log}", "a")] * 8 + [(f"log {log} ", "a")] * 8 + [(f"log {log}", "b")] * 8)
    assert len(verifications) == 24
    assert sorted(log.read_text().split()) == ["equivalent"] * 2 + ["extract"] * 3


def test_failures_count_responses(make_pool: Callable[..., VerifierPool]) -> None:
    pool = make_pool()
    pool.verify([("raise a", "x")] * 3 + [("b", "x")])
    pool.verify([(f"raise {'long ' * 40}{i}", "x") for i in range(7)])
    assert pool.failures == 10
    assert len(pool.last_errors) == 5
    assert pool.last_errors[-1].endswith("long 6')")
    assert len(pool.last_errors[-1]) < 400


def test_what_a_verifier_prints_does_no_harm(
    make_pool: Callable[..., VerifierPool], capfd: pytest.CaptureFixture[str]
) -> None:
    assert answers(make_pool().verify([("print [1.0, null, null]", ""), ("a", "")])) == ["print [1.0, null, null]", "a"]
    assert capfd.readouterr().out == "[1.0, null, null]\nnot through Python\n"


def test_workers_do_not_import_torch(make_pool: Callable[..., VerifierPool]) -> None:
    assert answers(make_pool().verify([("modules", "")])) == [""]


def test_equivalent(make_pool: Callable[..., VerifierPool]) -> None:
    pool = make_pool()
    assert pool.equivalent([("a", "a"), ("a", "b"), ("incomparable", "a"), ("b", "b")]) == [True, False, False, True]
    assert pool.last_errors == ["TypeError: incomparable (on 'incomparable')"]


class Numbers(ExactVerifier):
    """Counts its comparisons; digits are settled."""

    canonical_decides = False

    def __init__(self) -> None:
        super().__init__(r"#(.+)$")
        self.compared: list[tuple[str, str]] = []

    def is_settled(self, canonical: str) -> bool:
        return canonical.isdigit()

    def equivalent(self, answer: str, gold: str) -> bool:
        self.compared.append((answer, gold))
        return answer.strip("x=") == gold.strip("x=")


def test_settled_answers_are_not_compared() -> None:
    verifier = Numbers()
    with VerifierPool(verifier, workers=0) as pool:
        pairs = [("5", "7"), ("5", "5"), ("5", "x=5"), ("x=5", "x=7"), ("5", "7")]
        assert pool.equivalent(pairs) == [False, True, True, False, False]
        assert verifier.compared == [("5", "x=5"), ("x=5", "x=7")]
        # 512 samples with 400 different numbers: 79,800 pairs, none of which needs the verifier.
        verifier.compared.clear()
        answers: list[str | None] = [str(number % 400) for number in range(512)]
        assert representatives([answers], pool.equivalent) == [answers]
        assert verifier.compared == []


def test_a_pool_can_be_used_again_after_close(make_pool: Callable[..., VerifierPool]) -> None:
    with make_pool() as pool:
        [pid] = answers(pool.verify([("pid", "")]))
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert pool.verify([("a", "a")]) == [Verification(1.0, "a")]


def test_workers_serve_many_calls(make_pool: Callable[..., VerifierPool]) -> None:
    pool = make_pool()
    assert len({tuple(answers(pool.verify([("pid", ""), (str(i), "")]))[:1]) for i in range(20)}) == 1


def test_without_workers_the_calling_process_verifies(make_pool: Callable[..., VerifierPool]) -> None:
    pool = make_pool(workers=0)
    assert answers(pool.verify([("pid", "")])) == [str(os.getpid())]
    assert pool.verify([("raise no", "a")]) == [Verification(0.0, None, "ValueError: no")]
    assert pool.failures == 1


def test_a_verifier_that_workers_cannot_load(make_pool: Callable[..., VerifierPool], tmp_path: Path) -> None:
    pool = make_pool()
    (tmp_path / "modules" / f"{MODULE}.py").write_text("raise OSError('broken')")
    with pytest.raises(RuntimeError, match="cannot be loaded in a worker process: OSError: broken"):
        pool.verify([("a", "a")])


def test_workers_that_die_at_their_start(make_pool: Callable[..., VerifierPool], tmp_path: Path) -> None:
    pool = make_pool()
    (tmp_path / "modules" / f"{MODULE}.py").write_text("import os; os._exit(7)")
    with pytest.raises(RuntimeError, match=r"did not start, 3 times in a row \(the last one ended with exit code 7\)"):
        pool.verify([("a", "a")])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="`workers` must be 0 or more, not -1"):
        VerifierPool(ExactVerifier(), workers=-1)
    with pytest.raises(ValueError, match="`timeout_seconds` must be more than 0, not 0"):
        VerifierPool(ExactVerifier(), timeout_seconds=0)


def test_verifiers_that_workers_cannot_import_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(ExactVerifier):
        pass

    with pytest.raises(ValueError, match="The verifier Local cannot be pickled"):
        VerifierPool(Local())
    monkeypatch.setattr(Local, "__module__", "__main__")
    with pytest.raises(ValueError, match="The verifier Local is defined in the main script"):
        VerifierPool(Local())
    VerifierPool(Local(), workers=0)


# Has no main guard: a worker that imported it again would start workers of its own.
SCRIPT = f"""
import sys, time
sys.path.insert(0, sys.argv[1])
from {MODULE} import Obedient
from laser_lightning.verifiers import VerifierPool
pool = VerifierPool(Obedient(), workers=1, timeout_seconds=2.0)
pool.verify([("print ready", "")])
if sys.argv[2] != "idle":
    pool.verify([(sys.argv[2], "")])
time.sleep(1000)
"""


@pytest.mark.parametrize("busy", ["idle", "sleep 1000", "backtrack"])
@pytest.mark.usefixtures("make_pool")
def test_workers_end_when_the_pool_is_killed(tmp_path: Path, busy: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "modules"), busy]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == ["ready\n", "not through Python\n"]
        time.sleep(0.3)  # for the second response to begin
        parent.kill()
        # The worker writes to the same pipe, which ends only when nobody is left who could write to it.
        rest, _ = parent.communicate(timeout=30)
    assert rest == ""
