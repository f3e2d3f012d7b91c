"""A run that is resumed by another number of processes, or under another strategy, keeps its optimizer to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytestmark = pytest.mark.distributed


class Case(NamedTuple):
    """What broke off, and what goes on."""

    wrote: str
    processes: int
    resumes: str
    on: int
    of: str = "all weights"

    def __str__(self) -> str:
        return f"{self.of}: {self.wrote} of {self.processes} to {self.resumes} of {self.on}"


CASES = [
    # ZeRO on more and on fewer processes, and from stage to stage
    Case("zero1", 1, "zero1", 2),
    Case("zero2", 1, "zero2", 2),
    Case("zero3", 1, "zero3", 2),
    Case("zero1", 2, "zero1", 1),
    Case("zero2", 2, "zero2", 1),
    Case("zero3", 2, "zero3", 1),
    Case("zero2", 2, "zero3", 2),
    Case("zero3", 2, "zero2", 2),
    Case("zero3", 1, "zero1", 2),
    # from and to whole optimizers
    Case("zero1", 2, "single", 1),
    Case("zero2", 2, "single", 1),
    Case("zero3", 2, "single", 1),
    Case("zero3", 2, "ddp", 2),
    Case("zero2", 1, "ddp", 2),
    Case("single", 1, "zero2", 2),
    Case("single", 1, "zero3", 2),
    Case("ddp", 2, "zero1", 2),
    Case("ddp", 2, "zero3", 1),
    # the states in host memory
    Case("zero2", 2, "zero3_offload", 2),
    # vectors of 33 weights, which fill no two shares
    Case("zero2", 2, "zero3", 1, "adapters"),
    Case("zero3", 2, "single", 1, "adapters"),
    Case("zero3", 1, "zero2", 2, "adapters"),
    Case("single", 1, "zero3", 2, "adapters"),
    # float32 copies of bfloat16 weights
    Case("zero2", 2, "zero3", 2, "bfloat16"),
    Case("zero3", 2, "single", 1, "bfloat16"),
    Case("single", 1, "zero2", 2, "bfloat16"),
]


@pytest.fixture(scope="module")
def specs(
    policy_dir: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    shared = {
        "policy": str(policy_dir),
        "directory": str(tmp_path_factory.mktemp("runs")),
        "shows_optimizer": True,
        "max_grad_norm": 1.0,
        "kinds": [["mixed", "mixed"]] * 3,
        # AdamW with a large eps, which does not amplify rounding, in a warm-up.
        "algorithm": "adamw",
        "eps": 0.01,
        "learning_rate": 0.02,
        "warmup_steps": 5,
    }
    odd = str(save_model(tmp_path_factory.mktemp("odd"), tiny_config(intermediate_size=33)))
    return {
        "all weights": shared,
        "adapters": {**shared, "policy": odd, "lora": {"rank": 1, "alpha": 8.0}},
        "bfloat16": {**shared, "dtype": "bfloat16", "precision": "bf16-true"},
    }


def path(spec: dict[str, Any], case: Case) -> str:
    return f"{spec['directory']}/{case.of} {case.wrote} {case.processes}.ckpt"


@pytest.fixture(scope="module")
def written(specs: dict[str, dict[str, Any]], launch: Callable[..., list[Any]]) -> dict[str, Any]:
    """The first two steps of each run, by the path of what it saved; no path: three steps of one process."""
    found: dict[str, Any] = {}
    for processes in (1, 2):
        runs = {
            path(specs[case.of], case): {**specs[case.of], "strategy": case.wrote, "max_steps": 2}
            for case in CASES
            if case.processes == processes
        }
        whole = {of: {**spec, "strategy": "single", "max_steps": 3} for of, spec in specs.items() if processes == 1}
        every = [*({**spec, "save": saved} for saved, spec in runs.items()), *whole.values()]
        found |= zip([*runs, *whole], launch("several", every, processes=processes)[0], strict=True)
    return found


@pytest.fixture(scope="module")
def resumed(
    specs: dict[str, dict[str, Any]], written: dict[str, Any], launch: Callable[..., list[Any]]
) -> dict[Case, list[Any]]:
    """The third step, on each rank."""
    found = {}
    for processes in (1, 2):
        cases = [case for case in CASES if case.on == processes]
        third = {"max_steps": 3, "first_round": 2}
        runs = [
            {**specs[case.of], **third, "strategy": case.resumes, "resume": path(specs[case.of], case)}
            for case in cases
        ]
        found |= zip(cases, zip(*launch("several", runs, processes=processes), strict=True), strict=True)
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_optimizer_is_taken_up_to_the_bit(
    case: Case, specs: dict[str, dict[str, Any]], written: dict[str, Any], resumed: dict[Case, list[Any]]
) -> None:
    left = written[path(specs[case.of], case)]["left"]
    assert left["steps"] == {2.0}
    assert left["rates"] == pytest.approx([0.01] * len(left["rates"]))  # 3 / 6 of 0.02, for the third step
    for rank in resumed[case]:
        found = rank["found"]
        assert (found["steps"], found["rates"]) == (left["steps"], left["rates"])
        assert found["parameters"].keys() == left["parameters"].keys()
        for name, states in left["parameters"].items():
            assert states.keys() == {"weight", "exp_avg", "exp_avg_sq"}
            for key, value in states.items():
                assert torch.equal(found["parameters"][name][key], value), (name, key)


@pytest.mark.parametrize("case", [case for case in CASES if case.of != "bfloat16"], ids=str)
def test_the_next_step_is_that_of_a_run_which_nothing_broke_off(
    case: Case, written: dict[str, Any], resumed: dict[Case, list[Any]]
) -> None:
    expected = written[case.of]["history"]
    for rank in resumed[case]:
        (step,) = rank["history"]
        for name, weight in expected[2]["weights"].items():
            # Up to the rounding of how gradients are added.
            assert (step["weights"][name] - weight).abs().max() < 2e-6, name
