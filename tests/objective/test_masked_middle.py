"""A response whose middle others wrote, under every loss there is: value and gradient are those of a slow computation
that runs each sequence alone, whole, and then looks at the tokens that the policy sampled and at no others.

The classes are found, not listed: a new one is tested as soon as it is there.
"""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from transformers import MixtralConfig

from laser_lightning import objective as room
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.losses import (
    ClippedPolicyLoss,
    ImportanceCorrection,
    KLDivergence,
    PolicyLoss,
    PolicyTokens,
)
from laser_lightning.objective.judging.hold import PolicyHold
from laser_lightning.objective.objective import Objective
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.solutions import Supervision
from laser_lightning.objective.sentences import number_sentences
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.objective.term import LossTerm
from laser_lightning.policy.model import Policy, PolicyOutputs, load_tokenizer
from laser_lightning.records.batching import MicroBatch, Rollouts

_Kind = TypeVar("_Kind", bound=type)
TOKENS = ("<|reward|>", "+", "-")  # one after the other for the tokens that a head must be given
NAMES = ("old_log_probs", "reference_log_probs", "sampling_log_probs", "teacher_log_probs")


@cache
def import_all() -> None:
    for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        import_module(module.name)


def classes_of(base: _Kind) -> list[_Kind]:
    """All of ours that can be made."""
    import_all()
    below = [base, *(found for sub in base.__subclasses__() for found in classes_of(sub))]
    ours = {kind for kind in below if kind.__module__.startswith("laser_lightning.") and not inspect.isabstract(kind)}
    return sorted(ours, key=lambda kind: kind.__name__)


def made(base: Any) -> list[Any]:
    """Of each class one part, or, where it takes a level or an estimator, one for each of these."""
    return list(parts_of(base))


def parts_of(base: Any) -> Iterator[Any]:
    choices = {"level": ("token", "sequence", "geometric"), "estimator": ("k2", "k3")}
    for kind in classes_of(base):
        parameters = inspect.signature(kind).parameters
        given = [(name, value) for name, values in choices.items() if name in parameters for value in values]
        for name, value in given or [("", "")]:
            part = kind(**{name: value} if name else {})
            yield pytest.param(part, id=f"{kind.__name__} {value}".strip())


@dataclass
class Case:
    """A step of two prompts with two solutions, three of which have a middle that others wrote."""

    policy: Policy
    rollouts: Rollouts
    targets: Targets
    ends: Tensor

    @property
    def kept(self) -> list[Tensor]:
        """Places of each response that the policy sampled."""
        return [row.nonzero().flatten() for row in self.rollouts.trained_mask]

    def objective(self, policy_loss: PolicyLoss, head: SelfRewardHead, **settings: Any) -> Objective:
        made = Objective(policy_loss, head, UpdateSettings(**settings))
        made.sentence_ends = self.ends if policy_loss.needs_sentences else None
        return made


PLAIN = LastTokenSelfReward("<|reward|>", beta=0.5, loss_weight=0.0, reference=-4.0)


@pytest.fixture
def case(
    tmp_path: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., Any],
    make_policy: Callable[..., Policy],
    make_rollouts: Callable[..., Rollouts],
) -> Case:
    config = tiny_config(MixtralConfig, num_local_experts=4, num_experts_per_tok=2, initializer_range=0.1)
    policy = make_policy(save_model(tmp_path / "model", config))
    rollouts = make_rollouts(prompts=2, group_size=2, seed=6, limit=9)
    mask = rollouts.response_mask.clone()
    for row, length in enumerate(rollouts.response_lengths.tolist()):
        if length > 3:
            mask[row, 1 : length - 2 + (row == 2)] = False
    rollouts.loss_mask = mask
    assert int((mask.sum(dim=1) < rollouts.response_lengths).sum()) >= 3
    torch.manual_seed(0)
    with torch.no_grad():
        around = torch.zeros(4, 9)
        for row in range(4):
            own, tokens, _ = plain(policy, rollouts, row)
            around[row, : len(tokens)] = own[torch.arange(len(tokens)), tokens]
    known = {name: (around + 0.3 * torch.randn(4, 9)).where(rollouts.response_mask, 99.0) for name in NAMES}
    rollouts.sampling_log_probs = known["sampling_log_probs"]
    nothing = torch.zeros(4)
    total = mask.sum()
    advantages, rewards = torch.tensor([2.0, -1.0, 0.5, -0.7]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    targets = Targets(advantages, rewards, torch.ones(4) / total, nothing, nothing, **known)  # token_mean
    ends = torch.zeros(100, dtype=torch.bool)
    ends[10:40] = True  # of the random tokens a third ends a sentence
    return Case(policy, rollouts, targets, ends)


def plain(policy: Policy, rollouts: Rollouts, row: int) -> tuple[Tensor, Tensor, Any]:
    """[r, V] log-probs of each response token's distribution, the tokens [r], and all that transformers returns."""
    prompt = rollouts.prompt_ids[row // 2, : int(rollouts.prompt_lengths[row // 2])]
    response = rollouts.response_ids[row, : int(rollouts.response_lengths[row])]
    ids = torch.cat((prompt, response))[None]
    found = policy.lm(input_ids=ids, use_cache=False, output_hidden_states=True, output_router_logits=True)
    return found.logits[0, len(prompt) - 1 :].log_softmax(dim=-1)[:-1], response, found


def gradients(policy: Policy, loss: Tensor) -> list[Tensor]:
    policy.zero_grad()
    if loss.requires_grad:
        loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters()]


def assert_same(policy: Policy, ours: Tensor, slow: Tensor) -> None:
    found, expected = gradients(policy, ours), gradients(policy, slow)
    torch.testing.assert_close(ours.detach(), slow.detach(), rtol=1e-4, atol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert largest > 0, "nothing is tested"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest)


def packed(values: Tensor, kept: list[Tensor]) -> Tensor:
    """[N, R, ...] with the kept places in front, and nothing behind them."""
    found = torch.zeros_like(values)
    for row, places in enumerate(kept):
        found[row, : len(places)] = values[row, places]
    return found


def read_distributions(case: Case, loss: PolicyLoss) -> tuple[Tensor | None, Tensor | None]:
    """What an old policy and a teacher read, with the policy itself in their places and noise around it."""

    def read(reading: Any, given: Tensor | None) -> Tensor | None:
        if reading is None:
            return None
        rows: list[Tensor] = []
        for row in range(4):
            own, tokens, _ = plain(case.policy, case.rollouts, row)
            noisy = (own + 0.2 * torch.randn_like(own)).log_softmax(dim=-1)
            found = reading(noisy, tokens, None if given is None else given[row, : len(tokens)])
            whole = found.new_zeros(9, *found.shape[1:])
            whole[: len(found)] = found
            rows.append(whole)
        return torch.stack(rows)

    with torch.no_grad():
        old = read(loss.readings.old, None)
        return old, read(loss.readings.teacher, old)


def pass_over(case: Case, objective: Objective, targets: Targets) -> tuple[PolicyOutputs, MicroBatch]:
    """What the update itself computes."""
    (batch,) = case.policy.micro_batches(case.rollouts, torch.arange(4), 1000)
    _, *asked = objective.inputs(batch, targets)
    return case.policy(batch, (3,), 1.0, True, True, *asked), batch


def policy_loss_alone(case: Case, objective: Objective, targets: Targets, correction: Any) -> Tensor:
    """The policy loss of each solution, of which only the kept tokens are there."""
    loss, kept = objective.policy_loss, case.kept
    short = {name: packed(getattr(targets, name), kept) for name in NAMES}
    lengths = torch.tensor([len(places) for places in kept])[:, None]
    marks = loss.mark_tokens(replace(targets, **short), torch.arange(9) < lengths, Ranks())
    total = torch.zeros(())
    for row, places in enumerate(kept):
        own, token_ids, _ = plain(case.policy, case.rollouts, row)
        of_tokens, token_ids = own[places], token_ids[places]

        def of(values: Tensor | None, row: int = row, places: Tensor = places) -> Tensor | None:
            return None if values is None else values[row, places][None]

        sentences = number_sentences(case.rollouts.response_ids, case.ends)[row, places].unique(return_inverse=True)[1]
        now, old_reading = loss.readings.now, of(targets.old_reading)
        given = None if old_reading is None else old_reading[0]
        tokens = PolicyTokens(
            log_probs=of_tokens.gather(1, token_ids[:, None]).T,
            old_log_probs=of(targets.old_log_probs),  # type: ignore[arg-type]
            advantages=targets.advantages[row].expand(1, len(places)),
            mask=torch.ones(1, len(places), dtype=torch.bool),
            token_ids=token_ids[None],
            entropy=-(of_tokens.exp() * of_tokens).sum(dim=-1)[None],
            sentences=sentences[None],
            reference_log_probs=of(targets.reference_log_probs),
            teacher_log_probs=of(targets.teacher_log_probs),
            reading=None if now is None else now(of_tokens, token_ids, given)[None],
            old_reading=old_reading,
            teacher_reading=of(targets.teacher_reading),
            marks=None if marks is None else marks[row, : len(places)][None],
        )
        losses = loss(tokens).losses
        if correction is not None:
            sampling = of(targets.sampling_log_probs)
            losses = losses * correction(tokens.old_log_probs - sampling, tokens.mask).weights
        total = total + losses.sum() / sum(map(len, kept))
    return total


@pytest.mark.parametrize("policy_loss", made(PolicyLoss))
def test_policy_losses(policy_loss: PolicyLoss, case: Case) -> None:
    old, teacher = read_distributions(case, policy_loss)
    objective = case.objective(policy_loss, PLAIN)
    targets = replace(case.targets, old_reading=old, teacher_reading=teacher)
    targets = objective.mark_tokens(targets, case.rollouts.trained_mask, torch.arange(4), Ranks())
    ours = objective(*pass_over(case, objective, targets), targets).loss
    assert_same(case.policy, ours, policy_loss_alone(case, objective, targets, None))


@pytest.mark.parametrize("correction", made(ImportanceCorrection))
def test_importance_corrections(correction: ImportanceCorrection, case: Case) -> None:
    objective = case.objective(ClippedPolicyLoss(), PLAIN, importance=correction)
    ours = objective(*pass_over(case, objective, case.targets), case.targets).loss
    assert_same(case.policy, ours, policy_loss_alone(case, objective, case.targets, correction))


def alone(case: Case, row: int) -> tuple[PolicyOutputs, MicroBatch, Targets]:
    """A solution in a record of its own, in which the tokens that others wrote are not."""
    own, tokens, found = plain(case.policy, case.rollouts, row)
    places = case.kept[row]
    of_tokens, tokens = own[places], tokens[places]
    count = len(places)
    prompt = int(case.rollouts.prompt_lengths[row // 2])
    balances = []
    for layer in found.router_logits:  # E * sum of f * P, over the kept tokens alone
        probabilities = layer.softmax(dim=-1)[prompt + places]
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(2).indices, 1.0)
        balances.append(4 * (chosen.mean(dim=0) * probabilities.mean(dim=0)).sum())
    outputs = PolicyOutputs(
        of_tokens.gather(1, tokens[:, None]).T,
        -(of_tokens.exp() * of_tokens).sum(dim=-1)[None],
        torch.zeros(1, 1),
        router_balance=torch.stack(balances).mean()[None],
    )
    number = torch.tensor([row])
    lengths = case.rollouts.prompt_lengths[row // 2][None], torch.tensor([count])
    mask = torch.ones(1, count, dtype=torch.bool)
    batch = MicroBatch(number, torch.cat((torch.zeros(prompt, dtype=torch.long), tokens))[None], *lengths, mask)
    return (
        outputs,
        batch,
        replace(case.targets, **{name: packed(getattr(case.targets, name), case.kept) for name in NAMES}),
    )


@pytest.mark.parametrize("share", [*made(PolicyHold), *made(LossTerm)])
def test_holds_and_further_terms(share: Any, case: Case) -> None:
    objective = case.objective(ClippedPolicyLoss(), PLAIN)
    ours = share(*pass_over(case, objective, case.targets), case.targets)
    assert_same(case.policy, ours, sum(share(*alone(case, row)) for row in range(4)))


@pytest.mark.parametrize("divergence", made(KLDivergence))
def test_divergences_from_the_reference(divergence: KLDivergence, case: Case) -> None:
    objective = case.objective(ClippedPolicyLoss(), PLAIN, kl_coef=0.3, kl=divergence)
    without = replace(case.targets, advantages=torch.zeros(4))  # the KL term alone
    ours = objective(*pass_over(case, objective, without), without).loss
    slow = torch.zeros(())
    for row in range(4):
        outputs, _, targets = alone(case, row)
        reference = targets.reference_log_probs[row, : outputs.log_probs.shape[1]][None]  # type: ignore[index]
        slow = slow + 0.3 * divergence(outputs.log_probs, reference).sum() / sum(map(len, case.kept))
    assert_same(case.policy, ours, slow)


def test_the_entropy_bonus(case: Case) -> None:
    objective = case.objective(ClippedPolicyLoss(), PLAIN, entropy_coef=0.2)
    without = replace(case.targets, advantages=torch.zeros(4))
    ours = objective(*pass_over(case, objective, without), without).loss
    slow = sum(-0.2 * alone(case, row)[0].entropy.sum() for row in range(4)) / sum(map(len, case.kept))
    assert_same(case.policy, ours, slow)  # type: ignore[arg-type]


def heads() -> Iterator[Any]:
    """Each head, with tokens for its arguments that have no default."""
    for kind in classes_of(SelfRewardHead):
        parameters = inspect.signature(kind).parameters
        needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
        given: dict[str, Any] = dict(zip(needed, TOKENS, strict=False))
        given |= {"reference": -4.0, "beta": 0.5} if "reference" in parameters else {}
        given |= {"trains_policy": True} if "trains_policy" in parameters else {}
        yield pytest.param(kind, given, id=kind.__name__)


@pytest.mark.parametrize(("kind", "given"), list(heads()))
def test_self_rewards_look_behind_the_whole_response(kind: Any, given: dict[str, Any], case: Case) -> None:
    """A score is read behind the last token, whoever wrote the middle: the mask has no say in it."""
    torch.manual_seed(0)
    head = kind(**given, loss_weight=0.5)
    head.bind(load_tokenizer(case.policy.settings), case.policy.eos_token_ids)
    head.prepare(case.policy.hidden_size, sharded=False)
    for parameter in head.parameters():  # some are 0 at the start
        torch.nn.init.normal_(parameter, std=0.3)
    objective = case.objective(ClippedPolicyLoss(), head)
    weights = case.rollouts.finished.float() * torch.tensor([0.4, 0.3, 0.2, 0.1])
    targets = replace(case.targets, self_reward_weights=weights, self_reward_targets=case.targets.rewards)
    (batch,) = case.policy.micro_batches(case.rollouts, torch.arange(4), 1000)
    ours = objective.self_reward_loss(case.policy(batch, head.token_ids), batch, targets)
    read, hidden = [], []
    for row in range(4):
        _, _, found = plain(case.policy, case.rollouts, row)
        read.append(found.logits[0, -1].log_softmax(dim=-1)[list(head.token_ids)])
        hidden.append(found.hidden_states[-1][0, -1])
    readings = Readings(torch.stack(read), torch.stack(hidden) if head.reads_hidden else None)
    slow = head.loss(readings, Supervision(case.targets.rewards, weights))
    assert_same(case.policy, ours, slow)
