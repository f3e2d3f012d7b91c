"""Responses that judge themselves: DeepSeekMath-V2's generator and SPOC, on scripted responses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from whole_runs import PlusVerifier, quiet_trainer, tiny_policy, written

from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.self_correction import SelfCorrection
from laser_lightning.modules.self_evaluating import SelfEvaluatingModule
from laser_lightning.modules.self_evaluation import SelfEvaluation
from laser_lightning.modules.spoc import MessageStep, SPOCModule
from laser_lightning.modules.teaching import gather_outcome
from laser_lightning.modules.written_judgement import WrittenJudgement
from laser_lightning.objective.advantages import AdvantageSettings, LeaveOneOut
from laser_lightning.objective.judging import JudgingSettings
from laser_lightning.objective.losses import GOPDPolicyLoss, PolicyLoss, TopKDistillation
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.shaping import OverlongPenalty
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import SampledStep
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.verifiers.settings import VerificationSettings

FORM = SelfEvaluation("", "?", "^([01])$", {"0": 0.0, "1": 1.0}, refinement_template="{problem}|{response}")
TURNS = SelfCorrection(r"\?(y|n);?", "y")

# Two problems with four responses each; solutions with "+" are right, and "~" marks a response cut at the limit.
EVALUATED = ["+a?1", "-b?1", "+c?0", "-d?0", "+e?1", "+f?1", "~g?1", "-hh"]
CORRECTED = ["+a?y", "-b?n;+c?y", "-d?yxx", "+e?n;", "+f", "+g", "-h", "~iii"]
HALF = 3**0.5 / 2  # what 1 is worth in a group of two ones and two zeros: (1 - 1/2) / sqrt(4 * 1/4 / 3)


class ScriptedEngine(RolloutEngine):
    """Writes these responses, and where it is asked to do better the next of ``attempts``, at their end "+r?1"."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.tokenizer: Any = None
        self.texts = texts
        self.refined: list[str] = []
        self.attempts: list[str] = []

    def generate(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        asked = [self.tokenizer.decode(prompt) for prompt in prompts]
        texts = list(self.texts[: len(prompts) * group_size])
        if not asked or "|" in asked[0]:
            self.refined += asked
            texts = [self.attempts.pop(0) if self.attempts else "+r?1"] * len(asked)
        return written(self.tokenizer, prompts, texts)


def make(kind: type[WrittenJudgement], texts: Sequence[str], **options: Any) -> Any:
    class Watched(kind):  # type: ignore[misc, valid-type]
        def sample_groups(self, problems: list[Problem]) -> SampledStep:
            self.step = super().sample_groups(problems)
            return self.step

        def targets(self, *given: Any) -> Any:
            self.found = super().targets(*given)
            return self.found

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "policy": tiny_policy(),
        "self_reward": LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=-20.0),
        "verifier": PlusVerifier(),
        "group_size": 4,
        "sampling": Sampling(max_response_tokens=12),
        "engine": ScriptedEngine(texts),
        "verification": VerificationSettings(workers=0),
        "evaluation": EvaluationSettings(samples=4, at_start=False),
        "optimizer": OptimizerSettings(1e-2, algorithm="sgd", weight_decay=0.0, max_grad_norm=None),
    }
    model = Watched(**{**settings, **options})
    model.engine.tokenizer = model.tokenizer
    return model


def trained(tmp_path: Path, model: Any) -> dict[str, float]:
    run = quiet_trainer(tmp_path, 1)
    val = {"sums": ArithmeticSource("val", size=2)}
    data = PromptDataModule(train=ArithmeticSource("train", size=16), val=val, prompts_per_step=2)
    run.fit(model, datamodule=data)
    return {name: float(value) for name, value in run.callback_metrics.items()}


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


# ------------------------------------------------------------ DeepSeekMath-V2


def test_rewards_and_own_scores_of_a_step(tmp_path: Path) -> None:
    model = make(SelfEvaluatingModule, EVALUATED, self_evaluation=FORM)
    values = trained(tmp_path, model)
    rollout = model.step.sampled
    assert rollout.texts == EVALUATED
    # The verifier sees the solution alone.
    assert [v.answer for v in rollout.verifications] == ["+a", "-b", "+c", "-d", "+e", "+f", "~g", "-hh"]
    assert rollout.rewards.tolist() == [1, 0, 1, 0, 1, 1, 0, 0]
    # Truncated responses, and those without the form, have the own score 0.
    assert rollout.self_rewards.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    # 0.76 for a right solution, and 0.24 for a right score; nothing without the form.
    expected = [1.0, 0.0, 0.76, 0.24, 1.0, 1.0, 0.0, 0.0]
    assert rollout.policy_rewards.tolist() == pytest.approx(expected)
    # Mean 1/2, deviations 0.5, -0.5, 0.26, -0.26: squares sum up to 0.6352; then two ones and two zeros.
    std = (0.6352 / 3) ** 0.5
    advantages = [0.5 / std, -0.5 / std, 0.26 / std, -0.26 / std, HALF, HALF, -HALF, -HALF]
    assert model.found.advantages.tolist() == pytest.approx(advantages, abs=1e-5)
    assert values["train/self_evaluation/format_rate"] == pytest.approx(6 / 8)
    assert values["train/policy_reward"] == pytest.approx(4 / 8)
    assert values["train/reward"] == pytest.approx(4 / 8)
    # Own scores of the 4 right ones are 1 0 1 1, and of the wrong ones 1 0 0 0.
    assert values["train/self_reward/accuracy_on_correct"] == pytest.approx(3 / 4)
    assert values["train/self_reward/accuracy_on_incorrect"] == pytest.approx(3 / 4)


def test_an_evaluation_is_refined_until_the_own_score_is_1(tmp_path: Path) -> None:
    model = make(SelfEvaluatingModule, EVALUATED, self_evaluation=SelfEvaluation(**{**vars(FORM), "refinements": 2}))
    values = trained(tmp_path, model)
    rollout = model.last_rollout
    # Once: all four are then scored 1, that which was truncated among them.
    assert [asked.split("|")[1] for asked in model.engine.refined] == ["+c?0", "-d?0", "~g?1", "-hh"]
    assert rollout.texts == ["+a?1", "-b?1", "+r?1", "+r?1", "+e?1", "+f?1", "+r?1", "+r?1"]
    assert rollout.rewards.tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
    assert rollout.self_rewards.tolist() == [1] * 8
    # Both attempts are the response, with their <eos>; what is read of it is the last one, later on too.
    assert rollout.rollouts.response_lengths.tolist() == [5, 5, 10, 10, 5, 5, 9, 9]
    assert model.sampler.texts_of(rollout.rollouts) == rollout.texts
    assert values["val/sums/response/length_tokens"] == pytest.approx(58 / 8)
    assert values["val/sums/response/judging_tokens"] == 0
    assert values["val/sums/pass@1"] == pytest.approx(7 / 8)
    assert model.judgement_settings()["self_evaluation"]["refinements"] == 2
    # Kept solutions are final, and a rank without problems takes part where the engine is collective.
    model.engine.refined, model.engine.replays = [], True
    model.solve(rollout.problems, 4, model.sampling, torch.Generator())
    assert model.engine.refined == []
    model.engine.replays, model.engine.collective = False, True
    assert model.solve([], 4, model.sampling, torch.Generator()) is None


def a_problem(model: Any, dataset: str = "sums", index: int = 0) -> Problem:
    return Problem(dataset, index, "1+1=", "1+1=", model.tokenizer.encode("1+1="), "2")


def test_attempts_that_are_cut_end_nothing_and_discard_nothing() -> None:
    model = make(SelfEvaluatingModule, ["+a?0", "~b?1"], self_evaluation=FORM)
    model.configure_model()
    problem, generator = a_problem(model), torch.Generator()
    rollout = model.sampler.rollout([problem], 2, model.sampling, generator)
    rollout.rollouts.loss_mask = torch.ones_like(rollout.rollouts.response_ids, dtype=torch.bool)
    model.engine.attempts = ["~zz", "-r?0", "~y", "+s?1"]
    # Each round writes one attempt, for both. A cut one counts where there was nothing but cut ones.
    for asked, texts, rewards, lengths in (
        (["+a?0", "~b?1"], ["+a?0", "~zz"], [1, 0], [5 + 3, 4 + 3]),
        (["+a?0", "~zz"], ["-r?0", "-r?0"], [0, 0], [5 + 3 + 5, 4 + 3 + 5]),
        (["-r?0", "-r?0"], ["-r?0", "-r?0"], [0, 0], [5 + 3 + 5 + 2, 4 + 3 + 5 + 2]),
        (["-r?0", "-r?0"], ["+s?1", "+s?1"], [1, 1], [5 + 3 + 5 + 2 + 5, 4 + 3 + 5 + 2 + 5]),
    ):
        model.engine.refined = []
        model.sampler.refine(rollout, model.sampling, generator)
        assert [prompt.split("|")[1] for prompt in model.engine.refined] == asked
        assert rollout.texts == texts
        assert rollout.rewards.tolist() == rewards
        assert [v.answer for v in rollout.verifications] == [text.partition("?")[0] for text in texts]
        assert rollout.rollouts.finished.tolist() == [not text.startswith("~") for text in texts]
        # The tokens say the same, and are as many as were drawn.
        assert model.sampler.texts_of(rollout.rollouts) == texts
        assert rollout.rollouts.response_lengths.tolist() == lengths
        assert rollout.rollouts.sampling_log_probs.shape == rollout.rollouts.trained_mask.shape
    assert rollout.self_rewards.tolist() == [1, 1]
    model.engine.refined = []
    model.sampler.refine(rollout, model.sampling, generator)
    assert model.engine.refined == []


def test_a_refinement_that_cannot_be_asked_for_is_refused_before_the_first_step() -> None:
    form = replace(FORM, refinements=1, refinement_template="<new>{problem}|{response}")
    model = make(SelfEvaluatingModule, EVALUATED, self_evaluation=form)
    model.tokenizer.add_tokens(["<new>"])
    model.configure_model()
    data = PromptDataModule()
    data.set_tokenizer(model.tokenizer)
    data.evaluation_problems = {"sums": [a_problem(model, index=3)]}
    with pytest.raises(UserError, match="refinement prompt of row 3 of the set 'sums' contains the token '<new>'"):
        model.check_data(data)
    model.self_evaluation = replace(form, refinements=0)
    model.check_data(data)  # nothing is refined
    # "1+1=" and "|" are 5 tokens, the last response and the next one up to 12 each: 29 in all.
    for positions in (29, 28):
        shapes = {**tiny_policy().config_overrides, "max_position_embeddings": positions}
        policy = replace(tiny_policy(), config_overrides=shapes)
        model = make(
            SelfEvaluatingModule, ["~12345678901"], self_evaluation=replace(FORM, refinements=1), policy=policy
        )
        model.configure_model()
        if positions == 29:
            model.check_data(data)
            continue
        with pytest.raises(UserError, match=r"row 3 of the set 'sums' can have 17 tokens, .* into the 28 positions"):
            model.check_data(data)
        # Text is not always encoded as it was sampled, so that the prompt itself is looked at, too.
        rollout = model.sampler.rollout([a_problem(model)], 1, model.sampling, torch.Generator())
        with pytest.raises(UserError, match="A refinement prompt has 17 tokens, the last response among them"):
            model.sampler.refine(rollout, model.sampling, torch.Generator())


def test_the_papers_form() -> None:
    form = SelfEvaluation()
    response = (
        "## Solution\nIt is \\boxed{4}.\n\n## Self Evaluation\nHere is my evaluation of the solution:\nA step is left "
        "out.\n\nBased on my evaluation, the final overall score should be:\n\\boxed{0.5}"
    )
    assert form.read(response) == ("\nIt is \\boxed{4}.\n\n", 0.5)
    # 0.76 * 1 + 0.24 * (1 - 1/2), and for a wrong solution 0.24 * (1 - 1/2).
    assert form.reward(response, 1.0, 1.0) == pytest.approx(0.88)
    assert form.reward(response, 0.0, 0.0) == pytest.approx(0.12)
    for broken in (
        response.replace("0.5", "0.7"),  # no score of the rubric
        response + " or so",  # the score is not the end
        response.removeprefix("## Solution"),
        response.replace("## Self Evaluation", "## Self Evaluation\n## Self Evaluation"),
        response.replace("## Self Evaluation", "## Evaluation"),
        "",
    ):
        assert form.read(broken).score is None, broken
        assert form.reward(broken, 1.0, 1.0) == 0
    # A default is for responses without an evaluation, and not for one that cannot be read. 0.76 + 0.24 * (1 - 1/4).
    meanwhile = SelfEvaluation(default_score=0.75)
    assert meanwhile.read("It is 4.") == ("It is 4.", 0.75)
    assert meanwhile.reward("It is 4.", 1.0, 1.0) == pytest.approx(0.94)
    assert not meanwhile.is_written("It is 4.")
    assert meanwhile.is_written(response)
    assert meanwhile.read(response.replace("0.5", "0.7")).score is None
    assert form.read(response.replace("## Self Evaluation", "## Evaluation")).solution.endswith("\\boxed{0.5}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separator": ""}, "separator is empty"),
        ({"score_pattern": "("}, "is no regular expression"),
        ({"score_pattern": "(a)(b)"}, "has 2 groups"),
        ({"scores": {"1": 2.0}}, "scores is"),
        ({"score_weight": 1.5}, "score_weight is 1.5"),
        ({"refinements": -1}, "refinements is -1"),
        ({"default_score": 1.5}, "default_score is 1.5"),
        ({"refinement_template": "{problem}"}, r"refinement_template '\{problem\}' has no \{response\}"),
        ({"system": "You"}, "system is set"),
    ],
)
def test_settings_of_a_self_evaluation_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SelfEvaluation(**settings)


# ----------------------------------------------------------------------- SPOC


def test_each_message_has_its_own_reward(tmp_path: Path) -> None:
    model = make(SPOCModule, CORRECTED, self_correction=TURNS)
    values = trained(tmp_path, model)
    step = model.step
    assert isinstance(step, MessageStep)
    rollout, messages = step.trained, step.messages
    assert messages.texts == ["+a", "?y", "-b", "?n;", "+c", "?y", "-d", "?y", "+e", "?n;", "+f", "+g", "-h", "~iii"]
    # A verification is right if it says of the solution in front of it what the verifier says.
    assert messages.rewards == [1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0]
    # The last solution that counts is the answer, and its verdict the self-reward.
    assert [v.answer for v in rollout.verifications[:5]] == ["+a", "+c", "-d", "+e", "+f"]
    assert rollout.rewards.tolist() == [1, 1, 0, 1, 1, 1, 0, 0]
    assert rollout.self_rewards.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    # First solutions 1 0 0 1 and first verifications 1 1 0 0; the second turn is alone, and so compared with nothing.
    # <eos> belongs to the message that it ends; what is written behind "correct" counts and learns nothing.
    up, down, none = HALF, -HALF, 0.0
    expected = [
        [up] * 5 + [none] * 5,
        [down] * 2 + [up] * 3 + [none] * 5,
        [down] * 2 + [down] * 2 + [none] * 6,
        [up] * 2 + [down] * 4 + [none] * 4,
        *([up] * 3 + [none] * 7 for _ in range(2)),
        [down] * 3 + [none] * 7,
        [down] * 4 + [none] * 6,
    ]
    torch.testing.assert_close(model.found.advantages, torch.tensor(expected), rtol=0, atol=1e-5)
    assert rollout.rollouts.trained_mask.sum(dim=1).tolist() == [5, 10, 4, 6, 3, 3, 3, 4]
    assert values["train/self_correction/solutions"] == pytest.approx(9 / 8)
    assert values["train/self_correction/first_reward"] == pytest.approx(4 / 8)
    assert values["train/self_correction/verification_accuracy"] == pytest.approx(3 / 5)
    assert values["val/sums/pass@1"] == pytest.approx(5 / 8)
    assert values["val/sums/response/judging_tokens"] == 0
    assert model.judgement_settings()["self_correction"]["correct_verdict"] == "y"


def test_tokens_that_are_left_out_stay_left_out(tmp_path: Path) -> None:
    class Damaged(ScriptedEngine):
        """Has no log-prob of a token of the first response, and did not sample the messages of the third."""

        def generate(self, *given: Any, **named: Any) -> Rollouts:
            rollouts = super().generate(*given, **named)
            rollouts.sampling_log_probs[0, 1] = torch.nan
            rollouts.loss_mask = torch.ones_like(rollouts.response_ids, dtype=torch.bool)
            rollouts.loss_mask[2, :4] = False
            return rollouts

    model = make(SPOCModule, CORRECTED, self_correction=TURNS, engine=Damaged(CORRECTED))
    trained(tmp_path, model)
    mask = model.step.trained.rollouts.trained_mask
    # Of "+a?y<eos>" one token less; of "-d?yxx<eos>" the messages are its first 4, and nothing is left.
    assert mask[0].tolist() == [True, False, True, True, True] + [False] * 5
    assert mask.sum(dim=1).tolist() == [4, 10, 0, 6, 3, 3, 3, 4]
    advantages = model.found.advantages
    assert not advantages[~mask].any()
    assert model.objective.has_gradient(model.found).tolist() == [True, True, False] + [True] * 5
    # What a curriculum learns of a response is the mean over its trained tokens: of the second, 2 are worth -HALF,
    # 3 HALF, and 5 nothing.
    outcome = gather_outcome(model.data.train_dataloader(), model.step, advantages, 1, Ranks())
    expected = [HALF, 0.1 * HALF, 0.0, (2 * HALF - 4 * HALF) / 6, HALF, HALF, -HALF, -HALF]
    assert outcome.advantages.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_a_cut_behind_an_accepting_verdict_takes_nothing_from_it() -> None:
    texts = ["+a?yxxxx", "+a?n;+b", "-c?y", "+dd"]
    model = make(SPOCModule, texts, self_correction=TURNS)
    model.configure_model()
    problem = a_problem(model)
    rollouts = written(model.tokenizer, [problem.prompt_ids], texts)
    rollouts.finished[:] = False
    rollout = model.sampler.judge([problem], rollouts, model.sampling)
    # The first and the third had ended before the cut, by their own verdict; the others have not accepted anything.
    assert rollout.self_rewards.tolist() == [1, 0, 1, 0]
    assert rollout.rewards.tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("kind", "texts", "form"),
    [
        (SelfEvaluatingModule, EVALUATED, {"self_evaluation": FORM}),
        (SPOCModule, CORRECTED, {"self_correction": TURNS}),
    ],
)
def test_micro_batches_do_not_matter(
    kind: type[WrittenJudgement], texts: list[str], form: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for tokens in (2048, 24):
        model = make(kind, texts, update=UpdateSettings(micro_batch_tokens=tokens), **form)
        start = weights_at_start(model, tmp_path)
        found.append(weights(model) - start)
    assert found[0].norm() > 0
    assert (found[0] - found[1]).norm() < 2e-5 * found[0].norm()


def weights_at_start(model: Any, tmp_path: Path) -> Tensor:
    model.configure_model()
    start = weights(model)
    trained(tmp_path, model)
    return start


def test_the_form_of_spocs_paper() -> None:
    form = SelfCorrection()
    asks = "Verification: Is the previous solution correct?"
    first = "It is \\boxed{3}.\n<reflection>\nThe sum is wrong.\n" + asks + " No\n</reflection>"
    second = "\nIt is \\boxed{4}.\n<reflection>" + asks + " Yes</reflection>"
    read = form.read(first + second)
    assert [message.verdict for message in read] == [None, False, None, True]
    assert (first + second)[read[1].start : read[1].end].startswith("<reflection>\nThe sum")
    assert (first + second)[read[2].start : read[2].end] == "\nIt is \\boxed{4}.\n"
    assert form.accepts(first + second)
    # What follows "Yes" does not count; blank space ends the message that it follows.
    assert form.solution(first + second + " It is \\boxed{5}.") == "\nIt is \\boxed{4}.\n"
    assert form.read(second + " \n")[-1].end == len(second) + 2
    assert form.read(first + "\n")[-1] == (read[1].start, len(first) + 1, False)
    # A second verification of one solution verifies nothing: the response ended behind the first.
    again = first + " <reflection>" + asks + " No</reflection> It is \\boxed{5}."
    assert [m.verdict for m in form.read(again)] == [None, False]
    assert form.read(again)[-1].end == len(first)
    assert form.solution(again) == "It is \\boxed{3}.\n"
    # A verdict of another kind, or one that is not closed, is no verification.
    assert [m.verdict for m in form.read(first.replace(" No", " Maybe"))] == [None]
    assert [m.verdict for m in form.read(first.removesuffix("</reflection>"))] == [None]
    assert form.read("") == [(0, 0, None)]
    assert not form.accepts("It is 4.")


@pytest.mark.parametrize(("pattern", "message"), [("(", "no regular"), ("a", "has 0 groups"), ("(a?)", "nothing is")])
def test_patterns_of_verifications_that_cannot_work_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SelfCorrection(pattern)


# ----------------------------------------------------------------------- both


@pytest.mark.parametrize("kind", [SelfEvaluatingModule, SPOCModule])
def test_a_score_that_nobody_reads_is_not_trained(kind: type[WrittenJudgement]) -> None:
    with pytest.raises(UserError, match=r"loss_weight is 0\.1, and .* trains no self-rewards"):
        make(kind, [], self_reward=LastTokenSelfReward("<|reward|>", loss_weight=0.1, reference=-20.0))
    with pytest.raises(UserError, match=r"leave update\.judging out"):
        make(kind, [], update=UpdateSettings(judging=JudgingSettings()))


@pytest.mark.parametrize("kind", [SelfEvaluatingModule, SPOCModule])
@pytest.mark.parametrize("loss", [GOPDPolicyLoss(), TopKDistillation()])
def test_a_loss_in_which_rewards_have_no_say_is_refused(kind: type[WrittenJudgement], loss: PolicyLoss) -> None:
    with pytest.raises(UserError, match=rf"policy_loss is {type(loss).__name__}, in which rewards have no say"):
        make(kind, [], policy_loss=loss, teacher=tiny_policy())


def test_what_is_about_whole_responses_is_refused_by_spoc() -> None:
    for advantage in (AdvantageSettings(LeaveOneOut()), AdvantageSettings(shaping=[OverlongPenalty()])):
        with pytest.raises(UserError, match="SPOC compares messages with messages"):
            make(SPOCModule, [], advantage=advantage)
