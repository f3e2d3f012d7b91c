"""What several benchmarks share: models of random weights, the timed trainer, alternating processes, and tables."""

import json
import math
import os
import platform
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import lightning
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils.logging import disable_progress_bar

from laser_lightning.data import ArithmeticSource, PromptDataModule, PromptTemplate
from laser_lightning.data.problem import Problem
from laser_lightning.distributed.strategies import LaSeRDDPStrategy
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.character_tokenizer import EOS_TOKEN, PAD_TOKEN, REWARD_TOKEN, UNKNOWN_TOKEN
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.sampler import Sampler
from laser_lightning.verifiers import Verifier
from laser_lightning.verifiers.settings import VerificationSettings

SIZES = {  # parameters without embeddings and head: (layers, width, width of the MLP)
    "1M": (5, 128, 352),
    "5M": (6, 256, 704),
    "20M": (6, 512, 1408),
    "360M": (24, 896, 4864),  # as Qwen2.5-0.5B
}
KEY_VALUE_HEADS = {"360M": 2}
"""Of the sizes that have fewer of them than query heads."""

CHARACTERS = string.digits + string.ascii_letters + "+*=-;#.,:!?()/"
LEARNING_RATE = 1e-6
REWARD_TOKEN_LOG_PROB = -16.0
NEVER = -40.0
RESULT = "RESULT "


@dataclass(frozen=True)
class Case:
    """One setting of a training step.

    Attributes:
        size: key of SIZES.
        vocabulary: size of the vocabulary.
        prompts: prompts of a step, over all processes.
        group_size: solutions of each.
        response_tokens: length limit of a response.
        end_probability: probability of ``<eos>`` at every token; with 0 all responses have the same length.
        threads: CPU threads of torch, of each process.
        device: ``cpu`` or ``cuda``.
        dtype: of weights and computation.
        steps: steps that the process will be told to take.
        processes: processes of the data-parallel job.
        micro_batch_tokens: token budget of our forward pass.
        accumulation: parts that TRL splits a step into.
        trl_settings: further settings of TRL's GRPOConfig.
    """

    size: str = "5M"
    vocabulary: int = 80
    prompts: int = 16
    group_size: int = 8
    response_tokens: int = 64
    end_probability: float = 0.0
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    steps: int = 1
    processes: int = 1
    micro_batch_tokens: int = 2048
    accumulation: int = 1
    trl_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def solutions(self) -> int:
        """Solutions of a step, over all processes."""
        return self.prompts * self.group_size

    @property
    def data_settings(self) -> dict[str, Any]:
        """The source and the template of the prompts, which are the same in every step."""
        return {"train": ArithmeticSource("train", size=self.prompts), "template": PromptTemplate("{problem}=")}

    @property
    def learning_rate(self) -> float:
        """Of AdamW."""
        return LEARNING_RATE

    @property
    def verifier(self) -> Verifier:
        """Gives the rewards."""
        return ParityVerifier()


def tokenizer_of_size(vocabulary: int) -> Qwen2Tokenizer:
    """One token per character, and as many tokens of three letters as it takes to fill the vocabulary."""
    triples = ("".join(letters) for letters in product(string.ascii_letters, repeat=3))
    tokens = [PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN, REWARD_TOKEN, *CHARACTERS]
    tokens += [next(triples) for _ in range(vocabulary - len(tokens))]
    return Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        additional_special_tokens=[REWARD_TOKEN],
        padding_side="left",
    )


@torch.no_grad()
def write_model(case: Case, directory: Path) -> Path:
    """Save a Qwen2 of random weights whose ``<eos>`` has the wanted probability at every token.

    Qwen2's head has no bias. All input embeddings share the value of one dimension instead, into which no layer writes,
    which therefore is nearly constant behind the last norm too, and which only the special tokens' rows of the head
    look at.
    """
    layers, width, mlp_width = SIZES[case.size]
    config = Qwen2Config(
        vocab_size=case.vocabulary,
        hidden_size=width,
        intermediate_size=mlp_width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=KEY_VALUE_HEADS.get(case.size, width // 64),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(case.device):  # hundreds of millions of random numbers take a CPU long
        model, tokenizer = Qwen2ForCausalLM(config).eval(), tokenizer_of_size(case.vocabulary)
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embeddings[:, 0], head[:, 0], head[:4] = 1.0, 0.0, 0.0
    for layer in model.get_decoder().layers:
        layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
    states = model.get_decoder()(torch.randint(4, case.vocabulary, (8, 32)).to(model.device))
    hidden = states.last_hidden_state.flatten(0, 1)
    others = float((hidden @ head[4:].T).logsumexp(dim=-1).mean())
    p = case.end_probability
    log_odds = {0: NEVER, 1: math.log(p / (1 - p)) if p else NEVER, 2: NEVER, 3: REWARD_TOKEN_LOG_PROB}
    for token, value in log_odds.items():
        head[token, 0] = (others + value) / hidden[:, 0].mean()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def parity(response: str) -> float:
    """A reward that costs nothing: whether the code of the last character is odd."""
    return float(ord(response[-1]) % 2) if response else 0.0


class ParityVerifier(Verifier):
    """Rewards by ``parity``."""

    def extract(self, response: str) -> str | None:
        """The last character."""
        return response[-1:] or None

    def equivalent(self, answer: str, gold: str) -> bool:
        """Whether they are the same."""
        return answer == gold

    def reward(self, response: str, gold: str) -> float:
        """``parity``."""
        return parity(response)


class TimedSampler(Sampler):
    """Keeps the seconds of the latest rollout, up to the moment when the device is done."""

    seconds = 0.0

    def draw(self, *args: Any, **options: Any) -> Rollouts:
        """Time it."""
        started = clock(self.policy.device)
        rollouts = super().draw(*args, **options)
        self.seconds = clock(self.policy.device) - started
        return rollouts


class TimedModule(LaSeRModule):
    """Collects the seconds of rollout and update, up to the moment when the device is done."""

    def make_sampler(self) -> Sampler:
        """A sampler that times the rollout."""
        return TimedSampler(**vars(super().make_sampler()))

    @property
    def rollout_seconds(self) -> float:
        """Of the latest rollout."""
        assert isinstance(self.sampler, TimedSampler)
        return self.sampler.seconds

    def update_policy(self, *args: Any) -> None:
        """Time the update."""
        started = clock(self.device)
        super().update_policy(*args)
        self.update_seconds = clock(self.device) - started


def build(case: Case, model: Path, **options: Any) -> TimedModule:
    """The whole of LaSeR, in the integrated phase from the first step on; with further arguments of the module."""
    return TimedModule(
        policy=PolicySettings(path=str(model), dtype=case.dtype),
        self_reward=LastTokenSelfReward(REWARD_TOKEN, beta=0.2, reference=REWARD_TOKEN_LOG_PROB, loss_weight=0.5),
        verifier=case.verifier,
        group_size=case.group_size,
        sampling=Sampling(case.response_tokens),
        update=UpdateSettings(micro_batch_tokens=case.micro_batch_tokens),
        optimizer=OptimizerSettings(learning_rate=case.learning_rate),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
        **options,
    )


def fit(case: Case, model: Path, callback: lightning.Callback, **options: Any) -> None:
    """Train for ``case.steps`` steps, without logs and checkpoints; with further arguments of the module."""
    torch.set_num_threads(case.threads)
    trainer = lightning.Trainer(
        max_steps=case.steps,
        accelerator="cpu" if case.device == "cpu" else "gpu",
        devices=case.processes,
        strategy="auto" if case.processes == 1 else LaSeRDDPStrategy(),
        precision="32-true" if case.dtype == "float32" else "bf16-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[callback],
    )
    data = PromptDataModule(**case.data_settings, prompts_per_step=case.prompts)
    trainer.fit(build(case, model, **options), datamodule=data)


def prompt_texts(case: Case, model: Path) -> list[str]:
    """The prompts of a step, as texts."""
    source, template = case.data_settings["train"], case.data_settings["template"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [template.render(row["problem"], tokenizer) for row in source.load()]


def problems_of(prompts: Sequence[Sequence[int]]) -> list[Problem]:
    """Problems with the given prompts, as token ids."""
    return [Problem("train", number, "", "", list(ids), "1") for number, ids in enumerate(prompts)]


# ------------------------------------------------------------------- processes


class Worker:
    """A process that takes one training step whenever it is told to.

    Args:
        script: the child, a file beside this one; it gets the case and the model's directory.
        case: what it trains.
        model: directory of the model.
        logs: directory for what it prints; default: that of the model.
    """

    def __init__(self, script: str, case: Case, model: Path, logs: Path | None = None) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(case.processes)]
        command = [sys.executable, *(launcher if case.processes > 1 else [])]
        command += [str(Path(__file__).with_name(script)), json.dumps(asdict(case)), str(model)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads), "HF_HUB_OFFLINE": "1"}
        self.log = (logs or model) / f"{script}.{id(self)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )

    def step(self) -> dict[str, float]:
        """Let it take a step, and wait; what the step took (see ``report``)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                if line.startswith(RESULT):
                    return dict(json.loads(line.removeprefix(RESULT)))
        raise SystemExit(f"A process failed; its last words:\n{self.log.read_text()[-3000:]}")

    def close(self) -> None:
        """Let it end, or make it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def case_of_child() -> tuple[Case, Path]:
    """What the parent put on the command line of this process."""
    return Case(**json.loads(sys.argv[1])), Path(sys.argv[2])


def wait_for_turn() -> None:
    """Block until the parent tells this process to take a step."""
    if not sys.stdin.readline():
        raise SystemExit("The parent is gone.")


class StepTimer:
    """Times one step after another and reports them to the parent."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.loaded = peak_memory(device)
        self.started, self.cpu_started = clock(device), time.process_time()

    def report(self, **values: float) -> None:
        """Print seconds, CPU seconds, memory in GB and ``values`` for the parent."""
        seconds, cpu_seconds = clock(self.device) - self.started, time.process_time() - self.cpu_started
        values |= {"seconds": seconds, "cpu_seconds": cpu_seconds}
        values |= {"memory": peak_memory(self.device), "loaded": self.loaded}
        print(RESULT + json.dumps(values), flush=True)


def trained_sizes(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """How many parameters an optimizer steps, and the GB of its states."""
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    parameters = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    return {"parameters": parameters, "optimizer_gb": sum(state.nbytes for state in states) / 1e9}


def clock(device: torch.device) -> float:
    """Seconds, when everything that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """Most memory this process has held so far, in GB: of the device, or on CPU its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    # Not getrusage: its maximum begins with that of the parent.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def forget_peak(device: torch.device) -> None:
    """Let the peak count from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


# ---------------------------------------------------------------------- tables


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of neighbouring measurements."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def machine(threads: int, device: str = "cpu") -> str:
    """One line: what the numbers were measured on, and when."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    where = f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"
    if device == "cuda":
        where += f", {torch.cuda.get_device_name()}"
    load = f"load average at the start {os.getloadavg()[0]:.1f}"
    return f"{where}; torch {torch.__version__}, threads of each process: {threads}; {date.today()}, {load}"
