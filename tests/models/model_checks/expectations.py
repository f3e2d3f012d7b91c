"""What is known not to be right, by type and check: ``expected.yaml``, whose parts are for ranges of transformers."""

from pathlib import Path

import transformers
import yaml
from packaging.specifiers import SpecifierSet

from .checks import Outcome

FILE = Path(__file__).parents[1] / "expected.yaml"
EVERY = "every version"
HEADER = (
    "# What is not right of which type, with the sentence in which it is refused; whatever is not here is right.\n"
    "# Written by `pytest -m models tests/models --update-expectations` for the range that holds the installed\n"
    '# transformers. Where versions differ, put ranges here by hand ("<5.20": {} beside ">=5.20": {...}) before.\n'
)

Found = dict[str, dict[str, Outcome]]
"""Outcomes by type and check."""


def here() -> str:
    """The range of the file that holds the transformers that is installed."""
    (name,) = (name for name in _read() if name != EVERY and transformers.__version__ in SpecifierSet(name))
    return name


def expected(name: str | None = None) -> Found:
    """What is not right with the transformers of a range; by default the installed one."""
    file, name = _read(), name or here()
    return _merged(file[EVERY], file[name])


def update(found: Found) -> None:
    """Write what was found with the installed transformers, for the types that were tried.

    Args:
        found: outcomes by type and check; those that are right too.
    """
    ranges = {name: expected(name) for name in _read() if name != EVERY}
    ours = ranges[here()]
    for model_type, outcomes in found.items():
        ours.pop(model_type, None)
        if bad := not_right(outcomes):
            ours[model_type] = bad
    _write(ranges)


def not_right(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    """The checks that did not end as they should."""
    return {check: outcome for check, outcome in outcomes.items() if outcome.kind != "right"}


def _read() -> dict[str, Found]:
    file = yaml.safe_load(FILE.read_text())
    return {
        name: {
            model_type: {check: Outcome(*next(iter(entry.items()))) for check, entry in checks.items()}
            for model_type, checks in part.items()
        }
        for name, part in file.items()
    }


def _merged(one: Found, other: Found) -> Found:
    return {name: one.get(name, {}) | other.get(name, {}) for name in sorted({*one, *other})}


def _write(ranges: dict[str, Found]) -> None:
    """Write what all ranges have in common once."""
    newest = next(iter(ranges.values()))
    parts: dict[str, Found] = {EVERY: {}, **{name: {} for name in ranges}}
    for name, found in ranges.items():
        for model_type, outcomes in found.items():
            for check, outcome in outcomes.items():
                kinds = {r: ranges[r].get(model_type, {}).get(check, Outcome("right")).kind for r in ranges}
                common = set(kinds.values()) == {outcome.kind}
                place = EVERY if common else name
                known = newest[model_type][check] if common else outcome
                parts[place].setdefault(model_type, {})[check] = known
    plain = {
        name: {t: {c: {o.kind: o.why} for c, o in checks.items()} for t, checks in sorted(part.items())}
        for name, part in parts.items()
    }
    FILE.write_text(HEADER + yaml.safe_dump(plain, sort_keys=False, width=120, allow_unicode=True))
