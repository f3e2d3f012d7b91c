"""The ways in which a policy's log-probs come about, each compared with a plain pass over every sequence alone."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.structure import causal_remedy, is_bidirectional
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.records.sharing import PromptSharing
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.self_test.findings import Finding
from laser_lightning.rollout.self_test.probe import (
    GROUP_SIZE,
    LONG_TOKENS,
    Expected,
    difference,
    distance,
    expected,
    largest,
    many_ends,
    plain_pass,
    random_ids,
    random_rollouts,
    rounding_nats,
    small_batch,
    tokens_read,
    tolerance_nats,
    undisturbed,
)
from laser_lightning.rollout.transformers.engine import TransformersEngine

Explain = Callable[[float], tuple[str, str]]
"""Finds cause and remedy of an error (nats); all ranks call it together."""

ANOTHER_MODEL = "take another model"
REMEDIES = {
    "pack sequences": "set policy.packing to never",
    "share prompts": "set policy.shared_prompts to never",
}
"""Of what a model need not do."""
DAMAGED = "its weights are damaged, or overflow in their dtype"
MOST_NATS = 1.0
"""How far log-probs may lie apart, though it be by rounding: a policy with less exact ones is not trained."""


class SelfTest:
    """Tries a policy, and an engine for it, on a small random batch.

    Every method is one way, and may be called alone. All ranks call it together, with whole weights (``gathered``),
    and come to the same finding. Nothing of the policy, of the engine, and of random states is changed.

    Args:
        policy: the model.
        engine: draws solutions in the run; None for none.
        ranks: the processes that agree.
    """

    def __init__(self, policy: Policy, engine: RolloutEngine | None = None, ranks: Ranks | None = None) -> None:
        self.policy, self.engine, self.ranks = policy, engine, ranks or Ranks()
        self.name = type(policy.lm).__name__
        self.tolerance_nats = tolerance_nats(policy)

    # ------------------------------------------------------- the model's own passes

    def repetition(self, training: bool) -> Finding:
        """The same pass twice.

        Args:
            training: in training mode, in which models of experts may draw them; else in evaluation mode.
        """
        mode = "training" if training else "evaluation"

        def measure() -> float:
            self.policy.lm.train(training)
            (ids,) = self._ids((min(LONG_TOKENS, self.policy.positions or LONG_TOKENS),))
            return _places_apart(plain_pass(self.policy, ids), plain_pass(self.policy, ids))

        def explain(error: float) -> tuple[str, str]:
            return (
                f"{self.name} draws random numbers in {mode} mode: logits of the same tokens differ by {error:.3g} "
                "nats from pass to pass, so the policy that is trained would not be the one that was sampled from. "
                "Dropout is off already",
                "set noise of the router in the model's config.json to 0 if it has any, or take another model",
            )

        return self._finding(f"{mode} mode", measure, explain, f"run in {mode} mode")

    def causality(self) -> Finding:
        """The beginning of a sequence with and without what follows."""

        def measure() -> float:
            self.policy.lm.eval()
            (ids,) = self._ids((min(24, self.policy.positions or 24),))
            middle = (len(ids) + 1) // 2
            apart = difference(plain_pass(self.policy, ids)[:middle], plain_pass(self.policy, ids[:middle]))
            return largest(apart.mean())  # other shapes round otherwise, and at some place route to other experts

        def explain(error: float) -> tuple[str, str]:
            return (
                f"In {self.name} a place of a sequence sees the tokens behind it (which change its log-probs by "
                f"{error:.3g} nats), so it cannot be sampled from token by token",
                causal_remedy(self.policy.lm),
            )

        if is_bidirectional(self.policy.lm):  # though it may hardly show in random weights
            return Finding("causality", math.inf, self.tolerance_nats, *explain(math.inf))
        return self._finding("causality", measure, explain, "run")

    def head(self) -> Finding:
        """Decoder and head apart, as all passes here use them, and the model's own logits."""

        def measure() -> float:
            self.policy.lm.eval()
            (ids,) = self._ids((min(8, self.policy.positions or 8),))
            with _uncompiled():
                ours = self.policy.head(self.policy.hidden_states(ids[None]))[0].log_softmax(dim=-1)
            return _places_apart(ours, plain_pass(self.policy, ids))

        def explain(error: float) -> tuple[str, str]:
            return (
                f"{self.name} changes its logits after the output embedding in a way that is not known here (they "
                f"differ by {error:.3g} nats), so scores would be wrong",
                ANOTHER_MODEL,
            )

        return self._finding("head", measure, explain, "be split into decoder and head")

    # ------------------------------------------------------------------- the engine

    @property
    def tries_engine(self) -> bool:
        """Whether there is an engine that can be tried on a small batch."""
        return self.engine is not None and self.engine.trial(GROUP_SIZE) is not None

    def decoding(self, way: str = "decode") -> Finding:
        """Groups of unequal, left-padded prompts, decoded together."""
        return self._decoding(way, rows=GROUP_SIZE * len(small_batch(self.policy)[0]))

    def refilling(self, way: str = "refill") -> Finding:
        """The same in a smaller batch, which waiting prompts join when rows have ended."""
        return self._decoding(way, rows=2 * GROUP_SIZE)

    def _decoding(self, way: str, rows: int) -> Finding:
        prompts = small_batch(self.policy)[0]

        def explain(error: float) -> tuple[str, str]:
            trial = self._trial(rows)
            if isinstance(trial, TransformersEngine) and trial.compile:
                trial.compile = False
                if self._agreed(lambda: self._decoding_error(trial, prompts)) <= self.tolerance_nats:
                    return (
                        f"{self.name} has other log-probs in compiled steps of decoding (by {error:.3g} nats)",
                        "set engine.compile to false",
                    )
            if self._agreed(lambda: self._decoding_error(trial, prompts[:1])) > self.tolerance_nats:
                return (
                    f"Decoded token by token {self.name} has other log-probs than in a pass over the whole sequence "
                    f"(by {error:.3g} nats), so its cache of what it has read is not all that it needs",
                    ANOTHER_MODEL,
                )
            return (
                f"{self.name} has other log-probs where prompts of unequal lengths are decoded together (by "
                f"{error:.3g} nats), so padding on their left enters its states or its positions",
                ANOTHER_MODEL,
            )

        def measure() -> float:
            return self._decoding_error(self._trial(rows), prompts)

        return self._finding(way, measure, explain, "be decoded", magnified=True)

    def _trial(self, rows: int) -> RolloutEngine:
        trial = None if self.engine is None else self.engine.trial(rows)
        assert trial is not None, "see tries_engine"
        return trial

    def _decoding_error(self, trial: RolloutEngine, prompts: list[list[int]]) -> float:
        policy = self.policy
        sampling = Sampling(max_response_tokens=small_batch(policy)[1])
        generator = torch.Generator(policy.device).manual_seed(0)
        ends, policy.eos_token_ids = policy.eos_token_ids, many_ends(policy)
        try:
            drawn = trial.generate(policy, prompts, GROUP_SIZE, sampling, tokens_read(policy), generator)
        finally:
            policy.eos_token_ids = ends
            trial.close()
        return distance(self._expected(drawn), drawn.sampling_log_probs, drawn.reward_token_log_probs, drawn.finished)

    # ------------------------------------------------------------------- the update

    def update(self, way: str = "update") -> Finding:
        """The pass that gradients go through, padded or packed as the policy is set."""

        def explain(error: float) -> tuple[str, str]:
            if self.policy.packs and self._agreed(lambda: self._update_error(packs=False)) <= self.tolerance_nats:
                return (
                    f"In {self.name} packed sequences disturb each other (their log-probs differ by {error:.3g} nats "
                    "from those of each alone)",
                    "set policy.packing to never",
                )
            return (
                f"In the pass of the update {self.name} has other log-probs than in evaluation mode with each sequence "
                f"alone (by {error:.3g} nats): sequences of a batch disturb each other, or training mode changes it",
                ANOTHER_MODEL,
            )

        doing = "pack sequences" if self.policy.packs else "run a batch of sequences in training mode"
        return self._finding(way, lambda: self._update_error(self.policy.packs), explain, doing, magnified=True)

    def sharing(self, way: str = "shared prompts", training: bool = True) -> Finding:
        """The same, with each prompt computed once for all of its solutions.

        Args:
            way: its name.
            training: in training mode, else in evaluation mode.
        """

        def measure() -> float:
            return self._update_error(self.policy.packs, PromptSharing(), training)

        def explain(error: float) -> tuple[str, str]:
            return (
                f"In {self.name} solutions that share their prompt's computation disturb each other (their log-probs "
                f"differ by {error:.3g} nats from those of each alone)",
                "set policy.shared_prompts to never",
            )

        return self._finding(way, measure, explain, "share prompts", magnified=True)

    def _update_error(self, packs: bool, sharing: PromptSharing | None = None, training: bool = True) -> float:
        policy, known = self.policy, self._given
        rollouts, before = known.rollouts, policy.packs
        tokens, read = torch.zeros_like(known.tokens), torch.zeros_like(known.read)
        rows, places = torch.arange(len(rollouts), device=policy.device), 2 * rollouts.response_ids.numel() + 1024
        policy.lm.train(training)
        policy.packs = packs
        try:
            for batch in micro_batches(rollouts, rows, places, policy.pad_token_id, packs, sharing=sharing):
                with _uncompiled():
                    outputs = policy(batch, tokens_read(policy))
                tokens[batch.rows, : outputs.log_probs.shape[1]] = outputs.log_probs
                read[batch.rows] = outputs.reward_token_log_probs
        finally:
            policy.packs = before
        return distance(known, tokens, read, torch.ones_like(rollouts.finished))

    @cached_property
    def _given(self) -> Expected:
        return self._expected(random_rollouts(self.policy))

    # ------------------------------------------------------------------ what all share

    @cached_property
    def rounding_nats(self) -> float:
        """What a rounding of the inputs comes to in this model, on the rank where it is most."""

        def measure() -> float:
            self.policy.lm.eval()
            return rounding_nats(self.policy, self._given)

        return self._agreed(measure)

    def _expected(self, rollouts: Rollouts) -> Expected:
        training = self.policy.lm.training
        self.policy.lm.eval()
        try:
            return expected(self.policy, rollouts)
        finally:
            self.policy.lm.train(training)

    def _ids(self, lengths: tuple[int, ...]) -> list[torch.Tensor]:
        return [torch.tensor(ids, device=self.policy.device) for ids in random_ids(self.policy, lengths, seed=2)]

    def _agreed(self, measure: Callable[[], float]) -> float:
        """The largest error of all ranks; infinite if one of them could not measure."""
        return self._measured(measure)[0]

    def _measured(self, measure: Callable[[], float]) -> tuple[float, Exception | None]:
        error, raised = math.inf, None
        try:
            with undisturbed(self.policy):
                error = measure()
        except Exception as found:  # of whatever a model's code may end in
            raised = found
        everyone = self.ranks.stack(torch.tensor(error, dtype=torch.float32, device=self.policy.device))
        return float(everyone.max()), raised

    def _rounded(self, way: str, error: float) -> Finding:
        """An error that is no more than this model makes of a rounding."""
        if error <= MOST_NATS:
            return Finding(way, error, min(self.rounding_nats, MOST_NATS))
        cause = (
            f"In this precision a rounding of its inputs moves the log-probs of {self.name} by "
            f"{self.rounding_nats:.2g} nats, and those of rollouts and updates do not agree (by {error:.3g} nats)"
        )
        return Finding(way, error, self.tolerance_nats, cause, "set trainer.precision and policy.dtype to a higher one")

    def _finding(
        self, way: str, measure: Callable[[], float], explain: Explain, doing: str, magnified: bool = False
    ) -> Finding:
        """Measure on every rank, agree, and find cause and remedy where the error is no rounding.

        Args:
            way: its name.
            measure: this rank's error (nats).
            explain: see ``Explain``.
            doing: what the model cannot do if measuring raises, behind "cannot".
            magnified: whether the error may also be what the model makes of a rounding (see ``rounding_nats``).
        """
        error, raised = self._measured(measure)
        if error <= self.tolerance_nats:
            return Finding(way, error, self.tolerance_nats)
        if math.isfinite(error):
            if magnified and error <= self.rounding_nats < math.inf:
                return self._rounded(way, error)
            return Finding(way, error, self.tolerance_nats, *explain(error))
        if isinstance(raised, UserError):
            return Finding(way, error, self.tolerance_nats, str(raised))
        if raised is None:  # here; another process may have raised
            return Finding(way, error, self.tolerance_nats, f"The logits of {self.name} are not finite", DAMAGED)
        why = " ".join(f"{type(raised).__name__}: {raised}".split())
        remedy = REMEDIES.get(doing, ANOTHER_MODEL)
        return Finding(way, error, self.tolerance_nats, f"{self.name} cannot {doing} ({why})", remedy)


def _places_apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Mean difference (nats) over the vocabulary of log-probs [L, V], at the place where it is largest."""
    return largest(difference(ours, theirs).mean(dim=-1))


def _uncompiled() -> Any:
    """In here ``policy.compile`` is without effect: the small shapes are not worth a minute of compiling."""
    return torch.compiler.set_stance("force_eager")
