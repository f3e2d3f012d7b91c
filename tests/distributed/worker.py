"""What the processes of a distributed test run; started plainly it is the same run in one process.

    torchrun --nproc_per_node 2 worker.py NAME SPEC OUT SECONDS

SPEC is a JSON file with the arguments of the job NAME; every rank saves what the job returns as OUT/rank<r>.pt. After
SECONDS it prints where it is and ends.
"""

import faulthandler
import json
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from lightning.pytorch.strategies import Strategy

from laser_lightning.arguments import made_from
from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.data.loader import PromptLoader
from laser_lightning.distributed.strategies import LaSeRDDPStrategy, LaSeRDeepSpeedStrategy, gathered
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.advantages import AdvantageSettings, BatchNormalized, GroupRelative, SelfRewardMixing
from laser_lightning.objective.losses import TruncatedImportance, weighted_sum
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.objective.term import LossTerm
from laser_lightning.policy import model as policy_module
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import Policy, PolicyOutputs, PolicySettings
from laser_lightning.policy.weight_stream import WeightStream
from laser_lightning.records.batching import MicroBatch, Rollouts, concat_solutions
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.rollout.sampler import Sampler
from laser_lightning.runs.checkpoints import WholeFiles
from laser_lightning.verifiers import Verifier
from laser_lightning.verifiers.settings import VerificationSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny_run"))
from probe import Probe

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
GROUP, EOS, PAD = 4, 1, 0
ONE, ZERO = 22, 21  # first tokens of correct and of incorrect responses


class FirstTokenVerifier(Verifier):
    """Rewards a response by its first character."""

    correct = ""

    def extract(self, response: str) -> str | None:
        return response or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return answer == gold

    def reward(self, response: str, gold: str) -> float:
        return float(response.startswith(self.correct))


def hand_made(step: int, kind: str, seed: int) -> Rollouts:
    """Two prompts with four solutions each.

    Args:
        step: number of the optimizer step, for the seed.
        kind: ``mixed``, ``truncated`` (no solution ends), ``correct`` (all are), or ``silent`` (all are truncated and
            incorrect: no solution has a gradient).
        seed: of this half of the step's solutions.
    """
    generator = torch.Generator().manual_seed(1000 * step + seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    prompts, limit = 2, 12
    total = prompts * GROUP
    finished = torch.rand(total, generator=generator) < (0.75 if kind in ("mixed", "correct") else 0.0)
    # Half the seeds have short responses, so ranks differ in their numbers of tokens.
    lengths = draw(2, 6 if seed % 2 else limit + 1, total).where(finished, torch.tensor(limit))
    response_ids = draw(30, 90, total, limit)
    correct = {"mixed": draw(0, 2, total), "truncated": draw(0, 2, total)}.get(
        kind, torch.tensor(int(kind == "correct"))
    )
    response_ids[:, 0] = torch.where(correct.expand(total) == 1, ONE, ZERO)
    response_ids[torch.arange(total)[finished], lengths[finished] - 1] = EOS
    scores = torch.rand(total, generator=generator) * 12 - 21  # self-rewards of beta 0.1 and c_ref -20: -0.1 to 1.1
    return Rollouts(
        prompt_ids=draw(30, 90, prompts, 6),
        prompt_lengths=draw(2, 7, prompts),
        response_ids=response_ids,
        response_lengths=lengths,
        finished=finished,
        sampling_log_probs=-4.6 + torch.rand(total, limit, generator=generator),  # a vocabulary of 100: ratios near 1
        reward_token_log_probs=scores.where(finished, torch.tensor(torch.nan))[:, None],
    )


class FailedRolloutError(Exception):
    """What the dealt engine raises where it is told to."""


class DealtEngine(RolloutEngine):
    """Deals fixed rollouts: each of two ranks gets its own half of a step's, one process gets both.

    Args:
        kinds: of both halves, for each round.
        fails: rounds in which the first attempt raises an error.
    """

    def __init__(self, kinds: Sequence[Sequence[str]], fails: Sequence[int] = ()) -> None:
        self.kinds, self.fails, self.round = kinds, list(fails), 0

    def generate(self, policy: Policy, *args: Any, **options: Any) -> Rollouts:
        self.use(policy)
        if self.round in self.fails:
            self.fails.remove(self.round)
            raise FailedRolloutError
        halves = [hand_made(self.round, kind, seed) for seed, kind in enumerate(self.kinds[self.round])]
        self.round += 1
        return concat_solutions(halves) if WORLD == 1 else halves[RANK]

    def use(self, policy: Policy) -> None:
        """Run the policy as a rollout does: whole, and on this rank alone."""
        for _ in range(1 + RANK):
            policy.head(policy.hidden_states(torch.arange(20, 30)[None]))


def held_bytes(policy: Policy) -> int:
    """Bytes of the weights that are whole on this rank just now."""
    return sum(parameter.numel() * parameter.element_size() for parameter in policy.lm.parameters())


class CopyingEngine(RolloutEngine):
    """Has a copy of the weights, and writes down what there was of the policy's while it took them, and drew."""

    needs_whole_weights = False

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.stale = True

    def weights_changed(self) -> None:
        self.stale = True

    def take_weights(self, policy: Policy, weights: AbstractContextManager[WeightStream]) -> None:
        if not self.stale:
            return
        copy, held = {}, []
        with weights as stream:
            for name, value in stream:
                copy[name] = value.clone()
                held.append(held_bytes(policy))
                if RANK == 1 and len(held) == 2:  # one that stops early keeps nobody waiting
                    break
        self.taken.append({"weights": copy, "most": max(held), "drawing": 0})
        self.stale = False

    def use(self, policy: Policy) -> None:
        """Look at no weight of the policy."""
        self.taken[-1]["drawing"] = max(self.taken[-1]["drawing"], held_bytes(policy))


class CopyingDealtEngine(CopyingEngine, DealtEngine):
    """Deals fixed rollouts, and takes the weights before."""

    def __init__(self, *dealt: Any) -> None:
        CopyingEngine.__init__(self)
        DealtEngine.__init__(self, *dealt)


class PromptEngine(RolloutEngine):
    """Deals four fixed rollouts to each prompt, whichever rank it is on."""

    def generate(self, policy: Policy, prompts: Sequence[Sequence[int]], *args: Any, **options: Any) -> Rollouts:
        parts = []
        for ids in prompts:
            half = hand_made(0, "mixed", seed=sum(ids) * len(ids))
            one = {name: values[:GROUP] for name, values in vars(half).items() if values is not None}
            one["response_ids"][:, 1] = one["response_ids"][:, 1] % 3 + 30  # few different answers
            one["prompt_ids"], one["prompt_lengths"] = torch.full((1, 80), 30), torch.tensor([len(ids)])
            parts.append(Rollouts(**one))
        return concat_solutions(parts)


class CopyingPromptEngine(CopyingEngine, PromptEngine):
    """Deals fixed rollouts to each prompt, and takes the weights before."""


class SecondTokenVerifier(FirstTokenVerifier):
    """Takes the second character for the answer."""

    def extract(self, response: str) -> str | None:
        return response[1:2] or None


class UnequalData(PromptDataModule):
    """Gives each problem of the set ``repeated`` to both ranks."""

    def val_dataloader(self) -> list[Any]:
        loaders: list[Any] = super().val_dataloader()
        number = list(self.evaluation_problems).index("repeated")
        loaders[number] = PromptLoader(self.evaluation_problems["repeated"], 2)
        return loaders


class ToldModule(LaSeRModule):
    """Keeps what it logs, before Lightning does anything to it, and has taken 256 steps already."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.told: list[dict[str, float]] = []
        # bfloat16 has 8 bits: 257 is not one of its numbers.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = 256

    def log_dict(self, values: Any, **options: Any) -> None:
        if options.get("logger", True):
            self.told.append({name: float(value) for name, value in values.items()})
        super().log_dict(values, **options)


class StubbornSampler(Sampler):
    """Draws once more where the first try fails."""

    def draw(self, *args: Any, **options: Any) -> Rollouts:
        try:
            return super().draw(*args, **options)
        except FailedRolloutError:
            return super().draw(*args, **options)


class StepwiseModule(LaSeRModule):
    """Has another token budget in each round, breaks where it is told to, and keeps what happened."""

    def prepare(self, spec: dict[str, Any]) -> "StepwiseModule":
        self.budgets, self.experts = spec.get("budgets"), spec.get("experts", 0)
        self.broken = {int(rollout): part for rollout, part in spec.get("broken", {}).items()}
        self.history: list[dict[str, Any]] = []
        self.shows_optimizer = spec.get("shows_optimizer", False)
        return self

    def configure_model(self) -> None:
        super().configure_model()
        if self.experts:
            self.policy.lm.experts = torch.nn.ParameterList(torch.full((1, 1), 0.5) for _ in range(self.experts))

    def check_exports(self, adapter: bool = False) -> None:
        """A model with experts that its class does not know cannot be exported, which a run would refuse."""
        if not self.experts:
            super().check_exports(adapter)

    def forward(self, batch: MicroBatch) -> PolicyOutputs:
        """With experts each solution visits one, by its second token, and no solution the last one."""
        outputs = super().forward(batch)
        if not self.experts:
            return outputs
        chosen = (
            batch.input_ids[torch.arange(len(batch.rows)), batch.prompt_lengths + 1] % (self.experts - 1)
        ).tolist()
        added = torch.stack([self.policy.lm.experts[expert].sum() for expert in chosen])
        return outputs._replace(log_probs=outputs.log_probs + added[:, None] * batch.response_mask)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.initial_weights = whole_weights(self)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.found_optimizer = live_optimizer(self) if self.shows_optimizer else None

    def training_step(self, problems: Any, batch_idx: int) -> None:
        rollout = self.engine.round  # type: ignore[attr-defined]
        if self.budgets:
            self.update = replace(self.update, micro_batch_tokens=self.budgets[rollout])
        self.breaks = self.broken.get(rollout) if RANK == WORLD - 1 else None
        self.passes, self.places = 0, []
        held = sum(p.numel() for p in self.policy.lm.parameters())
        super().training_step(problems, batch_idx)
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        state = {
            "passes": self.passes,
            "places": self.places,
            "step": self.trainer.global_step,
            "held_parameters": held,
        }
        state["taken"] = getattr(self.engine, "taken", [])
        self.history.append({**state, "metrics": metrics, "weights": whole_weights(self)})

    def make_sampler(self) -> Sampler:
        return StubbornSampler(**vars(super().make_sampler()))

    def differentiable(self, *inputs: Any) -> Any:
        self.passes += 1
        embedding = self.policy.lm.get_input_embeddings()
        looking = embedding.register_forward_hook(lambda _, ids, __: self.places.append(ids[0].numel()))
        outputs = super().differentiable(*inputs)
        looking.remove()
        if self.breaks == "loss":
            return outputs._replace(log_probs=outputs.log_probs * torch.nan)
        if self.breaks == "gradient":
            outputs.log_probs.register_hook(lambda gradient: gradient * torch.inf)
        return outputs


class NearTeacher(LossTerm):
    """Half of the squared distance to the teacher's log-probs, a mean over tokens."""

    needs_teacher = True

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> torch.Tensor:
        assert targets.teacher_log_probs is not None
        mask = batch.loss_mask
        distance = targets.teacher_log_probs[batch.rows, : mask.shape[1]] - outputs.log_probs
        return weighted_sum(distance.square() / 2, mask, targets.policy_weights[batch.rows])


def strategy_of(name: str) -> Strategy | str:
    if name == "single":
        return "auto"
    if name == "ddp":
        return LaSeRDDPStrategy()
    if name == "zero3_offload":
        return LaSeRDeepSpeedStrategy(stage=3, offload_optimizer=True, offload_parameters=True)
    name, _, option = name.partition(" ")
    # By default tiny parameters are kept whole, and ZeRO-3 would not be tested.
    return LaSeRDeepSpeedStrategy(
        stage=int(name[-1]),
        zero_options={"stage3_param_persistence_threshold": 0},
        offload_states_in_rollouts=option == "offload",
        sequence_parallel_size=2 if option == "in parts" else 1,
    )


def whole_weights(module: LaSeRModule) -> dict[str, torch.Tensor]:
    with gathered(module.strategy, module.policy):
        weights = {**dict(module.policy.lm.named_parameters()), **dict(module.self_reward.named_parameters())}
        return {name: value.detach().clone() for name, value in weights.items()}


def live_optimizer(module: LaSeRModule) -> dict[str, Any]:
    """What the optimizer has of each parameter (its states, and ``weight`` as it steps it), whole, and its settings."""
    optimizer, found = module.trainer.optimizers[0], {}
    zero = getattr(module.trainer.strategy, "deepspeed_engine", None)
    if zero is not None:
        inner = zero.optimizer.optimizer
        if hasattr(zero.optimizer, "_hp_optimizer_states_linked"):
            # DeepSpeed links the states behind the first step of the first group, when the second one has none yet.
            zero.optimizer._hp_optimizer_states_linked = not inner.state
            zero.optimizer._lazy_init_hp_params_optimizer_state()
        keys = {key for state in inner.state.values() for key, value in state.items() if torch.is_tensor(value)}
        for name, p in module.named_parameters():
            if p.requires_grad:
                found[name] = {key: safe_get_full_optimizer_state(p, key) for key in sorted(keys - {"step"})}
                found[name]["weight"] = safe_get_full_fp32_param(p)
        steps = {float(state["step"]) for state in inner.state.values() if "step" in state}
    else:
        copies = {id(weight): copy for weight, copy in getattr(optimizer, "pairs", ())}
        for name, p in module.named_parameters():
            if p.requires_grad:
                stepped = copies.get(id(p), p)
                found[name] = {key: value for key, value in optimizer.state[stepped].items() if key != "step"}
                found[name]["weight"] = stepped
        steps = {float(state["step"]) for state in optimizer.state.values() if "step" in state}
    tensors = {name: {key: value.detach().cpu().clone() for key, value in one.items()} for name, one in found.items()}
    return {"parameters": tensors, "steps": steps, "rates": [group["lr"] for group in optimizer.param_groups]}


def steps(spec: dict[str, Any]) -> Any:
    """Optimizer steps on hand-made rollouts; what each did, and the weights behind it."""
    torch.manual_seed(0)
    policy_module.LOGITS_AT_ONCE = spec.get("chunk_size", 1024) * 100  # a vocabulary of 100
    reference = spec.get("reference", -20.0)
    module = StepwiseModule(
        policy=PolicySettings(
            path=spec["policy"],
            gradient_checkpointing=spec.get("gradient_checkpointing", False),
            random_init=spec.get("random_init", False),
            dtype=spec.get("dtype", "float32"),
            lora=LoRASettings(**spec["lora"]) if "lora" in spec else None,
            shared_prompts=spec.get("shared_prompts", "auto"),
        ),
        self_reward=Probe()
        if spec.get("probe")
        else LastTokenSelfReward("<|reward|>", beta=0.1, reference=reference, loss_weight=0.5),
        verifier=FirstTokenVerifier(),
        group_size=GROUP,
        sampling=Sampling(max_response_tokens=12),
        engine=PromptEngine()
        if "judging" in spec
        else (CopyingDealtEngine if spec.get("copies") else DealtEngine)(spec["kinds"], spec.get("fails", ())),
        advantage=AdvantageSettings(
            made_from(spec.get("estimator"))
            or (BatchNormalized() if spec.get("batch_normalized") else GroupRelative()),
            made_from(spec.get("mixing")) or SelfRewardMixing(tau=0.3),
        ),
        update=UpdateSettings(
            kl_coef=spec.get("kl_coef", 0.0),
            epochs=spec.get("epochs", 1),
            importance=TruncatedImportance(spec["importance"]) if "importance" in spec else None,
            terms=[NearTeacher()] if spec.get("teacher") else [],
            judging=made_from(spec.get("judging")),
        ),
        teacher=PolicySettings(path=spec["policy"]) if spec.get("teacher") else None,
        # A large eps: AdamW must not amplify rounding.
        optimizer=OptimizerSettings(
            learning_rate=spec.get("learning_rate", 0.05),
            algorithm=made_from(spec.get("algorithm", "sgd")),
            eps=spec.get("eps", 0.1),
            max_grad_norm=spec["max_grad_norm"],
            warmup_steps=spec.get("warmup_steps", 0),
        ),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
    ).prepare(spec)
    FirstTokenVerifier.correct = module.tokenizer.decode([ONE])
    data = PromptDataModule(train=ArithmeticSource("train", size=64), prompts_per_step=4)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=WORLD // int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        strategy=strategy_of(spec["strategy"]),
        precision=spec.get("precision", "32-true"),
        max_steps=spec["max_steps"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=spec["directory"],
    )
    if spec["strategy"] in ("single", "ddp"):
        trainer.strategy.checkpoint_io = WholeFiles()
    module.engine.round = spec.get("first_round", 0)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data, ckpt_path=spec.get("resume"), weights_only=False)
    if "save" in spec:
        trainer.save_checkpoint(spec["save"])
    if not spec["max_steps"]:
        return module.initial_weights
    if spec.get("shows_optimizer"):
        return {"history": module.history, "found": module.found_optimizer, "left": live_optimizer(module)}
    return module.history


def metrics(spec: dict[str, Any]) -> Any:
    """An evaluation and two training steps on hand-made rollouts: what each logs, and Lightning's own values."""
    torch.manual_seed(0)
    module = ToldModule(
        policy=PolicySettings(path=spec["policy"]),
        self_reward=LastTokenSelfReward("<|reward|>", beta=0.1, reference=-20.0, loss_weight=0.5),
        verifier=SecondTokenVerifier(),
        group_size=GROUP,
        sampling=Sampling(max_response_tokens=12),
        engine=CopyingPromptEngine() if spec.get("copies") else PromptEngine(),
        update=UpdateSettings(),
        optimizer=OptimizerSettings(learning_rate=1e-6, algorithm="sgd"),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(samples=GROUP, at_end=False),
    )
    SecondTokenVerifier.correct = module.tokenizer.decode([ONE])
    sizes = {"uneven": 7, "single": 1, "repeated": 5}  # on two ranks 4 and 3, 1 and 0, 5 and the same 5
    data = UnequalData(
        train=ArithmeticSource("train", size=64),
        val={name: ArithmeticSource("val", size=size) for name, size in sizes.items()},
        prompts_per_step=12,
        eval_prompts_per_batch=2,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=strategy_of(spec["strategy"]),
        precision=spec["precision"],
        max_steps=258,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=spec["directory"],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    taken = getattr(module.engine, "taken", [])
    return {
        "told": module.told,
        "logged": logged,
        "taken": taken,
        "warnings": [str(warning.message) for warning in caught],
    }


def initial(spec: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
    """The weights before the first step."""
    return [steps({**one, "max_steps": 0, "kinds": []}) for one in spec]


def several(spec: list[dict[str, Any]]) -> list[Any]:
    """Runs of ``steps``, one after the other."""
    return [steps(one) for one in spec]


def main() -> None:
    warnings.filterwarnings("ignore")
    name, spec, out, limit = sys.argv[1:]
    faulthandler.dump_traceback_later(float(limit), exit=True)  # says where each rank hangs
    result = globals()[name](json.loads(Path(spec).read_text()))
    torch.save(result, Path(out) / f"rank{RANK}.pt")


if __name__ == "__main__":
    main()
