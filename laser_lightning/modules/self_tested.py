"""When a module tries its policy: as a stage of the trainer begins, before the first step."""

from contextlib import AbstractContextManager

import lightning
from lightning.pytorch.trainer.states import TrainerFn

from laser_lightning.distributed.parts import StepParts
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.policy.model import AdaptersOff, FrozenPolicy, Policy
from laser_lightning.policy.precision import precision_of_steps
from laser_lightning.rollout.engine import RolloutEngine
from laser_lightning.rollout.self_test import Finding, SelfTest, check_policy, share_rightly


class SelfTested(lightning.LightningModule):
    """A LightningModule whose policy is compared with plain passes when ``fit``, or an evaluation alone, begins.

    Attributes:
        policy: the model, from ``configure_model`` on.
        parts: times the parts of a step.
        has_groups: whether several solutions of a prompt go through the policy in one step.
    """

    policy: Policy
    parts: StepParts
    has_groups: bool = False

    @property
    def ranks(self) -> Ranks:
        """The processes that agree."""
        raise NotImplementedError

    def gathered_weights(self, *models: Policy | AdaptersOff | None) -> AbstractContextManager[None]:
        """Around any use of a model outside of the differentiated passes."""
        raise NotImplementedError

    @property
    def rollout_engine(self) -> RolloutEngine | None:
        """What draws solutions; None where nothing is sampled."""
        return None

    def on_fit_start(self) -> None:
        """Try the policy before the first step."""
        self.check_policy()

    def on_validation_start(self) -> None:
        """Try the policy before an evaluation that stands alone."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.check_policy()

    def check_policy(self) -> list[Finding]:
        """Compare every way in which log-probs are about to come about with a plain pass, on a small random batch.

        Here weights, precision and processes are those of the steps. No random state changes.

        Raises:
            UserError: with cause and remedy, if something is wrong.
        """
        trains = self.trainer.state.fn == TrainerFn.FITTING
        precision = precision_of_steps(self.trainer.precision_plugin)
        frozen = [m for m in self.children() if isinstance(m, FrozenPolicy) and self.has_groups]
        with precision, self.parts("self_test"), self.gathered_weights(self.policy, *frozen):
            for model in frozen:
                if model.sharing is not None:
                    share_rightly(SelfTest(model, ranks=self.ranks), training=False)
            return check_policy(self.policy, self.rollout_engine, self.ranks, trains, self.has_groups)
