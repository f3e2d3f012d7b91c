"""Advantages of single tokens, tokens that are not trained on, and the sentences of tokens, by hand."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from laser_lightning import Advantages, LossTerm
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.losses import ClippedPolicyLoss, PolicyLoss, PolicyTokens, TokenLosses, solution_weights
from laser_lightning.objective.objective import LossTerms, Objective
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.sentences import number_sentences, sentence_ends
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.sums import Sums
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import EMBEDDED, PolicyOutputs, PolicySettings, load_tokenizer
from laser_lightning.records.batching import MicroBatch, Rollouts, concat_solutions, micro_batches

LOG_PROBS = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -0.25, 0.0]])
PLAIN = LastTokenSelfReward("<|reward|>", beta=0.5, loss_weight=0.0, reference=-4.0)


def two_solutions(loss_mask: list[list[bool]] | None = None) -> Rollouts:
    """Solutions of 3 tokens and 2 tokens to one problem."""
    return Rollouts(
        prompt_ids=torch.tensor([[5, 4]]),
        prompt_lengths=torch.tensor([2]),
        response_ids=torch.tensor([[6, 7, 1], [8, 1, 0]]),
        response_lengths=torch.tensor([3, 2]),
        finished=torch.tensor([True, True]),
        sampling_log_probs=LOG_PROBS.clone(),
        reward_token_log_probs=torch.tensor([[-3.0], [-2.0]]),
        loss_mask=None if loss_mask is None else torch.tensor(loss_mask),
    )


def shares(objective: Objective, rollouts: Rollouts, targets: Targets, budget: int = 100) -> tuple[LossTerms, Tensor]:
    """The terms of a step, and the gradient of its loss by the log-probs [2, 3]."""
    log_probs, total = LOG_PROBS.clone().requires_grad_(), []
    for batch in micro_batches(rollouts, torch.arange(2), budget, 0):
        width = batch.loss_mask.shape[1]
        own = log_probs[batch.rows, :width]
        outputs = PolicyOutputs(own, torch.zeros_like(own), torch.zeros(len(own), 1))
        total.append(objective(outputs, batch, targets))
        total[-1].loss.backward()
    assert log_probs.grad is not None
    terms = total[0].detach()
    for share in total[1:]:
        terms = terms + share.detach()
    return terms, log_probs.grad


def targets_of(advantages: list, rollouts: Rollouts) -> Targets:
    lengths = rollouts.trained_mask.sum(dim=1)
    weights = solution_weights(lengths, "token_mean", lengths.sum(), torch.tensor(2), 3)
    return Targets(torch.tensor(advantages), torch.tensor([1.0, 0.0]), weights, torch.zeros(2), torch.zeros(2))


def test_an_advantage_for_each_token() -> None:
    rollouts = two_solutions()
    targets = targets_of([[1.0, -2.0, 0.5], [3.0, 0.0, 99.0]], rollouts)
    terms, gradient = shares(Objective(ClippedPolicyLoss(), PLAIN, UpdateSettings()), rollouts, targets)
    # On policy the loss is -A at each of the 5 tokens: -(1 - 2 + 0.5 + 3 + 0) / 5; padding's 99 counts nowhere.
    assert terms.policy_loss.item() == pytest.approx(-0.5)
    torch.testing.assert_close(gradient, -torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, 0.0]]) / 5)


def test_one_advantage_for_each_solution_is_the_same_at_each_of_its_tokens() -> None:
    objective = Objective(ClippedPolicyLoss(), PLAIN, UpdateSettings())
    rollouts = two_solutions()
    of_solutions = shares(objective, rollouts, targets_of([1.5, -0.5], rollouts))
    of_tokens = shares(objective, rollouts, targets_of([[1.5] * 3, [-0.5] * 3], rollouts))
    assert torch.equal(of_solutions[1], of_tokens[1])
    assert of_solutions[0].loss == of_tokens[0].loss


def test_tokens_that_are_not_trained_on_are_in_no_term_and_no_denominator() -> None:
    # A tool wrote the second token of the first solution.
    rollouts = two_solutions([[True, False, True], [True, True, True]])
    settings = UpdateSettings(kl_coef=0.1, entropy_coef=0.0)
    targets = targets_of([2.0, -1.0], rollouts)
    targets.reference_log_probs = LOG_PROBS - 0.5  # k3 of d = -0.5: exp(-0.5) - 1 + 0.5 = 0.106531 at each token
    terms, gradient = shares(Objective(ClippedPolicyLoss(), PLAIN, settings), rollouts, targets)
    # Four tokens: -(2 + 2 - 1 - 1) / 4.
    assert terms.policy_loss.item() == pytest.approx(-0.5)
    assert terms.kl.item() == pytest.approx(0.106531, abs=1e-6)
    assert gradient[0, 1] == 0
    assert gradient[1, 2] == 0
    assert bool((gradient[0, [0, 2]] != 0).all())


@pytest.mark.parametrize("loss_mask", [None, [[True, False, True], [False, True, True]]])
def test_micro_batches_do_not_change_the_step(loss_mask: list[list[bool]] | None) -> None:
    objective = Objective(ClippedPolicyLoss(), PLAIN, UpdateSettings())
    rollouts = two_solutions(loss_mask)
    targets = targets_of([[1.0, -2.0, 0.5], [3.0, 0.25, 99.0]], rollouts)
    whole, gradient = shares(objective, rollouts, targets)
    split, gradient_of_parts = shares(objective, rollouts, targets, budget=5)
    assert len(micro_batches(rollouts, torch.arange(2), 5, 0)) == 2
    torch.testing.assert_close(gradient_of_parts, gradient)
    torch.testing.assert_close(split.policy_loss, whole.policy_loss)


def test_a_step_of_no_trained_token_is_finite() -> None:
    rollouts = two_solutions([[False] * 3, [False] * 3])
    targets = targets_of([1.0, -1.0], rollouts)
    terms, gradient = shares(Objective(ClippedPolicyLoss(), PLAIN, UpdateSettings()), rollouts, targets)
    assert terms.loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros(2, 3))


def test_a_solution_without_an_advantage_at_any_token_needs_no_pass() -> None:
    objective = Objective(ClippedPolicyLoss(), PLAIN, UpdateSettings())
    targets = targets_of([[0.0, 0.0, 0.0], [0.0, -1.0, 0.0]], two_solutions())
    assert objective.has_gradient(targets).tolist() == [False, True]


def test_selected_and_joined_rollouts_keep_their_masks() -> None:
    masked, plain = two_solutions([[True, False, True], [False, True, True]]), two_solutions()
    both = concat_solutions((masked, plain))
    assert both.trained_mask.tolist() == [
        [True, False, True],
        [False, True, False],  # behind a response nothing is trained on
        [True, True, True],
        [True, True, False],
    ]
    assert torch.equal(both.select(torch.tensor([0])).trained_mask, masked.trained_mask)
    assert concat_solutions((plain, plain)).loss_mask is None


class Recorder(PolicyLoss):
    """Keeps what it is shown."""

    needs_sentences = True

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        self.tokens = tokens
        return TokenLosses(-tokens.log_probs, torch.zeros_like(tokens.mask))


def test_a_policy_loss_sees_token_ids_and_sentences() -> None:
    rollouts, loss = two_solutions(), Recorder()
    ends = torch.zeros(10, dtype=torch.bool)
    ends[6] = True
    shares(Objective(loss, PLAIN, UpdateSettings(), ends), rollouts, targets_of([1.0, 1.0], rollouts))
    assert loss.tokens.sentences is not None
    assert loss.tokens.token_ids[loss.tokens.mask].tolist() == [6, 7, 1, 8, 1]
    assert loss.tokens.sentences[loss.tokens.mask].tolist() == [0, 1, 1, 0, 0]


def test_sentences_by_hand() -> None:
    # "One . Two ! Three": the marks belong to the sentences that they end.
    ends = torch.tensor([False, True, False, True, False])
    assert number_sentences(torch.tensor([[0, 1, 2, 3, 4]]), ends).tolist() == [[0, 0, 1, 1, 2]]
    elsewhere = torch.zeros(1, 5, dtype=torch.long, device="meta")
    assert number_sentences(elsewhere, ends).device == elsewhere.device  # the table of all tokens is made on the CPU


def test_which_tokens_end_a_sentence() -> None:
    tokenizer = load_tokenizer(PolicySettings(EMBEDDED))
    ends = sentence_ends(tokenizer, 300)  # more rows than tokens
    assert len(ends) == 300
    assert {tokenizer.decode([number]) for number in ends.nonzero().flatten().tolist()} == {".", "!", "?", "\n"}


@pytest.mark.against_signatures
def test_advantages_of_a_wrong_shape_are_refused() -> None:
    rewards = torch.zeros(2, 3)
    assert Advantages.of(torch.ones(2, 3), rewards).values.shape == (6,)
    assert Advantages.of(torch.ones(6, 9), rewards).values.shape == (6, 9)
    with pytest.raises(ValueError, match=r"\(3, 2\) fit neither groups \(2, 3\)"):
        Advantages.of(torch.ones(3, 2), rewards)


class TokenCount(LossTerm):
    """The mean of a constant over tokens, times a weight."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Tensor:
        places = (outputs.log_probs * 0 + self.value).where(batch.loss_mask, 0.0)
        return (places.sum(dim=1) * targets.policy_weights[batch.rows]).sum()


class Double(TokenCount):
    """Another one."""

    @property
    def name(self) -> str:
        return "twice"


def test_terms_are_added_under_their_names_whatever_the_micro_batches() -> None:
    settings = UpdateSettings(terms=[TokenCount(3.0), Double(6.0)])
    assert [term.name for term in settings.terms] == ["token_count", "twice"]
    rollouts = two_solutions()
    for budget in (100, 5):
        targets = targets_of([0.0, 0.0], rollouts)
        terms, _ = shares(Objective(ClippedPolicyLoss(), PLAIN, settings), rollouts, targets, budget)
        torch.testing.assert_close(terms.extra, torch.tensor([3.0, 6.0]))
        assert terms.loss.item() == pytest.approx(9.0)


def test_two_terms_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"update\.terms has the name 'token_count' twice"):
        UpdateSettings(terms=[TokenCount(), TokenCount()])


def test_sums_add_up_and_are_weighed_field_by_field() -> None:
    terms = LossTerms(*[torch.tensor(float(number)) for number in range(10)], torch.tensor([1.0, 2.0]))
    total = terms + terms.weighted(0.5)
    assert total.kl.item() == 4.5  # 3 + 1.5
    assert total.extra.tolist() == [1.5, 3.0]
    assert replace(total, loss=torch.zeros(())).loss == 0


@dataclass(frozen=True)
class Counted(Sums):
    """A record within another one, which may be missing."""

    terms: LossTerms
    more: LossTerms | None


def test_records_within_a_record_add_up_with_it() -> None:
    one, two = (LossTerms(*[torch.tensor(float(n)) for n in range(10)], torch.tensor([n0])) for n0 in (1.0, 2.0))
    both = (Counted(one, two) + Counted(two, one)).over(Ranks())
    assert both.more is not None
    assert (both.terms.extra.tolist(), both.more.extra.tolist(), both.more.kl.item()) == ([3.0], [3.0], 6.0)
    assert (Counted(one, None) + Counted(two, None)).more is None
    with pytest.raises(ValueError, match="shorter"):
        Counted(one, two) + Counted(one, None)
