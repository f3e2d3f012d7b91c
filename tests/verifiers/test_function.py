import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laser_lightning.verifiers import FunctionVerifier, Submission, VerifierPool

MODULE = "rewards_of_the_function_test"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Import path of a function in a module that only `sys.path` leads to."""
    (tmp_path / f"{MODULE}.py").write_text(
        "def length(response, gold):\n    return len(response) / float(gold)\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield f"{MODULE}.length"
    sys.modules.pop(MODULE, None)


def test_reward_is_what_the_function_returns(path: str) -> None:
    assert FunctionVerifier(path).reward("four", "8") == 0.5


def test_pool_workers_import_the_function(path: str) -> None:
    with VerifierPool(FunctionVerifier(path), workers=1) as pool:
        verification, failed = pool.verify([("a\nbc", "2"), ("x", "y")])
    assert (verification.reward, verification.answer, verification.error) == (2.0, "bc", None)
    assert failed.error == "ValueError: could not convert string to float: 'y'"


def test_the_function_is_imported_late_and_not_pickled(path: str) -> None:
    verifier = FunctionVerifier(path)
    assert MODULE not in sys.modules
    verifier.reward("a", "1")
    assert pickle.loads(pickle.dumps(verifier)).reward("ab", "1") == 2.0


def test_a_function_itself_from_anywhere() -> None:
    def shorter(response: str, gold: str) -> float:
        return float(len(response) < len(gold) + margin)

    margin = 2  # a closure, as in a notebook: there is no name by which a worker could import it
    verifiers = [FunctionVerifier(shorter), FunctionVerifier(lambda response, gold: 0.5)]
    for verifier, rewards in zip(verifiers, ([1.0, 0.0], [0.5, 0.5]), strict=True):
        with VerifierPool(verifier, workers=1) as pool:
            found = pool.verify([("abc", "xx"), ("abcd", "xx")])
        assert [one.reward for one in found] == rewards
    assert verifiers[0].function == f"{__name__}.test_a_function_itself_from_anywhere.<locals>.shorter"
    with pytest.raises(ValueError, match="must be a function or its import path, not 3"):
        FunctionVerifier(3)  # type: ignore[arg-type]


def test_a_function_of_one_argument_sees_everything() -> None:
    def seen(submission: Submission) -> float:
        assert submission.problem == "2+2"
        assert submission.prompt == "What is 2+2?"
        return float(submission.row["level"] * len(submission.response) + int(submission.gold))

    verifier = FunctionVerifier(seen)
    assert verifier.sees_all
    assert not FunctionVerifier("os.path.join").sees_all  # (a, *p): one required argument, and it takes more
    with VerifierPool(verifier, workers=1) as pool:
        (found,) = pool.verify([Submission("four", "4", None, "2+2", "What is 2+2?", {"level": 5})])
    assert (found.reward, found.answer) == (24.0, "four")


def test_extract() -> None:
    verifier = FunctionVerifier("some.function")
    assert verifier.extract("one\n two \n\n") == "two"
    assert verifier.extract(" \n") is None
    assert verifier.equivalent(" two", "two")


@pytest.mark.parametrize("function", ["reward", "", "a..b", "my module.reward", ".reward"])
def test_what_is_no_import_path_is_refused(function: str) -> None:
    with pytest.raises(ValueError, match="must be an import path such as"):
        FunctionVerifier(function)


def test_import_errors_name_the_path(path: str) -> None:
    with pytest.raises(ImportError, match=r"'no_such_module\.reward' cannot be imported \(ModuleNotFoundError"):
        FunctionVerifier("no_such_module.reward").check_gold("1")
    with pytest.raises(ImportError, match=rf"'{MODULE}\.missing' cannot be imported \(AttributeError"):
        FunctionVerifier(f"{MODULE}.missing").reward("a", "1")
    with pytest.raises(TypeError, match=rf"'{MODULE}\.number' cannot be called: it is a int"):
        FunctionVerifier(f"{MODULE}.number").check_gold("1")


def test_a_pool_reports_an_import_error_at_its_start() -> None:
    with (
        VerifierPool(FunctionVerifier("no_such_module.reward"), workers=1) as pool,
        pytest.raises(RuntimeError, match=r"cannot be loaded .*'no_such_module\.reward' cannot be imported"),
    ):
        pool.verify([("a", "1")])
