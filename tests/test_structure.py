"""The shape of the code: small files in rooms, all of them in the wheel (`lint-imports` holds the arrows)."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("laser_lightning/**/*.py"), *ROOT.glob("callbacks/*.py"), *ROOT.glob("benchmarks/*.py")])
LONGEST = 400
ROOMS = {
    "cli",
    "modules",
    "inference",
    "evaluation",
    "rollout",
    "objective",
    "distributed",
    "runs",
    "policy",
    "records",
    "data",
    "verifiers",
    "metrics",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_no_file_lies_loose() -> None:
    loose = {path.stem for path in (ROOT / "laser_lightning").glob("*.py")}
    assert loose == {"__init__", "__main__", "arguments", "errors", "lazy", "moved", "old_settings", "shapes"}
    folders = {path.name for path in (ROOT / "laser_lightning").iterdir() if (path / "__init__.py").is_file()}
    assert folders == ROOMS | {"losses"}  # the public name of objective/losses


def test_every_package_is_in_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("laser_lightning/**/__init__.py")}
    assert listed == found | {"laser_lightning.callbacks", "laser_lightning.configs"}


def test_the_contract_names_the_rooms() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {
        name.strip().rpartition(".")[2] for layer in contract["layers"] for name in layer.replace("|", ":").split(":")
    }
    assert named == ROOMS | {"callbacks", "arguments", "old_settings", "errors"}
