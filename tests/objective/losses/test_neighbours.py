"""Losses of the field by hand: value, gradient, and the same step in one micro-batch and in two."""

from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.losses import (
    ClippedPolicyLoss,
    GOPDPolicyLoss,
    LpRegPolicyLoss,
    MirrorDescentPolicyLoss,
    PolicyLoss,
    ROVERPolicyLoss,
    SSPOPolicyLoss,
    TeacherKL,
    TopKDistillation,
    solution_weights,
)
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.losses.lp_reg import ProxyLogProb, smallest
from laser_lightning.objective.losses.rover import MeanLogProb
from laser_lightning.objective.losses.top_k_distillation import GivenLogProbs, GivenLogProbsAndOverlap, TopTokens
from laser_lightning.objective.objective import LossTerms, Objective
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import Rollouts, micro_batches

MASK = torch.tensor([[True, True, True], [True, True, False]])
LOG_PROBS = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -0.25, 0.0]])
# Log-ratios 0.2, -0.5, 0.25 and -0.5, 0.25; ratios 1.221403, 0.606531, 1.284025 and 0.606531, 1.284025.
OLD = torch.tensor([[-1.2, -1.5, -0.75], [-2.5, -0.5, 0.0]])


def two_solutions() -> Rollouts:
    """Solutions of 3 tokens and 2 tokens to one problem."""
    return Rollouts(
        prompt_ids=torch.tensor([[5, 4]]),
        prompt_lengths=torch.tensor([2]),
        response_ids=torch.tensor([[6, 7, 1], [8, 1, 0]]),
        response_lengths=torch.tensor([3, 2]),
        finished=torch.tensor([True, True]),
        sampling_log_probs=OLD.clone(),
        reward_token_log_probs=torch.tensor([[-3.0], [-2.0]]),
    )


def targets_of(aggregation: str = "token_mean", **known: Any) -> Targets:
    """Of the two solutions, with advantages 1.5 and -0.5."""
    lengths = MASK.sum(dim=1)
    fields = {"advantages": torch.tensor([1.5, -0.5]), "old_log_probs": OLD} | known
    weights = solution_weights(lengths, aggregation, lengths.sum(), torch.tensor(2), 3)  # type: ignore[arg-type]
    zeros = torch.zeros(2)
    return Targets(
        rewards=torch.tensor([1.0, 0.0]),
        policy_weights=weights,
        self_reward_weights=zeros,
        self_reward_targets=zeros,
        **fields,
    )


def step_in(
    budget: int,
    objective: Objective,
    targets: Targets,
    reading: Tensor | None = None,
    entropy: Tensor | None = None,
) -> tuple[LossTerms, Tensor]:
    """The terms of a step in micro-batches, and the gradient of its loss by the log-probs, or by the reading."""
    rollouts, log_probs = two_solutions(), LOG_PROBS.clone().requires_grad_()
    read = None if reading is None else reading.clone().requires_grad_(reading.ndim == 3)
    targets = objective.mark_tokens(targets, MASK, torch.arange(2), Ranks())
    total = []
    for batch in micro_batches(rollouts, torch.arange(2), budget, 0):
        rows, width = batch.rows, batch.loss_mask.shape[1]
        outputs = PolicyOutputs(
            log_probs[rows, :width],
            torch.zeros(len(rows), width) if entropy is None else entropy[rows, :width],
            torch.zeros(len(rows), 1),
            reading=None if read is None else read[rows, :width],
        )
        total.append(objective(outputs, batch, targets))
        total[-1].loss.backward()
    terms = total[0].detach()
    for share in total[1:]:
        terms = terms + share.detach()
    gradient = log_probs.grad if read is None or not read.requires_grad else read.grad
    assert gradient is not None
    assert len(total) == (1 if budget == 100 else 2)
    return terms, gradient


def step(
    loss: PolicyLoss,
    targets: Targets,
    reading: Tensor | None = None,
    entropy: Tensor | None = None,
    ends: Tensor | None = None,
    **settings: Any,
) -> tuple[LossTerms, Tensor]:
    """The step in one micro-batch, which is the same in two."""
    head = LastTokenSelfReward("<|reward|>", loss_weight=0.0)
    objective = Objective(loss, head, UpdateSettings(**settings), ends)
    whole, gradient = step_in(100, objective, targets, reading, entropy)
    parts, of_parts = step_in(5, objective, targets, reading, entropy)
    torch.testing.assert_close(of_parts, gradient)
    for name in ("loss", "policy_loss", "extra", "clip_fraction"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    return whole, gradient


def close(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_mirror_descent() -> None:
    terms, gradient = step(MirrorDescentPolicyLoss(0.4), targets_of("sequence_mean"))
    # Sums of log-ratios -0.05 and -0.25: (1.5 * 0.05 + 0.2 * 0.0025 - 0.5 * 0.25 + 0.2 * 0.0625) / 2
    assert terms.policy_loss.item() == pytest.approx(-0.0185, abs=1e-6)
    # (-A + tau d) / 2: (-1.5 - 0.02) / 2, (0.5 - 0.1) / 2
    close(gradient, [[-0.76] * 3, [0.2, 0.2, 0.0]])


@pytest.mark.parametrize("loss", [MirrorDescentPolicyLoss(), ROVERPolicyLoss()])
def test_what_pulls_the_policy_back_has_a_gradient_without_an_advantage_once_it_moved(loss: PolicyLoss) -> None:
    fields = {"advantages": torch.tensor([0.0, 1.0])}
    assert loss.has_gradient(targets_of(**fields)).tolist() == [True, True]
    assert loss.has_gradient(targets_of(**fields, old_log_probs=None)).tolist() == [False, True]
    assert MirrorDescentPolicyLoss(0.0).has_gradient(targets_of(**fields)).tolist() == [False, True]


ENDS = torch.zeros(10, dtype=torch.bool).index_fill(0, torch.tensor([7]), True)


def test_sspo_has_a_ratio_for_each_sentence() -> None:
    terms, gradient = step(SSPOPolicyLoss(0.1, 0.2, scale_by_entropy=False), targets_of(), ends=ENDS)
    # Sentences of 2 and 1 tokens, and of 2: ratios exp(-0.15), exp(0.25), exp(-0.125) = 0.860708, 1.284025, 0.882497.
    # The first is free, min(0.860708, 0.9) * 1.5; the second is cut to 1.2 * 1.5, the third to -0.9 * 0.5:
    # -(2 * 1.291062 + 1.8 - 0.9) / 5
    assert terms.policy_loss.item() == pytest.approx(-0.6964249, abs=1e-6)
    assert terms.clip_fraction.item() == pytest.approx(3 / 5)
    # -1.5 * 0.860708 / 5: half of it by each of two tokens, twice
    close(gradient, [[-0.2582124, -0.2582124, 0.0], [0.0, 0.0, 0.0]])


def test_sspo_widens_the_bounds_of_sentences_of_high_entropy() -> None:
    entropy = torch.tensor([[0.1, 0.3, 0.8], [0.5, 0.5, 99.0]])
    terms, gradient = step(SSPOPolicyLoss(0.1, 0.2), targets_of(), entropy=entropy, ends=ENDS)
    # Mean entropies 0.2 and 0.8 of a response's 0.4: bounds are halved and doubled, and 1.284025 < 1.4 is free.
    assert terms.policy_loss.item() == pytest.approx(-(2 * 1.291062 + 1.926038 - 0.9) / 5, abs=1e-6)
    close(gradient, [[-0.2582124, -0.2582124, -0.3852076], [0.0, 0.0, 0.0]])


def test_lp_reg_holds_the_unlikeliest_bad_tokens() -> None:
    # Half of the two tokens with A < 0: the one with the old log-prob -2.5, now -3, which the proxy gives -2.2.
    proxy = torch.tensor([[0.0, 0.0, 0.0], [-2.2, 0.0, 99.0]])
    loss = LpRegPolicyLoss(share=0.5, weight=2.0)
    terms, gradient = step(loss, targets_of(old_reading=proxy))
    # It costs 0.5 * 0.606531 + 2 * (exp(0.8) - 1.8) = 1.154347; the others -A * ratio: -4.667938 and 0.642013.
    assert terms.policy_loss.item() == pytest.approx(-2.871578 / 5, abs=1e-6)
    assert terms.extra.tolist() == [pytest.approx(1 / 5)]
    # (0.303265 - 2 * (exp(0.8) - 1)) / 5 there, -A * ratio / 5 elsewhere
    close(gradient, [[-0.3664208, -0.1819592, -0.3852076], [-0.4295634, 0.1284025, 0.0]])


def test_lp_reg_leaves_noise_to_the_clipped_objective() -> None:
    noise = torch.full((2, 3), -torch.inf)
    terms, gradient = step(LpRegPolicyLoss(share=1.0), targets_of(old_reading=noise))
    plain, expected = step(ClippedPolicyLoss(0.999, 9.0), targets_of())
    assert torch.equal(gradient, expected)
    assert terms.policy_loss == plain.policy_loss
    assert terms.extra.tolist() == [0.0]


def test_the_proxy_is_without_tokens_far_below_the_likeliest() -> None:
    log_probs = torch.tensor([[0.5, 0.3, 0.19, 0.01]]).log().expand(2, 4)
    found = ProxyLogProb(0.1)(log_probs, torch.tensor([1, 3]), None)
    torch.testing.assert_close(found, torch.tensor([0.3 / 0.99, 0.0]).log())


class TwoRanks(Ranks):
    """This rank's tokens beside two more with A < 0, of the log-probs -4 and -2."""

    def sum(self, values: Tensor) -> Tensor:
        return values + 2

    def stack(self, values: Tensor) -> Tensor:
        return torch.stack((values, torch.tensor([-4.0, -2.0])))


def test_the_unlikeliest_are_counted_over_all_ranks() -> None:
    targets = targets_of(old_log_probs=torch.tensor([[-9.0, -9.0, -9.0], [-3.0, -1.0, -9.0]]))
    # Half of -4, -3, -2, -1 are -4 and -3, of which one is here; what lies behind a response does not count.
    marks = LpRegPolicyLoss(share=0.5).mark_tokens(targets, MASK, TwoRanks())
    assert marks.tolist() == [[False] * 3, [True, False, False]]
    assert smallest(torch.tensor([]), 1, Ranks()) == torch.inf


def test_rover() -> None:
    now = torch.tensor([[-5.0, -6.0, -7.0], [-5.5, -6.5, 99.0]])
    old = torch.tensor([[-5.0, -5.5, -7.25], [-5.25, -6.0, -99.0]])
    terms, gradient = step(ROVERPolicyLoss(2.0), targets_of(old_reading=old), reading=now)
    # q 0.4, -1, 0.5 and -1, 0.5; values of the next states -1, 0.5, 0 and -1, 0; targets 0.5, 2, 1.5 and -1.5, -0.5:
    # errors -0.1, -3, -1 and 0.5, 1, whose squares add up to 11.26
    assert terms.policy_loss.item() == pytest.approx(11.26 / 5, abs=1e-5)
    assert terms.extra.tolist() == [pytest.approx(-1.5 / 5)]
    # 2 * rho * error / 5; nothing through the target
    close(gradient, [[-0.08, -2.4, -0.8], [0.4, 0.8, 0.0]])


def test_the_first_step_of_rover_is_twice_reinforce() -> None:
    targets = targets_of(old_log_probs=None)
    terms, gradient = step(ROVERPolicyLoss(), targets, reading=torch.zeros(2, 3))
    close(gradient, [[-0.6] * 3, [0.2, 0.2, 0.0]])  # -2 A / 5
    assert terms.extra.tolist() == [0.0]
    log_probs = torch.tensor([[0.5, 0.25, 0.25]]).log()
    mean = MeanLogProb()(log_probs, torch.tensor([0]), None)
    torch.testing.assert_close(mean, torch.tensor([0.5 * 0.25 * 0.25]).log() / 3)


TEACHER = torch.tensor([[-0.7, -1.0, -1.0], [-2.0, -1.0, 99.0]])


def test_g_opd() -> None:
    reference = torch.tensor([[-1.0, -1.5, -0.5], [-2.5, -0.75, 0.0]])
    targets = targets_of(teacher_log_probs=TEACHER, reference_log_probs=reference, advantages=torch.zeros(2))
    terms, gradient = step(GOPDPolicyLoss(1.5), targets)
    # T - old: 0.5, 0.5, -0.25 and 0.5, -0.5; half of T - base more: A = 0.65, 0.75, -0.5 and 0.75, -0.625.
    # The first ratio is cut to 1.2: -(0.78 + 0.454898 - 0.642013 + 0.454898 - 0.802516) / 5
    assert terms.policy_loss.item() == pytest.approx(-0.0490535, abs=1e-6)
    assert terms.clip_fraction.item() == pytest.approx(1 / 5)
    assert terms.extra.tolist() == [pytest.approx(0.15)]
    close(gradient, [[0.0, -0.0909796, 0.1284025], [-0.0909796, 0.1605032, 0.0]])
    assert GOPDPolicyLoss(1.5).has_gradient(targets).tolist() == [True, True]


def test_plain_distillation_needs_no_base() -> None:
    loss = GOPDPolicyLoss(1.0)
    assert not loss.needs_reference
    assert GOPDPolicyLoss(1.25).needs_reference
    _, gradient = step(loss, targets_of(teacher_log_probs=TEACHER, old_log_probs=None))
    # The policy is the old one: -(T - log pi) / 5, differences 0.3, 1, -0.5 and 1, -0.75.
    close(gradient, [[-0.06, -0.2, 0.1], [-0.2, 0.15, 0.0]])


def test_top_k_distillation() -> None:
    own = torch.tensor([0.6, 0.2]).log().expand(2, 3, 2)
    of_teacher = torch.cat((torch.tensor([0.3, 0.4]).log(), torch.tensor([0.5]))).expand(2, 3, 3)
    targets = targets_of(teacher_reading=of_teacher, old_reading=torch.zeros(2, 3, 2).long())
    terms, gradient = step(TopKDistillation(2), targets, reading=own)
    # 0.75 * ln 2 - 0.25 * ln 2 at each token
    assert terms.policy_loss.item() == pytest.approx(0.3465736, abs=1e-6)
    assert terms.extra.tolist() == [pytest.approx(0.5), pytest.approx(0.8)]
    of_token = torch.tensor([0.75, -0.25]) * 0.6931472 / 5
    torch.testing.assert_close(gradient, of_token * MASK[:, :, None])


def test_what_top_k_distillation_reads() -> None:
    student, teacher = (torch.tensor([p]).log() for p in ([0.1, 0.5, 0.4], [0.6, 0.3, 0.1]))
    drawn = torch.tensor([0])
    top = TopTokens(2)(student, drawn, None)
    assert top.tolist() == [[1, 2]]
    assert TopTokens(9)(student, drawn, None).shape == (1, 3)
    torch.testing.assert_close(GivenLogProbs()(student, drawn, top), torch.tensor([[0.5, 0.4]]).log())
    found = GivenLogProbsAndOverlap()(teacher, drawn, top)
    torch.testing.assert_close(found[:, :2], torch.tensor([[0.3, 0.1]]).log())
    assert found[0, 2] == 0.5  # of tokens 1 and 2 one is among the teacher's 0 and 1
    # Rows that only the student has are as unlikely as anything to the teacher.
    assert GivenLogProbs()(teacher, drawn, torch.tensor([[3]])).item() == pytest.approx(-2.302585, abs=1e-5)


@pytest.mark.parametrize(
    ("only_wrong", "value", "expected"),
    [
        # Differences 0.3, 1, -0.5 and 1, -0.75: half their squares add up to 1.45125, those of the second to 0.78125.
        (False, 0.02 * 1.45125 / 5, [[-0.0012, -0.004, 0.002], [-0.004, 0.003, 0.0]]),
        (True, 0.02 * 0.78125 / 5, [[0.0, 0.0, 0.0], [-0.004, 0.003, 0.0]]),
    ],
)
def test_kdrl(only_wrong: bool, value: float, expected: list[list[float]]) -> None:
    term = TeacherKL(0.02, 0.01, 2, only_wrong)
    targets = targets_of(teacher_log_probs=TEACHER, advantages=torch.zeros(2))
    terms, gradient = step(ClippedPolicyLoss(), targets, terms=[term])
    assert terms.extra.tolist() == [pytest.approx(value, abs=1e-7)]
    close(gradient, expected)
    assert term.has_gradient(targets).tolist() == [not only_wrong, True]


def test_the_teachers_weight_falls_along_a_line_and_is_resumed() -> None:
    term, weights = TeacherKL(0.02, 0.01, 2), []
    for _ in range(4):
        weights.append(term.weight_now)
        term.learn(None, StepContext())  # type: ignore[arg-type]
    assert weights == pytest.approx([0.02, 0.015, 0.01, 0.01])
    again = TeacherKL(0.02, 0.01, 8)
    again.load_state_dict(term.state_dict())
    assert again.weight_now == pytest.approx(0.015)  # behind 4 of 8 steps


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MirrorDescentPolicyLoss(-1.0), "tau"),
        (lambda: SSPOPolicyLoss(1.0), "clip_low"),
        (lambda: LpRegPolicyLoss(clip_high=-1.0), "clip_high"),
        (lambda: LpRegPolicyLoss(share=0.0), "share"),
        (lambda: ROVERPolicyLoss(0.0), "rho"),
        (lambda: GOPDPolicyLoss(0.0), "scale"),
        (lambda: TopKDistillation(0), "policy_loss.k"),
        (lambda: TeacherKL(steps=0), "steps"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        make()
