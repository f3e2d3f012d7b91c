import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from jsonargparse import set_loader
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from transformers import PreTrainedTokenizerFast

from laser_lightning.cli.config_files import yaml_value
from laser_lightning.data.arithmetic import ArithmeticSource
from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.data.sources import FileSource, HubSource, ProblemSource
from laser_lightning.data.templates import PromptTemplate
from laser_lightning.errors import UserError
from laser_lightning.verifiers import ExactVerifier, MultipleChoiceVerifier, Submission, Verification

Seen = list[tuple[int, list[int]]]  # epoch and row numbers of each training batch


class ListSource(ProblemSource):
    """Problems from a list; counts how often it is loaded."""

    def __init__(self, problems: list[str], kinds: list[str] | None = None) -> None:
        self.problems, self.kinds, self.loads = problems, kinds, 0

    def load(self) -> Dataset:
        self.loads += 1
        columns = {"problem": self.problems, "answer": [f"answer {problem}" for problem in self.problems]}
        return Dataset.from_dict(columns | ({"kind": self.kinds} if self.kinds else {}))


def numbered(count: int) -> ListSource:
    return ListSource([str(i) for i in range(count)])


class Recorder(LightningModule):
    """Records the batches that Lightning hands it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast | None, interrupt_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.tokenizer = tokenizer
        self.interrupt_at = interrupt_at
        self.ask_for_steps_early = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: Seen = []
        self.evaluated: list[Problem] = []

    def training_step(self, batch: list[Problem], batch_idx: int) -> None:
        self.seen.append((self.current_epoch, [problem.index for problem in batch]))
        if len(self.seen) == self.interrupt_at:
            raise KeyboardInterrupt
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.step()

    def validation_step(self, batch: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated += batch

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.ask_for_steps_early:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.0)


def make_trainer(folder: Path, **settings: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(defaults | settings))


# --- setup ------------------------------------------------------------------------------------------------


def test_setup_loads_what_the_stage_needs(tokenizer: PreTrainedTokenizerFast) -> None:
    sources = {name: numbered(4) for name in ("train", "val", "test", "predict")}
    data = PromptDataModule(
        sources["train"],
        val={"easy": sources["val"]},
        test={"hard": sources["test"]},
        predict={"new": sources["predict"]},
        prompts_per_step=2,
    )
    data.set_tokenizer(tokenizer)
    needed = {"fit": ("easy", ["train", "val"]), "validate": ("easy", ["val"])}
    needed |= {"test": ("hard", ["test"]), "predict": ("new", ["predict"])}
    for stage, (dataset, loaded) in needed.items():
        before = {name: source.loads for name, source in sources.items()}
        data.setup(stage)
        assert [name for name, source in sources.items() if source.loads > before[name]] == loaded
        assert data.dataset_names(stage) == list(data.evaluation_problems) == [dataset]
    with pytest.raises(UserError, match="'val' is no stage"):
        data.dataset_names("val")


def test_problems_carry_everything(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"problem": "", "answer": 1, "kind": "add", "solution": "x"}\n'
        '{"problem": "1+2", "answer": 3, "kind": "add", "solution": "so 3"}\n'
    )
    source = FileSource(str(path), solution_column="solution", kind_column="kind", invalid_rows="skip")
    data = PromptDataModule(val={"sums": source}, template=PromptTemplate("{problem}="))
    data.set_tokenizer(tokenizer)
    with pytest.warns(UserWarning, match="1 of the 2 rows"):
        data.setup("validate")
    ids = tokenizer("1+2=")["input_ids"]
    assert data.evaluation_problems == {
        "sums": [Problem("sums", 1, "1+2", "1+2=", ids, "3", kind="add", solution="so 3")]
    }


def test_kinds_of_a_set(tokenizer: PreTrainedTokenizerFast) -> None:
    data = PromptDataModule(numbered(2), val={"a": ListSource(["1", "2", "3"], ["y", "x", "y"])}, prompts_per_step=2)
    data.set_tokenizer(tokenizer)
    data.setup("fit")
    assert data.kinds("a") == ["x", "y"]
    assert data.kinds("train") == []
    with pytest.raises(UserError, match="no set 'b' among those that are loaded: train, a"):
        data.kinds("b")


def test_overlong_prompts_are_left_out_with_a_warning(tokenizer: PreTrainedTokenizerFast) -> None:
    data = PromptDataModule(val={"a": ListSource(["1" * n for n in (3, 5, 1, 9)])}, max_prompt_tokens=3)
    data.set_tokenizer(tokenizer)
    message = (
        "2 of the 4 prompts of the set 'a' are longer than data.max_prompt_tokens = 3 "
        "(the longest: 9 tokens in row 3, 5 tokens in row 1). They are left out."
    )
    with pytest.warns(UserWarning, match=re.escape(message)):
        data.setup("validate")
    assert [problem.index for problem in data.evaluation_problems["a"]] == [0, 2]


@pytest.mark.parametrize(
    ("policy", "lengths", "message"),
    [
        ("refuse", (3, 5), "1 of the 2 prompts .* or leave them out"),
        ("filter", (4, 5), r"2 of the 2 prompts .* Raise the limit\.$"),
    ],
)
def test_overlong_prompts_are_refused(
    tokenizer: PreTrainedTokenizerFast, policy: Any, lengths: tuple[int, int], message: str
) -> None:
    source = ListSource(["1" * n for n in lengths])
    data = PromptDataModule(val={"a": source}, max_prompt_tokens=3, overlong_prompts=policy)
    data.set_tokenizer(tokenizer)
    with pytest.raises(UserError, match=message):
        data.setup("validate")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("fit", r"data\.train is not set"),
        ("validate", r"data\.val is not set"),
        ("test", r"data\.test is not set"),
        ("predict", r"data\.predict is not set"),
    ],
)
def test_stage_without_data_is_refused(stage: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptDataModule().setup(stage)


def test_source_without_text_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    class Numbers(ProblemSource):
        def load(self) -> Dataset:
            return Dataset.from_dict({"problem": ["1+1"], "answer": [2]})

    data = PromptDataModule(val={"a": Numbers()})
    data.set_tokenizer(tokenizer)
    with pytest.raises(UserError, match="Row 0 of the set 'a' has no text in the column 'answer'"):
        data.setup("validate")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts_per_step": 0}, r"data\.prompts_per_step is 0"),
        ({"eval_prompts_per_batch": -1}, r"data\.eval_prompts_per_batch is -1"),
        ({"max_prompt_tokens": 0}, r"data\.max_prompt_tokens is 0"),
        ({"val": {"train": numbered(1)}}, r"data\.val has a set named 'train'"),
        ({"test": {2024: numbered(1)}}, r"data\.test has a set named 2024, which YAML does not read as text"),
        ({"predict": {None: numbered(1)}}, "named None, .*: put it in quotes"),
        ({"val": {"": numbered(1)}}, "named '', which names no metric and no file"),
        ({"val": {"a/..": numbered(1)}}, r"named 'a/\.\.', which names no metric and no file"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptDataModule(**settings)


def test_tokenizer_that_nobody_has_is_refused(tmp_path: Path) -> None:
    data = PromptDataModule(val={"a": numbered(2)})
    with pytest.raises(UserError, match="call set_tokenizer"):
        data.setup("validate")
    with pytest.raises(UserError, match="Recorder has no tokenizer"):
        make_trainer(tmp_path).validate(Recorder(None), data, verbose=False)


class FakeTrainer:
    """The part of a trainer that the data module reads, as on the second of three ranks."""

    global_rank, world_size, global_step = 1, 3, 0


def test_ranks_share_the_step(tokenizer: PreTrainedTokenizerFast) -> None:
    data = PromptDataModule(numbered(6), val={"a": numbered(4)}, prompts_per_step=6, shuffle=False)
    data.set_tokenizer(tokenizer)
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    data.setup("fit")
    assert [[problem.index for problem in batch] for batch in data.train_dataloader()] == [[1, 4]]
    assert [[problem.index for problem in batch] for batch in data.val_dataloader()[0]] == [[1]]


def test_step_that_does_not_divide_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    data = PromptDataModule(numbered(8), prompts_per_step=8)
    data.set_tokenizer(tokenizer)
    data.trainer = FakeTrainer()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"data\.prompts_per_step is 8, .* by the 3 processes"):
        data.setup("fit")


# --- under a trainer --------------------------------------------------------------------------------------


def test_all_stages_run_without_warnings_about_loaders(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets: dict[str, ProblemSource] = {"a": numbered(3), "b": numbered(2)}
    data = PromptDataModule(
        numbered(6), val=sets, test=sets, predict=sets, prompts_per_step=2, eval_prompts_per_batch=2
    )
    caplog.set_level(logging.WARNING)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for stage in ("fit", "validate", "test", "predict"):
            model = Recorder(tokenizer)
            trainer = make_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=1)
            getattr(trainer, stage)(model, datamodule=data, **({"verbose": False} if stage[0] in "vt" else {}))
            full_pass = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
            # the sanity check before fitting takes one batch of each set, and the full pass starts over
            sanity_check = [("a", 0), ("b", 0), ("b", 1)] if stage == "fit" else []
            seen = [(problem.dataset, problem.index) for problem in model.evaluated]
            assert seen == sanity_check + full_pass
            # handed over untouched, not rebuilt in a search for tensors
            loaded = {id(problem) for problems in data.evaluation_problems.values() for problem in problems}
            assert {id(problem) for problem in model.evaluated} <= loaded
    messages = [str(warning.message) for warning in caught] + [record.message for record in caplog.records]
    assert not [text for text in messages if re.search("worker|sampler|Iterable|batch_size|resumable", text)]


def test_fit_needs_no_validation_set(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = Recorder(tokenizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Total length")
        make_trainer(tmp_path, max_epochs=1).fit(model, datamodule=PromptDataModule(numbered(4), prompts_per_step=2))
    assert len(model.seen) == 2
    assert model.evaluated == []


def test_overfit_batches_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    data = PromptDataModule(numbered(4), prompts_per_step=2)
    with pytest.raises(UserError, match=r"trainer\.overfit_batches does not work"):
        make_trainer(tmp_path, max_epochs=1, overfit_batches=1).fit(Recorder(tokenizer), datamodule=data)


def fit(
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    settings: dict[str, Any],
    ckpt_path: Path | None = None,
    ask_for_steps_early: bool = False,
    seed: int = 0,
    **checkpointing: Any,
) -> Seen:
    """Train on 11 problems in steps of 3, so 3 steps per epoch, and return what was seen."""
    callback = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **checkpointing)
    model = Recorder(tokenizer)
    model.ask_for_steps_early = ask_for_steps_early
    data = PromptDataModule(numbered(11), val={"a": numbered(4)}, prompts_per_step=3, seed=seed)
    trainer = make_trainer(folder, enable_checkpointing=True, callbacks=[callback], num_sanity_val_steps=0, **settings)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model.seen


EVERY_STEP: dict[str, Any] = {"every_n_train_steps": 1}
EVERY_EPOCH: dict[str, Any] = {"every_n_epochs": 1, "save_on_train_epoch_end": True}


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize(
    ("settings", "checkpointing", "ask_for_steps_early"),
    [
        pytest.param({"max_epochs": 4}, EVERY_STEP, False, id="epochs"),
        pytest.param({"max_steps": 12, "max_epochs": -1}, EVERY_STEP, False, id="steps"),
        pytest.param({"max_epochs": 4, "val_check_interval": 2}, EVERY_STEP, False, id="validation-in-mid-epoch"),
        pytest.param({"max_epochs": 6, "limit_train_batches": 2}, EVERY_STEP, False, id="epochs-cut-short"),
        pytest.param({"max_epochs": 4}, EVERY_EPOCH, False, id="epoch-ends"),
        pytest.param({"max_steps": 12, "max_epochs": -1}, EVERY_EPOCH, False, id="epoch-ends-steps"),
        pytest.param({"max_epochs": 4}, EVERY_STEP, True, id="estimated-stepping-batches"),
        pytest.param(
            {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 1},
            EVERY_STEP,
            False,
            id="reloaded-loaders",
        ),
    ],
)
def test_resume_from_every_checkpoint_is_exact(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    settings: dict[str, Any],
    checkpointing: dict[str, Any],
    ask_for_steps_early: bool,
) -> None:
    whole = fit(tokenizer, tmp_path, settings, None, ask_for_steps_early, **checkpointing)
    assert len(whole) == 12
    batches = [tuple(indices) for _, indices in whole]
    assert len(set(batches)) == 12  # epochs differ, so a wrong position cannot go unnoticed
    steps = sorted(int(path.stem.removeprefix("step=")) for path in tmp_path.glob("*.ckpt"))
    assert steps == (list(range(1, 13)) if checkpointing is EVERY_STEP else [3, 6, 9, 12])
    for step in steps[:-1]:
        ckpt_path = tmp_path / f"step={step}.ckpt"
        resumed = fit(tokenizer, tmp_path / "again", settings, ckpt_path, ask_for_steps_early, **checkpointing)
        assert resumed == whole[step:], f"resumed after step {step}"


def test_resume_after_an_interruption_is_exact(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    whole = fit(tokenizer, tmp_path / "whole", {"max_epochs": 4}, **EVERY_STEP)
    model = Recorder(tokenizer, interrupt_at=5)  # in the second epoch, with step 4 saved
    data = PromptDataModule(numbered(11), prompts_per_step=3)
    callback = ModelCheckpoint(tmp_path, filename="{step}", **EVERY_STEP)
    trainer = make_trainer(tmp_path, enable_checkpointing=True, callbacks=[callback], max_epochs=4)
    with pytest.raises(SystemExit):
        trainer.fit(model, datamodule=data)
    assert model.seen == whole[:5]
    assert fit(tokenizer, tmp_path / "again", {"max_epochs": 4}, tmp_path / "step=4.ckpt") == whole[4:]


def test_resume_with_another_seed_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    fit(tokenizer, tmp_path, {"max_steps": 1}, **EVERY_STEP)
    with pytest.raises(UserError, match="seed was 0 and is 1"):
        fit(tokenizer, tmp_path, {"max_steps": 2}, tmp_path / "step=1.ckpt", seed=1)


def test_validating_a_checkpoint_needs_no_training_data(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    fit(tokenizer, tmp_path, {"max_steps": 1}, **EVERY_STEP)
    model = Recorder(tokenizer)
    data = PromptDataModule(val={"a": numbered(2)})
    make_trainer(tmp_path).validate(model, data, ckpt_path=tmp_path / "step=1.ckpt", verbose=False)
    assert len(model.evaluated) == 2


# --- from a config ----------------------------------------------------------------------------------------


def parse(folder: Path, config: str, *args: str) -> PromptDataModule:
    """The data module that the command line makes of a config."""
    set_loader("yaml", yaml_value, exceptions=(yaml.YAMLError,))
    path = folder / "config.yaml"
    path.write_text(config)
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(PromptDataModule, "data")
    return parser.instantiate(parser.parse_args(["--config", str(path), *args])).data


CONFIG = r"""
data:
  train:
    class_path: laser_lightning.data.HubSource
    init_args:
      path: openai/gsm8k
      name: main
      problem_column: question
      solution_column: answer
      answer_pattern: '####\s*(.+)'
  val:
    aime25:
      class_path: FileSource
      init_args: {path: data/aime25.jsonl}
    sums:
      class_path: laser_lightning.data.ArithmeticSource
      init_args: {split: val, size: 8}
  template:
    template: "### Problem: {problem}"
"""


def test_settings_from_yaml_and_the_command_line(tmp_path: Path) -> None:
    data = parse(tmp_path, CONFIG, "--data.template.chat", "true", "--data.prompts_per_step", "8")
    assert isinstance(data.train, HubSource)
    assert data.train.columns.answer_pattern == r"####\s*(.+)"
    assert data.train.name == "main"
    assert {name: type(source).__name__ for name, source in data.val.items()} == {
        "aime25": "FileSource",
        "sums": "ArithmeticSource",
    }
    assert data.template == PromptTemplate("### Problem: {problem}", chat=True)
    assert data.prompts_per_step == 8


def test_texts_that_look_like_yaml_survive_the_command_line(tmp_path: Path) -> None:
    args = ["--data.template.template", "# {problem}: [x]", "--data.template.chat", "true"]
    assert parse(tmp_path, CONFIG, *args).template == PromptTemplate("# {problem}: [x]", chat=True)
    # inside of an optional class
    source = parse(tmp_path, CONFIG, "--data.train.init_args.answer_pattern", "# (.)").train
    assert isinstance(source, HubSource)
    assert source.columns.answer_pattern == "# (.)"


def test_unusable_settings_name_their_remedy_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^template 'Q:' has no \{problem\}: write it where"):
        parse(tmp_path, CONFIG, "--data.template.template", "Q:")
    with pytest.raises(ValueError, match="answer_pattern '#' has 0 groups"):
        parse(tmp_path, CONFIG, "--data.train.init_args.answer_pattern", "#")


def test_local_files_stand_for_the_sources_of_the_evaluation_sets(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "local", "answer": 7}\n')
    source = numbered(2)
    data = PromptDataModule(val={"a": source}, test={"b": source}, local_files=str(tmp_path))
    data.set_tokenizer(tokenizer)
    data.setup("validate")
    assert [(problem.problem, problem.answer) for problem in data.evaluation_problems["a"]] == [("local", "7")]
    with pytest.raises(UserError, match=r"^Set 'b': There is no file '.*b\.jsonl'"):
        data.setup("test")
    assert source.loads == 0


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ['"answer": null', '"answer": " "', '"note": "no such column here"'])
def test_an_evaluation_set_with_a_missing_answer_is_refused_with_set_and_row(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, answer: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"problem": "1+1", "answer": 2}\n{"problem": "1+2", ' + answer + "}\n")
    data = PromptDataModule(val={"sums": FileSource(str(path))})
    data.set_tokenizer(tokenizer)
    message = f"Set 'sums': 1 of the 2 rows of '{path}' cannot be used: row 1 (no answer). Mend them, or leave them out"
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        data.setup("validate")


def test_repeated_indices_of_a_source_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    class Repeating(ProblemSource):
        def load(self) -> Dataset:
            return Dataset.from_dict({"problem": ["1", "2", "3"], "answer": ["1", "2", "3"], "index": [5, 6, 5]})

    data = PromptDataModule(val={"sums": Repeating()})
    data.set_tokenizer(tokenizer)
    with pytest.raises(UserError, match="set 'sums' repeat the index of an earlier one: rows 0 and 2 have 5"):
        data.setup("validate")


def test_a_verifier_column_reaches_the_problems(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("problem,answer,task\n1,1, math \n2,2,\n")
    data = PromptDataModule(val={"sums": FileSource(str(path), verifier_column="task")})
    data.set_tokenizer(tokenizer)
    data.setup("validate")
    assert [problem.verifier for problem in data.evaluation_problems["sums"]] == ["math", None]
    (tmp_path / "sums.jsonl").write_text('{"problem": "1", "answer": "1", "task": "choice"}\n')
    local = PromptDataModule(val=data.val, local_files=str(tmp_path))
    local.set_tokenizer(tokenizer)
    local.setup("validate")
    assert [problem.verifier for problem in local.evaluation_problems["sums"]] == ["choice"]


def test_the_modules_verifier_checks_gold_answers(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = Recorder(tokenizer)
    model.verifier = MultipleChoiceVerifier()
    source = FileSource(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("problem,answer\n1,A\n2,12\n3,C\n")
    with pytest.raises(UserError, match=r"1 of the 3 gold answers of the set 'a' can never be matched: row 1 "):
        make_trainer(tmp_path).validate(model, PromptDataModule(val={"a": source}), verbose=False)
    data = PromptDataModule(source, val={"a": source}, prompts_per_step=2, unmatched_gold="filter")
    with pytest.warns(UserWarning, match="1 of the 3 gold answers of the set 'train'"):
        make_trainer(tmp_path, max_epochs=1).fit(model, data)
    assert sorted(index for _, batch in model.seen for index in batch) == [0, 2]
    assert {problem.answer for problem in model.evaluated} == {"A", "C"}


class Sees(ExactVerifier):
    def verify(self, submission: Submission) -> Verification:
        raise NotImplementedError


def test_rows_reach_the_problems_of_a_verifier_that_looks_at_them(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"problem": text, "answer": "1", "level": {"of": len(text)}} for text in ("1", "1" * 50, "11")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = PromptDataModule(val={"a": FileSource(str(path)), "b": ArithmeticSource("val", size=2)}, max_prompt_tokens=9)
    for verifier, seen in ((ExactVerifier(), [{}, {}]), (Sees(), [rows[0], rows[2]])):
        model = Recorder(tokenizer)
        model.verifier = verifier
        with pytest.warns(UserWarning, match="1 of the 3 prompts"):  # row 1 is too long
            make_trainer(tmp_path).validate(model, data, verbose=False)
        assert [problem.row for problem in data.evaluation_problems["a"]] == seen
    # A source without rows of its own has those that it loads.
    assert {"problem", "answer", "kind", "solution"} == set(data.evaluation_problems["b"][0].row)
