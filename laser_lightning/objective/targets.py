"""What the objective knows of each solution before the first backward pass."""

from dataclasses import dataclass

from torch import Tensor

from laser_lightning.shapes import Bool, Float, Shaped


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
        sampling_log_probs: [N, R] of the engine; None where it knows none.
        teacher_log_probs: [N, R] of the teacher, where a part asks for them, else None.
        old_reading: [N, R, ...] what the policy loss reads off the old policy's distributions; else None.
        teacher_reading: [N, R, ...] the same of the teacher's.
        marks: [N, R] bool, tokens that the policy loss chose among all of the step (``PolicyLoss.mark_tokens``).
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
    old_reading: Shaped[Tensor, "N R ..."] | None = None
    teacher_reading: Shaped[Tensor, "N R ..."] | None = None
    marks: Bool[Tensor, "N R"] | None = None

    @property
    def token_advantages(self) -> Float[Tensor, "N R"] | Float[Tensor, "N 1"]:
        """[N, R] or [N, 1]: the same, as what is multiplied with tokens."""
        return self.advantages if self.advantages.ndim == 2 else self.advantages[:, None]
