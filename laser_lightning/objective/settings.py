"""How rollouts become optimizer steps."""

from dataclasses import dataclass, field

from laser_lightning.arguments import takes_old_fields
from laser_lightning.errors import UserError
from laser_lightning.objective.judging.settings import JudgingSettings
from laser_lightning.objective.losses.aggregation import Aggregation
from laser_lightning.objective.losses.importance import ImportanceCorrection
from laser_lightning.objective.losses.kl import KLDivergence, KLEstimate
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.router import RouterAuxLoss
from laser_lightning.objective.term import LossTerm


@takes_old_fields("update")
@dataclass(frozen=True)
class UpdateSettings:
    """How rollouts become optimizer steps.

    Args:
        micro_batch_tokens: token budget of a forward pass, padding included; it changes memory and speed, not results.
        mini_batches: optimizer steps that a rollout is split into, by prompts; must divide the prompts per process.
        epochs: times that a rollout is used.
        aggregation: mean over all trained tokens of the step (``token_mean``), over solutions of the mean within each
            (``sequence_mean``), or over solutions of the sum within each, divided by sampling.max_response_tokens
            (``fixed_length``, Dr.GRPO).
        kl_coef: weight of the KL divergence to the frozen reference; 0 loads no reference for it.
        kl: how the divergence is estimated.
        entropy_coef: weight of the entropy bonus.
        importance: makes up for the mismatch between the engine's log-probs and the trainer's by weights of the policy
            loss; null for no such weights, or for ``laser_lightning.TruncatedImportance`` where ``rollout.ahead`` is
            above 0, so that the policy has moved on since it drew the tokens.
        terms: further terms of the loss, each with its own weight.
        judging: updates of the self-reward alone behind each round, by replay of earlier ones; null for none.
        router_aux_loss: weight of the load-balancing loss of a mixture of experts, over the trained tokens of each
            solution (``RouterAuxLoss``); ``router_aux_loss_coef`` of the model's config is its usual value. 0 or null
            for none; with null a model whose config asks for it gets a warning.
        max_mismatch: largest mean difference (nats) of the engine's log-probs of sampled tokens from the trainer's
            (``train/mismatch/token_log_prob``), and a tenth of the largest one of the reward token's. A step above it
            warns, and ten in a row stop the run; null for no limit.
    """

    micro_batch_tokens: int = 16_384
    mini_batches: int = 1
    epochs: int = 1
    aggregation: Aggregation = "token_mean"
    kl_coef: float = 0.0
    kl: KLDivergence = KLEstimate()
    entropy_coef: float = 0.0
    importance: ImportanceCorrection | None = None
    terms: list[LossTerm] = field(default_factory=list)
    judging: JudgingSettings | None = None
    router_aux_loss: float | None = None
    max_mismatch: float | None = 0.1

    def __post_init__(self) -> None:
        for name in ("micro_batch_tokens", "mini_batches", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"update.{name} is {getattr(self, name)}, and must be at least 1.")
        if self.kl_coef < 0 or self.entropy_coef < 0:
            raise UserError("update.kl_coef and update.entropy_coef must be 0 or more.")
        if self.router_aux_loss is not None and self.router_aux_loss < 0:
            raise UserError("update.router_aux_loss must be 0 or more, or null.")
        if self.max_mismatch is not None and not self.max_mismatch > 0:
            raise UserError(f"update.max_mismatch is {self.max_mismatch}, and must be above 0, or null for no limit.")
        names = [term.name for term in self.all_terms]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"update.terms has the name '{twice.pop()}' twice, under which a term is logged.")

    @property
    def all_terms(self) -> list[LossTerm]:
        """The further terms of the loss, that of the routers among them."""
        return [*self.terms, RouterAuxLoss(self.router_aux_loss)] if self.router_aux_loss else self.terms

    @property
    def reuses_rollouts(self) -> bool:
        """Whether a rollout sees more than one optimizer step, so that ratios differ from 1."""
        return self.mini_batches * self.epochs > 1

    def parts(self) -> dict[str, ObjectivePart]:
        """The parts that are in use, by their keys below ``model``."""
        kl = {"update.kl": self.kl} if self.kl_coef > 0 else {}
        importance = {} if self.importance is None else {"update.importance": self.importance}
        terms = {f"update.terms.{number}": term for number, term in enumerate(self.all_terms)}
        return kl | importance | terms | ({} if self.judging is None else self.judging.parts())
