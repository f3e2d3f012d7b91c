"""The engine that samples nothing: it hands out solutions that an evaluation kept."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.fingerprints import prompt_fingerprint, weights_fingerprint
from laser_lightning.rollout.solution_store import (
    Header,
    KeptSolution,
    as_rollouts,
    first_difference,
    kept_files,
    read_header,
    read_solutions,
)


class RecordedSolutions(RolloutEngine):
    """Hands out kept solutions, so that they are verified or scored anew without being sampled again.

    They are verified by the present verifier against the present gold answers. Their scores are those that were kept,
    which belong to the weights that drew them, or with ``rescore`` those of the present weights. Solutions are looked
    up by the prompt's token ids; where a prompt was there several times, its groups of solutions come in turn.

    Args:
        path: the folder ``kept`` of an evaluation's run, or a folder or file in it.
        rescore: score the solutions with the present policy, in a forward pass; needed if its weights or the reward
            token are others than those of the file.
        micro_batch_tokens: most tokens (padding included) of a forward pass of ``rescore``; a sequence that is longer
            raises it. Bounds memory.

    Raises:
        UserError: if there are no kept solutions at ``path``, or files of one set are of different evaluations.
    """

    replays = True

    def __init__(self, path: str, rescore: bool = False, micro_batch_tokens: int = 16384) -> None:
        if micro_batch_tokens < 1:
            raise UserError(f"engine.micro_batch_tokens is {micro_batch_tokens}, and must be at least 1.")
        self.path, self.rescore, self.micro_batch_tokens = path, rescore, micro_batch_tokens
        self._headers: dict[Path, Header] = {}
        for file in kept_files(Path(path).expanduser()):
            found = read_header(file)
            header = self._headers.setdefault(file.parent, found)
            if (difference := first_difference(header, found)) is not None:
                raise UserError(
                    f"The files in {file.parent} are of different evaluations ({difference}): move away those that do "
                    "not belong there, or give engine.path one file."
                )
        self._groups: dict[str, list[_Group]] = {}
        self._turns: dict[str, int] = {}
        self._weights: str | None = None

    def reads_below(self, directory: Path) -> bool:
        """Whether files in this folder are handed out."""
        return any(folder.resolve().is_relative_to(directory.resolve()) for folder in self._headers)

    def weights_changed(self) -> None:
        """Look at the weights again, and begin each prompt's turn anew."""
        self._weights = None
        self._turns.clear()

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        """Hand out the first ``group_size`` kept responses of each prompt (see ``RolloutEngine``).

        Raises:
            UserError: if a prompt is not in the files or has fewer responses, if they were drawn in another way, or if
                their scores are not those of this policy.
        """
        self._read()
        chosen = [self._next(number, prompt, group_size) for number, prompt in enumerate(prompts)]
        for header in {id(group.header): group.header for group in chosen}.values():
            self._check(header, policy, sampling, reward_token_ids)
        solutions = [solution for group in chosen for solution in group.solutions[:group_size]]
        rollouts = as_rollouts(prompts, solutions, policy.pad_token_id, policy.device)
        if self.rescore and solutions:
            self._score(policy, rollouts, reward_token_ids)
        return rollouts

    def _read(self) -> None:
        if self._groups:
            return
        files = kept_files(Path(self.path).expanduser())
        groups: dict[tuple[Path, int], _Group] = {}
        for file in tqdm(files, desc=f"Reading {self.path}", delay=1.0, leave=False, disable=None):
            for solution in read_solutions(file):
                key = (file.parent, solution.index)
                if key not in groups:
                    groups[key] = _Group(self._headers[file.parent], solution)
                    self._groups.setdefault(solution.prompt, []).append(groups[key])
                groups[key].solutions.append(solution)

    def _next(self, number: int, prompt: Sequence[int], group_size: int) -> "_Group":
        key = prompt_fingerprint(prompt)
        if key not in self._groups:
            sets = ", ".join(sorted({f"'{header['set']}'" for header in self._headers.values()}))
            raise UserError(
                f"Prompt {number} of the batch, of {len(prompt)} tokens, is not among the kept solutions in "
                f"{self.path} (of {sets}): the data must be of the same set, with the same template and tokenizer."
            )
        enough = [group for group in self._groups[key] if len(group.solutions) >= group_size]
        if not enough:
            largest = max(self._groups[key], key=lambda group: len(group.solutions))
            raise UserError(
                f"Problem {largest.index} of '{largest.header['set']}' has {len(largest.solutions)} kept solutions in "
                f"{self.path}, and k = {group_size} are asked for: lower model.evaluation.samples, or let the "
                "evaluation that kept them go on to its end."
            )
        turn = self._turns.get(key, 0)
        self._turns[key] = turn + 1
        return enough[turn % len(enough)]

    def _check(self, header: Header, policy: Policy, sampling: Sampling, reward_token_ids: Sequence[int]) -> None:
        if (difference := first_difference(header["sampling"], asdict(sampling))) is not None:
            raise UserError(
                f"The solutions in {self.path} were drawn in another way than the config says ({difference}): set "
                "model.evaluation.sampling to what it was, so that the config tells how they came about."
            )
        if self.rescore:
            return
        kept, ours = header.get("reward_token_ids", [header["reward_token_id"]]), list(reward_token_ids)
        if kept != ours:
            raise UserError(
                f"The scores in {self.path} are of the reward token '{header['reward_token']}' (id "
                f"{_listed(kept)}), and the present one has the id {_listed(ours)}: set model.engine.rescore to true."
            )
        if self._weights is None:
            self._weights = weights_fingerprint(policy)
        if header["weights"] != self._weights:
            raise UserError(
                f"The scores in {self.path} are those of another model (of policy.path '{header['policy']}', with "
                "other weights): load the checkpoint that drew the solutions, or set model.engine.rescore to true to "
                "score them with the present model."
            )

    def _score(self, policy: Policy, rollouts: Rollouts, reward_token_ids: Sequence[int]) -> None:
        was_training = policy.lm.training
        policy.lm.eval()
        try:
            found = policy.scores_of(rollouts, reward_token_ids, self.micro_batch_tokens)
        finally:
            policy.lm.train(was_training)
        rollouts.reward_token_log_probs = found.where(rollouts.finished[:, None], torch.nan)


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


class _Group:
    """The kept solutions of one problem."""

    def __init__(self, header: Header, first: KeptSolution) -> None:
        self.header, self.index = header, first.index
        self.solutions: list[KeptSolution] = []
