"""What half precision does to log pi(z), with the head's product in float32 and without.

    python benchmarks/head_precision.py --model DIR --problems FILE --count 64 --token "<reponame>"

Every row compares log pi(z) behind the same solutions with that of float32 weights and passes, and with the product of
the very same hidden states and weights in float64. Problems are the columns ``problem`` and ``solution`` of JSON lines.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from laser_lightning.data.prompts import encode_prompt, render_chat
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer, written_eos
from laser_lightning.records.batching import Rollouts, micro_batches, pad_rows

BETA = 0.1


def solutions(policy: Policy, settings: PolicySettings, problems: Path, count: int) -> Rollouts:
    """The first problems' own solutions, as finished responses."""
    tokenizer = load_tokenizer(settings)
    rows = [json.loads(line) for line in problems.read_text().splitlines()[:count]]
    prompts = []
    for row in rows:
        chat = render_chat([{"role": "user", "content": row["problem"]}], tokenizer)
        prompts.append(encode_prompt(chat, tokenizer, add_special_tokens=False))
    end = written_eos(policy.eos_token_ids, tokenizer)
    responses = [[*tokenizer.encode(row["solution"], add_special_tokens=False), end] for row in rows]
    prompt_ids, prompt_lengths = pad_rows(prompts, policy.pad_token_id)
    ids, lengths = pad_rows(responses, policy.pad_token_id)
    nothing = torch.full((count, 1), torch.nan)
    finished = torch.ones(count, dtype=torch.bool)
    return Rollouts(prompt_ids, prompt_lengths, ids, lengths, finished, torch.zeros(ids.shape), nothing)


@torch.no_grad()
def log_probs(policy: Policy, rollouts: Rollouts, token_id: int, mixed: bool) -> dict[str, Tensor]:
    """[N] log pi(z) by what the head multiplies in: as the model does, in float32, and in float64; of one pass."""
    found = {name: torch.empty(len(rollouts)) for name in ("model", "float32", "float64")}
    weight = policy.lm.get_output_embeddings().weight.double()
    for batch in micro_batches(rollouts, torch.arange(len(rollouts)), 1024, policy.pad_token_id):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            hidden = policy.hidden_at_end(batch)
            for name in ("model", "float32"):
                policy.has_float32_head = name == "float32"
                found[name][batch.rows] = policy.head(hidden).log_softmax(dim=-1)[:, token_id]
        found["float64"][batch.rows] = (hidden.double() @ weight.t()).log_softmax(dim=-1)[:, token_id].float()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--token", default="<reponame>")
    args = parser.parse_args()
    plain = PolicySettings(args.model)
    tokenizer = load_tokenizer(plain)
    policy = Policy(plain, tokenizer)
    rollouts, token_id = solutions(policy, plain, args.problems, args.count), tokenizer.get_vocab()[args.token]
    truth = log_probs(policy, rollouts, token_id, mixed=False)["float64"]
    print(f"log pi({args.token}): mean {truth.mean():.2f}, spread {truth.std():.3f} over {len(truth)} solutions")
    print("| weights, passes | head | against float32: mean, largest | against the exact head | r_s, mean |")
    for name, dtype, mixed in (("bfloat16", "bfloat16", False), ("bf16-mixed", "float32", True)):
        policy = Policy(replace(plain, dtype=dtype), tokenizer)  # type: ignore[arg-type]
        found = log_probs(policy, rollouts, token_id, mixed)
        for head in ("model", "float32"):
            apart, of_head = (found[head] - truth).abs(), (found[head] - found["float64"]).abs()
            print(
                f"| {name} | {head} | {apart.mean():.4f}, {apart.max():.4f} "
                f"| {of_head.mean():.2g}, {of_head.max():.2g} | {BETA * apart.mean():.5f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
