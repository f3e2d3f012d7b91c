"""The check of a GPU runs on a CPU, in tiny, so that it works the first time."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import enable_progress_bar

from laser_lightning.rollout import TransformersEngine

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def bars() -> Iterator[None]:
    """Benchmarks leave out transformers' progress bars, which other tests in this process look at."""
    yield
    enable_progress_bar()


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_check

    return gpu_check


@pytest.fixture
def gpu_parts(gpu_check: ModuleType) -> ModuleType:
    import gpu_parts

    return gpu_parts


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the model that the parts share."""
    return tmp_path_factory.mktemp("gpu_check")


def run(gpu_check: ModuleType, tmp_path: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status of the command, and the outcomes in its JSON by part."""
    out = tmp_path / "out.json"
    status = gpu_check.main(["--device", "cpu", "--tiny", "--out", str(out), *options])
    return status, {outcome["part"]: outcome for outcome in json.loads(out.read_text())}


def test_the_model_ends_responses_as_often_as_wanted_however_deep_it_is(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import common

    monkeypatch.setitem(common.SIZES, "deep", (24, 128, 352))
    model = common.write_model(common.Case("deep", end_probability=0.05), tmp_path)
    ids = torch.randint(4, 80, (8, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_probs = AutoModelForCausalLM.from_pretrained(model)(ids).logits.log_softmax(dim=-1)
    assert log_probs[..., 1].exp().mean() == pytest.approx(0.05, rel=0.2)
    assert log_probs[..., 1].exp().std() < 0.03
    assert log_probs[..., 3].mean() == pytest.approx(common.REWARD_TOKEN_LOG_PROB, abs=0.5)
    assert log_probs[..., [0, 2]].max() < -30  # padding and the unknown token: never


def test_the_command_knows_all_parts(gpu_check: ModuleType, gpu_parts: ModuleType) -> None:
    assert list(gpu_parts.MEASURES) == list(gpu_check.PARTS)


@pytest.mark.parametrize("part", ["card", "step", "bf16_weights", "packing", "price", "head"])
def test_a_part_runs_on_a_cpu(gpu_parts: ModuleType, work: Path, part: str) -> None:
    from gpu_step import Check

    values = gpu_parts.MEASURES[part](Check("cpu", True, work))
    assert values
    assert all(value == value for value in values.values() if isinstance(value, float))  # none is NaN


def test_shares_are_of_the_peak(gpu_check: ModuleType) -> None:
    outcomes = [
        gpu_check.Outcome("card", "ok", 1.0, {"tflops": 800.0}),
        gpu_check.Outcome(
            "step", "ok", 2.0, {"update_tflops": 200.0, "memory_gb": {"update": 3.0}, "first_loss": 0.25}
        ),
        gpu_check.Outcome("ddp", "failed", 3.0, why="Traceback\nValueError: a | b"),
    ]
    rows = gpu_check.rows(outcomes)
    assert rows[1] == ["step", "ok", "2.0", "", "", "", "25.0%", "", "", "3.00", "first_loss 0.25"]
    assert rows[2] == ["ddp", "failed", "3.0", *[""] * 7, "ValueError: a / b"]


def test_a_part_that_is_faster_than_the_card_has_failed(gpu_check: ModuleType) -> None:
    outcomes = [
        gpu_check.Outcome("card", "ok", 1.0, {"tflops": 800.0}),
        gpu_check.Outcome("step", "ok", 2.0, {"update_tflops": 800.0}),
        gpu_check.Outcome("ddp", "ok", 2.0, {"rollout_tflops": 20.0, "update_tflops": 924.0}),
    ]
    gpu_check.refuse_impossible(outcomes)
    assert [outcome.result for outcome in outcomes] == ["ok", "ok", "failed"]
    assert outcomes[2].why == "924 TFLOP/s are more than the card's 800: the measurement is wrong"


def test_what_sleep_gives_back_is_measured(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_step

    class Sleeper(TransformersEngine):
        free = 2.0

        def sleep(self) -> None:
            self.free += 5.0

    engine = Sleeper()
    monkeypatch.setattr(gpu_step, "free_memory", lambda device: engine.free)
    freed = gpu_step.watch_sleep(engine, "cuda")
    engine.sleep()
    assert (engine.free, freed) == (7.0, [0.0, 5.0])


def test_a_part_that_takes_too_long_is_broken_off_and_the_rest_is_not_run(
    gpu_check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, outcomes = run(gpu_check, tmp_path, "--only", "card,step", "--part_limit", "0.01")
    assert status == 1
    assert [outcome["result"] for outcome in outcomes.values()] == ["failed", "failed"]
    assert outcomes["card"]["why"].startswith("broken off after 0 s, in")
    status, outcomes = run(gpu_check, tmp_path, "--only", "card,step", "--limit", "5")
    assert status == 0
    assert [outcome["result"] for outcome in outcomes.values()] == ["not run", "not run"]
    assert "| step | not run |" in capsys.readouterr().out


def test_a_part_whose_package_is_missing_says_so(gpu_check: ModuleType, tmp_path: Path) -> None:
    status, outcomes = run(gpu_check, tmp_path, "--only", "flash", "--part_limit", "270")
    assert status == 0
    assert (outcomes["flash"]["result"], outcomes["flash"]["why"]) == ("not installed", "flash_attn is not installed")


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_or_says_why_not(gpu_check: ModuleType, tmp_path: Path) -> None:
    status, outcomes = run(gpu_check, tmp_path, "--part_limit", "600", "--limit", "3600")
    results = {part: outcome["result"] for part, outcome in outcomes.items()}
    assert status == 0, outcomes
    assert results["liger"] in ("refused", "not installed")
    assert {part for part, result in results.items() if result != "ok"} <= {"liger", "flash", "vllm"}
    # All strategies take the same first step. Under ZeRO the head multiplies bfloat16 copies of the weights, elsewhere
    # the float32 weights themselves.
    first, *others = [outcomes[part]["values"]["first_loss"] for part in ("step", "ddp", "zero2", "zero3")]
    assert others == pytest.approx([first] * 3, rel=1e-2)
