"""An export is the model as it was, in the form that transformers loads, or it is not there."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from laser_lightning.callbacks import HuggingFaceExport, SelfRewardSettings
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.character_tokenizer import CHAT_TEMPLATE, REWARD_TOKEN
from laser_lightning.policy.model import PolicySettings
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.runs.checkpoints import put_in_place

PASS_AT_1 = "val/sums/pass@1"


def step_of(directory: Path) -> int:
    return int(json.loads((directory / "self_reward.json").read_text())["step"])


def assert_equal_weights(directory: Path, lm: Any) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    assert type(loaded) is type(lm)
    ours, theirs = lm.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name]), name


def test_the_whole_model_is_exported(make_run: Callable[..., Any], tmp_path: Path, policy_dir: Path) -> None:
    run = make_run(HuggingFaceExport(), max_steps=2)
    run.fit()
    export = tmp_path / "run" / "export" / "last"

    assert_equal_weights(export, run.module.policy.lm)
    initial = AutoModelForCausalLM.from_pretrained(policy_dir).state_dict()
    moved = [not torch.equal(value, initial[name]) for name, value in run.module.policy.lm.state_dict().items()]
    assert any(moved)  # the trained weights, and not those that training started from
    loaded = AutoModelForCausalLM.from_pretrained(export)
    assert (loaded.generation_config.eos_token_id, loaded.generation_config.pad_token_id) == ([1], 0)
    tokenizer = AutoTokenizer.from_pretrained(export)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer("1+2\n") == run.module.tokenizer("1+2\n")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)
    assert list(export.glob("*.safetensors")) == [export / "model.safetensors"]
    assert json.loads((export / "self_reward.json").read_text()) == {
        "token": REWARD_TOKEN,
        "token_id": 3,
        "beta": 0.1,
        "reference_constant": -20.0,
        "threshold": 0.5,
        "step": 2,
        "no_token": None,
        "low_token": None,
        "format_version": 3,
    }
    assert [path.name for path in export.parent.iterdir()] == ["last"]  # nothing unfinished is left


@pytest.mark.parametrize(
    ("tied", "dtype"), [(False, "float32"), (True, "float32"), (True, "bfloat16")], ids=["untied", "tied", "bfloat16"]
)
def test_tied_weights_and_other_dtypes(
    make_run: Callable[..., Any],
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
    tmp_path: Path,
    tied: bool,
    dtype: Any,
) -> None:
    model = save_model(tmp_path / "model", tiny_config(tie_word_embeddings=tied))
    run = make_run(HuggingFaceExport(), max_steps=1, policy=PolicySettings(path=str(model), dtype=dtype))
    run.fit()
    assert_equal_weights(tmp_path / "run/export/last", run.module.policy.lm)


def test_plain_transformers_gives_the_same_scores(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run(
        HuggingFaceExport(),
        max_steps=1,
        engine=TransformersEngine(),
        sampling=Sampling(max_response_tokens=24),
        evaluation_problems=16,
        self_reward=LastTokenSelfReward(REWARD_TOKEN, beta=0.3, reference=-7.25),
    )
    run.data.eval_prompts_per_batch = 16
    run.fit()
    # the module's last round is the evaluation behind the last step, of the weights that were exported
    export = tmp_path / "run" / "export" / "last"
    settings, lm = SelfRewardSettings.load(export), AutoModelForCausalLM.from_pretrained(export)
    rollout = run.module.last_rollout

    compared = 0
    for row, response in enumerate(rollout.rollouts.responses()):
        if rollout.rollouts.finished[row]:
            ids = torch.tensor([rollout.problem_of(row).prompt_ids + response])
            log_prob = lm(ids).logits[0, -1].log_softmax(-1)[settings.token_id].item()
            assert settings.beta is not None
            assert settings.reference_constant is not None
            score = settings.beta * (log_prob - settings.reference_constant)
            assert score == pytest.approx(rollout.self_rewards[row].item(), abs=1e-5)
            compared += 1
    assert compared >= 3


def test_best_is_replaced_by_what_is_better(
    make_run: Callable[..., Any], learning: Callable[..., Callback], tmp_path: Path
) -> None:
    class Reader(Callback):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def on_validation_end(self, *_: Any) -> None:
            self.steps.append(step_of(tmp_path / "run/export/best"))

    right = {0: 1, 1: 3, 2: 2, 3: 3, 4: 4}
    readers = Reader(), Reader()
    export = HuggingFaceExport(monitor=PASS_AT_1, at_end=False)
    make_run(learning(right), export, readers[0], max_steps=4).fit()
    assert readers[0].steps == [0, 1, 1, 1, 4]  # as good is not better
    assert export.best_score == 1.0
    assert [path.name for path in (tmp_path / "run/export").iterdir()] == ["best"]

    # 1 of 4 is the least, right at the start
    make_run(learning(right), HuggingFaceExport(monitor=PASS_AT_1, mode="min"), readers[1], max_steps=4).fit()
    assert readers[1].steps == [0] * 5
    assert step_of(tmp_path / "run/export/last") == 4


def test_an_undefined_value_is_not_the_best(
    make_run: Callable[..., Any], learning: Callable[..., Callback], tmp_path: Path
) -> None:
    # AUROC is undefined while all solutions are right
    export = HuggingFaceExport(monitor="val/sums/self_verification/auroc", at_end=False)
    make_run(learning({0: 4, 1: 4}), export, max_steps=1).fit()
    assert export.best_score is None
    assert not (tmp_path / "run/export").exists()


def test_an_unknown_monitor_is_refused_before_the_first_step(make_run: Callable[..., Any]) -> None:
    run = make_run(HuggingFaceExport(monitor="val/sum/pass@1"))
    with pytest.raises(UserError, match=r"'val/sum/pass@1', which no evaluation logs.*val/sums/pass@1, ") as error:
        run.fit()
    assert run.trainer.global_step == 0
    assert "train/" not in str(error.value)


def test_a_resumed_run_remembers_the_best(
    make_run: Callable[..., Any],
    learning: Callable[..., Callback],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(right: dict[int, int], directory: str = "run", ckpt_path: Path | None = None, **options: Any) -> None:
        export = HuggingFaceExport(**{"monitor": PASS_AT_1, "at_end": False} | options)
        checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        made = make_run(learning(right), export, checkpoint, max_steps=3, directory=directory)
        made.fit(ckpt_path)

    run({0: 1, 1: 3, 2: 2, 3: 2})
    best = tmp_path / "run" / "export" / "best"
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        run({2: 2, 3: 2}, ckpt_path=tmp_path / "step=2.ckpt")
        assert step_of(best) == 1
        assert "The best export so far" not in caplog.text
        run({2: 2, 3: 2}, directory="other", ckpt_path=tmp_path / "step=2.ckpt")
    assert f"The best export so far ({PASS_AT_1} = 0.75) is in {best}" in caplog.text
    assert not (tmp_path / "other" / "export").exists()
    # another measure has no best yet
    run({2: 3, 3: 2}, directory="third", ckpt_path=tmp_path / "step=2.ckpt", mode="min")
    assert step_of(tmp_path / "third/export/best") == 3


def test_a_failed_export_leaves_the_one_before(
    make_run: Callable[..., Any],
    learning: Callable[..., Callback],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(learning({0: 1, 1: 2}), HuggingFaceExport(monitor=PASS_AT_1), max_steps=1)
    save, saved = run.module.tokenizer.save_pretrained, []

    def fail_at_the_second_export(directory: Path) -> None:
        saved.append(directory)
        if len(saved) == 3:  # the first time it is tried, before training
            raise OSError("no space left")
        save(directory)

    monkeypatch.setattr(run.module.tokenizer, "save_pretrained", fail_at_the_second_export)
    with pytest.raises(UserError, match="no space left"):
        run.fit()
    export = tmp_path / "run" / "export"
    assert step_of(export / "best") == 0
    AutoModelForCausalLM.from_pretrained(export / "best")
    assert (export / ".best.partial").exists()

    make_run(learning({0: 1, 1: 2}), HuggingFaceExport(monitor=PASS_AT_1), max_steps=1).fit()
    assert step_of(export / "best") == 1
    assert sorted(path.name for path in export.iterdir()) == ["best", "last"]


def test_put_in_place_never_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh(text: str) -> Path:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "text").write_text(text)
        return tmp_path / "new"

    def texts() -> dict[str, str]:
        return {path.name: (path / "text").read_text() for path in tmp_path.iterdir()}

    put_in_place(fresh("one"), tmp_path / "best")
    put_in_place(fresh("two"), tmp_path / "best")
    assert texts() == {"best": "two"}

    rename = Path.rename

    def die_before_the_second(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    new = fresh("three")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die_before_the_second)
        with pytest.raises(KeyboardInterrupt):
            put_in_place(new, tmp_path / "best")
    assert texts() == {"new": "three", ".best.previous": "two"}
    put_in_place(tmp_path / "new", tmp_path / "best")
    assert texts() == {"best": "three"}


def test_an_exact_reference_has_no_constant(make_run: Callable[..., Any], tmp_path: Path) -> None:
    head = LastTokenSelfReward(REWARD_TOKEN, beta=0.1, reference="exact")
    run = make_run(HuggingFaceExport(), max_steps=1, self_reward=head)
    with pytest.warns(UserWarning, match="exact, so last/self_reward.json has no reference constant"):
        run.fit()
    assert SelfRewardSettings.load(tmp_path / "run/export/last").reference_constant is None


def test_a_supervised_model_has_no_settings(make_run: Callable[..., Any], tmp_path: Path, policy_dir: Path) -> None:
    module = SupervisedModule(PolicySettings(path=str(policy_dir)))
    make_run(HuggingFaceExport(monitor="val/sums/loss", mode="min"), module=module, max_steps=2).fit()
    for name in ("best", "last"):
        assert not (tmp_path / "run/export" / name / "self_reward.json").exists()
    assert_equal_weights(tmp_path / "run/export/last", module.policy.lm)
    with pytest.raises(UserError, match=r"has no self_reward\.json"):
        SelfRewardSettings.load(tmp_path / "run/export/last")


def test_a_stand_alone_evaluation_exports_nothing(make_run: Callable[..., Any], tmp_path: Path) -> None:
    make_run(HuggingFaceExport(monitor=PASS_AT_1)).validate()
    assert not (tmp_path / "run/export").exists()


def test_settings_and_tokenizer_must_agree(tmp_path: Path, policy_tokenizer: PreTrainedTokenizerFast) -> None:
    settings = SelfRewardSettings(REWARD_TOKEN, 3, 0.1, -23.110000610351562, step=7)
    settings.save(tmp_path)
    policy_tokenizer.save_pretrained(tmp_path)
    assert SelfRewardSettings.load(tmp_path) == settings

    def words(**vocabulary: int) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="a")))

    with pytest.raises(UserError, match="does not know it: use the tokenizer that was exported"):
        SelfRewardSettings.load(tmp_path, words(a=0))
    with pytest.raises(UserError, match="has the id 3, but the tokenizer gives it the id 1"):
        SelfRewardSettings.load(tmp_path, words(**{"a": 0, REWARD_TOKEN: 1}))
    values = json.loads((tmp_path / "self_reward.json").read_text())
    (tmp_path / "self_reward.json").write_text(json.dumps(values | {"format_version": 4}))
    with pytest.raises(UserError, match="format version 4"):
        SelfRewardSettings.load(tmp_path)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"export\.mode is 'most'"):
        HuggingFaceExport(mode="most")
    with pytest.raises(UserError, match=r"export\.dirname is empty"):
        HuggingFaceExport(dirname="")


def test_the_card_has_the_evaluation_of_its_weights(
    make_run: Callable[..., Any], learning: Callable[..., Callback], tmp_path: Path
) -> None:
    # Evaluated behind steps 0, 2 and 3: the last one, after the export, belongs to it too.
    export = HuggingFaceExport(monitor=PASS_AT_1)
    run = make_run(learning({0: 1, 2: 3, 3: 2}), export, max_steps=3, val_check_interval=2)
    run.fit()
    cards = {name: (tmp_path / "run/export" / name / "README.md").read_text() for name in ("best", "last")}
    assert "trained it for 2 optimizer steps" in cards["best"]
    assert "\n| val/sums/pass@1 | 0.75 |\n" in cards["best"]
    assert "trained it for 3 optimizer steps" in cards["last"]
    assert "\n| val/sums/pass@1 | 0.5 |\n" in cards["last"]
    assert "nan" not in cards["last"]

    # Without an evaluation of the last weights the card says nothing of one.
    evaluation = EvaluationSettings(samples=4, at_end=False)
    make_run(learning({0: 1, 2: 3}), export, max_steps=3, val_check_interval=2, evaluation=evaluation).fit()
    assert "## Evaluation" not in (tmp_path / "run/export/last/README.md").read_text()
