"""An exported model in use: its scores against plain transformers, and what is refused."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

import laser_lightning
from laser_lightning.errors import UserError
from laser_lightning.inference.early_stop import EarlyStop
from laser_lightning.inference.scorer import LaSeRScorer, Solution
from laser_lightning.metrics import BestScored
from laser_lightning.metrics.votes import BestRule, CalibratedVote, LogOddsVote
from laser_lightning.metrics.votes.saved import save_rules
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.lora import LoRASettings, merged_weights, save_adapter
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.verifiers import ExactVerifier, VerifierPool

REWARD, EOS, BETA, CONSTANT = 3, 1, 0.25, -9.0
SETTINGS = SelfRewardSettings("<|reward|>", REWARD, BETA, CONSTANT, step=5)
EXACT = SelfRewardSettings("<|reward|>", REWARD, BETA, None, step=5)

PROMPTS = ["1+2=", "34*5=", "6+7+8=", "9="]
RESPONSES = ["3", "170;#17", "", "9-9-9-9"]


@pytest.fixture
def export(tmp_path: Path, policy_dir: Path) -> Path:
    """An export with a reference constant."""
    path = Path(shutil.copytree(policy_dir, tmp_path / "export"))
    SETTINGS.save(path)
    return path


@pytest.fixture
def scorer_of(
    make_policy: Callable[..., Policy], policy_tokenizer: PreTrainedTokenizerBase
) -> Callable[..., LaSeRScorer]:
    """``scorer_of(eos_ids=(1,), eos_bias=3.5, **options)``: a scorer of a policy that ends some of its responses."""

    def make(eos_ids: tuple[int, ...] = (EOS,), eos_bias: float = 3.5, **options: Any) -> LaSeRScorer:
        policy = make_policy(eos_bias=eos_bias, eos_ids=eos_ids)
        return LaSeRScorer(policy, policy_tokenizer, options.pop("settings", SETTINGS), **options)

    return make


@pytest.mark.parametrize("micro_batch_tokens", [1, 25, 16384])
def test_scores_are_those_of_plain_transformers(
    export: Path, plain_pass: Callable[..., Any], policy_tokenizer: PreTrainedTokenizerBase, micro_batch_tokens: int
) -> None:
    scorer = LaSeRScorer.from_pretrained(export, micro_batch_tokens=micro_batch_tokens)
    lm = AutoModelForCausalLM.from_pretrained(export)
    solutions = scorer.score(PROMPTS, RESPONSES)
    assert [s.text for s in solutions] == RESPONSES
    for prompt, response, solution in zip(PROMPTS, RESPONSES, solutions, strict=True):
        ids = [*policy_tokenizer.encode(response), EOS]
        log_prob = plain_pass(lm, policy_tokenizer.encode(prompt), ids).after_last[REWARD].item()
        assert solution.token_ids == ids
        assert solution.finished
        assert solution.reward_token_log_prob == pytest.approx(log_prob, abs=1e-5)
        assert solution.self_reward == pytest.approx(0.25 * (log_prob + 9.0), abs=1e-5)
        assert solution.verdict == (solution.self_reward > 0.5)
    assert {s.verdict for s in solutions} == {True, False}


@pytest.mark.parametrize(("eos_ids", "eos_bias"), [((EOS,), 3.5), ((EOS, 40, 41), 1.5)])
def test_generated_solutions_have_the_scores_of_given_ones(
    scorer_of: Callable[..., LaSeRScorer], eos_ids: tuple[int, ...], eos_bias: float
) -> None:
    scorer = scorer_of(eos_ids, eos_bias)
    groups = scorer.generate(PROMPTS, n=5, sampling=Sampling(max_response_tokens=12))
    assert [len(group) for group in groups] == [5] * 4
    generated = [solution for group in groups for solution in group]
    assert {s.token_ids[-1] for s in generated if s.finished} == set(eos_ids)
    assert {s.finished for s in generated} == {True, False}
    scored = scorer.score([p for p in PROMPTS for _ in range(5)], [s.token_ids for s in generated])
    for ours, theirs in zip(generated, scored, strict=True):
        assert ours[:3] == theirs[:3]
        assert ours.self_reward == pytest.approx(theirs.self_reward, abs=1e-5)
        assert ours.verdict == theirs.verdict
        assert ours.reward_token_log_prob == pytest.approx(theirs.reward_token_log_prob, abs=1e-5, nan_ok=True)
        if not ours.finished:
            assert len(ours.token_ids) == 12
            assert math.isnan(ours.reward_token_log_prob)
            assert (ours.self_reward, ours.verdict) == (0.0, False)


def test_what_ends_a_given_response(scorer_of: Callable[..., LaSeRScorer]) -> None:
    scorer = scorer_of()
    (text, with_eos, ids, cut) = scorer.score(["1+1="] * 4, ["2", "2<|eos|>", text_ids("2", EOS), text_ids("2")])
    assert [s.text for s in (text, with_eos, ids, cut)] == ["2", "2<|eos|>", "2", "2"]
    for solution in (text, with_eos, ids):
        assert (solution.token_ids, solution.finished) == (text_ids("2", EOS), True)
        assert solution.self_reward == pytest.approx(text.self_reward, abs=1e-6)
    assert (cut.token_ids, cut.finished, cut.self_reward, cut.verdict) == (text_ids("2"), False, 0.0, False)
    assert math.isnan(cut.reward_token_log_prob)
    # A model whose <eos> ids lack the tokenizer's ends in the first of its own.
    assert scorer_of((40, 41)).score(["1+1="], ["2"])[0].token_ids == text_ids("2", 40)


def text_ids(text: str, *more: int) -> list[int]:
    return [*(ord(character) - ord("!") + 4 for character in text), *more]  # of the character tokenizer


def test_chats_go_through_the_template(scorer_of: Callable[..., LaSeRScorer]) -> None:
    chat = [{"role": "user", "content": "3+4"}]
    plain, chatted = scorer_of().score(["3+4=", chat], ["7", "7"])
    assert chatted.self_reward == pytest.approx(plain.self_reward, abs=1e-6)
    sampling = Sampling(max_response_tokens=6)
    (ours,), (theirs,) = (scorer_of().generate([prompt], 3, sampling) for prompt in (chat, "3+4="))
    assert [s.token_ids for s in ours] == [s.token_ids for s in theirs]
    assert scorer_of().generate([]) == scorer_of().score([], []) == []


def test_seeds(scorer_of: Callable[..., LaSeRScorer], export: Path) -> None:
    def texts(scorer: LaSeRScorer) -> list[str]:
        return [s.text for group in scorer.generate(PROMPTS, 3, Sampling(max_response_tokens=8)) for s in group]

    scorer = scorer_of(seed=4)
    first, second = texts(scorer), texts(scorer)
    assert first != second
    assert texts(scorer_of(seed=4)) == first
    assert texts(scorer_of(seed=5)) != first
    assert texts(LaSeRScorer.from_pretrained(export, seed=4)) != texts(LaSeRScorer.from_pretrained(export))


def test_an_exact_reference(
    tmp_path: Path,
    policy_dir: Path,
    reference_dir: Path,
    plain_pass: Callable[..., Any],
    policy_tokenizer: PreTrainedTokenizerBase,
    make_policy: Callable[..., Policy],
) -> None:
    path = Path(shutil.copytree(policy_dir, tmp_path / "exact"))
    EXACT.save(path)
    with pytest.raises(UserError, match=r"'exact', so its scores need the model .*: pass its directory or hub name"):
        LaSeRScorer.from_pretrained(path)
    scorer = LaSeRScorer.from_pretrained(path, reference=reference_dir)
    lms = [AutoModelForCausalLM.from_pretrained(directory) for directory in (path, reference_dir)]
    for prompt, response, solution in zip(PROMPTS, RESPONSES, scorer.score(PROMPTS, RESPONSES), strict=True):
        ids = [policy_tokenizer.encode(prompt), [*policy_tokenizer.encode(response), EOS]]
        ours, theirs = (plain_pass(lm, *ids).after_last[REWARD].item() for lm in lms)
        assert solution.self_reward == pytest.approx(0.25 * (ours - theirs), abs=1e-5)

    sampling = Sampling(max_response_tokens=12)
    ending = LaSeRScorer(make_policy(eos_bias=3.5), policy_tokenizer, EXACT, reference=scorer.reference)
    (generated,) = ending.generate(PROMPTS[:1], 8, sampling)
    scored = ending.score(PROMPTS[:1] * 8, [s.token_ids for s in generated])
    assert {s.finished for s in generated} == {True, False}
    assert [s.self_reward for s in generated] == pytest.approx([s.self_reward for s in scored], abs=1e-5)


def test_an_adapter_is_merged_into_its_base_model(
    tmp_path: Path,
    policy_dir: Path,
    make_policy: Callable[..., Policy],
    policy_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = make_policy(lora=LoRASettings(rank=4))
    for name, parameter in policy.lm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    state = policy.lm.state_dict()
    policy.lm.generation_config.eos_token_id = [EOS, 40]
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    policy.lm.save_pretrained(whole, state_dict=dict(merged_weights(policy.lm, state)))
    adapter.mkdir()
    save_adapter(policy.lm, state, adapter)
    policy.lm.generation_config.save_pretrained(adapter)
    for path in (whole, adapter):
        policy_tokenizer.save_pretrained(path)
        SETTINGS.save(path)
    ours, theirs = (LaSeRScorer.from_pretrained(path) for path in (adapter, whole))
    assert ours.policy.eos_token_ids == theirs.policy.eos_token_ids == (EOS, 40)
    scores = [[s.self_reward for s in scorer.score(PROMPTS, RESPONSES)] for scorer in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    base = Path(shutil.copytree(policy_dir, tmp_path / "base"))
    SETTINGS.save(base)
    assert LaSeRScorer.from_pretrained(base).score(PROMPTS, RESPONSES)[0].self_reward != pytest.approx(scores[0][0])

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"adapter holds a LoRA adapter, which needs peft: pip install 'laser-light"):
        LaSeRScorer.from_pretrained(adapter)


def test_types_of_weights(export: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(export, dtype=torch.bfloat16)
    lm.save_pretrained(export)
    assert LaSeRScorer.from_pretrained(export).policy.lm.dtype == torch.float32
    assert LaSeRScorer.from_pretrained(export, dtype="bfloat16").policy.lm.dtype == torch.bfloat16


class Canned(RolloutEngine):
    """Returns rollouts that are there already."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        assert [list(prompt) for prompt in prompts] == [text_ids("1+2="), text_ids("3=")]
        assert (group_size, sampling, reward_token_ids) == (2, Sampling(5), (REWARD,))
        return self.rollouts


def test_any_engine(scorer_of: Callable[..., LaSeRScorer], make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts = make_rollouts(prompts=2, group_size=2)
    rollouts.finished = torch.tensor([True, False, True, True])
    rollouts.reward_token_log_probs = torch.tensor([[-9.0], [math.nan], [-7.0], [-6.9]])
    groups = scorer_of(engine=Canned(rollouts)).generate(["1+2=", "3="], 2, Sampling(5))
    solutions = [solution for group in groups for solution in group]
    assert [s.token_ids for s in solutions] == rollouts.responses()
    # 0.25 * (-9 + 9) = 0, truncated, 0.25 * (-7 + 9) = 0.5, which is not above 0.5, and 0.25 * (-6.9 + 9) = 0.525.
    assert [s.self_reward for s in solutions] == pytest.approx([0.0, 0.0, 0.5, 0.525])
    assert [s.verdict for s in solutions] == [False, False, False, True]


def test_votes(scorer_of: Callable[..., LaSeRScorer]) -> None:
    scores = {"a#4": 0.1, "b#4": 0.2, "c#5": 0.9, r"\boxed{5}": 0.3}
    solutions = [Solution(text, [EOS], True, -6.0, score, score > 0.5) for text, score in scores.items()]
    found = scorer_of().vote(solutions, ExactVerifier(r"#(\d+)$"))
    assert (found.majority, found.weighted_majority, found.best) == ("4", "5", "5")
    assert found.answers == ["4", "4", "5", None]
    assert scorer_of().vote(solutions[3:]).majority == "5"  # a box is what the default looks for
    with VerifierPool(ExactVerifier(r"#(\d+)$"), workers=1) as pool:
        assert scorer_of().vote(solutions, pool) == found
    by_rule = scorer_of().vote(solutions, ExactVerifier(r"#(\d+)$"), rule=BestScored())
    assert by_rule == found._replace(chosen="5", chosen_index=2)
    with pytest.raises(UserError, match="needs at least one solution"):
        scorer_of().vote([])


def test_an_export_brings_the_rules_of_its_run(export: Path) -> None:
    assert LaSeRScorer.from_pretrained(export).rules == {}
    learned = BestRule([CalibratedVote(curve=[(0.0, 0.25), (1.0, 0.75)])])
    save_rules([learned, LogOddsVote(2.0)], export)
    scorer = LaSeRScorer.from_pretrained(export)
    assert list(scorer.rules) == ["best_rule", "log_odds"]
    sampling = Sampling(max_response_tokens=8)
    # The best rule is a sum of log-odds, so that a stop can look at it.
    (solved,) = scorer.solve(PROMPTS[:1], 4, FIRST_CHARACTER, EarlyStop(batch=4), sampling, scorer.rules["best_rule"])
    assert solved.vote.chosen in solved.vote.answers


FIRST_CHARACTER = ExactVerifier(r"(?s)^(.)")


def test_solving_without_stops_is_generating_and_voting(scorer_of: Callable[..., LaSeRScorer]) -> None:
    sampling = Sampling(max_response_tokens=8)
    solved = scorer_of(seed=4).solve(PROMPTS, 5, FIRST_CHARACTER, stop=None, sampling=sampling)
    theirs = scorer_of(seed=4)
    for result, group in zip(solved, theirs.generate(PROMPTS, 5, sampling), strict=True):
        assert [s.token_ids for s in result.solutions] == [s.token_ids for s in group]
        assert result.vote == theirs.vote(group, FIRST_CHARACTER)
        assert result.stopped is None
    assert scorer_of().solve([]) == []
    (one,) = scorer_of(seed=4).solve(PROMPTS[:1], 5, FIRST_CHARACTER, None, sampling, BestScored())
    assert (one.vote.chosen, one.vote.chosen_index) == (one.vote.best, one.vote.best_index)


def test_solving_in_rounds(scorer_of: Callable[..., LaSeRScorer]) -> None:
    # beta 10 and c_ref -12 make every finished solution's score far more than 1, and so a whole vote.
    settings = SelfRewardSettings("<|reward|>", REWARD, 10.0, -12.0, step=5)
    sampling, stop = Sampling(max_response_tokens=8), EarlyStop(batch=2, confidence=0.8)
    solved = scorer_of(seed=3, settings=settings).solve(PROMPTS, 5, FIRST_CHARACTER, stop, sampling)
    lengths = [len(result.solutions) for result in solved]
    assert len(set(lengths)) > 1
    # What the rounds draw is what as many calls of ``generate`` for the problems still open do.
    theirs = scorer_of(seed=3, settings=settings)
    groups: list[list[Solution]] = [[] for _ in PROMPTS]
    for drawn, batch in ((0, 2), (2, 2), (4, 1)):
        rows = [row for row, length in enumerate(lengths) if length > drawn]
        for row, group in zip(rows, theirs.generate([PROMPTS[row] for row in rows], batch, sampling), strict=True):
            groups[row] += group
    for result, group in zip(solved, groups, strict=True):
        assert [s.token_ids for s in result.solutions] == [s.token_ids for s in group]
        assert result.vote == theirs.vote(group, FIRST_CHARACTER)
        assert (result.stopped is None) == (len(group) == 5)


def test_the_settings_in_the_export_count(export: Path) -> None:
    settings = json.loads((export / "self_reward.json").read_text())
    before = LaSeRScorer.from_pretrained(export).score(PROMPTS, RESPONSES)
    other = settings | {"beta": 0.5, "reference_constant": -11.0, "threshold": 100.0}
    (export / "self_reward.json").write_text(json.dumps(other))
    after = LaSeRScorer.from_pretrained(export).score(PROMPTS, RESPONSES)
    # 0.5 * (l + 11) = 2 * 0.25 * (l + 9) + 0.5 * 2
    assert [s.self_reward for s in after] == pytest.approx([2 * s.self_reward + 1 for s in before], abs=1e-5)
    assert not any(s.verdict for s in after)


def test_exports_that_are_refused(export: Path, tmp_path: Path, policy_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="There is no directory nowhere: name an export of a trained model"):
        LaSeRScorer.from_pretrained("nowhere")
    with pytest.raises(UserError, match=r"has a reference constant, .*: leave `reference` out"):
        LaSeRScorer.from_pretrained(export, reference="embedded")

    lost = Path(shutil.copytree(export, tmp_path / "lost"))
    tokenizer = json.loads((lost / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if token["id"] == REWARD:
            token["content"] = "<|other|>"
    tokenizer["model"]["vocab"]["<|other|>"] = tokenizer["model"]["vocab"].pop("<|reward|>")
    (lost / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = (lost / "tokenizer_config.json").read_text()
    (lost / "tokenizer_config.json").write_text(config.replace("<|reward|>", "<|other|>"))
    with pytest.raises(UserError, match=r"reward token '<\|reward\|>' of .* has the id 3, but the tokenizer does not"):
        LaSeRScorer.from_pretrained(lost)
    EXACT.save(export)
    with pytest.raises(UserError, match=r"is not the model that training started from: .* the id None, and that of"):
        LaSeRScorer.from_pretrained(export, reference=lost)

    (export / "self_reward.json").write_text('{"token": ')
    with pytest.raises(UserError, match=r"self_reward\.json is damaged .*: export the model again"):
        LaSeRScorer.from_pretrained(export)
    (export / "self_reward.json").unlink()
    with pytest.raises(UserError, match=r"export has no self_reward\.json: it is not an export of a model with self-"):
        LaSeRScorer.from_pretrained(export)


def test_inputs_that_are_refused(scorer_of: Callable[..., LaSeRScorer], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of()
    chat = [{"role": "user", "content": "1"}]
    for act, message in {
        lambda: scorer.generate("1+1="): "prompts is one string: put it in a list",
        lambda: scorer.score(["1+1="], "2"): "responses is one string: put it in a list",
        lambda: scorer.score(["1=", "2="], ["1"]): "There are 2 prompts and 1 responses",
        lambda: scorer.generate(["1="], 0): "n is 0, and must be at least 1",
        lambda: scorer.solve("1+1="): "prompts is one string: put it in a list",
        lambda: scorer.solve(["1="], 0): "n is 0, and must be at least 1",
        lambda: scorer.solve(["1=", ""], 2): "The prompt '' has no tokens",
        lambda: scorer.generate(["1=", ["2"]]): "Prompt 1 is neither a string nor a list of chat messages",  # type: ignore[list-item]
        lambda: scorer.generate([""]): "The prompt '' has no tokens",
        lambda: scorer.score(["1="], [[]]): "Response 0 is empty",
        lambda: scorer.score(["1=", "1="], ["1", [5, 100]]): "Response 1 .* outside of the model's 0 to 99",
        lambda: scorer.score(["1=", "1="], ["1", "é"]): "Response 1 contains the token .* vocabulary ends at 99",
        lambda: scorer.score(["1="], ["1" * 254]): "Prompt 0 of 2 tokens and a response of 255 do not fit into the 256",
        lambda: scorer.generate(
            ["1=", "12="], 1, Sampling(254)
        ): "Prompt 1 of 3 tokens and sampling.max_response_token",
        lambda: scorer_of(micro_batch_tokens=0): "micro_batch_tokens is 0, and must be at least 1",
    }.items():
        with pytest.raises(UserError, match=message):
            act()
    assert len(scorer.score(["1="], ["1" * 253])) == 1
    monkeypatch.setattr(scorer.tokenizer, "chat_template", None)  # it is that of other tests too
    with pytest.raises(UserError, match="Prompt 0 is a chat, and the tokenizer has no chat template"):
        scorer.score([chat], ["1"])


def test_the_trainer_is_not_imported() -> None:
    program = (
        "import sys; from laser_lightning import LaSeRScorer; "
        "print([name for name in ('lightning', 'pytorch_lightning', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "[]"
    assert "LaSeRScorer" in laser_lightning.__all__
