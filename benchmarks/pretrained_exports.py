"""Whether a run's exports load with plain transformers and with LaSeRScorer, and whether their scores agree.

    python benchmarks/pretrained_exports.py RUN VAL.jsonl [--adapter]

Solutions of held-out problems are drawn from the float32 export. Each form is then loaded anew, and scores them: the
float32 export, its bfloat16 copy, and with --adapter the adapter in peft's form. The numbers go to RUN/exports.json.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from laser_lightning import LaSeRScorer
from laser_lightning.cli.export_checkpoint import export_checkpoint
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.rollout import Sampling

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Agreement:
    """How far the scores of one form of an export are from each other.

    Attributes:
        form: ``float32``, ``bfloat16`` or ``adapter``.
        solutions: how many were scored.
        plain: largest difference of r_s between plain transformers, its logits, and the scorer.
        plain_float32_head: the same where the head's product is in float32 in transformers too.
        float32: largest difference of r_s between this form and the float32 export, both by the scorer.
        verdicts: share of solutions with the same verdict as of the float32 export.
    """

    form: str
    solutions: int
    plain: float
    plain_float32_head: float
    float32: float
    verdicts: float


@torch.no_grad()
def plain_scores(
    lm: PreTrainedModel, settings: SelfRewardSettings, sequences: Sequence[list[int]], float32_head: bool
) -> list[float]:
    """r_s = beta (log pi(z_c) - c_ref) by transformers alone, a sequence at a time.

    Args:
        lm: the loaded export.
        settings: its ``self_reward.json``.
        sequences: token ids of prompt and finished response.
        float32_head: whether to multiply by the head in float32.
    """
    assert settings.beta is not None
    assert settings.reference_constant is not None
    scores = []
    for ids in sequences:
        if float32_head:
            hidden = lm.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
            logits = lm.get_output_embeddings().weight.float() @ hidden.float()
        else:
            logits = lm(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        log_prob = float(logits.log_softmax(-1)[settings.token_id])
        scores.append(settings.beta * (log_prob - settings.reference_constant))
    return scores


def chats(run: Path, problems: Path, count: int) -> list[Chat]:
    """The prompts of the first problems, as messages, as the run's template has them."""
    template = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]["init_args"]["template"]
    system = [{"role": "system", "content": template["system"]}] if template["system"] else []
    with problems.open(encoding="utf-8") as file:
        texts = [json.loads(line)["problem"] for line in list(file)[:count]]
    return [[*system, {"role": "user", "content": template["template"].replace("{problem}", text)}] for text in texts]


def write_bfloat16(export: Path, directory: Path) -> Path:
    """A copy of an export whose weights are bfloat16."""
    shutil.copytree(export, directory, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
    AutoModelForCausalLM.from_pretrained(export, dtype=torch.bfloat16).save_pretrained(directory)
    return directory


def largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest difference."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def check_exports(run: Path, problems: Path, adapter: bool, count: int = 32, samples: int = 4) -> list[Agreement]:
    """Load all forms of a run's last export, and compare the scores of the same solutions.

    Args:
        run: directory of a finished run.
        problems: JSON lines with held-out problems.
        adapter: whether the run trained LoRA's adapters.
        count: of problems.
        samples: solutions of each.

    Raises:
        SystemExit: if no solution of these is finished.
    """
    export, work = run / "export/last", run / "export/forms"
    work.mkdir(exist_ok=True)
    # The checkpoint itself rather than what the run exported: the command of a user who has one.
    forms = {"float32": (export, "float32"), "bfloat16": (write_bfloat16(export, work / "bfloat16"), "bfloat16")}
    if adapter:
        shutil.rmtree(work / "adapter", ignore_errors=True)
        export_checkpoint(run / "checkpoints/last.ckpt", work / "adapter", [], adapter=True)
        forms["adapter"] = (work / "adapter", "float32")

    tokenizer, prompts = AutoTokenizer.from_pretrained(export), chats(run, problems, count)
    drawn = LaSeRScorer.from_pretrained(export).generate(prompts, samples, Sampling(max_response_tokens=32))
    pairs = [
        (prompt, solution.token_ids)
        for prompt, solutions in zip(prompts, drawn, strict=True)
        for solution in solutions
        if solution.finished
    ]
    if not pairs:
        raise SystemExit("No solution was finished, so there are no scores to compare.")
    encoded = [
        tokenizer(
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False), add_special_tokens=False
        )["input_ids"]
        + list(ids)
        for prompt, ids in pairs
    ]
    settings = SelfRewardSettings.read(export)
    found, reference = [], None
    for form, (directory, dtype) in forms.items():
        scorer = LaSeRScorer.from_pretrained(directory, dtype=dtype)
        solutions = scorer.score([prompt for prompt, _ in pairs], [ids for _, ids in pairs])
        reference = reference or solutions
        scores = [solution.self_reward for solution in solutions]
        lm = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
        same = [ours.verdict == theirs.verdict for ours, theirs in zip(solutions, reference, strict=True)]
        found.append(
            Agreement(
                form,
                len(scores),
                largest(plain_scores(lm, settings, encoded, float32_head=False), scores),
                largest(plain_scores(lm, settings, encoded, float32_head=True), scores),
                largest(scores, [solution.self_reward for solution in reference]),
                sum(same) / len(same),
            )
        )
    shutil.rmtree(work)
    return found


def table(found: Sequence[Agreement]) -> str:
    """The numbers in Markdown."""
    heads = ("form", "solutions", "plain transformers", "with a float32 head", "float32 export", "same verdicts")
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for one in found:
        differences = (one.plain, one.plain_float32_head, one.float32)
        cells = [one.form, str(one.solutions), *(f"{value:.2e}" for value in differences), f"{one.verdicts:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "Largest differences of r_s between the scorer and ...:\n\n" + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("problems", type=Path, help="held-out problems, as JSON lines")
    parser.add_argument("--adapter", action="store_true", help="the run trained LoRA's adapters")
    options = parser.parse_args(arguments)
    found = check_exports(options.run, options.problems, options.adapter)
    print(table(found))
    (options.run / "exports.json").write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
