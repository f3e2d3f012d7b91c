"""The rounds of a stand-alone evaluation on disk, where a killed one goes on and others look them up."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.files import write_together
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout.fingerprints import problems_fingerprint, prompt_fingerprint
from laser_lightning.rollout.solution_store import Header, KeptBatch, KeptSolution, SolutionFile, as_rollouts
from laser_lightning.verifiers import Verification

FOLDER = "kept"


class KeptRounds:
    """The solutions of each evaluation set on this rank, in ``<directory>/<set>/rank<number>.jsonl``.

    Solutions of another model, of other problems or under other settings are never mixed in: their file is kept under
    another name. All ranks take the same batches from disk, since sampling the others needs all of them.

    Args:
        directory: the stage's folder in the run's directory.
        sets: the problems of each evaluation set on all ranks, by its name.
        samples: solutions per problem, k, by set.
        header: all that solutions and their scores depend on besides the set.
        ranks: the processes that evaluate.
        prompts_per_batch: problems of a batch on one rank.
        pad_token_id: fills unused places of the rollouts that are read.
        device: where these go.

    Raises:
        UserError: if a file is damaged, or is being replayed.
    """

    def __init__(
        self,
        directory: Path,
        sets: Mapping[str, Sequence[Problem]],
        samples: Mapping[str, int],
        header: Header,
        ranks: Ranks,
        prompts_per_batch: int,
        pad_token_id: int,
        device: torch.device,
    ) -> None:
        self._pad_token_id, self._device, self._ranks = pad_token_id, device, ranks
        self._files: dict[str, SolutionFile] = {}

        def open_files() -> None:
            for name, problems in sets.items():
                own = {"set": name, "samples": samples[name], **header, "problems": problems_fingerprint(problems)}
                self._files[name] = SolutionFile(directory / name / f"rank{ranks.index}.jsonl", own)

        write_together(ranks, "Kept solutions in", directory, open_files)
        for name, file in self._files.items():
            if file.replaced is not None:
                rank_zero_warn(file.replaced)
            file.keep_only(-ranks.max(-file.batches))
            if file.batches:
                total = -(-len(sets[name]) // (prompts_per_batch * ranks.count))
                rank_zero_info(f"{file.batches} of {total} batches of '{name}' were already there, in {directory}.")

    def has(self, dataset: str, batch: int) -> bool:
        """Whether a batch is there, on all ranks."""
        return batch < self._files[dataset].batches

    def take(self, dataset: str, batch: int, problems: list[Problem]) -> Rollout | None:
        """The round of a batch that is there; None on a rank that has no problems in it."""
        if not problems:
            return None
        kept, device = self._files[dataset].read(batch), self._device
        solutions = kept.solutions

        def column(name: str) -> torch.Tensor:
            return torch.tensor([getattr(s, name) for s in solutions], dtype=torch.float32, device=device)

        exact = solutions[0].reference_log_prob is not None
        return Rollout(
            problems,
            as_rollouts([p.prompt_ids for p in problems], solutions, self._pad_token_id, device),
            [solution.text for solution in solutions],
            [Verification(s.reward, s.answer, s.error, s.rewards, s.policy_reward) for s in solutions],
            column("reward"),
            _stacked(solutions, device) if exact else None,
            column("self_reward"),
            seconds=kept.seconds,
            scores=column("scores") if solutions[0].scores else None,
            judging_tokens=None if solutions[0].judging_tokens is None else column("judging_tokens").long(),
        )

    def put(self, dataset: str, rollout: Rollout | None) -> None:
        """Keep the next batch; None for one without problems on this rank."""
        batch = KeptBatch([], 0.0) if rollout is None else KeptBatch(_solutions(rollout), rollout.seconds)
        file = self._files[dataset]
        write_together(self._ranks, "Kept solutions in", file.path, partial(file.append, batch))


def kept_directory(trainer: Trainer) -> Path | None:
    """Where a stand-alone evaluation keeps its solutions; None for one in ``fit``, or without a directory of its own.

    All processes must ask together, since the run's directory is agreed among them.
    """
    if trainer.state.fn == TrainerFn.FITTING or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    run = Path(trainer.log_dir or trainer.default_root_dir)
    if not trainer.loggers and run.absolute() == Path.cwd():
        return None
    assert trainer.state.fn is not None
    return run / FOLDER / trainer.state.fn.value


def _solutions(rollout: Rollout) -> list[KeptSolution]:
    """A round's solutions as they are kept."""
    rollouts, group = rollout.rollouts, rollout.rollouts.group_size
    prompts = [prompt_fingerprint(problem.prompt_ids) for problem in rollout.problems]
    references = [[None]] * len(rollouts) if rollout.references is None else rollout.references.tolist()
    scores: list[list[float]] = [[]] * len(rollouts) if rollout.scores is None else rollout.scores.tolist()
    judging = [None] * len(rollouts) if rollout.judging_tokens is None else rollout.judging_tokens.tolist()
    columns = (
        rollout.texts,
        rollouts.responses(),
        rollouts.finished.tolist(),
        rollouts.reward_token_log_probs.tolist(),
        references,
        rollout.rewards.tolist(),
        rollout.verifications,
        rollout.self_rewards.tolist(),
    )
    return [
        KeptSolution(
            rollout.problem_of(row).index,
            prompts[row // group],
            row % group,
            text,
            ids,
            finished,
            log_prob,
            reference,
            reward,
            verification.answer,
            verification.error,
            self_reward,
            dict(verification.rewards),
            verification.policy_reward,
            further,
            of_reference,
            scores[row],
            judging[row],
        )
        for row, (
            text,
            ids,
            finished,
            (log_prob, *further),
            (reference, *of_reference),
            reward,
            verification,
            self_reward,
        ) in enumerate(zip(*columns, strict=True))
    ]


def _stacked(solutions: Sequence[KeptSolution], device: torch.device) -> torch.Tensor:
    """[N, K] log-probs under the reference."""
    rows = [[solution.reference_log_prob, *solution.further_reference_log_probs] for solution in solutions]
    return torch.tensor(rows, dtype=torch.float32, device=device)
