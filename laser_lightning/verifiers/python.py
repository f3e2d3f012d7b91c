"""The verifier that runs the unit tests of generated code."""

import ast
import json
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from laser_lightning.verifiers.base import Submission, Verification, Verifier, column
from laser_lightning.verifiers.sandbox import run_python

_BLOCK = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class ProgramTest(NamedTuple):
    """One test of a program.

    Attributes:
        code: Code that raises an error if the program is wrong; None for a test on standard output.
        given: What the program reads from standard input.
        expected: What it shall write to standard output.
    """

    code: str | None
    given: str = ""
    expected: str = ""


class PythonVerifier(Verifier):
    r"""Rewards generated Python code by the unit tests of its problem.

    The program is the last code block of a response (```` ```python ````), or the whole response without one. Each test
    runs in a process of its own, without network and without other processes, under limits of time and memory, on
    Linux. Files of the user can be read there: run hostile models in a container.

    The tests are one of these, also as JSON text:

    - Python code, or a list of it: `assert` statements, functions named `test...`, or `unittest` cases, run behind the
      program in the same module, which tests can import as `solution`. An error fails the test, and so does leaving it
      early. A program that sets out to deceive them (by an object that equals everything) can; it cannot with
    - an object with the lists `inputs` and `outputs`: what the program reads from standard input, and must write to
      standard output, compared without white space at the ends of lines.

    Args:
        tests_column: Column of the row with the tests; with dots into nested ones. Default: the gold answer has them.
        setup_column: Column with code that runs in front of the program, such as imports.
        call: Code behind tests of code, with columns in braces, such as `check({entry_point})` for tests that only
            define a function.
        partial: Reward the share of the tests that pass, rather than 1.0 for all and 0.0 else.
        seconds: Time limit for all tests of a response together; a test that is not done by then fails.
        memory_megabytes: Limit of the address space of a test.

    Raises:
        ValueError: If a limit is not above 0.
    """

    def __init__(
        self,
        tests_column: str | None = None,
        setup_column: str | None = None,
        call: str = "",
        partial: bool = False,
        seconds: float = 10.0,
        memory_megabytes: int = 1024,
    ) -> None:
        if not (seconds > 0 and memory_megabytes > 0):
            raise ValueError(f"`seconds` ({seconds}) and `memory_megabytes` ({memory_megabytes}) must be more than 0.")
        self.tests_column, self.setup_column, self.call, self.partial = tests_column, setup_column, call, partial
        self.seconds, self.memory_megabytes = seconds, memory_megabytes

    @property
    def own_seconds(self) -> float:
        """The time limit of the tests."""
        return self.seconds

    def verify(self, submission: Submission) -> Verification:
        """Runs the tests.

        Args:
            submission: The response, and the row with its tests.

        Returns:
            The reward, and the program as the answer.

        Raises:
            ValueError: If there are no tests, or they cannot be read.
            OSError: If code cannot be confined on this machine.
        """
        tests = self._tests(submission.gold, submission.row)
        setup = "" if self.setup_column is None else str(column(submission.row, self.setup_column) or "")
        program = self.extract(submission.response)
        if program is None:
            return Verification(0.0, None)
        deadline = time.monotonic() + self.seconds
        passed = 0
        for test in tests:
            left = deadline - time.monotonic()
            if left > 0 and self._passes(test, setup, program, left):
                passed += 1
            elif not self.partial:
                break
        reward = passed / len(tests) if self.partial else float(passed == len(tests))
        return Verification(reward, self.canonical(program))

    def _passes(self, test: ProgramTest, setup: str, program: str, seconds: float) -> bool:
        if test.code is not None:
            return run_python([setup, program, test.code], "", seconds, self.memory_megabytes).finished
        outcome = run_python([f"{setup}\n{program}"], test.given, seconds, self.memory_megabytes)
        return outcome.finished and _lines(outcome.output) == _lines(test.expected)

    def _tests(self, gold: str, row: Mapping[str, Any]) -> list[ProgramTest]:
        value = gold if self.tests_column is None else column(row, self.tests_column)
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                value = json.loads(value)
            except ValueError:  # code may begin with a bracket too; what is none is refused below
                value = [value]
        if isinstance(value, Mapping):
            given, expected = value.get("inputs"), value.get("outputs")
            if not isinstance(given, list) or not isinstance(expected, list) or len(given) != len(expected):
                raise ValueError("the tests are an object without lists `inputs` and `outputs` of one length")
            tests = [ProgramTest(None, str(one), str(other)) for one, other in zip(given, expected, strict=True)]
        else:
            call = re.sub(r"\{([\w.]+)\}", lambda found: str(column(row, found[1])), self.call)
            codes = [value] if isinstance(value, str) else value
            if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
                raise ValueError(f"the tests are a {type(value).__name__}, and not code, a list of code, or an object")
            tests = [ProgramTest(f"{code}\n{call}") for code in codes if code.strip()]
        if not tests:
            raise ValueError("there are no tests")
        return tests

    def extract(self, response: str) -> str | None:
        """Finds the program.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The last code block, or else the whole response; None if there is no text in it.
        """
        blocks = _BLOCK.findall(response)
        program = blocks[-1] if blocks else response
        return program.rstrip() if program.strip() else None

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two programs as text, for votes; the reward does not use it.

        Args:
            answer: A program.
            gold: Another one.

        Returns:
            True if they are the same text.
        """
        return answer.strip() == gold.strip()

    def check_gold(self, gold: str) -> None:
        """Refuses tests that cannot be read or test nothing, where the gold answer has them.

        Args:
            gold: The gold answer.

        Raises:
            ValueError: If no response can be judged by it.
        """
        if self.tests_column is None and "{" not in self.call:
            self._check(gold, {})

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuses tests that cannot be read or test nothing, where a column has them.

        Args:
            row: All columns of the problem's row in the source.

        Raises:
            ValueError: If no response can be judged by it.
        """
        if self.setup_column is not None:
            column(row, self.setup_column)
        if self.tests_column is not None:
            self._check("", row)

    def _check(self, gold: str, row: Mapping[str, Any]) -> None:
        for test in self._tests(gold, row):
            if test.code is not None and not _tests_something(test.code):
                raise ValueError(
                    "its tests only define functions and call none, so that every program would pass: name the call "
                    "in the verifier's `call`, such as check({entry_point})"
                )


def _lines(output: str) -> list[str]:
    return [line.rstrip() for line in output.rstrip().split("\n")]


def _tests_something(code: str) -> bool:
    """Whether code runs more than definitions, or defines what is run as a unit test.

    Raises:
        ValueError: If it is no Python code.
    """
    try:
        statements = ast.parse(code).body
    except SyntaxError as error:
        raise ValueError(f"its tests are not Python code ({error.msg} in line {error.lineno})") from error
    for statement in statements:
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test"):
            return True
        if isinstance(statement, ast.ClassDef) and "TestCase" in "".join(map(ast.unparse, statement.bases)):
            return True
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        definitions = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign
        if not isinstance(statement, definitions) and not is_docstring and not _is_main_block(statement):
            return True
    return False


def _is_main_block(statement: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`, which does not run among tests."""
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
