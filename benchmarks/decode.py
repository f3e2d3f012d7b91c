"""Decoding against `generate` of transformers with `num_return_sequences`, in turn in one run.

    python benchmarks/decode.py [--device cuda --dtype bfloat16]

Both draw 8 responses to each prompt from the same random weights at temperature 1; ours keeps the log-prob of every
token and the score as well. Random weights are near to uniform, so a set of <eos> ids that is a fortieth of the
vocabulary makes lengths geometric with mean 40, and an id outside of it makes every response as long as allowed.
Tokens are those of responses, <eos> included; what `generate` computes behind an <eos> does not count. On CPU, times
are CPU seconds of the process, which other programs disturb less than the clock.

`--rounds` decodes rounds of 64 prompts, which are larger than a batch, and compares batches that are refilled when rows
end with the same round in parts, one after the other (what the engine does where a cache's rows cannot be joined).
"""

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import torch
import transformers

from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.model import EMBEDDED, Policy, PolicySettings
from laser_lightning.records.batching import pad_rows
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.transformers.cache import GrowingCache

GROUP_SIZE = 8
MODELS = {
    "5M, vocabulary 80": {
        "vocab_size": 80,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
    },
    "20M, vocabulary 32,000": {
        "vocab_size": 32_000,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
    },
}


class Case(NamedTuple):
    """What is decoded: prompt lengths, the limit of a response, whether responses end before it, and rows at a time."""

    name: str
    prompt_lengths: list[int]
    limit: int
    ends: bool
    max_batch_size: int = 1024


CASES = [
    Case("short prompts, all responses of 64 tokens", [16] * 8, 64, False),
    Case("prompts of 512 tokens, all responses of 64", [512] * 8, 64, False),
    Case("short prompts, responses of 1 to 128", [16] * 8, 128, True),
    Case("prompts of 8 to 64 tokens, responses of 1 to 128", [8, 16, 24, 32, 40, 48, 56, 64], 128, True),
    Case("prompts of 64 to 512 tokens, responses of 1 to 128", [64, 128, 192, 256, 320, 384, 448, 512], 128, True),
]
ROUNDS = [
    Case(f"64 x 8, prompts of {name}, responses of 1 to 128, {rows} at a time", lengths, 128, True, rows)
    for name, lengths in (("16", [16] * 64), ("8 to 71", list(range(8, 72))))
    for rows in (64, 128)
]


def with_generate(policy: Policy, prompts: list[list[int]], limit: int, seed: int, cache: str | None) -> int:
    """Decode with transformers; return the number of response tokens."""
    torch.manual_seed(seed)
    ids, lengths = (t.to(policy.device) for t in pad_rows(prompts, policy.pad_token_id, left=True))
    mask = torch.arange(ids.shape[1], device=ids.device) >= ids.shape[1] - lengths[:, None]
    with torch.inference_mode():
        sequences = policy.lm.generate(
            ids,
            attention_mask=mask.long(),
            num_return_sequences=GROUP_SIZE,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=limit,
            eos_token_id=list(policy.eos_token_ids),
            pad_token_id=policy.pad_token_id,
            cache_implementation=cache,
        )
    responses = sequences[:, ids.shape[1] :]
    ended = torch.isin(responses, torch.tensor(policy.eos_token_ids, device=ids.device)).int()
    return int((ended.cumsum(1) - ended == 0).sum())


def with_engine(policy: Policy, prompts: list[list[int]], case: Case, seed: int, parts: bool = False) -> int:
    """Decode with our engine, a large round refilled or in parts; return the number of response tokens."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    engine = TransformersEngine(max_batch_size=case.max_batch_size)
    with mock.patch.object(GrowingCache, "only_attention", False) if parts else contextlib.nullcontext():
        rollouts = engine.generate(policy, prompts, GROUP_SIZE, Sampling(case.limit), (3,), generator)
    return int(rollouts.response_lengths.sum())


def speed(decode: Callable[[], int], device: torch.device) -> float:
    """Response tokens per second."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    tokens = decode()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return tokens / (clock() - started)


def make_policy(name: str, device: torch.device, dtype: str) -> Policy:
    """Random weights of one of the sizes."""
    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    policy = Policy(PolicySettings(EMBEDDED, random_init=True, config_overrides=MODELS[name], dtype=dtype), tokenizer)  # type: ignore[arg-type]
    policy.lm.eval().to(device)
    return policy


def compare(policy: Policy, case: Case, pairs: int, cache: str | None, parts: bool) -> tuple[list[float], list[float]]:
    """Tokens per second of ours, and of `generate` or of ours in parts, run in turn."""
    vocabulary = policy.lm.config.vocab_size
    policy.eos_token_ids = tuple(range(4, 4 + vocabulary // 40)) if case.ends else (vocabulary,)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(4, vocabulary, (n,), generator=generator).tolist() for n in case.prompt_lengths]
    runs: list[tuple[list[float], Callable[[int], int]]] = [
        ([], lambda seed: with_engine(policy, prompts, case, seed)),
        (
            [],
            lambda seed: (
                with_engine(policy, prompts, case, seed, parts=True)
                if parts
                else with_generate(policy, prompts, case.limit, seed, cache)
            ),
        ),
    ]
    for pair in range(pairs + 1):
        for speeds, decode in runs if pair % 2 else runs[::-1]:
            speeds.append(speed(lambda decode=decode, pair=pair: decode(pair), policy.device))  # type: ignore[misc]
    ours, theirs = (speeds[1:] for speeds, _ in runs)  # the first pair warms up
    return ours, theirs


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8, help="pairs of runs for each case")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    parser.add_argument("--cache", default=None, help="cache_implementation of `generate`, e.g. static")
    parser.add_argument("--rounds", action="store_true", help="large rounds: batches refilled against parts")
    parser.add_argument("--model", default="", help="only the models whose names contain this")
    parser.add_argument("--case", default="", help="only the cases whose names contain this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(
        f"{machine}, {options.threads} CPU thread(s), {options.dtype}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, cache of `generate`: {options.cache or 'default'}, {options.pairs} pairs\n"
    )
    ours_is, other = ("refilled", "in parts") if options.rounds else ("ours", "`generate`")
    print(f"| model | case | {ours_is}, tokens/s | {other}, tokens/s | ratio (median of pairs) | range |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in (name for name in MODELS if options.model in name):
        policy = make_policy(name, device, options.dtype)
        for case in (case for case in (ROUNDS if options.rounds else CASES) if options.case in case.name):
            ours, theirs = compare(policy, case, options.pairs, options.cache, options.rounds)
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            print(
                f"| {name} | {case.name} | {statistics.median(ours):,.0f} | {statistics.median(theirs):,.0f} "
                f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
