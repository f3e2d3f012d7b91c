"""The head's product in float32, against products of the same numbers in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from laser_lightning.policy import head as head_module
from laser_lightning.policy.head import float32_logits
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.rollout.vllm.head import with_float32_head

HALF = [torch.bfloat16, torch.float16]
T, V, D = 5, 23, 8


def halves(dtype: torch.dtype, bias: bool = False) -> tuple[nn.Linear, Tensor]:
    """A head and hidden states in half precision, whose logits are some tens, as those of a model."""
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=bias).to(dtype)
    with torch.no_grad():
        head.weight.mul_(20)
    return head, (4 * torch.randn(T, D)).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 23, 100])  # of the weights that become float32 together
def test_values_and_gradients(dtype: torch.dtype, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "WEIGHTS_AT_ONCE", rows * D)
    head, hidden = halves(dtype, bias)
    leaves = (hidden, *head.parameters())
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    upstream = torch.randn(T, V)

    logits = float32_logits(head, hidden)
    plain = functional.linear(*doubles)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), plain, rtol=1e-5, atol=1e-5)
    # The very same numbers, rounded once to the type of what they are the gradient of.
    expected = torch.autograd.grad(plain, doubles, upstream.double())
    found = torch.autograd.grad(logits, leaves, upstream)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=torch.finfo(dtype).eps, atol=1e-3)
    # The model's own product is coarser by far, or the rest of this file shows nothing.
    assert (functional.linear(hidden, head.weight, head.bias) - plain).abs().max() > 100 * (logits - plain).abs().max()


def test_leading_axes_and_no_gradient() -> None:
    head, hidden = halves(torch.bfloat16)
    with torch.inference_mode():
        logits = float32_logits(head, hidden.view(1, T, D))
    assert logits.shape == (1, T, V)
    assert torch.equal(logits[0], float32_logits(head, hidden))


def test_a_frozen_head_passes_the_gradient_on() -> None:
    head, hidden = halves(torch.bfloat16)
    head.requires_grad_(False)
    float32_logits(head, hidden).sum().backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


@pytest.mark.parametrize("dtype", HALF)
def test_autocast_rounds_nothing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(D, V), torch.randn(T, D)
    with torch.autocast("cpu", dtype):
        logits = float32_logits(head, hidden)
        assert torch.equal(logits, functional.linear(hidden.float(), head.weight.float(), head.bias)) is False
    assert torch.equal(logits, head(hidden))  # the product outside of autocast, to the bit


def test_float32_and_float64_are_multiplied_as_they_were() -> None:
    for dtype in (torch.float32, torch.float64):
        head, hidden = nn.Linear(D, V).to(dtype), torch.randn(T, D, dtype=dtype)
        assert torch.equal(float32_logits(head, hidden), head(hidden))


def test_a_head_of_another_kind_computes_as_it_does() -> None:
    class Scaled(nn.Linear):
        def forward(self, hidden: Tensor) -> Tensor:
            return 2 * super().forward(hidden)

    head, hidden = Scaled(D, V).bfloat16(), torch.randn(T, D).bfloat16()
    assert torch.equal(float32_logits(head, hidden), head(hidden).float())


# ------------------------------------------------------------------ in a policy


def scores(policy: Policy, rollouts: Rollouts) -> Tensor:
    """[N, 1] log pi(z) of the update's pass."""
    rows = torch.arange(len(rollouts))
    (batch,) = micro_batches(rollouts, rows, 10_000, policy.pad_token_id)
    found = torch.empty(len(rollouts), 1)
    found[batch.rows] = policy(batch, (3,)).reward_token_log_probs.detach()
    return found


def of_float32_head(policy: Policy, rollouts: Rollouts, autocast: bool = False) -> Tensor:
    """[N, 1] log pi(z) from the policy's hidden states, as they are, and a product in float64."""
    rows = torch.arange(len(rollouts))
    (batch,) = micro_batches(rollouts, rows, 10_000, policy.pad_token_id)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = policy.hidden_at_end(batch)
    logits = functional.linear(hidden.double(), policy.lm.get_output_embeddings().weight.double())
    found = torch.empty(len(rollouts), 1)
    found[batch.rows] = logits.log_softmax(dim=-1)[:, [3]].float()
    return found


def test_bfloat16_weights(make_policy: Callable[..., Policy], make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts = make_rollouts()
    policy = make_policy(dtype="bfloat16", shared_prompts="never")  # which would round the layers below otherwise
    expected = of_float32_head(policy, rollouts)
    torch.testing.assert_close(scores(policy, rollouts), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(policy.scores_of(rollouts, (3,), 10_000), expected, rtol=0, atol=1e-5)
    rounded = make_policy(dtype="bfloat16", head_dtype="model")
    assert (scores(rounded, rollouts) - expected).abs().max() > 1e-3


def test_bf16_mixed(make_policy: Callable[..., Policy], make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts = make_rollouts()
    policy, rounded = make_policy(), make_policy(head_dtype="model")
    expected = of_float32_head(policy, rollouts, autocast=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(scores(policy, rollouts), expected, rtol=0, atol=1e-5)
        assert (scores(rounded, rollouts) - expected).abs().max() > 1e-3


def test_vllm_has_a_setting_of_its_own() -> None:
    assert with_float32_head({"block_size": 32}) == {"block_size": 32, "hf_overrides": {"head_dtype": "float32"}}
    own = {"hf_overrides": {"head_dtype": "model", "a": 1}}
    assert with_float32_head(own) == own

    def overrides(config: object) -> object:
        return config

    assert with_float32_head({"hf_overrides": overrides}) == {"hf_overrides": overrides}
