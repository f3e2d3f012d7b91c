"""What holds the policy in a judging update, by hand."""

import math

import pytest
import torch

from laser_lightning import KLHold, PolicyHold, SampledCrossEntropy
from laser_lightning.errors import UserError
from laser_lightning.objective.judging.settings import JudgingSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch

ROWS = torch.tensor([2, 0])
BATCH = MicroBatch(
    ROWS,
    input_ids=torch.zeros(2, 4, dtype=torch.long),
    prompt_lengths=torch.tensor([1, 1]),
    response_lengths=torch.tensor([2, 3]),
    loss_mask=torch.tensor([[True, True, False], [True, False, True]]),  # the second place of the last is not ours
)


def share(hold: PolicyHold, log_probs: torch.Tensor) -> torch.Tensor:
    nothing = torch.zeros(3)
    old = torch.full((3, 4), -1.0)
    weights = torch.tensor([0.1, 9.0, 0.5])
    rewards = torch.tensor([0.0, 0.0, 1.0])
    targets = Targets(nothing, rewards, weights, nothing, nothing, old_log_probs=old)
    return hold(PolicyOutputs(log_probs, log_probs, log_probs[:, :1]), BATCH, targets)


def test_the_sampled_cross_entropy_is_the_weighted_sum_of_the_sampled_tokens() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, 7.0], [-3.0, 7.0, -4.0]])
    # 0.2 * (0.5 * (1 + 2) + 0.1 * (3 + 4))
    assert float(share(SampledCrossEntropy(0.2), log_probs)) == pytest.approx(0.2 * 2.2)


def test_tokens_of_incorrect_solutions_may_weigh_less() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, 7.0], [-3.0, 7.0, -4.0]])
    # 0.5 * (0.5 * (1 + 2) + 0.2 * 0.1 * (3 + 4)): of the batch's two solutions the first is correct.
    assert float(share(SampledCrossEntropy(0.5, incorrect=0.2), log_probs)) == pytest.approx(0.5 * 1.64)
    with pytest.raises(UserError, match=r"update\.judging\.hold\.incorrect is 2, and must be from 0 to 1"):
        SampledCrossEntropy(incorrect=2)


@pytest.mark.parametrize(
    ("estimator", "at_log_two"), [("k3", math.exp(math.log(2)) - 1 - math.log(2)), ("k2", math.log(2) ** 2 / 2)]
)
def test_the_divergence_begins_at_zero(estimator: str, at_log_two: float) -> None:
    hold = KLHold(2.0, estimator)  # type: ignore[arg-type]
    log_probs = torch.full((2, 3), -1.0, requires_grad=True)
    start = share(hold, log_probs)
    (gradient,) = torch.autograd.grad(start, log_probs)
    assert start.item() == 0
    assert not gradient.any()
    moved = torch.full((2, 3), -1 - math.log(2))
    # Four tokens, two at weight 0.5 and two at 0.1.
    assert float(share(hold, moved)) == pytest.approx(2.0 * 1.2 * at_log_two, rel=1e-5)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"update\.judging\.hold\.weight is -1, and must be 0 or more"):
        KLHold(-1)
    with pytest.raises(UserError, match=r"KLHold's estimator is k1"):
        KLHold(1, "k1")
    for name in ("updates", "buffer_rounds", "groups_per_update"):
        with pytest.raises(UserError, match=rf"update\.judging\.{name} is 0, and must be at least 1"):
            JudgingSettings(**{name: 0})
    with pytest.raises(UserError, match=r"update\.judging\.learning_rate is 0\.0, and must be above 0"):
        JudgingSettings(learning_rate=0.0)
