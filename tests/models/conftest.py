"""Writes down what its checks find."""

import pytest

from model_checks import expectations, page
from model_checks.checks import Outcome

FOUND: expectations.Found = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of writing down what the checks find; it needs tests/models on the command line."""
    parser.addoption(
        "--update-expectations", action="store_true", help="write tests/models/expected.yaml and docs/models.md"
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gather what the checks found, from xdist's workers too."""
    for name, value in report.user_properties if report.when == "call" else []:
        if name == "outcomes":
            model_type, outcomes = value
            FOUND[model_type] = {check: Outcome(*outcome) for check, outcome in outcomes.items()}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write down what was found if asked to; workers of xdist leave it to the session that started them."""
    if session.config.getoption("--update-expectations", False) and not hasattr(session.config, "workerinput"):
        expectations.update(FOUND)
        page.write(expectations.expected())
