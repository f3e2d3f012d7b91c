"""What an extra term of the loss is."""

import re
from abc import abstractmethod

import torch
from torch import Tensor

from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch
from laser_lightning.shapes import Bool, Float


class LossTerm(ObjectivePart):
    """A term that is added to the loss (``update.terms``), and logged as ``train/<name>``."""

    @property
    def name(self) -> str:
        """Its name among the metrics: the class's, in lower case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Float[Tensor, ""]:
        """A micro-batch's share of the term: scalar, with gradient.

        Shares of all micro-batches and ranks are added up. A mean over the tokens or solutions of the optimizer step
        comes out right if each solution is weighed by ``targets.policy_weights[batch.rows]``, whose denominators are
        those of the whole step, as in ``weighted_sum``.

        Args:
            outputs: of the policy.
            batch: B solutions, their numbers in ``batch.rows``.
            targets: what is known of all N solutions.
        """

    def has_gradient(self, targets: Targets) -> Bool[Tensor, " N"]:
        """[N] bool: solutions that the term has a gradient for; the others need no forward pass. All by default."""
        return torch.ones_like(targets.rewards, dtype=torch.bool)
