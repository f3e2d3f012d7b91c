"""Rounds of training that are drawn while the updates before them run."""

from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.modules.teaching import sampling_at
from laser_lightning.objective.losses.importance import TruncatedImportance
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.records.batching import Rollouts, concat_solutions
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.settings import RolloutSettings

if TYPE_CHECKING:
    from laser_lightning.modules.laser import LaSeRModule

LARGEST_SEED = 2**62


class HandedBatch(NamedTuple):
    """A batch whose round is not being drawn yet.

    Attributes:
        problems: those of this rank.
        handed_at: optimizer steps taken when the loader handed it out, which say of which stage its problems are.
    """

    problems: list[Problem]
    handed_at: int


@dataclass(frozen=True)
class AheadRound:
    """A round that is drawn, or being drawn.

    Attributes:
        problems: those of this rank.
        handed_at: optimizer steps taken when the loader handed them out.
        step: optimizer steps that the weights had taken which draw it.
        rollouts: the solutions, once they are there.
    """

    problems: list[Problem]
    handed_at: int
    step: int
    rollouts: "Future[Rollouts]"

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of it: what was drawn with weights that are gone."""
        drawn = self.rollouts.result().to(torch.device("cpu"))
        return {
            "step": self.step,
            "handed_at": self.handed_at,
            "problems": [problem.index for problem in self.problems],
            "rollouts": vars(drawn),
        }


class RoundsAhead:
    """Draws the rounds of a run, as far ahead of the updates as the settings say.

    With ``ahead: 2``, where b0, b1, ... are the batches of problems in the order of the loader, and w0, w1, ... the
    weights that each step begins with:

        step             0           1           2           3           4
        trains on        b0 (w0)     b1 (w0)     b2 (w0)     b3 (w2)     b4 (w2)
        is handed        b0          b3          b4          b5          b6
        begins to draw   b1 b2 (w0)  -           b3 b4 (w2)  -           b5 b6 (w4)

    The first step draws its own round, and takes from the loader what it needs to begin. Solutions, and not weights,
    are what a checkpoint keeps: a resumed run trains on the same ones. So writing it waits for those under way.

    A curriculum chooses a batch in the step that is handed it, so that step says how long its responses may be, and not
    the one that draws it: above, b3 is within the limit of step 1, and b4, drawn with it, within that of step 2.

    Args:
        settings: how far ahead.
        module: whose rounds they are.

    Attributes:
        drawn_at: optimizer steps that the weights had taken which drew the latest round.
        handed_at: optimizer steps taken when the loader handed the latest round's problems out.
        staleness: how many they have taken since.
    """

    def __init__(self, settings: RolloutSettings, module: "LaSeRModule") -> None:
        self.ahead, self._module = settings.ahead, module
        self.drawn_at = self.handed_at = self.staleness = 0
        self.clear()

    def clear(self) -> None:
        """Begin a run."""
        self._waiting: list[HandedBatch] = []
        self._rounds: list[AheadRound] = []
        self._before: tuple[list[HandedBatch], list[AheadRound]] | None = None  # of an unfinished step
        self._saved: list[dict[str, Any]] | None = None  # of a checkpoint, until the training problems are there

    @property
    def sampling(self) -> Sampling:
        """How the latest round was drawn."""
        return self._sampling_of(self.handed_at)

    def _sampling_of(self, handed_at: int) -> Sampling:
        """How a batch is drawn that was handed out at this step."""
        return sampling_at(self._module.sampling, self._module.data, handed_at)

    # ---------------------------------------------------------------- a step

    def next_round(self, problems: list[Problem]) -> Rollout:
        """The round that a step trains on: one that was drawn ahead, if there is any; else it is drawn now.

        Args:
            problems: the batch that the step is handed; it has its turn behind those that wait.
        """
        module = self._module
        self._restore()
        self._before = list(self._waiting), list(self._rounds)
        now = module.trainer.global_step
        self._waiting.append(HandedBatch(problems, now))
        if not self._rounds:
            batch = self._waiting.pop(0)
            self.drawn_at, self.handed_at, self.staleness = now, batch.handed_at, 0
            return self.draw(batch.problems)
        latest = self._rounds.pop(0)
        with module.parts("rollout"):
            rollouts = latest.rollouts.result()
        self.drawn_at, self.handed_at, self.staleness = latest.step, latest.handed_at, now - latest.step
        return module.sampler.judge(latest.problems, rollouts, self.sampling)

    def draw(self, problems: list[Problem]) -> Rollout:
        """Draw a batch now, with the weights of the moment, within the length of the latest round.

        A further batch of ``sampling_rounds`` may be of the next stage already. It keeps the length of the round that
        it fills up: a step has one limit, by which overlong responses are told.

        Args:
            problems: the batch.
        """
        module = self._module
        return module.sampler.rollout(problems, module.group_size, self.sampling, module.generator)

    def go_on(self) -> None:
        """Begin to draw the next rounds, where none is left, or let the engine sleep; all ranks call it together."""
        module = self._module
        if self.ahead == 0:
            module.engine.sleep()
            return
        if self._rounds:
            return
        step = module.trainer.global_step
        while len(self._waiting) < self.ahead:
            self._waiting.append(HandedBatch(next(iter(module.data.train_dataloader())), step))
        batches, self._waiting = self._waiting[: self.ahead], self._waiting[self.ahead :]
        device = module.generator.device
        seeds = torch.randint(LARGEST_SEED, (self.ahead,), generator=module.generator, device=device).tolist()
        problems = [batch.problems for batch in batches]
        samplings = [self._sampling_of(batch.handed_at) for batch in batches]
        drawing = module.sampler.draw_meanwhile(problems, module.group_size, samplings, seeds)
        self._rounds = [AheadRound(*batch, step, drawn) for batch, drawn in zip(batches, drawing, strict=True)]

    def end_step(self) -> dict[str, float | Tensor]:
        """The step is whole; its metrics."""
        self._before = None
        return {"train/rollout/staleness": float(self.staleness)} if self.ahead else {}

    def put_back(self) -> None:
        """Go back to before a step that was broken off."""
        if self._before is not None:
            self._waiting, self._rounds = self._before
            self._before = None

    # ----------------------------------------------------------- checkpoints

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add what waits and what was drawn, of all ranks; all ranks call it together."""
        if self._saved is not None:
            checkpoint["laser_ahead"] = self._saved
        elif self._waiting or self._rounds:
            own = {
                "waiting": [[problem.index for problem in batch.problems] for batch in self._waiting],
                "waiting_handed_at": [batch.handed_at for batch in self._waiting],
                "rounds": [one.state_dict() for one in self._rounds],
            }
            checkpoint["laser_ahead"] = self._module.ranks.gather(own)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what ``save`` added, once the training problems are there."""
        # Without a trainer it is `load_from_checkpoint`, behind which a run begins anew.
        if self._module.strategy is not None:
            self._saved = checkpoint.get("laser_ahead")

    def _restore(self) -> None:
        if self._saved is None:
            return
        module = self._module
        problem_of = {problem.index: problem for problem in module.data.train_problems}
        saved, self._saved = self._saved, None
        index, count = module.ranks.index, module.ranks.count

        def own(batches: list[list[int]]) -> list[Problem]:
            """This rank's part of a batch [ranks, P] that was dealt out one by one, to more or fewer ranks maybe."""
            dealt = [number for numbers in zip(*batches, strict=True) for number in numbers]
            return [problem_of[number] for number in dealt[index::count]]

        waiting = [own(list(batches)) for batches in zip(*(state["waiting"] for state in saved), strict=True)]
        # Older checkpoints do not say when batches were handed out. They had the limit of the step that draws them.
        handed_at = saved[0].get("waiting_handed_at", [module.trainer.global_step] * len(waiting))
        self._waiting = [HandedBatch(*one) for one in zip(waiting, handed_at, strict=True)]
        self._rounds = [
            AheadRound(
                own([part["problems"] for part in parts]),
                parts[0].get("handed_at", parts[0]["step"]),
                parts[0]["step"],
                self._drawn(parts),
            )
            for parts in zip(*(state["rounds"] for state in saved), strict=True)
        ]

    def _drawn(self, parts: tuple[dict[str, Any], ...]) -> "Future[Rollouts]":
        """This rank's part of a round, of which every rank of the saved run had one."""
        ranks, device = self._module.ranks, self._module.device
        whole = concat_solutions([Rollouts(**part["rollouts"]) for part in parts])
        of_rank = len(parts[0]["problems"])
        # Problem i of rank r is number i * ranks + r of the round, and r * of_rank + i of what was put together.
        places = torch.arange(len(parts) * of_rank).view(len(parts), of_rank).T.flatten()
        drawn = whole.select(places[ranks.index :: ranks.count])
        future: Future[Rollouts] = Future()
        future.set_result(drawn.to(device))
        return future


def with_importance(update: UpdateSettings, ahead: int) -> UpdateSettings:
    """The settings of updates on rounds that are drawn ahead: by default with weights for the policy having moved on.

    Args:
        update: as configured.
        ahead: how far ahead rounds are drawn.
    """
    if ahead == 0 or update.importance is not None:
        return update
    rank_zero_info(
        f"rollout.ahead is {ahead}: the policy moves on between drawing and update, which weights of the tokens make "
        "up for (update.importance is laser_lightning.TruncatedImportance; laser_lightning.NoImportance for none)."
    )
    return replace(update, importance=TruncatedImportance())
