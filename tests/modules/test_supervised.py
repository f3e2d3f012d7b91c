"""The supervised stage: its loss against a slow twin, and a short version of the run that made the embedded model."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from laser_lightning.cli.command_line import main
from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.model import EMBEDDED, PolicySettings

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def module() -> SupervisedModule:
    torch.manual_seed(0)
    model = SupervisedModule(
        PolicySettings(EMBEDDED, random_init=True, config_overrides={**TINY, "num_hidden_layers": 2})
    )
    model.configure_model()
    return model


def problems(module: SupervisedModule, *pairs: tuple[str, str | None]) -> list[Problem]:
    encode = module.tokenizer.encode
    return [Problem("train", row, p, p, encode(p), "", None, solution) for row, (p, solution) in enumerate(pairs)]


def test_the_targets_are_the_solution_and_eos_twice(module: SupervisedModule) -> None:
    prompts, targets = module.encode(problems(module, ("1+2=", "#3")))
    eos = module.tokenizer.eos_token_id
    assert prompts == [module.tokenizer.encode("1+2=")]
    assert targets == [[*module.tokenizer.encode("#3"), eos, eos]]


def test_the_targets_end_as_the_engines_end_responses(
    tmp_path: Path, save_model: Callable[..., Path], tiny_config: Callable[..., PretrainedConfig]
) -> None:
    path = save_model(tmp_path / "model", tiny_config(eos_token_id=[9, 5]))
    other = SupervisedModule(PolicySettings(str(path)))
    assert other.tokenizer.eos_token_id == 1
    with pytest.warns(UserWarning, match=r"<eos> is '<\|eos\|>' \(1\), .* at 5, 9: .* taught to end with '.' \(5\)"):
        other.configure_model()
    _, targets = other.encode(problems(other, ("1+2=", "#3")))
    assert targets == [[*other.tokenizer.encode("#3"), 5, 5]]


def test_losses_equal_those_of_single_unpadded_sequences(module: SupervisedModule) -> None:
    batch = problems(module, ("1+2=", "#3"), ("10+20=", "0+0=0;1+2=3;#30"), ("7*", "#"))
    prompts, targets = module.encode(batch)
    expected = []
    for prompt, target in zip(prompts, targets, strict=True):
        logits = module.policy.lm(input_ids=torch.tensor([prompt + target[:-1]])).logits[0].log_softmax(-1)
        for offset, token in enumerate(target):
            expected.append(-logits[len(prompt) - 1 + offset, token])
    torch.testing.assert_close(module(prompts, targets), torch.stack(expected), rtol=0, atol=1e-5)


def test_a_row_without_a_solution_is_refused(module: SupervisedModule) -> None:
    with pytest.raises(UserError, match="Row 1 of the set 'train' has no worked solution"):
        module.encode(problems(module, ("1+2=", "#3"), ("1+3=", None)))


def test_a_solution_with_a_token_that_the_model_has_no_row_for_is_refused(module: SupervisedModule) -> None:
    rows = problems(module, ("1+2=", "#3"), ("1+3=", "#<new>"))
    module.tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match="The worked solution in row 1 of the set 'train' contains the token '<new>'"):
        module.encode(rows)


def test_tokens_that_only_solutions_bring_are_refused_before_the_first_step(module: SupervisedModule) -> None:
    data = PromptDataModule(train=ArithmeticSource(size=4))
    data.set_tokenizer(module.tokenizer)
    data.evaluation_problems = {"sums": problems(module, ("1+2=", "#3"), ("1+3=", None), ("1+4=", "#<new>"))}
    module.tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match="The worked solution in row 2 of the set 'train' contains the token '<new>'"):
        module.check_data(data)


def test_a_short_version_of_the_embedded_models_run(tmp_path: Path) -> None:
    options = [
        "--config=warm_start",
        f"--run_dir={tmp_path / 'run'}",
        f"--model.policy.config_overrides={ {**TINY, 'num_hidden_layers': 1} }",
        "--data.train.init_args.size=400",
        "--data.val.arithmetic.init_args.size=10",
        "--data.prompts_per_step=16",
        "--trainer.max_steps=25",
        "--trainer.val_check_interval=25",
        "--model.optimizer.warmup_steps=3",
        "--model.optimizer.learning_rate=0.01",
        "--trainer.enable_progress_bar=false",
    ]
    assert main(["fit", *options]) == 0
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert losses[0] == pytest.approx(5.56, abs=0.3), "random weights: the logarithm of 260 tokens"
    assert losses[-1] < 3.5
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "run/export/last")
    assert lm.config.hidden_size == 32
    assert not (tmp_path / "run/export/last/self_reward.json").exists()
