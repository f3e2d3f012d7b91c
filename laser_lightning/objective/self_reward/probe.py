"""A probe in the place of a token: a small network on the last hidden state says whether the solution is right."""

import torch
from torch import Tensor, nn

from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import Supervision
from laser_lightning.objective.self_reward.target import SelfRewardTarget, VerifierTarget
from laser_lightning.objective.self_reward.weights import ClassBalancedWeights, SelfRewardWeights
from laser_lightning.shapes import Float


class ProbeSelfReward(SelfRewardHead):
    """Reads the last hidden state at ``<eos>`` by a network of two layers, trained by binary cross-entropy.

    The self-reward is r_s = sigmoid(v . relu(W h + b) + c), 1/2 for everything at first. It costs a forward pass
    without gradient behind each rollout, parameters of its own, and has no form in an export.

    As the probe of RLCM (arXiv 2604.23333: two layers on the final hidden state, no gradient into the policy), which
    reads it at several places of a response and learns from continuations; Gnosis (arXiv 2512.20578) reads the hidden
    states and attention maps of the whole response of a frozen model. Here it is read where LaSeR's score is, and
    learns from the same rewards.

    Args:
        token: every head names a token of the vocabulary; a probe makes nothing of it.
        width: hidden units.
        trains_policy: let the gradient through to the policy, which then learns to be readable, as LaSeR's does.
        loss_weight: weight of the cross-entropy; 0 trains plain GRPO, with no self-rewards in the advantages either.
        class_weights: false is version 0.1's word for ``weights: EqualWeights``.
        weights: what each solution's error weighs in the loss: correct and incorrect ones half each, however many there
            are, or another part.
        target: the probability that each self-reward is trained towards: the verifier's reward, or another part; what
            lies outside of [0, 1] counts as 0 or 1.
    """

    reads_hidden = True

    def __init__(
        self,
        token: str,
        width: int = 256,
        trains_policy: bool = False,
        loss_weight: float = 0.1,
        class_weights: bool = True,
        weights: SelfRewardWeights = ClassBalancedWeights(),
        target: SelfRewardTarget = VerifierTarget(),
    ) -> None:
        super().__init__({"token": token}, loss_weight, class_weights, weights, target)
        if width < 1:
            raise UserError(f"self_reward.width is {width}, and must be at least 1.")
        self.width, self.trains_policy = width, trains_policy

    def build(self, hidden_size: int) -> None:
        """Make the two layers; the second begins at 0.

        Args:
            hidden_size: D, the width of the hidden states.
        """
        self.hidden_layer, self.output_layer = nn.Linear(hidden_size, self.width), nn.Linear(self.width, 1)
        with torch.no_grad():
            self.output_layer.weight.zero_()
            self.output_layer.bias.zero_()

    def score(self, readings: Readings) -> Float[Tensor, " N"]:
        """The self-reward r_s, a probability.

        Args:
            readings: last hidden states [N, D].

        Returns:
            [N] float32, NaN where the hidden states are (truncated solutions).
        """
        assert readings.hidden is not None  # asked for above
        return self._logits(readings.hidden).sigmoid()

    def loss(self, readings: Readings, supervision: Supervision) -> Float[Tensor, ""]:
        """The weighted cross-entropy, summed over these solutions.

        Args:
            readings: as in ``score``, with gradient; those of weight 0 may be NaN.
            supervision: targets and weights.
        """
        assert readings.hidden is not None
        targets, weights = supervision
        hidden = readings.hidden if self.trains_policy else readings.hidden.detach()
        logits = self._logits(hidden.where(weights[:, None] > 0, 0.0))
        entropies = nn.functional.binary_cross_entropy_with_logits(logits, targets.clamp(0, 1), reduction="none")
        return (weights * entropies).sum()

    def _logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        # Autocast would round units and logits to bfloat16, in which scores of several solutions become the same.
        with torch.autocast(hidden.device.type, enabled=False):
            units = _in_float32(self.hidden_layer, hidden).relu()
            return _in_float32(self.output_layer, units).squeeze(1)

    def extra_repr(self) -> str:
        """Settings in the module's printout."""
        return f"width={self.width}, trains_policy={self.trains_policy}, loss_weight={self.loss_weight}"


def _in_float32(layer: nn.Linear, values: Float[Tensor, "N width"]) -> Float[Tensor, "N units"]:
    """[N, units] a layer's product, in float32 also where its weights are not; in float64 where they are."""
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    return nn.functional.linear(values.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))
