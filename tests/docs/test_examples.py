"""The files that the documentation shows run as they stand there: from another directory, through the command line."""

import csv
import io
import json
import math
import re
import shutil
import statistics
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from fractions import Fraction
from pathlib import Path
from runpy import run_module, run_path
from typing import Any

import pytest
import torch

from fake_server import FakeServer
from fake_vllm import FakeVLLM
from laser_lightning.policy.model import Policy

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
SHORT = [
    "--trainer.enable_progress_bar=false",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=0",
    "--data.train.init_args.size=64",
    "--data.prompts_per_step=8",
    "--calibration.prompts=8",
    "--figures=null",
    "--export.at_end=false",
    "--run_dir=run",
]


def command(*words: str, directory: Path) -> str:
    """What ``python WORDS`` prints in a directory, where it succeeds.

    It runs in this process: a new one would import torch and Lightning for longer than it takes to run.
    """
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(directory)
        patch.syspath_prepend(directory)
        if words[0] == "-m":
            patch.setattr(sys, "argv", list(words[1:]))
            with pytest.raises(SystemExit) as end:
                run_module(words[1], run_name="__main__")
            assert end.value.code == 0
        else:
            patch.setattr(sys, "argv", list(words))
            run_path(words[0], run_name="__main__")
    for path in directory.glob("*.py"):
        sys.modules.pop(path.stem, None)  # the next test may have another one of that name
    return printed.getvalue()


def fit(example: str, *options: str, directory: Path) -> str:
    """What two steps of the quickstart print, with an example beside them in a directory."""
    shutil.copy(DOCS / "examples" / example, directory)
    return command("-m", "laser_lightning", "fit", "--config=quickstart", *SHORT, *options, directory=directory)


def steps(run: Path) -> list[dict[str, str]]:
    """The metrics of the training steps."""
    return [row for row in csv.DictReader((run / "metrics.csv").open()) if row["train/reward"]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_file_is_short_and_shown(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40
    pages = [page.read_text() for page in DOCS.glob("*.md")]
    assert any(f'--8<-- "docs/examples/{path.name}"' in page for page in pages)


def test_a_callback(tmp_path: Path) -> None:
    # -5: every solution is "believed in", so the share is that of the wrong ones.
    fit(
        "my_callback.py",
        "--trainer.callbacks+=my_callback.ConfidentMistakes",
        "--trainer.callbacks.threshold=-5",
        directory=tmp_path,
    )
    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    mistakes = lines(tmp_path / "run/mistakes.jsonl")
    assert len(steps(tmp_path / "run")) == len(mistakes) == 2
    for number, (row, mistake) in enumerate(zip(steps(tmp_path / "run"), mistakes, strict=True)):
        wrong = [line for line in solutions if line["step"] == number and line["reward"] == 0]
        assert float(row["train/confident_mistakes"]) == pytest.approx(len(wrong) / 64)
        assert mistake["self_reward"] == pytest.approx(max(line["self_reward"] for line in wrong))
        assert mistake["response"] in [line["response"] for line in wrong if line["problem"] == mistake["problem"]]


def test_a_verifier(tmp_path: Path) -> None:
    sums = "{add3: 1, add5: 1}"
    options = ["--model.verifier=my_verifier.LastNumber", "--model.verifier.tolerance=0.1"]
    options += [f"--data.train.kinds={sums}", f"--data.val.arithmetic.kinds={sums}"]
    fit("my_verifier.py", *options, directory=tmp_path)
    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    assert len(solutions) == 2 * 64
    for line in solutions:
        number = int(re.findall(r"\d+", line["response"])[-1])
        assert line["answer"] == f"{number:.12g}"
        assert line["reward"] == float(abs(number - int(line["gold"])) <= 0.1 * int(line["gold"]))
    assert any(line["reward"] and line["answer"] != line["gold"] for line in solutions), "nothing was forgiven"


def test_a_reward_function_among_several(tmp_path: Path) -> None:
    page = (DOCS / "your_model_and_data.md").read_text()
    (tmp_path / "rewards.yaml").write_text(page.split("# rewards.yaml:")[1].split("\n", 1)[1].split("```")[0])
    fit("my_reward.py", "--config=rewards.yaml", directory=tmp_path)
    for row in steps(tmp_path / "run"):
        assert float(row["train/reward/short"]) == 1.0  # no response of the embedded model has 20 words
        assert float(row["train/policy_reward"]) == pytest.approx(float(row["train/reward/right"]) + 0.1, abs=1e-6)
        assert float(row["train/reward"]) == float(row["train/reward/right"]) > 0


def test_a_policy_loss(tmp_path: Path) -> None:
    options = ["--model.policy_loss=my_loss.WeightedReinforce", "--model.policy_loss.positive_weight=0.25"]
    # Without mixing, so that the log of solutions says all that the loss depends on.
    fit("my_loss.py", *options, "--model.advantage.mixing=null", directory=tmp_path)
    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    for number, row in enumerate(steps(tmp_path / "run")):
        of_step = [line for line in solutions if line["step"] == number]
        total, tokens = 0.0, 0
        for start in range(0, 64, 8):
            group = of_step[start : start + 8]
            rewards = [line["reward"] for line in group]
            mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
            for line in group:
                advantage = (line["reward"] - mean) / (deviation + 1e-6)
                # In the only update of a rollout the ratios are 1: -w A at each of the solution's tokens.
                total -= (0.25 if advantage > 0 else 1.0) * advantage * line["response_tokens"]
                tokens += line["response_tokens"]
        assert total / tokens > 0.01, "mistakes outweigh successes"
        assert float(row["train/policy_loss"]) == pytest.approx(total / tokens, rel=1e-4)


def test_a_policy_loss_that_reads_distributions(tmp_path: Path) -> None:
    # With the bound at 1 every token is one at which the policy hesitated, and the loss is the clipped one.
    for most, directory in (("0.7", tmp_path / "some"), ("1.1", tmp_path / "all")):
        directory.mkdir()
        options = ["--model.policy_loss=my_reading.HesitantTokens", f"--model.policy_loss.most={most}"]
        options.append("--model.self_reward.weights=ClassBalancedWeights")  # all solutions get a pass, and are counted
        fit("my_reading.py", *options, "--trainer.max_steps=1", directory=directory)
    (some,), (every,) = steps(tmp_path / "some/run"), steps(tmp_path / "all/run")
    assert 0.01 < float(some["train/hesitant"]) < 0.9
    assert float(every["train/hesitant"]) == pytest.approx(1.0)
    assert some["train/reward"] == every["train/reward"]
    assert some["train/policy_loss"] != every["train/policy_loss"]


def policy_loss_of(step: list[dict[str, Any]], advantages: Callable[[list[dict[str, Any]]], list[float]]) -> float:
    """The mean over tokens of -A, for the solutions of a step in their groups of 8: ratios are 1 in the only update."""
    groups = [step[start : start + 8] for start in range(0, 64, 8)]
    weighed = [(a, line["response_tokens"]) for g in groups for a, line in zip(advantages(g), g, strict=True)]
    return -sum(a * tokens for a, tokens in weighed) / sum(tokens for _, tokens in weighed)


def normalised(values: list[float]) -> list[float]:
    mean = statistics.mean(values)
    return [0.0 if len(set(values)) == 1 else (v - mean) / (statistics.stdev(values) + 1e-6) for v in values]


def test_an_advantage_estimator(tmp_path: Path) -> None:
    options = ["--model.advantage.estimator=my_estimator.MovingBaseline", "--model.advantage.estimator.decay=0.75"]
    fit("my_estimator.py", *options, "--model.advantage.mixing=null", directory=tmp_path)
    solutions, baseline = lines(tmp_path / "run/solutions/train.jsonl"), 0.0
    for number, row in enumerate(steps(tmp_path / "run")):
        of_step = [line for line in solutions if line["step"] == number]
        expected = policy_loss_of(of_step, lambda group: [line["reward"] - baseline for line in group])  # noqa: B023
        assert float(row["train/policy_loss"]) == pytest.approx(expected, rel=1e-4)
        baseline = 0.75 * baseline + 0.25 * statistics.mean(line["reward"] for line in of_step)
    assert baseline > 0.05


def test_a_mixing(tmp_path: Path) -> None:
    options = ["--model.advantage.mixing=my_mixing.MixWhereRight", "--model.advantage.mixing.tau=0.5"]
    fit("my_mixing.py", *options, "--model.advantage.mixing.min_std=0", directory=tmp_path)

    def advantages(group: list[dict[str, Any]]) -> list[float]:
        rewards = [line["reward"] for line in group]
        scores = [min(max(line["self_reward"], 0.0), 1.0) for line in group]
        right = [score for score, reward in zip(scores, rewards, strict=True) if reward]
        wrong = [score for score, reward in zip(scores, rewards, strict=True) if not reward]
        if not right or not wrong or statistics.mean(right) <= statistics.mean(wrong):
            return normalised(rewards)
        mixed.append(group)
        return [(v + s) / 2 for v, s in zip(normalised(rewards), normalised(scores), strict=True)]

    solutions, mixed = lines(tmp_path / "run/solutions/train.jsonl"), []
    for number, row in enumerate(steps(tmp_path / "run")):
        expected = policy_loss_of([line for line in solutions if line["step"] == number], advantages)
        # Scores are logged with few digits.
        assert float(row["train/policy_loss"]) == pytest.approx(expected, rel=1e-2, abs=1e-3)
    assert mixed


def test_a_reward_shaper(tmp_path: Path) -> None:
    shaper = ["--model.advantage.shaping+=my_shaper.BrevityBonus", "--model.advantage.shaping.bonus=0.5"]
    fit(
        "my_shaper.py",
        *shaper,
        "--model.advantage.shaping.after_steps=1",
        "--model.advantage.mixing=null",
        directory=tmp_path,
    )

    def advantages(group: list[dict[str, Any]]) -> list[float]:
        mean = statistics.mean(line["response_tokens"] for line in group)
        return normalised([line["reward"] * (1 + 0.5 * (line["response_tokens"] < mean)) for line in group])

    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    first, second = steps(tmp_path / "run")
    plain = policy_loss_of(solutions[:64], lambda group: normalised([line["reward"] for line in group]))
    assert float(first["train/policy_loss"]) == pytest.approx(plain, rel=1e-4)
    shaped = policy_loss_of(solutions[64:], advantages)
    assert float(second["train/policy_loss"]) == pytest.approx(shaped, rel=1e-4)


def test_a_function_that_shapes_rewards(tmp_path: Path) -> None:
    shaper = ["--model.advantage.shaping+=laser_lightning.FunctionShaper"]
    shaper += ["--model.advantage.shaping.function=my_shaping_function.price_tokens", "--model.advantage.mixing=null"]
    fit("my_shaping_function.py", *shaper, directory=tmp_path)

    def advantages(group: list[dict[str, Any]]) -> list[float]:
        return normalised([line["reward"] - 0.01 * line["response_tokens"] for line in group])

    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    first, second = steps(tmp_path / "run")
    plain = policy_loss_of(solutions[:64], lambda group: normalised([line["reward"] for line in group]))
    assert float(first["train/policy_loss"]) == pytest.approx(plain, rel=1e-4)
    shaped = policy_loss_of(solutions[64:], advantages)
    assert float(second["train/policy_loss"]) == pytest.approx(shaped, rel=1e-4)


def test_a_term_of_the_loss_with_a_teacher(tmp_path: Path) -> None:
    term = ["--model.update.terms+=my_term.KeepNearTeacher", "--model.update.terms.weight=2"]
    fit(
        "my_term.py", *term, "--model.teacher.path=embedded", "--model.optimizer.learning_rate=0.01", directory=tmp_path
    )
    first, second = steps(tmp_path / "run")
    assert float(first["train/keep_near_teacher"]) == pytest.approx(0.0, abs=1e-9)  # the teacher is the policy itself
    assert float(second["train/keep_near_teacher"]) > 1e-4
    assert float(second["train/teacher_pass_seconds"]) > 0


def test_an_importance_correction(tmp_path: Path) -> None:
    # An upper bound of 1 masks the tokens that the trainer finds a rounding likelier than the engine.
    options = ["--model.update.importance=my_importance.MaskedImportance", "--model.update.importance.high=1"]
    fit("my_importance.py", *options, directory=tmp_path)
    for row in steps(tmp_path / "run"):
        masked = float(row["train/importance_capped"])
        assert 0.01 < masked < 0.99
        assert float(row["train/importance_weight"]) == pytest.approx(1 - masked, abs=1e-5)


def test_a_kl_divergence(tmp_path: Path) -> None:
    options = ["--model.update.kl=my_kl.HuberKL", "--model.update.kl.delta=0.5", "--model.update.kl_coef=0.1"]
    fit("my_kl.py", *options, "--model.optimizer.learning_rate=0.01", directory=tmp_path)
    first, second = steps(tmp_path / "run")
    assert float(first["train/kl"]) == pytest.approx(0.0, abs=1e-9)
    assert float(second["train/kl"]) > 1e-4


def test_a_hold_of_the_policy(tmp_path: Path) -> None:
    judging = ["--model.update.judging.updates=3", "--model.update.judging.learning_rate=1e-3"]
    judging += ["--model.optimizer.schedule=constant"]  # a rate near 0 moves no policy that could be held
    hold = ["--model.update.judging.hold=my_hold.HoldFalling", "--model.update.judging.hold.slack=0"]
    fit("my_hold.py", *judging, *hold, directory=tmp_path)
    for row in steps(tmp_path / "run"):
        assert float(row["train/judging/updates"]) == 3
        # 0 in the first of the three updates, in which the policy is the one of before them.
        assert float(row["train/judging/hold"]) > 1e-4
        assert float(row["train/old_log_probs_pass_seconds"]) > 0


def test_a_self_reward_head(tmp_path: Path) -> None:
    # From the first step on, so that the loss is that of solutions of which the log knows the score.
    options = ["--model.self_reward=my_head.HingeSelfReward", "--model.self_reward.margin=1.5"]
    phases = ["--model.phases.reasoning_steps=0", "--model.phases.self_reward_steps=0"]
    fit("my_head.py", *options, *phases, directory=tmp_path)
    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    for number, row in enumerate(steps(tmp_path / "run")):
        of_step = [line for line in solutions if line["step"] == number and line["finished"]]
        errors: dict[bool, list[float]] = {True: [], False: []}
        for line in of_step:
            gap = math.log(line["self_reward"] / (1 - line["self_reward"]))  # the inverse of the sigmoid
            right = line["reward"] > 0.5
            errors[right].append(max(0.0, 1.5 - gap if right else 1.5 + gap))
        loss = sum(statistics.mean(of_class) / 2 for of_class in errors.values() if of_class)
        assert float(row["train/self_reward_loss"]) == pytest.approx(loss, rel=1e-3)
        assert float(row["train/mismatch/reward_token_log_prob"]) < 1e-4


def test_weights_of_the_self_rewarding_loss(tmp_path: Path) -> None:
    options = ["--model.self_reward.weights=my_weights.MixedGroupsOnly", "--model.self_reward.weights.smallest_group=3"]
    phases = ["--model.phases.reasoning_steps=0", "--model.phases.self_reward_steps=0"]
    fit("my_weights.py", *options, *phases, directory=tmp_path)
    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    counts = []
    for number, row in enumerate(steps(tmp_path / "run")):
        of_step = [line for line in solutions if line["step"] == number]
        errors = []
        for start in range(0, 64, 8):
            group = of_step[start : start + 8]
            finished = [line for line in group if line["finished"]]
            if len({line["reward"] for line in group}) > 1 and len(finished) >= 3:
                errors += [(line["self_reward"] - line["reward"]) ** 2 for line in finished]
        counts.append(len(errors))
        assert float(row["train/self_reward_loss"]) == pytest.approx(statistics.mean(errors), rel=1e-3)
    assert 0 < min(counts) < 64


def test_a_rollout_engine(tmp_path: Path) -> None:
    # 15 tokens: some solutions of countdowns and equations need just this many, and many need one or two more.
    options = ["--model.engine=my_engine.SecondChance", "--model.engine.engine=TransformersEngine"]
    sizes = ["--model.sampling.max_response_tokens=15", "--data.prompts_per_step=24"]
    printed = fit("my_engine.py", *options, *sizes, directory=tmp_path)
    found = re.findall(r"drew (\d+) of 192 responses again, (\d+) ended", printed)
    counts = [(int(cut), int(ended)) for cut, ended in found]
    rows = steps(tmp_path / "run")
    assert len(rows) == len(counts) == 2
    for row, (cut, ended) in zip(rows, counts, strict=True):
        assert cut > 0
        assert float(row["train/truncation_rate"]) == pytest.approx((cut - ended) / 192)
        # The trainer's own pass agrees with what came back: the rows of the second draw are in their places.
        assert float(row["train/mismatch/token_log_prob"]) < 1e-4
        assert float(row["train/mismatch/reward_token_log_prob"]) < 1e-4
    assert sum(ended for _, ended in counts) > 0


def test_a_rollout_engine_in_a_process_draws_ahead(tmp_path: Path) -> None:
    options = ["--config=engine/process", "--model.engine.engine=my_engine.SecondChance", "--model.engine.threads=1"]
    options += ["--model.engine.engine.engine=TransformersEngine", "--trainer.max_steps=3"]
    fit("my_engine.py", *options, directory=tmp_path)
    rows = steps(tmp_path / "run")
    assert [float(row["train/rollout/staleness"]) for row in rows] == [0, 1, 1]
    # Two sums of the same numbers at first, and then weights that are an update apart.
    mismatches = [float(row["train/mismatch/token_log_prob"]) for row in rows]
    assert mismatches[0] < 1e-4 < mismatches[1]
    assert all(0.9 < float(row["train/importance_weight"]) < 1.1 for row in rows)


def test_a_way_of_weights_to_servers(tmp_path: Path, make_policy: Callable[..., Policy]) -> None:
    vllm = FakeVLLM(make_policy("embedded").lm.eval())
    before = [weight.clone() for weight in vllm.lm.parameters()]
    server = FakeServer(vllm.answers)
    server.start()
    options = [
        "--config=engine/server",
        f"--model.engine.urls=[{server.url}]",
        "--model.sampling.max_response_tokens=20",
    ]
    options += ["--model.engine.weight_transfer=my_transfer.HalfSizeFiles", "--model.self_reward.reference=-10"]
    options += ["--model.engine.weight_transfer.dtype=bfloat16", "--data.prompts_per_step=4", "--model.group_size=4"]
    fit("my_transfer.py", *options, directory=tmp_path)
    server.stop()
    assert server.count("/collective_rpc") >= 2  # a step in which nobody learns anything is taken again
    weights = list(vllm.lm.parameters())
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in weights)
    assert not all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    gaps = [float(row["train/mismatch/token_log_prob"]) for row in steps(tmp_path / "run")]
    assert len(gaps) >= 2
    assert all(1e-6 < gap < 0.1 for gap in gaps)


def test_an_optimizer(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from laser_lightning.policy.model import model_path

    options = ["--model.optimizer.algorithm=my_optimizer.Lion", "--model.optimizer.algorithm.momentum=0.95"]
    options.append("--model.update.judging=null")  # whose updates would be steps of it too
    fit("my_optimizer.py", *options, directory=tmp_path)
    first, second = (float(row["train/learning_rate"]) for row in steps(tmp_path / "run"))
    assert (first, second) == pytest.approx((1e-4, 2e-4))  # half of it in the warm-up of one step
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    before = load_file(Path(model_path("embedded")) / "model.safetensors")
    # Each weight moved by each of the two rates, up or down, or has no gradient: where both went the same way, by
    # their sum, and otherwise by their difference.
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (saved["state_dict"][f"policy.lm.{name}"] - before[name].float()).abs()
    together = (moved - (first + second)).abs() < 1e-7
    apart = (moved - (second - first)).abs() < 1e-7
    assert bool((together | apart).all())
    assert bool(together.any())
    assert bool(apart.any())
    assert [group["kind"] for group in saved["optimizer_states"][0]["param_groups"]] == [
        "matrix",
        "embedding",
        "vector",
    ]
    assert {group["momentum"] for group in saved["optimizer_states"][0]["param_groups"]} == {0.95}


def test_a_source(tmp_path: Path) -> None:
    equations = {f"{left}+{right}": left + right for left in (3, 14, 27, 58) for right in (5, 16, 98, 21)}
    (tmp_path / "sums.txt").write_text("".join(f"{problem} = {answer}\n" for problem, answer in equations.items()))
    # The options of SHORT are for the source of the quickstart.
    shutil.copy(DOCS / "examples" / "my_source.py", tmp_path)
    options = [option for option in SHORT if "size" not in option]
    source = ["--data.train=my_source.EquationFile", "--data.train.path=sums.txt"]
    command("-m", "laser_lightning", "fit", "--config=quickstart", *options, *source, directory=tmp_path)
    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    assert {line["problem"]: int(line["gold"]) for line in solutions} == equations, "two steps of 8 are all problems"
    assert {line["kind"] for line in solutions} == {"sum"}


def test_a_vote_rule(tmp_path: Path) -> None:
    shutil.copy(DOCS / "examples" / "my_vote_rule.py", tmp_path)
    few = [
        "--data.val.arithmetic.size=24",
        "--data.val.arithmetic.kinds={count3: 1}",
        "--calibration.prompts=8",
        "--figures=null",
        "--run_dir=run",
    ]
    rule = ["--model.evaluation.votes+=my_vote_rule.MeanScore", "--model.evaluation.votes.least=2"]
    command("-m", "laser_lightning", "validate", "--config=quickstart", *few, *rule, directory=tmp_path)
    solutions = lines(tmp_path / "run/solutions/validate.jsonl")
    assert len(solutions) == 24 * 8
    values, alone, several = [], 0, 0
    for start in range(0, 192, 8):
        scores: dict[str, list[Fraction]] = {}
        right: dict[str, float] = {}
        for line in solutions[start : start + 8]:
            if line["answer"] is not None:
                scores.setdefault(line["answer"], []).append(Fraction(min(max(line["self_reward"], 0.0), 1.0)))
                right[line["answer"]] = line["reward"]
        standings = {answer: (len(own) >= 2, sum(own) / len(own)) for answer, own in scores.items()}
        winners = [answer for answer in standings if standings[answer] == max(standings.values())]
        values.append(statistics.mean(right[answer] for answer in winners) if winners else 0.0)
        alone += max(standings.values(), key=lambda standing: standing[1]) != max(standings.values())
        several += len(winners) > 1
    assert alone, "the bound decided nothing"
    assert several, "nothing tied"
    (row,) = [row for row in csv.DictReader((tmp_path / "run/metrics.csv").open()) if row["val/arithmetic/pass@1"]]
    assert float(row["val/arithmetic/mean_score@8"]) == pytest.approx(statistics.mean(values), rel=1e-6)
    assert float(row["val/arithmetic/mean_score@8"]) != float(row["val/arithmetic/maj@8"])


def test_a_curriculum(tmp_path: Path) -> None:
    options = ["--data.curriculum=my_curriculum.InstructiveKinds", "--data.curriculum.temperature=0.1"]
    # Without mixing, so that the log of solutions says all that advantages depend on.
    options += ["--model.advantage.mixing=null", "--trainer.max_steps=3"]
    fit("my_curriculum.py", *options, directory=tmp_path)
    solutions = lines(tmp_path / "run/solutions/train.jsonl")
    assert len(solutions) == 3 * 64
    taught: dict[str, float] = {}
    for step in range(3):
        groups: dict[str, list[float]] = {}
        of_step = [line for line in solutions if line["step"] == step]
        for start in range(0, 64, 8):
            rewards = [line["reward"] for line in of_step[start : start + 8]]
            mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
            sizes = [abs(reward - mean) / (deviation + 1e-6) for reward in rewards]
            groups.setdefault(of_step[start]["kind"], []).append(statistics.mean(sizes))
        # a running mean from 0 on, of which the latest step is half
        for kind, sizes in groups.items():
            taught[kind] = 0.5 * taught.get(kind, 0.0) + 0.5 * statistics.mean(sizes)
    state = torch.load(tmp_path / "run/checkpoints/step=3.ckpt", weights_only=True)["PromptDataModule"]
    assert state["curriculum"] == "InstructiveKinds(temperature=0.1, rate=0.5)"
    known = {kind: value for kind, value in state["learned"]["taught"].items() if value or kind in taught}
    assert known == pytest.approx(taught, abs=1e-5)


def test_the_use_of_an_export(tmp_path: Path) -> None:
    from laser_lightning.objective.self_reward.settings import SelfRewardSettings
    from laser_lightning.policy.model import model_path

    export = shutil.copytree(model_path("embedded"), tmp_path / "export")
    SelfRewardSettings("<|reward|>", 3, beta=0.25, reference_constant=-21.4, step=0).save(export)
    printed = command(str(DOCS / "examples/vote.py"), "export", "18,6,5>29", "756+894", directory=tmp_path).splitlines()
    assert re.fullmatch(r"18,6,5>29: .+ \([1-8] of 8 solutions\)", printed[0])
    assert re.fullmatch(r"756\+894: 1650 \([1-8] of 8 solutions\)", printed[3])
    assert [bool(line.startswith("    ")) for line in printed] == [False, True, True] * 2
