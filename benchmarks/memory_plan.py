"""Memory per GPU, worked out by items from a model's size, for one or several models and numbers of GPUs.

    python benchmarks/memory_plan.py --parameters 7.6e9 --gpus 8
    python benchmarks/memory_plan.py --parameters 7.6e9 32.8e9 --gpus 8 64 --zero 3 --engine vllm --tensor_parallel 8

Pure arithmetic, in a second and without a GPU; ``docs/memory.md`` explains the formulas. Weights and optimizer are
those of the ZeRO paper (arXiv 1910.02054, section 5, with K = 12 for AdamW): P processes hold 2 N + 2 N + 12 N bytes,
of which stage 1 shards the 12, stage 2 the gradients too, stage 3 the weights too. Layers, widths and vocabulary are
those of the Qwen2.5 model whose size is nearest. Libraries, fragmentation and the allocator want some GiB besides.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

GIB = 2**30
MOMENTS, COPY, LOGIT = 8, 4, 4
"""Bytes of AdamW's two moments, of a float32 copy, and of a logit."""

LOGITS_AT_ONCE = 2**26
"""Numbers of a chunk of logits in the update (``policy.model.LOGITS_AT_ONCE``)."""

SAMPLING_COPIES = 3
"""How many times sampling holds the logits of a decoding step."""

BUCKET, LIVE = 200_000_000, 1_000_000_000
"""Elements of DeepSpeed's buckets, and of the weights that stage 3 gathers at a time, as in ``configs/strategy``."""


@dataclass(frozen=True)
class Shape:
    """What a model's memory depends on beside its number of weights."""

    name: str
    parameters: float
    layers: int
    width: int
    mlp: int
    key_value_heads: int
    key_value_width: int
    vocabulary: int

    def adapter_weights(self, rank: int) -> int:
        """LoRA's, beside all linear layers of the decoder: the sum of in and out, times the rank.

        Queries and output are as wide as the model.
        """
        attention = 2 * 2 * self.width + 2 * (self.width + self.key_value_width)
        return self.layers * rank * (attention + 3 * (self.width + self.mlp))

    @property
    def largest_layer(self) -> int:
        """Weights of a decoder layer, or of the embedding where that has more."""
        layer = 2 * self.width * (self.width + self.key_value_width) + 3 * self.width * self.mlp
        return max(layer, self.width * self.vocabulary)


SHAPES = (
    Shape("Qwen2.5-0.5B", 0.49e9, 24, 896, 4864, 2, 128, 151_936),
    Shape("Qwen2.5-1.5B", 1.54e9, 28, 1536, 8960, 2, 256, 151_936),
    Shape("Qwen2.5-3B", 3.09e9, 36, 2048, 11_008, 2, 256, 151_936),
    Shape("Qwen2.5-7B", 7.62e9, 28, 3584, 18_944, 4, 512, 152_064),
    Shape("Qwen2.5-14B", 14.8e9, 48, 5120, 13_824, 8, 1024, 152_064),
    Shape("Qwen2.5-32B", 32.8e9, 64, 5120, 27_648, 8, 1024, 152_064),
    Shape("Qwen2.5-72B", 72.7e9, 80, 8192, 29_568, 8, 1024, 152_064),
)


@dataclass(frozen=True)
class Setting:
    """A run.

    Attributes:
        parameters: weights of the model.
        gpus: processes, one on each GPU.
        zero: stage of ZeRO; 0 for DDP, or a single process.
        dtype: of the weights that passes compute with. Other than float32 they have float32 copies, which are stepped;
            under DeepSpeed float32 weights have them, too.
        lora_rank: rank of the adapters that are trained in place of the weights; None without LoRA.
        engine: decodes with the policy's own weights (``transformers``), or with a copy (``vllm``), which sleeps in the
            update.
        tensor_parallel: GPUs that share one copy of vLLM's weights and cache.
        tokens: of a pass of the update (``update.micro_batch_tokens``).
        cached_tokens: whose keys and values are cached by each copy of the engine (``engine.max_cached_tokens``).
        rows: responses that are decoded together.
    """

    parameters: float
    gpus: int
    zero: int = 2
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    lora_rank: int | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    tensor_parallel: int = 1
    tokens: int = 16_384
    cached_tokens: int = 200_000
    rows: int = 1024

    @property
    def shape(self) -> Shape:
        """That of the model whose size is nearest."""
        return min(SHAPES, key=lambda shape: abs(math.log(shape.parameters / self.parameters)))

    @property
    def item(self) -> int:
        """Bytes of a weight, an activation and a cached number."""
        return 2 if self.dtype == "bfloat16" else 4


@dataclass(frozen=True)
class Item:
    """Something that takes memory.

    Attributes:
        name: what it is.
        held: when it is there.
        size: bytes on each GPU.
    """

    name: str
    held: Literal["always", "rollout", "update"]
    size: float


KEPT = "activations, all kept"
RECOMPUTED = "activations, recomputed"


def items_of(setting: Setting) -> list[Item]:
    """What lies on each GPU; of the two kinds of activations a run has one."""
    return [*_weights(setting), *_rollout(setting), *_update(setting)]


def _weights(setting: Setting) -> list[Item]:
    rank = setting.lora_rank
    trained = setting.parameters if rank is None else setting.shape.adapter_weights(rank)
    frozen = 0.0 if rank is None else setting.parameters
    copies = COPY if setting.zero or setting.dtype != "float32" else 0

    def share(stage: int) -> float:
        return 1 / setting.gpus if setting.zero >= stage else 1.0

    return [
        Item("weights", "always", setting.item * (trained + frozen) * share(3)),
        Item("gradients", "always", setting.item * trained * share(2)),
        Item("float32 copies", "always", copies * trained * share(1)),
        Item("two moments", "always", MOMENTS * trained * share(1)),
    ]


def _rollout(setting: Setting) -> list[Item]:
    shape, whole = setting.shape, setting.item * setting.parameters
    cached: float = 2 * shape.layers * shape.key_value_width * setting.item * setting.cached_tokens
    cached /= min(setting.tensor_parallel, shape.key_value_heads)  # a head is on one GPU, or on several
    own_weights = setting.engine == "vllm"
    gathered = setting.item * shape.largest_layer if own_weights else whole
    return [
        Item("weights gathered at once", "rollout", gathered if setting.zero == 3 else 0.0),
        Item("weights of the engine", "rollout", whole / setting.tensor_parallel if own_weights else 0.0),
        Item("keys and values", "rollout", cached),
        Item("logits of a decoding step", "rollout", SAMPLING_COPIES * LOGIT * setting.rows * shape.vocabulary),
    ]


def _update(setting: Setting) -> list[Item]:
    shape, token = setting.shape, setting.item * setting.tokens
    layer = token * (8 * shape.width + 4 * shape.mlp)
    # Twice, since one is filled while the other travels (`overlap_comm`); stage 3 has none that gathers.
    buckets = {0: 0, 1: 2, 2: 2, 3: 1}[setting.zero] * 2 * BUCKET
    live = min(LIVE, setting.parameters) if setting.zero == 3 else 0
    return [
        Item("DeepSpeed's buckets", "update", setting.item * buckets),
        Item("weights gathered by layers", "update", setting.item * live),
        Item("logits of a chunk", "update", LOGIT * LOGITS_AT_ONCE),
        Item(RECOMPUTED, "update", token * shape.width * shape.layers + layer),
        Item(KEPT, "update", layer * shape.layers),
    ]


def most(items: Sequence[Item], without: str) -> float:
    """Bytes of what is always there, and of the larger of rollout and update.

    Args:
        items: all.
        without: name of the kind of activations that the run does not have.
    """
    sums = {"always": 0.0, "rollout": 0.0, "update": 0.0}
    for item in items:
        sums[item.held] += item.size if item.name != without else 0.0
    return sums["always"] + max(sums["rollout"], sums["update"])


# ------------------------------------------------------------------- what is shown


def table(settings: Sequence[Setting]) -> str:
    """A markdown table in GiB, a column for each run; items that none has are left out."""
    plans = [items_of(setting) for setting in settings]
    heads = [f"{setting.parameters / 1e9:g}B, {_counted(setting.gpus, 'GPU')}" for setting in settings]
    lines = [["GiB on each GPU", "when", *heads], ["---"] * (2 + len(heads))]
    for same in zip(*plans, strict=True):
        if any(item.size for item in same):
            lines.append([same[0].name, same[0].held, *(_gib(item.size) for item in same)])
    for name, without in (("recomputed", KEPT), ("all kept", RECOMPUTED)):
        lines.append([f"**at most**, activations {name}", "", *(f"**{_gib(most(plan, without))}**" for plan in plans)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def as_json(settings: Sequence[Setting]) -> str:
    """The same in bytes, a list with an entry for each run."""
    entries = []
    for setting in settings:
        items = items_of(setting)
        sums = {"recomputed": most(items, KEPT), "all_kept": most(items, RECOMPUTED)}
        plan = {"shape": setting.shape.name, "items": [asdict(item) for item in items], "at_most": sums}
        entries.append(asdict(setting) | plan)
    return json.dumps(entries, indent=1)


def refuse_impossible(setting: Setting) -> None:
    """Refuse what no run can be.

    Raises:
        ValueError: saying which option must be what.
    """
    counts = ("parameters", "gpus", "tensor_parallel", "tokens", "cached_tokens", "rows", "lora_rank")
    for name in counts:
        if (value := getattr(setting, name)) is not None and value <= 0:
            raise ValueError(f"--{name} is {value:g}, and must be above 0")
    if setting.gpus % setting.tensor_parallel:
        raise ValueError(f"--tensor_parallel {setting.tensor_parallel} does not divide --gpus {setting.gpus}")
    if setting.tensor_parallel > 1 and setting.engine != "vllm":
        raise ValueError("--tensor_parallel is for --engine vllm: the transformers engine decodes on each GPU alone")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parameters", type=float, nargs="+", required=True, help="weights of the model, such as 7.6e9"
    )
    parser.add_argument("--gpus", type=int, nargs="+", required=True, help="processes, one on each GPU")
    parser.add_argument("--zero", type=int, choices=range(4), default=2, help="stage of ZeRO; 0 for one process or DDP")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of passes and cache")
    parser.add_argument("--lora_rank", type=int, help="train adapters of this rank")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--tensor_parallel", type=int, default=1, help="GPUs that share a copy of vLLM's weights")
    parser.add_argument("--tokens", type=int, default=16_384, help="update.micro_batch_tokens")
    parser.add_argument("--cached_tokens", type=int, default=200_000, help="engine.max_cached_tokens")
    parser.add_argument("--rows", type=int, default=1024, help="responses that are decoded together")
    parser.add_argument("--json", action="store_true", help="print bytes as JSON")
    options = vars(parser.parse_args(arguments))
    sizes, counts, as_bytes = options.pop("parameters"), options.pop("gpus"), options.pop("json")
    settings = [Setting(size, count, **options) for size in sizes for count in counts]
    for setting in settings:
        try:
            refuse_impossible(setting)
        except ValueError as error:
            parser.error(str(error))
    print(as_json(settings) if as_bytes else table(settings))


if __name__ == "__main__":
    main()
