"""The paper's runs and its evaluation, dry, with tiny models of the same architectures and tokenizer classes."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from laser_lightning.cli.command_line import main
from laser_lightning.modules.laser import LaSeRModule, SampledStep
from laser_lightning.objective.advantages import Advantages
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.objective import LossTerms, Objective
from laser_lightning.objective.phases import Phase
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch

DATA = Path(__file__).parents[3] / "shared" / "data"

MODELS = ["qwen2.5_7b", "open_reasoner_zero_7b", "octothinker_3b_short"]
FORMS: dict[str, list[str]] = {
    "laser": [],
    "grpo": ["--config", "baselines/grpo"],
    "without_mixing": ["--config", "baselines/without_mixing"],
}
BENCHMARKS = ["math500", "amc23", "aime24", "aime25", "olympiadbench"]

QWEN_TOKEN, LLAMA_TOKEN = "<|vision_start|>", "<|reserved_special_token_0|>"
BOXES = ["\\boxed{1}", "\\boxed{2}"]


def byte_vocabulary(*special: str) -> dict[str, int]:
    return {token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen2.5's class and special tokens, over bytes."""
    end, reward = "<|endoftext|>", QWEN_TOKEN
    return Qwen2Tokenizer(
        vocab=byte_vocabulary(end, "<|im_start|>", "<|im_end|>", reward),
        merges=[],
        eos_token=end,
        pad_token=end,
        unk_token=None,
        additional_special_tokens=["<|im_start|>", "<|im_end|>", reward],
        chat_template=(
            "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's class and special tokens, over bytes: no chat template, no pad token, a token at the beginning."""
    begin, end, reward = "<|begin_of_text|>", "<|end_of_text|>", LLAMA_TOKEN
    vocabulary = byte_vocabulary(begin, end, reward)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, eos_token=end, additional_special_tokens=[reward]
    )


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
ELEMENT_0 = 5 / ((5**2 + 31) / 32) ** 0.5  # of the last hidden state, whose other 31 elements begin as N(0, 1)


def save_tiny(directory: Path, llama: bool) -> Path:
    """A random model that mostly writes a box or ends, and gives the reward token a log-prob of about -20.

    Column 0 of all embeddings is large, so that element 0 of the last hidden state is nearly the same everywhere, and
    column 0 of the head adds a bias to the logit of each token.
    """
    tokenizer = llama_tokenizer() if llama else qwen_tokenizer()
    tokenizer.add_tokens([AddedToken(box, normalized=False) for box in BOXES])
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if llama:
            lm = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES, **ids))
        else:
            lm = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **SIZES, **ids))
    likely = tokenizer.convert_tokens_to_ids([tokenizer.eos_token, *BOXES])
    reward = tokenizer.convert_tokens_to_ids(LLAMA_TOKEN if llama else QWEN_TOKEN)
    embeddings, head = lm.get_input_embeddings().weight, lm.get_output_embeddings().weight
    with torch.no_grad():
        embeddings *= 50  # to standard deviation 1
        embeddings[:, 0] = 5.0
        for name, weight in lm.named_parameters():
            if "v_proj.weight" in name or "o_proj.weight" in name:
                weight *= 10  # what stands in front of the last token shows behind it, and scores differ
        head[reward] *= 10
        head[likely, 0] = 8 / ELEMENT_0
        head[reward, 0] = -18 / ELEMENT_0
    lm.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directory of the tiny model that stands for each of the paper's."""
    root = tmp_path_factory.mktemp("models")
    qwen, llama = save_tiny(root / "qwen", llama=False), save_tiny(root / "llama", llama=True)
    return {name: llama if name.startswith("octo") else qwen for name in MODELS}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with DeepMath rows and tiny local benchmarks, without a network or the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    row = {"difficulty": 5.0, "topic": "Algebra", "r1_solution_1": "a", "r1_solution_2": "b", "r1_solution_3": "c"}
    write_rows(
        tmp_path / "DeepMath/train.jsonl",
        ({"question": f"What is {i}?", "final_answer": str(1 + i % 2), **row} for i in range(16)),
    )
    answers: dict[str, list[Any]] = {
        "math500": ["1", r"\left( 3, \frac{\pi}{2} \right)"],
        "amc23": ["1", "27"],
        "aime24": ["1", "204"],
        "aime25": [1, 70],  # integers
        "olympiadbench": [["1"], "(2,4)", ["1", "3"], "(1,8,19), (2,7,13)"],  # lists and tuples
    }
    for name, golds in answers.items():
        write_rows(
            tmp_path / f"benchmarks/{name}.jsonl",
            ({"id": i, "problem": f"Problem {i}", "answer": gold} for i, gold in enumerate(golds)),
        )
    return tmp_path


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tiny(model: Path) -> list[str]:
    """What a tiny model on CPU needs in the place of the weights."""
    return [
        f"--model.policy.path={model}",
        "--model.sampling.max_response_tokens=8",
        "--model.verification.workers=0",
        "--data.local_files=benchmarks",
        "--calibration.prompts=4",
        "--figures=null",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.enable_progress_bar=false",
    ]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Of each step: its phase, whether self-rewards were mixed into advantages, and the self-rewarding loss."""
    seen: list[dict[str, Any]] = []
    compute, share = LaSeRModule.compute_advantages, Objective.__call__

    def spied_advantages(module: LaSeRModule, step: SampledStep, phase: Phase, context: StepContext) -> Advantages:
        result = compute(module, step, phase, context)
        assert result.values.abs().sum() > 0, "some group has right and wrong solutions"
        seen.append({"phase": phase, "mixed": bool(result.mixed_groups.any()), "loss": 0.0})
        return result

    def spied_share(objective: Objective, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> LossTerms:
        parts = share(objective, outputs, batch, targets)
        assert parts.loss.isfinite()
        seen[-1]["loss"] += float(parts.self_reward_loss)
        return parts

    monkeypatch.setattr(LaSeRModule, "compute_advantages", spied_advantages)
    monkeypatch.setattr(Objective, "__call__", spied_share)
    return seen


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_dry_run(model: str, form: str, tiny_models: dict[str, Path], work: Path, steps: list[dict[str, Any]]) -> None:
    reasoning = 0 if model == "open_reasoner_zero_7b" else 1
    args = [
        *("--config", f"paper/{model}", *FORMS[form], *tiny(tiny_models[model])),
        "--data.train.init_args.path=DeepMath",
        "--data.prompts_per_step=4",
        # One step of each phase; the scores of a tiny model vary less than min_std.
        f"--model.phases.reasoning_steps={reasoning}",
        "--model.phases.self_reward_steps=1",
        "--model.advantage.mixing.min_std=0",
        "--trainer.max_steps=3",
        "--run_dir=dry",
    ]
    assert main(["fit", *args]) == 0
    expected = [Phase.REASONING] * reasoning + [Phase.SELF_REWARDING] + [Phase.INTEGRATED] * (2 - reasoning)
    assert [step["phase"] for step in steps] == expected
    scored, mixes = form != "grpo", form == "laser"
    assert [step["loss"] > 0 for step in steps] == [scored and phase >= Phase.SELF_REWARDING for phase in expected]
    assert [step["mixed"] for step in steps] == [mixes and phase == Phase.INTEGRATED for phase in expected]
    exported = json.loads((work / "dry/export/last/self_reward.json").read_text())
    assert -25 < exported["reference_constant"] < -15, "measured before the first step"


@pytest.mark.parametrize("model", ["qwen2.5_7b", "octothinker_3b_short"])
@pytest.mark.filterwarnings("ignore")
def test_the_benchmarks_from_local_files(model: str, tiny_models: dict[str, Path], work: Path) -> None:
    args = ["--config=eval/paper", f"--config=paper/{model}", *tiny(tiny_models[model]), "--run_dir=run"]
    assert main(["test", *args]) == 0
    values = metrics(work / "run", "test")
    samples = {"math500": 2, "amc23": 32, "aime24": 32, "aime25": 32, "olympiadbench": 2}
    for name, k in samples.items():
        assert {f"test/{name}/pass@1", f"test/{name}/maj@{k}", f"test/{name}/weighted_maj@{k}"} <= values.keys()
    # Half of the problems have the answer 1, which the model writes last in about half of its responses with a box.
    for name in ("amc23", "aime24", "aime25"):
        assert 0.05 < values[f"test/{name}/pass@1"] < 0.45


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_any_model_and_any_checkpoint(tiny_models: dict[str, Path], work: Path) -> None:
    model = [*tiny(tiny_models["qwen2.5_7b"]), "--model.evaluation.samples_per_set={}"]
    assert main(["validate", "--config=eval/paper", *model, "--run_dir=plain"]) == 0
    assert len([key for key in metrics(work / "plain", "val") if key.endswith("/pass@1")]) == len(BENCHMARKS)
    args = ["--config=eval/paper", "--config=paper/qwen2.5_7b", *model, "--run_dir=run"]
    short = ["--data.train.init_args.path=DeepMath", "--data.prompts_per_step=4", "--trainer.max_steps=1"]
    assert main(["fit", *args, *short, "--checkpoint.every_n_train_steps=1", "--export=null"]) == 0
    assert main(["test", *args, "--ckpt_path=last", "--calibration=null"]) == 0
    tested = metrics(work / "run", "test", "metrics.test.csv")  # beside those of the training run
    assert len([key for key in tested if key.endswith("/pass@1")]) == len(BENCHMARKS)


def metrics(run: Path, stage: str, file: str = "metrics.csv") -> dict[str, float]:
    """The values of a stage in the last row of a run's metrics that has any."""
    rows = list(csv.DictReader((run / file).open()))
    rows = [{key: value for key, value in row.items() if key.startswith(stage) and value} for row in rows]
    return {key: float(value) for key, value in [row for row in rows if row][-1].items()}


@pytest.mark.parametrize("file", ["aime25.jsonl", None])
def test_a_missing_local_file_is_named(
    file: str | None, tiny_models: dict[str, Path], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = "benchmarks" if file else "nowhere"
    if file:
        (work / directory / file).unlink()
    args = [*tiny(tiny_models["qwen2.5_7b"]), f"--data.local_files={directory}", "--run_dir=run"]
    assert main(["test", "--config=eval/paper", *args]) == 2
    assert f"There is no file '{directory}/{file or 'math500.jsonl'}'" in capsys.readouterr().err


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real problem sets are not at {DATA}")
@pytest.mark.filterwarnings("ignore")
def test_the_real_benchmarks(tiny_models: dict[str, Path], work: Path) -> None:
    args = [*tiny(tiny_models["qwen2.5_7b"]), f"--data.local_files={DATA}", "--data.eval_prompts_per_batch=1"]
    few = ["--trainer.limit_test_batches=1", "--run_dir=run", "--solution_log=null"]
    assert main(["test", "--config=eval/paper", *args, *few]) == 0
    assert len([key for key in metrics(work / "run", "test") if key.endswith("/pass@1")]) == len(BENCHMARKS)
