"""What the objective knows of each solution before the first backward pass."""

from dataclasses import dataclass

from torch import Tensor

from laser_lightning.shapes import Float


@dataclass
class Targets:
    """What the objective needs to know of each of the N solutions, fixed before the first backward pass.

    Attributes:
        advantages: [N], or [N, R] with one for each response token.
        rewards: [N].
        policy_weights: [N], weight of each trained token of the solution in the step's mean.
        self_reward_weights: [N], weight of the solution's error in its self-reward; 0 where there is none.
        self_reward_targets: [N], what its self-reward is trained towards.
        references: [N, K] log pi_ref of the tokens that scores are made of with an exact reference, else None.
        old_log_probs: [N, R] of the policy that the update started from; None for a first and only step, where they
            are those of the step itself.
        reference_log_probs: [N, R] of the frozen reference, where the KL term or a part asks for them, else None.
        sampling_log_probs: [N, R] of the engine, for importance weights, else None.
        teacher_log_probs: [N, R] of the teacher, where a part asks for them, else None.
    """

    advantages: Float[Tensor, " N"] | Float[Tensor, "N R"]
    rewards: Float[Tensor, " N"]
    policy_weights: Float[Tensor, " N"]
    self_reward_weights: Float[Tensor, " N"]
    self_reward_targets: Float[Tensor, " N"]
    references: Float[Tensor, "N K"] | None = None
    old_log_probs: Float[Tensor, "N R"] | None = None
    reference_log_probs: Float[Tensor, "N R"] | None = None
    sampling_log_probs: Float[Tensor, "N R"] | None = None
    teacher_log_probs: Float[Tensor, "N R"] | None = None

    @property
    def token_advantages(self) -> Float[Tensor, "N R"] | Float[Tensor, "N 1"]:
        """[N, R] or [N, 1]: the same, as what is multiplied with tokens."""
        return self.advantages if self.advantages.ndim == 2 else self.advantages[:, None]
