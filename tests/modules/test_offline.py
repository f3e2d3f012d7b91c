"""The offline stage: the score learned from recorded solutions, against slow twins and through the command line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning import LaSeRScorer, LastTokenSelfReward
from laser_lightning.callbacks import ReferenceConstantCalibration
from laser_lightning.cli.command_line import main
from laser_lightning.data import ArithmeticSource, FileSource, PromptDataModule, RecordedSolution
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.recorded_batch import draw_recorded
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.model import EMBEDDED, PolicySettings

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
TINY_MODEL = f"--model.policy.config_overrides={TINY}"
HEAD = "--model.self_reward.init_args."


def make(**options: Any) -> SupervisedModule:
    torch.manual_seed(0)
    head = LastTokenSelfReward("<|reward|>", beta=0.5, reference=-6.0)
    module = SupervisedModule(
        PolicySettings(EMBEDDED, random_init=True, config_overrides=TINY), self_reward=head, **options
    )
    module.configure_model()
    return module


def problems(module: SupervisedModule) -> list[Problem]:
    """A right, a wrong and a truncated solution; a worked and a right one, which is longer; a worked one alone."""
    encode = module.tokenizer.encode
    rows: list[tuple[str, str | None, tuple[RecordedSolution, ...]]] = [
        ("1+2=", None, tuple(RecordedSolution(*s) for s in (("#3", 1.0), ("#4", 0.0), ("#1", 0.0, False)))),
        ("10+20=", None, tuple(RecordedSolution(*s) for s in (("#30", None), ("0+0=0;#30", 1.0)))),
        ("7*", "#", ()),
    ]
    return [Problem("train", i, p, p, encode(p), "", None, s, recorded=r) for i, (p, s, r) in enumerate(rows)]


def twin(module: SupervisedModule, prompt: str, text: str) -> tuple[float, float, int]:
    """The self-reward, the sum of token losses and the number of tokens of one unpadded solution."""
    ids, start = [*module.tokenizer.encode(prompt + text), module.tokenizer.eos_token_id], len(prompt)
    with torch.no_grad():
        logits = module.policy.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    losses = [-float(logits[place - 1, ids[place]]) for place in range(start, len(ids))]
    assert module.self_reward is not None
    return 0.5 * (float(logits[-1, module.self_reward.token_id]) + 6.0), sum(losses), len(losses)


def test_scores_and_losses_equal_those_of_single_unpadded_sequences() -> None:
    module = make(micro_batch_sequences=2)
    assert module.offline is not None
    batch = module.offline.batch(problems(module))
    found = module.offline.judge(batch)
    # Three places for each problem; what is missing is neither rewarded nor taught.
    assert batch.rewarded.tolist() == [True, True, True, False, True, False, False, False, False]
    assert batch.judged.tolist() == [True, True, False, False, True, False, False, False, False]
    assert batch.taught.tolist() == [True, False, False, True, True, False, True, False, False]
    expected = {0: ("1+2=", "#3"), 1: ("1+2=", "#4"), 4: ("10+20=", "0+0=0;#30")}
    for row, (prompt, text) in expected.items():
        assert float(found.scores[row]) == pytest.approx(twin(module, prompt, text)[0], abs=1e-5)
    assert found.scores[2] == 0, "it was cut"
    taught = [("1+2=", "#3"), ("10+20=", "#30"), ("10+20=", "0+0=0;#30"), ("7*", "#")]
    losses = [twin(module, *one)[1:] for one in taught]
    assert float(found.token_losses) == pytest.approx(sum(loss for loss, _ in losses), rel=1e-5)
    assert int(found.tokens) == sum(tokens for _, tokens in losses) == 3 + 4 + 10 + 2


def test_the_constant_is_the_mean_behind_the_first_recorded_solutions() -> None:
    module = make()
    assert module.offline is not None
    found, emitted = ReferenceConstantCalibration(group_size=2)._recorded(module.offline, problems(module))
    # The first two of each problem; worked ones too, the truncated third not. beta is 0.5 and the constant -6.
    chosen = [("1+2=", "#3"), ("1+2=", "#4"), ("10+20=", "#30"), ("10+20=", "0+0=0;#30"), ("7*", "#")]
    expected = [twin(module, *one)[0] / 0.5 - 6.0 for one in chosen]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert emitted.tolist() == [False] * 5


def test_some_of_the_solutions_are_drawn_by_step_and_problem() -> None:
    many = Problem("train", 3, "", "", [5], "", recorded=tuple(RecordedSolution(str(i), 0.0) for i in range(20)))
    first, again, other = (draw_recorded(many, 5, seed) for seed in ("0 1", "0 1", "0 2"))
    assert first == again != other
    numbers = [int(s.text) for s in first]
    assert len(set(numbers)) == 5
    assert numbers == sorted(numbers)
    assert draw_recorded(many, None, "0 1") == draw_recorded(many, 20, "0 1") == many.recorded


def rows(path: Path, name: str) -> list[float]:
    return [float(row[name]) for row in csv.DictReader(path.open()) if row.get(name)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of problem, response and reward: the sum of two digits, half of them wrong; a few are worked ones."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        {"q": f"{a}+{b}", "response": f"#{a + b + slip}", "score": None if a == 9 and not slip else slip == 0}
        for a in range(1, 10)
        for b in range(1, 5)
        for slip in (0, 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def options(recorded: Path, run: Path, steps: int = 4) -> list[str]:
    source = {"path": str(recorded), "problem_column": "q", "answer_column": None, "solution_column": "response"}
    source |= {"reward_column": "score"}
    found = {"class_path": "laser_lightning.data.FileSource", "init_args": source}
    (overlay := run.with_suffix(".yaml")).write_text(
        json.dumps({"data": {"train": found, "val": {"arithmetic": found}}})
    )
    return [
        "--config=offline",
        f"--config={overlay}",
        f"--run_dir={run}",
        "--model.policy.random_init=true",
        TINY_MODEL,
        f"{HEAD}beta=0.5",
        "--data.prompts_per_step=8",
        f"--trainer.max_steps={steps}",
        "--trainer.val_check_interval=2",
        "--trainer.enable_progress_bar=false",
        "--calibration.init_args.max_emission_rate=1.0",
        "--checkpoint.init_args.every_n_train_steps=2",
        "--checkpoint.init_args.save_top_k=-1",
        "--summary=null",
    ]


def test_any_rows_train_the_score_and_a_killed_run_goes_on_bit_for_bit(recorded: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert main(["fit", *options(recorded, whole)]) == 0
    for name in ("train/self_reward_loss", "train/supervised_loss", "train/self_reward/auroc_within"):
        assert len(rows(whole / "metrics.csv", name)) == 4
    measured = rows(whole / "metrics.csv", "val/arithmetic/self_verification/mixed_problems")
    assert set(measured) == {32.0}, "the 36 problems but those of 9, whose right solutions have no reward"
    assert rows(whole / "metrics.csv", "val/arithmetic/self_verification/f1")
    assert rows(whole / "metrics.csv", "val/arithmetic/loss")

    assert main(["fit", *options(recorded, half, steps=2)]) == 0
    (checkpoint,) = (half / "checkpoints").glob("*step=2.ckpt")
    assert main(["fit", *options(recorded, half), f"--ckpt_path={checkpoint}"]) == 0
    first, second = (
        torch.load(next((run / "checkpoints").glob("*step=4.ckpt")), weights_only=False) for run in (whole, half)
    )
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name


def test_from_kept_solutions_to_a_scorer(tmp_path: Path) -> None:
    """Evaluate, train on what was kept, export; the scorer's scores and those of a LaSeR run are the module's."""
    kept = tmp_path / "solutions"
    common = ["--trainer.enable_progress_bar=false", "--summary=null"]
    assert (
        main(
            [
                "validate",
                "--config=quickstart",
                "--config=eval/collect",
                f"--run_dir={kept}",
                "--model.evaluation.samples=4",
                "--data.val.solved.init_args.size=6",
                "--data.val.arithmetic.init_args.size=4",
                "--calibration.init_args.prompts=2",
                "--figures=null",
                "--report=null",
                *common,
            ]
        )
        == 0
    )
    run = tmp_path / "offline"
    fit = [
        "fit",
        "--config=offline",
        f"--run_dir={run}",
        f"--data.train.init_args.path={kept}/kept/validate/solved",
        "--data.train.init_args.problems.init_args.size=6",
        f"--data.val.arithmetic.init_args.path={kept}/kept/validate/arithmetic",
        "--data.val.arithmetic.init_args.problems.init_args.size=4",
        "--data.prompts_per_step=3",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--export.init_args.monitor=null",
        *common,
    ]
    assert main(fit) == 0
    export = run / "export/last"
    module = SupervisedModule.load_from_checkpoint(next((run / "checkpoints").glob("*.ckpt")))
    assert module.offline is not None
    assert module.self_reward is not None
    scorer = LaSeRScorer.from_pretrained(export)
    assert scorer.settings.reference_constant == float(module.self_reward.reference_constant)
    texts = ["#3", "1+2=3;#3", "#4"]
    prompt = module.tokenizer.encode("1+2=")
    one = Problem("train", 0, "1+2=", "1+2=", prompt, "", recorded=tuple(RecordedSolution(t, 1.0) for t in texts))
    ours = module.offline.judge(module.offline.batch([one])).scores
    theirs = [solution.self_reward for solution in scorer.score(["1+2="] * 3, texts)]
    assert theirs == pytest.approx(ours.tolist(), abs=1e-5)

    again = tmp_path / "again"
    options = [f"--run_dir={again}", f"--model.policy.path={export}", f"{HEAD}reference=exported"]
    options += ["--data.val.arithmetic.init_args.size=1", "--model.evaluation.samples=2", "--figures=null"]
    assert main(["validate", "--config=quickstart", *options, "--report=null", *common]) == 0
    with (again / "kept/validate/arithmetic/rank0.jsonl").open() as file:
        assert json.loads(file.readline())["reference"] == scorer.settings.reference_constant


def refused(module: SupervisedModule, *sets: Problem) -> None:
    assert module.offline is not None
    module.offline.check({"train": list(sets)}, trains=True)


def test_refusals() -> None:
    module = make()
    first = problems(module)[0]
    with pytest.raises(UserError, match="train has no rewards"):
        refused(module, problems(module)[2])
    with pytest.raises(UserError, match="Row 0 of the set 'train' has no solution"):
        refused(module, first._replace(recorded=()))
    other = first.recorded[0]._replace(prompt_fingerprint="0" * 16)
    with pytest.raises(UserError, match="are of another prompt"):
        refused(module, first._replace(recorded=(other,)))
    for bad, why in (
        ({"supervised_weight": -1.0}, "supervised_weight is -1.0"),
        ({"solutions_per_problem": 1}, "at least 2"),
    ):
        with pytest.raises(UserError, match=why):
            make(**bad)
    for head, why in (
        (LastTokenSelfReward("<|reward|>", reference="exact"), "reference is exact"),
        (LastTokenSelfReward("<|reward|>", loss_weight=0.0), "loss_weight is 0"),
    ):
        with pytest.raises(UserError, match=why):
            SupervisedModule(PolicySettings(EMBEDDED, random_init=True), self_reward=head)


def test_rows_of_a_prompt_are_one_problem(recorded: Path) -> None:
    data = PromptDataModule(
        train=FileSource(str(recorded), "q", None, "response", reward_column="score"), prompts_per_step=4
    )
    data.set_tokenizer(make().tokenizer)
    data.setup("fit")
    assert len(data.train_problems) == 36
    assert data.train_problems[0].recorded == (RecordedSolution("#2", 1.0), RecordedSolution("#3", 0.0))
    assert data.train_problems[0].solution is None
    assert data.train_problems[-1].recorded == (RecordedSolution("#13", None), RecordedSolution("#14", 0.0))
    assert ArithmeticSource(size=1).load().column_names == ["problem", "answer", "kind", "solution"]
