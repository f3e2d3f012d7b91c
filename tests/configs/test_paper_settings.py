"""The paper's configs and its evaluation hold the published settings, in every form and under every strategy."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from laser_lightning.cli.command_line import main

MODELS = ["qwen2.5_7b", "open_reasoner_zero_7b", "octothinker_3b_short"]
FORMS: dict[str, list[str]] = {
    "laser": [],
    "grpo": ["--config", "baselines/grpo"],
    "without_mixing": ["--config", "baselines/without_mixing"],
}
BENCHMARKS = ["math500", "amc23", "aime24", "aime25", "olympiadbench"]
QWEN_TOKEN, LLAMA_TOKEN = "<|vision_start|>", "<|reserved_special_token_0|>"

PUBLISHED = {  # ALGORITHM, "The paper's settings" and "Notation", the same for all models
    "data.prompts_per_step": 128,
    "data.max_prompt_tokens": 2048,
    "data.train.init_args.path": "zwhe99/DeepMath-103K",
    "data.train.init_args.problem_column": "question",
    "data.train.init_args.answer_column": "final_answer",
    "model.group_size": 8,
    "model.sampling.max_response_tokens": 8192,
    "model.sampling.temperature": 1.0,
    "model.sampling.top_p": 1.0,
    "model.sampling.top_k": 0,
    "model.sampling.min_p": 0.0,
    "model.self_reward.init_args.beta": 0.1,
    "model.self_reward.init_args.loss_weight": 0.1,
    "model.self_reward.init_args.class_weights": True,
    "model.self_reward.init_args.reference": "calibrate",
    "model.advantage.estimator.divide_by_std": True,
    "model.advantage.mixing.tau": 0.1,
    "model.advantage.mixing.min_std": 0.1,
    "model.advantage.mixing.mix_unanimous_groups": True,
    "model.policy_loss.init_args.clip_low": 0.2,
    "model.policy_loss.init_args.clip_high": 0.2,
    "model.phases.self_reward_steps": 200,
    "model.update.mini_batches": 1,
    "model.update.epochs": 1,
    "model.update.aggregation": "token_mean",
    "model.update.kl_coef": 0.0,
    "model.update.entropy_coef": 0.0,
    "model.optimizer.algorithm": "adamw",
    "model.optimizer.learning_rate": 1e-6,
    "model.optimizer.weight_decay": 0.01,
    "model.optimizer.warmup_steps": 0,
    "model.optimizer.schedule": "constant",
    "model.optimizer.max_grad_norm": 1.0,
    "model.policy.gradient_checkpointing": True,
    "model.policy.random_init": False,
    "model.policy.lora": None,
    "model.verifier.class_path": "laser_lightning.verifiers.MathVerifier",
    "trainer.precision": "bf16-mixed",
}
OF_MODEL = {
    "qwen2.5_7b": {
        "model.policy.path": "Qwen/Qwen2.5-7B",
        "model.self_reward.init_args.token": QWEN_TOKEN,
        "model.phases.reasoning_steps": 200,
        "data.template.chat": True,
    },
    "open_reasoner_zero_7b": {
        "model.policy.path": "Open-Reasoner-Zero/Open-Reasoner-Zero-7B",
        "model.self_reward.init_args.token": QWEN_TOKEN,
        "model.phases.reasoning_steps": 0,
        "data.template.chat": True,
    },
    "octothinker_3b_short": {
        "model.policy.path": "OctoThinker/OctoThinker-3B-Short-Base",
        "model.self_reward.init_args.token": LLAMA_TOKEN,
        "model.phases.reasoning_steps": 200,
        "data.template.chat": False,
    },
}
OF_FORM: dict[str, dict[str, Any]] = {
    "laser": {},
    "grpo": {"model.self_reward.init_args.loss_weight": 0.0},
    "without_mixing": {"model.advantage.mixing": None},
}
STAGES = {"zero2": 2, "zero3": 3}

Print = Callable[..., dict[str, Any]]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Print:
    """``printed(*args)`` returns every field of a config as the parser resolves it, by its dotted key."""
    monkeypatch.chdir(tmp_path)

    def resolve(*args: str, command: str = "fit") -> dict[str, Any]:
        with pytest.raises(SystemExit) as exit_:
            main([command, *args, "--print_config"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        return dict(flat(yaml.safe_load(text[text.index("# laser-lightning==") :])))  # DeepSpeed may warn above it

    return resolve


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested mappings; ``init_args`` of the model and of the data are left out of the key."""
    leaves: list[tuple[str, Any]] = []
    for name, value in values.items():
        key = f"{prefix}{name}.".replace("model.init_args.", "model.").replace("data.init_args.", "data.")
        leaves += flat(value, key) if isinstance(value, dict) and value else [(key[:-1], value)]
    return leaves


@pytest.mark.parametrize("strategy", STAGES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS)
def test_settings_are_the_published_ones(model: str, form: str, strategy: str, printed: Print) -> None:
    fields = printed("--config", f"paper/{model}", *FORMS[form], "--config", f"strategy/{strategy}")
    expected = PUBLISHED | OF_MODEL[model] | OF_FORM[form]
    assert {key: fields[key] for key in expected} == expected
    assert r"\boxed{}" in fields["data.template.template"]
    assert fields["trainer.strategy.init_args.stage"] == STAGES[strategy]


def test_the_evaluation_is_the_published_one(printed: Print) -> None:
    expected = {
        "model.sampling.max_response_tokens": 8192,
        "model.sampling.temperature": 1.0,
        "model.sampling.top_p": 1.0,
        "model.evaluation.sampling": None,  # null: the model's sampling above
        "model.evaluation.samples": 2,
        "model.evaluation.samples_per_set.amc23": 32,
        "model.evaluation.samples_per_set.aime24": 32,
        "model.evaluation.samples_per_set.aime25": 32,
        "data.local_files": None,
    }
    for command, stage in (("validate", "val"), ("test", "test")):
        fields = printed("--config", "eval/paper", command=command)
        assert {key: fields[key] for key in expected} == expected
        paths = {key for key in fields if key.startswith(f"data.{stage}.") and key.endswith(".init_args.path")}
        assert paths == {f"data.{stage}.{name}.init_args.path" for name in BENCHMARKS}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_behind_the_evaluation_keeps_its_prompt_and_token(model: str, printed: Print) -> None:
    alone = printed("--config", f"paper/{model}", command="test")
    both = printed("--config", "eval/paper", "--config", f"paper/{model}", command="test")
    for key in ("model.self_reward.init_args.token", "data.template.template", "data.template.chat"):
        assert both[key] == alone[key]
    assert both["data.test.aime25.init_args.path"] == "math-ai/aime25"
    assert both["model.evaluation.samples_per_set.aime25"] == 32
