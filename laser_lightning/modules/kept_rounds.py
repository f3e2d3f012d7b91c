"""The rounds of a stand-alone evaluation on disk, where a killed one goes on and others look them up."""

from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.rollouts import RolloutModule
from laser_lightning.policy.model import FrozenPolicy
from laser_lightning.records.rounds import Round
from laser_lightning.rollout import RecordedSolutions, Sampling
from laser_lightning.rollout.fingerprints import (
    described,
    problems_fingerprint,
    prompt_fingerprint,
    weights_fingerprint,
)
from laser_lightning.rollout.solution_store import Header, KeptBatch, KeptSolution, SolutionFile, as_rollouts
from laser_lightning.verifiers import Verification

FOLDER = "kept"


class KeptRounds:
    """The solutions of each evaluation set on this rank, in ``<directory>/<set>/rank<number>.jsonl``.

    Solutions of another model, of other problems or under other settings are never mixed in: their file is kept under
    another name. All ranks take the same batches from disk, since sampling the others needs all of them.

    Args:
        module: what evaluates.
        directory: the stage's folder in the run's directory.
        samples: solutions per problem, k, by evaluation set.
        sampling: how they are drawn.

    Raises:
        UserError: if a file is damaged, or is being replayed.
    """

    def __init__(self, module: RolloutModule, directory: Path, samples: dict[str, int], sampling: Sampling) -> None:
        self._module = module
        engine = module.engine
        if isinstance(engine, RecordedSolutions) and engine.reads_below(directory):
            raise UserError(
                f"model.engine.path {engine.path} is where this run keeps its own solutions: give the run another "
                "run_dir (or set model.evaluation.keep to false)."
            )
        data, trainer = module.trainer.datamodule, module.trainer  # type: ignore[attr-defined]
        shared = _header(module, sampling)
        self._files: dict[str, SolutionFile] = {}
        for name, problems in data.evaluation_problems.items():
            header = {"set": name, "samples": samples[name], **shared, "problems": problems_fingerprint(problems)}
            file = SolutionFile(directory / name / f"rank{trainer.global_rank}.jsonl", header)
            if file.replaced is not None:
                rank_zero_warn(file.replaced)
            file.keep_only(-module.all_max(-file.batches))
            self._files[name] = file
            if file.batches:
                total = -(-len(problems) // (data.eval_prompts_per_batch * trainer.world_size))
                rank_zero_info(f"{file.batches} of {total} batches of '{name}' were already there, in {directory}.")

    def has(self, dataset: str, batch: int) -> bool:
        """Whether a batch is there, on all ranks."""
        return batch < self._files[dataset].batches

    def take(self, dataset: str, batch: int, problems: list[Problem]) -> Round | None:
        """The round of a batch that is there; None on a rank that has no problems in it."""
        if not problems:
            return None
        kept, device = self._files[dataset].read(batch), self._module.device
        solutions = kept.solutions

        def column(name: str) -> torch.Tensor:
            return torch.tensor([getattr(s, name) for s in solutions], dtype=torch.float32, device=device)

        exact = solutions[0].reference_log_prob is not None
        return Round(
            problems,
            as_rollouts([p.prompt_ids for p in problems], solutions, self._module.policy.pad_token_id, device),
            [solution.text for solution in solutions],
            [Verification(s.reward, s.answer, s.error, s.rewards, s.policy_reward) for s in solutions],
            column("reward"),
            column("reference_log_prob") if exact else None,
            column("self_reward"),
            seconds=kept.seconds,
        )

    def put(self, dataset: str, round_: Round | None) -> None:
        """Keep the next batch; None for one without problems on this rank."""
        batch = KeptBatch([], 0.0) if round_ is None else KeptBatch(_solutions(round_), round_.seconds)
        self._files[dataset].append(batch)


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


def _header(module: RolloutModule, sampling: Sampling) -> Header:
    """All that solutions and their scores depend on, besides the set."""
    trainer = module.trainer
    exact = isinstance(module.reference, FrozenPolicy) and module.self_reward.is_exact
    with module.gathered_weights(module.policy, module.reference if exact else None):
        weights = weights_fingerprint(module.policy)
        reference = weights_fingerprint(module.reference) if exact else None  # type: ignore[arg-type]
    return {
        "policy": module.policy_settings.path,
        "weights": weights,
        "attention": module.policy.lm.config.get_text_config()._attn_implementation,
        "precision": trainer.precision,
        "sampling": asdict(sampling),
        "seed": module.seed,
        "engine": described(module.engine),
        **module.judgement_settings(),
        **({} if reference is None else {"reference": reference}),
        "verifier": described(module.verifier),
        "verification_timeout_seconds": module.verifier_pool.timeout_seconds,
        "processes": trainer.world_size,
        "prompts_per_batch": trainer.datamodule.eval_prompts_per_batch,  # type: ignore[attr-defined]
    }


def _solutions(round_: Round) -> list[KeptSolution]:
    """A round's solutions as they are kept."""
    rollouts, group = round_.rollouts, round_.rollouts.group_size
    prompts = [prompt_fingerprint(problem.prompt_ids) for problem in round_.problems]
    references = [None] * len(rollouts) if round_.references is None else round_.references.tolist()
    columns = (
        round_.texts,
        rollouts.responses(),
        rollouts.finished.tolist(),
        rollouts.reward_token_log_probs.tolist(),
        references,
        round_.rewards.tolist(),
        round_.verifications,
        round_.self_rewards.tolist(),
    )
    return [
        KeptSolution(
            round_.problem_of(row).index,
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
        )
        for row, (text, ids, finished, log_prob, reference, reward, verification, self_reward) in enumerate(
            zip(*columns, strict=True)
        )
    ]
