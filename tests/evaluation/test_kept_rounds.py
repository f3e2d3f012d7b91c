"""A stand-alone evaluation that was interrupted goes on where it was, and never mixes in what is not its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import RecordedSolutions, Sampling, TransformersEngine
from laser_lightning.verifiers import ExactVerifier, Verifier
from laser_lightning.verifiers.settings import VerificationSettings

EOS = 1


class KilledError(Exception):
    """What stands for a kill."""


class Engine(TransformersEngine):
    """Counts its calls, and fails in one of them."""

    def __init__(self, fails_in: int | None = None) -> None:
        super().__init__()
        self._calls, self._fails_in = 0, fails_in

    def generate(self, *args: Any) -> Rollouts:
        self._calls += 1
        if self._calls == self._fails_in:
            raise KilledError
        return super().generate(*args)


class LetterVerifier(Verifier):
    """Right are texts of even length, so that the rewards of random text vary."""

    def extract(self, response: str) -> str | None:
        return response[:1] or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return answer == gold

    def reward(self, response: str, gold: str) -> float:
        return float(len(response) % 2 == 0)


class Watcher(Callback):
    """Keeps each evaluation round."""

    def __init__(self) -> None:
        self.rounds: list[Rollout] = []

    def on_test_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.rounds.append(pl_module.last_rollout)

    on_predict_batch_end = on_validation_batch_end = on_test_batch_end


class Evaluation:
    """5 problems, 2 in a batch, with 3 solutions each; the random model ends some of them.

    Args:
        directory: the run's.
        policy: path of the model.
        options: of LaSeRModule; ``size`` of the set, and ``prompts_per_batch``.
    """

    def __init__(self, directory: Path, policy: Path, fails_in: int | None = None, **options: Any) -> None:
        size, batch = options.pop("size", 5), options.pop("prompts_per_batch", 2)
        reference = options.pop("reference", -20.0)
        self.settings = options.pop("evaluation", EvaluationSettings(samples=3))
        trainer_options = options.pop("trainer", {})
        self.engine = options.pop("engine", Engine(fails_in))
        defaults: dict[str, Any] = {
            "policy": PolicySettings(path=str(policy)),
            "self_reward": LastTokenSelfReward("<|reward|>", beta=0.1, reference=reference),
            "verifier": LetterVerifier(),
            "sampling": Sampling(max_response_tokens=12),
            "engine": self.engine,
            "verification": VerificationSettings(workers=0),
            "evaluation": self.settings,
        }
        self.module = LaSeRModule(**(defaults | options))
        sets = {"sums": ArithmeticSource("test", size=size)}
        self.data = PromptDataModule(
            ArithmeticSource("train", size=8),
            val=sets,
            test=sets,
            predict=sets,
            prompts_per_step=4,
            eval_prompts_per_batch=batch,
        )
        self.watcher = Watcher()
        places: dict[str, Any] = {"logger": CSVLogger(directory.parent, name="", version=directory.name)}
        self.trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            callbacks=[self.watcher],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            max_steps=1,
            **(places | trainer_options),
        )

    def run(self, stage: str = "test") -> "Evaluation":
        self.module.configure_model = self._finishing(self.module.configure_model)  # type: ignore[method-assign]
        getattr(self.trainer, stage)(self.module, datamodule=self.data)
        return self

    def _finishing(self, configure: Callable[[], None]) -> Callable[[], None]:
        """The random model with a head that ends responses now and then."""

        def configure_model() -> None:
            configure()
            for policy in (self.module.policy, self.module.reference):
                if policy is None or policy.lm.get_output_embeddings().bias is not None:  # type: ignore[union-attr]
                    continue
                old = policy.lm.get_output_embeddings()  # type: ignore[union-attr]
                head = torch.nn.Linear(old.in_features, old.out_features)
                with torch.no_grad():
                    head.weight.copy_(old.weight)
                    head.bias.zero_()[EOS] = 3.5
                policy.lm.set_output_embeddings(head)  # type: ignore[union-attr]

        return configure_model

    @property
    def calls(self) -> int:
        return self.engine._calls

    @property
    def metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}


def assert_equal(ours: Rollout, theirs: Rollout) -> None:
    """Everything but the log-probs of the tokens, bit for bit."""
    assert (ours.problems, ours.texts, ours.verifications) == (theirs.problems, theirs.texts, theirs.verifications)
    assert ours.seconds == theirs.seconds
    pairs = [(ours.rewards, theirs.rewards), (ours.self_rewards, theirs.self_rewards)]
    if theirs.references is not None:
        assert ours.references is not None
        pairs.append((ours.references, theirs.references))
    names = ("prompt_ids", "prompt_lengths", "response_ids", "response_lengths", "finished", "reward_token_log_probs")
    pairs += [(getattr(ours.rollouts, name), getattr(theirs.rollouts, name)) for name in names]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def same(ours: dict[str, float], theirs: dict[str, float]) -> bool:
    """Bit for bit, but for the clock."""

    def bits(metrics: dict[str, float]) -> dict[str, str]:
        return {name: repr(value) for name, value in metrics.items() if not name.endswith("/seconds")}

    return bits(ours) == bits(theirs)


@pytest.mark.parametrize(("stage", "reference"), [("test", -20.0), ("validate", "exact"), ("predict", -20.0)])
def test_it_goes_on_where_it_was(
    stage: str, reference: Any, policy_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Exact scores under a reference that is the policy itself are 0: what counts is that both log-probs are there.
    whole = Evaluation(tmp_path / "whole", policy_dir, reference=reference).run(stage)
    assert whole.calls == 3
    assert {True, False} == {bool(f) for rollout in whole.watcher.rounds for f in rollout.rollouts.finished}
    with pytest.raises(KilledError):
        Evaluation(tmp_path / "run", policy_dir, fails_in=3, reference=reference).run(stage)
    file = tmp_path / "run" / "kept" / stage / "sums" / "rank0.jsonl"
    with file.open("ab") as end:
        end.write(b'{"index": 4, "prompt": "')  # half a line

    with caplog.at_level("INFO"):
        resumed = Evaluation(tmp_path / "run", policy_dir, reference=reference).run(stage)
    assert resumed.calls == 1
    assert f"2 of 3 batches of 'sums' were already there, in {file.parents[1]}." in caplog.text
    assert same(resumed.metrics, whole.metrics)
    again = Evaluation(tmp_path / "run", policy_dir, reference=reference).run(stage)
    assert again.calls == 0
    assert same(again.metrics, whole.metrics)
    for kept, sampled in zip(again.watcher.rounds, resumed.watcher.rounds, strict=True):
        assert_equal(kept, sampled)
    for ours, theirs in zip(again.watcher.rounds, whole.watcher.rounds, strict=True):
        theirs.seconds = ours.seconds
        assert_equal(ours, theirs)


def test_other_votes_are_counted_from_what_was_kept(
    policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "metrics")
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    settings = EvaluationSettings(samples=3, votes=[MeanOfScores("own")])
    first = Evaluation(tmp_path / "run", policy_dir).run()
    again = Evaluation(tmp_path / "run", policy_dir, evaluation=settings).run()
    fresh = Evaluation(tmp_path / "fresh", policy_dir, evaluation=settings).run()
    assert (first.calls, again.calls, fresh.calls) == (3, 0, 3)
    assert set(again.metrics) - set(first.metrics) == {"test/sums/own@3"}
    assert same(again.metrics, fresh.metrics)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "sampling": ({"sampling": Sampling(12, temperature=0.5)}, "sampling.temperature was 1.0 and is 0.5"),
    "samples": ({"evaluation": EvaluationSettings(samples=2)}, "samples was 3 and is 2"),
    "seed": ({"seed": 1}, "seed was 0 and is 1"),
    "reference": ({"reference": -21.0}, "reference was -20.0 and is -21.0"),
    "verifier": ({"verifier": ExactVerifier(r"(\d)")}, "verifier.class was "),
    "problems": ({"size": 6}, "problems was "),
    "batch": ({"prompts_per_batch": 3}, "prompts_per_batch was 2 and is 3"),
    "engine": ({"engine": TransformersEngine(max_batch_size=6)}, "engine.class was "),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_setting_starts_anew(name: str, policy_dir: Path, tmp_path: Path) -> None:
    Evaluation(tmp_path / "run", policy_dir).run()
    folder = tmp_path / "run" / "kept" / "test" / "sums"
    old = (folder / "rank0.jsonl").read_bytes()
    options, difference = CHANGES[name]
    with pytest.warns(UserWarning, match="are of another evaluation") as warned:
        changed = Evaluation(tmp_path / "run", policy_dir, **options).run()
    assert any(difference in str(warning.message) for warning in warned)
    assert (folder / "rank0.1.jsonl").read_bytes() == old
    fresh = Evaluation(tmp_path / "fresh", policy_dir, **options).run()
    assert same(changed.metrics, fresh.metrics)


def test_several_scores_of_a_solution_are_taken_from_disk_too(policy_dir: Path, tmp_path: Path) -> None:
    first = Evaluation(tmp_path / "run", policy_dir).run()
    kept, rollout = first.module.evaluator.kept, first.watcher.rounds[-1]
    assert kept is not None
    rollout.scores = torch.tensor([[0.1, torch.nan]] * len(rollout.rewards))
    kept.put("sums", rollout)
    taken = kept.take("sums", 3, list(rollout.problems))
    assert taken is not None
    torch.testing.assert_close(taken.scores, rollout.scores, rtol=0, atol=0, equal_nan=True)
    assert_equal(taken, rollout)


def test_another_model_starts_anew(policy_dir: Path, reference_dir: Path, tmp_path: Path) -> None:
    Evaluation(tmp_path / "run", policy_dir).run()
    with pytest.warns(UserWarning, match="weights was"):
        assert Evaluation(tmp_path / "run", reference_dir).run().calls == 3
    # The same weights in another place are the same model.
    shutil.copytree(reference_dir, tmp_path / "copy")
    assert Evaluation(tmp_path / "run", tmp_path / "copy").run().calls == 0


def test_what_keeps_nothing(policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An export could not hold the bias of this head, which a run finds out before its first step.
    monkeypatch.setattr(LaSeRModule, "check_exports", lambda module: None)
    Evaluation(tmp_path / "fit", policy_dir).run("fit")
    Evaluation(tmp_path / "off", policy_dir, evaluation=EvaluationSettings(samples=3, keep=False)).run()
    monkeypatch.chdir(tmp_path)
    Evaluation(tmp_path / "none", policy_dir, trainer={"logger": False}).run()
    Evaluation(tmp_path / "try", policy_dir, trainer={"fast_dev_run": True}).run()
    assert not list(tmp_path.rglob("kept"))
    Evaluation(tmp_path / "none", policy_dir, trainer={"logger": False, "default_root_dir": tmp_path / "own"}).run()
    assert (tmp_path / "own" / "kept" / "test" / "sums" / "rank0.jsonl").exists()


def test_a_damaged_file_is_refused(policy_dir: Path, tmp_path: Path) -> None:
    Evaluation(tmp_path / "run", policy_dir).run()
    file = tmp_path / "run" / "kept" / "test" / "sums" / "rank0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:4], b"x\n", *lines[5:]]))
    with pytest.raises(UserError, match=r"Line 5 of .*rank0\.jsonl is damaged"):
        Evaluation(tmp_path / "run", policy_dir).run()


def test_a_rank_without_problems_has_a_batch_too(policy_dir: Path, tmp_path: Path) -> None:
    first = Evaluation(tmp_path / "run", policy_dir).run()
    kept = first.module.evaluator.kept
    assert kept is not None
    assert not kept.has("sums", 3)
    kept.put("sums", None)
    assert kept.has("sums", 3)
    assert kept.take("sums", 3, []) is None


def test_a_run_cannot_replay_its_own_file(policy_dir: Path, tmp_path: Path) -> None:
    Evaluation(tmp_path / "run", policy_dir).run()
    replay = RecordedSolutions(str(tmp_path / "run" / "kept"))
    with pytest.raises(UserError, match="is where this run keeps its own solutions"):
        Evaluation(tmp_path / "run", policy_dir, engine=replay).run()


def test_kept_solutions_are_judged_and_scored_anew_without_sampling(policy_dir: Path, tmp_path: Path) -> None:
    sampled = Evaluation(tmp_path / "run", policy_dir).run()
    kept = str(tmp_path / "run" / "kept")
    replayed = Evaluation(tmp_path / "same", policy_dir, engine=RecordedSolutions(kept)).run("validate")
    values = {name.replace("val/", "test/"): value for name, value in replayed.metrics.items()}
    assert same(values, sampled.metrics)
    options: dict[str, Any] = {"verifier": ExactVerifier("(.)"), "reference": -21.0}
    other = Evaluation(tmp_path / "other", policy_dir, engine=RecordedSolutions(kept), **options).run()
    for ours, theirs in zip(other.watcher.rounds, sampled.watcher.rounds, strict=True):
        assert ours.texts == theirs.texts
        golds = [ours.problem_of(row).answer for row in range(len(ours.texts))]
        assert ours.rewards.tolist() == [float(text[-1:] == gold) for text, gold in zip(ours.texts, golds, strict=True)]
        finished = ours.rollouts.finished
        # 0.1 * (-20 + 21) more
        torch.testing.assert_close(ours.self_rewards[finished], theirs.self_rewards[finished] + 0.1)
    assert not same(other.metrics, sampled.metrics)
