"""An exported model on a server: its scores are those of the same model here, and what cannot be served is refused."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from laser_lightning.cli.command_line import main
from laser_lightning.errors import UserError
from laser_lightning.inference.early_stop import EarlyStop
from laser_lightning.inference.scorer import LaSeRScorer
from laser_lightning.metrics.votes import LogOddsVote
from laser_lightning.metrics.votes.saved import save_rules
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.model import Policy
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.server.http import Limits
from laser_lightning.verifiers import ExactVerifier

Serve = Callable[..., Any]
REWARD, EOS = 3, 1
ENDS, NEVER_ENDS = {EOS: 3.5}, {EOS: -30.0}  # biases: with the first some responses end
SETTINGS = SelfRewardSettings("<|reward|>", REWARD, 0.25, -9.0, step=5)
PLUGIN = (REWARD, (EOS,))
PROMPTS = ["1+2=", "34*5=", "6+7+8=", "9="]
SHORT = Sampling(max_response_tokens=12)


@pytest.fixture
def export(tmp_path: Path, policy_dir: Path) -> Path:
    """An export with a reference constant."""
    path = Path(shutil.copytree(policy_dir, tmp_path / "export"))
    SETTINGS.save(path)
    return path


@pytest.fixture
def local(make_policy: Callable[..., Policy], policy_tokenizer: PreTrainedTokenizerBase) -> LaSeRScorer:
    """The scorer of the model that ``serve_model(export, ENDS)`` serves."""
    return LaSeRScorer(make_policy(eos_bias=ENDS[EOS]), policy_tokenizer, SETTINGS)


@pytest.mark.parametrize("plugin", [PLUGIN, None], ids=["with plugin", "without"])
def test_scores_of_given_solutions_are_those_of_the_local_scorer(
    serve_model: Serve, export: Path, plugin: tuple[int, tuple[int, ...]] | None
) -> None:
    fake = serve_model(export, plugin=plugin)
    prompts, responses = [*PROMPTS, "1+1=", "1+1="], ["3", "170;#17", "", "9-9", [22, 5, EOS], [22, 5]]
    ours = LaSeRScorer.from_pretrained(export).score(prompts, responses)
    theirs = LaSeRScorer.from_server(fake.url).score(prompts, responses)
    assert [s[:3] for s in theirs] == [s[:3] for s in ours]
    assert [s.self_reward for s in theirs] == pytest.approx([s.self_reward for s in ours], abs=1e-5)
    assert [s.verdict for s in theirs] == [s.verdict for s in ours]
    assert {s.verdict for s in theirs} == {True, False}
    assert math.isnan(theirs[-1].reward_token_log_prob)
    assert len(fake.of("/v1/completions")) == 5  # one for each finished solution


@pytest.mark.parametrize("plugin", [PLUGIN, None], ids=["with plugin", "without"])
def test_generated_solutions_have_the_scores_of_given_ones(
    serve_model: Serve, export: Path, local: LaSeRScorer, plugin: tuple[int, tuple[int, ...]] | None
) -> None:
    fake = serve_model(export, ENDS, plugin=plugin)
    groups = LaSeRScorer.from_server(fake.url).generate(PROMPTS, 5, SHORT)
    generated = [solution for group in groups for solution in group]
    assert [len(group) for group in groups] == [5] * 4
    assert {len(s.token_ids) for s in generated if not s.finished} == {12}
    finished = [s for s in generated if s.finished]
    assert 0 < len(finished) < 20
    for ours, theirs in zip(
        generated, local.score([p for p in PROMPTS for _ in range(5)], [s.token_ids for s in generated]), strict=True
    ):
        assert ours[:3] == theirs[:3]
        assert ours.reward_token_log_prob == pytest.approx(theirs.reward_token_log_prob, abs=1e-5, nan_ok=True)
        assert ours.self_reward == pytest.approx(theirs.self_reward, abs=1e-5)
        assert ours.verdict == theirs.verdict
    # With the plugin a response and its score are one request; without, each finished response takes another.
    # One more asks whether there is a plugin.
    assert len(fake.of("/v1/completions")) == 1 + 20 + (0 if plugin else len(finished))


def test_a_response_may_end_in_the_last_place(serve_model: Serve, export: Path) -> None:
    fake = serve_model(export, {EOS: 100.0}, plugin=PLUGIN)  # nothing but <eos> comes
    ((solution,),) = LaSeRScorer.from_server(fake.url).generate(["1+1="], sampling=Sampling(max_response_tokens=1))
    assert (solution.token_ids, solution.finished) == ([EOS], True)
    fake = serve_model(export, NEVER_ENDS, plugin=PLUGIN)  # none comes
    ((solution,),) = LaSeRScorer.from_server(fake.url).generate(["1+1="], sampling=Sampling(max_response_tokens=4))
    assert (len(solution.token_ids), solution.finished, solution.self_reward) == (4, False, 0.0)


def test_seeds(serve_model: Serve, export: Path) -> None:
    def texts(seed: int, at_once: int) -> list[str]:
        scorer = LaSeRScorer.from_server(fake.url, seed=seed, requests_at_once=at_once)
        return [s.text for group in scorer.generate(PROMPTS[:2], 2, SHORT) for s in group]

    fake = serve_model(export, ENDS, plugin=PLUGIN)
    first = texts(0, 1)
    assert texts(0, 8) == first
    assert texts(1, 8) != first


def test_votes_and_early_stop(serve_model: Serve, export: Path) -> None:
    save_rules([LogOddsVote()], export)
    fake = serve_model(export, ENDS, plugin=PLUGIN)
    scorer = LaSeRScorer.from_server(fake.url)
    verifier = ExactVerifier(r"^(.)")  # the first character: solutions of one problem agree now and then
    rule = scorer.rules["log_odds"]
    solved = scorer.solve(PROMPTS, 12, verifier, EarlyStop(batch=3, confidence=0.6), SHORT, rule)
    drawn = [len(result.solutions) for result in solved]
    assert len(fake.of("/v1/completions")) - 1 == sum(drawn) < 48
    assert {result.stopped is None for result in solved} == {number == 12 for number in drawn}
    assert [result.vote for result in solved] == [
        scorer.vote(result.solutions, verifier, rule=rule) for result in solved
    ]


def test_a_server_that_returns_log_probs_behind_the_plugin(
    serve_model: Serve, export: Path, local: LaSeRScorer
) -> None:
    """There a forced token has the log-prob 0: the score takes a second request, at temperature 1."""
    fake = serve_model(export, ENDS, plugin=PLUGIN, mode="processed_logprobs")
    (group,) = LaSeRScorer.from_server(fake.url).generate(PROMPTS[:1], 6, SHORT)
    scored = local.score(PROMPTS[:1] * 6, [s.token_ids for s in group])
    assert any(s.finished for s in group)
    assert [s.self_reward for s in group] == pytest.approx([s.self_reward for s in scored], abs=1e-5)


def test_an_exact_reference_is_on_a_server_of_its_own(
    serve_model: Serve, policy_dir: Path, reference_dir: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(policy_dir, tmp_path / "exact"))
    replace(SETTINGS, reference_constant=None).save(path)
    fake, other = serve_model(path), serve_model(reference_dir)
    with pytest.raises(UserError, match="pass its server's address as `reference`"):
        LaSeRScorer.from_server(fake.url)
    ours = LaSeRScorer.from_pretrained(path, reference=reference_dir).score(PROMPTS, PROMPTS)
    theirs = LaSeRScorer.from_server(fake.url, reference=other.url).score(PROMPTS, PROMPTS)
    assert [s.self_reward for s in theirs] == pytest.approx([s.self_reward for s in ours], abs=1e-5)


def test_a_score_of_two_tokens(serve_model: Serve, policy_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(policy_dir, tmp_path / "two"))
    SelfRewardSettings("<|reward|>", REWARD, None, None, step=5, low_token="7").save(path)
    fake = serve_model(path, plugin=PLUGIN)
    scorer = LaSeRScorer.from_server(fake.url)
    ours = LaSeRScorer.from_pretrained(path).score(PROMPTS, PROMPTS)
    assert [s.self_reward for s in scorer.score(PROMPTS, PROMPTS)] == pytest.approx(
        [s.self_reward for s in ours], abs=1e-5
    )
    fake = serve_model(path, ENDS, plugin=PLUGIN)
    groups = LaSeRScorer.from_server(fake.url).generate(PROMPTS, 2, SHORT)
    finished = [s for group in groups for s in group if s.finished]
    assert all(0 < s.self_reward < 1 for s in finished)
    assert len(fake.of("/v1/completions")) == 8 + len(finished) > 8


# --------------------------------------------------------------------- errors


def test_servers_that_are_refused(serve_model: Serve, export: Path, chat_model_dir: Path, policy_dir: Path) -> None:
    fake = serve_model(export, root="me/on-the-hub")
    with pytest.raises(UserError, match="serves me/on-the-hub, which is no directory here: name a copy of the export"):
        LaSeRScorer.from_server(fake.url)
    assert LaSeRScorer.from_server(fake.url, export).score(["1+1="], ["2"])[0].finished
    with pytest.raises(UserError, match=r"has no self_reward\.json"):
        LaSeRScorer.from_server(fake.url, policy_dir)
    with pytest.raises(UserError, match="has no model 'other', but served"):
        LaSeRScorer.from_server(fake.url, export, model="other")
    with pytest.raises(UserError, match="leave `reference` out"):
        LaSeRScorer.from_server(fake.url, export, reference=fake.url)
    with pytest.raises(UserError, match=r"another model than the export: its tokenizer makes .* of the reward token"):
        LaSeRScorer.from_server(serve_model(chat_model_dir).url, export)
    with pytest.raises(UserError, match="is no address of a server"):
        LaSeRScorer.from_server("localhost:8000")
    with pytest.raises(UserError, match="refuses connections: start it"):
        LaSeRScorer.from_server("http://127.0.0.1:9", limits=Limits(attempts=1))
    with pytest.raises(UserError, match="requests_at_once is 0"):
        LaSeRScorer.from_server(fake.url, export, requests_at_once=0)
    with pytest.raises(UserError, match="for the log-prob of a reward token, which is above 0: start it with"):
        LaSeRScorer.from_server(serve_model(export, mode="raw_logits").url).score(PROMPTS, PROMPTS)


@pytest.mark.parametrize("bias", [{EOS: -30.0, REWARD: 4.0}, {EOS: 3.5, REWARD: -30.0}], ids=["z_c", "<eos>"])
def test_a_server_that_lost_the_plugin(serve_model: Serve, export: Path, bias: dict[int, float]) -> None:
    """Without it a sampled z_c ends a response, and an <eos> does not: that is told, and no score made of it."""
    fake = serve_model(export, bias, plugin=PLUGIN)
    scorer = LaSeRScorer.from_server(fake.url)
    scorer.generate(PROMPTS, 1, SHORT)
    fake.plugin = None
    with pytest.raises(UserError, match="did not end a response behind its <eos>: it was started anew"):
        scorer.generate(PROMPTS, 2, SHORT)


def test_sequences_end_where_the_servers_do(serve_model: Serve, export: Path) -> None:
    scorer = LaSeRScorer.from_server(serve_model(export, max_model_len=20).url)
    assert scorer.generate(["1+1="], sampling=Sampling(max_response_tokens=15))  # and the reward token: 4 + 15 + 1
    with pytest.raises(UserError, match="do not fit into the 19 positions"):
        scorer.generate(["1+1="], sampling=Sampling(max_response_tokens=16))


# --------------------------------------------------------------- command line


def test_solve_by_a_server(
    serve_model: Serve, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_rules([LogOddsVote()], export)
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(json.dumps({"problem": prompt[:-1], "id": prompt}) for prompt in PROMPTS))
    fake = serve_model(export, ENDS, plugin=PLUGIN)
    words = ["solve", str(file), "--server", fake.url, "--template", "{problem}=", "--answer", "^(.)", "--n", "6"]
    words += ["--max_tokens", "12"]
    assert main([*words, "--batch", "3", "--confidence", "0.55", "--rule", "log_odds"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    scorer = LaSeRScorer.from_server(fake.url)
    stop, verifier = EarlyStop(3, 0.55), ExactVerifier("^(.)")
    expected = scorer.solve(PROMPTS, 6, verifier, stop, SHORT, scorer.rules["log_odds"])
    assert [row["id"] for row in rows] == PROMPTS
    for row, solved in zip(rows, expected, strict=True):
        assert [one["text"] for one in row["solutions"]] == [s.text for s in solved.solutions]
        assert [one["self_reward"] for one in row["solutions"]] == [s.self_reward for s in solved.solutions]
        assert (row["k"], row["stopped"]) == (len(solved.solutions), solved.stopped)
        vote = solved.vote
        assert (row["majority"], row["weighted_majority"], row["best"], row["chosen"]) == (
            vote.majority,
            vote.weighted_majority,
            vote.best,
            vote.chosen,
        )
    assert {row["stopped"] is None for row in rows} == {True, False}
    assert main([*words, "--all"]) == 0
    assert [json.loads(line)["k"] for line in capsys.readouterr().out.splitlines()] == [6] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all", "--confidence", "0.9"], "--all draws all solutions, and --confidence stops before"),
        (["--answer", "no group"], "--answer: `pattern` must have exactly one group"),
        (["--confidence", "0.3"], "stop.confidence is 0.3"),
        (["--rule", "mine"], "The export has no vote rule 'mine': it brought none (votes.json)"),
        (["--n", "0"], "n is 0, and must be at least 1"),
    ],
    ids=str,
)
def test_what_solve_refuses(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "problems.jsonl").write_text('{"problem": "1+1="}')
    assert main(["solve", str(tmp_path / "problems.jsonl"), "--model", str(export), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no problems"), ('{"response": "2"}', "is not an object with `prompt` or `problem`"), ("{", "not JSON")],
)
def test_files_that_solve_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (tmp_path / "problems.jsonl").write_text(text)
    assert main(["solve", str(tmp_path / "problems.jsonl"), "--server", "http://127.0.0.1:9"]) == 2
    assert message in capsys.readouterr().err


def test_score_by_a_server(
    serve_model: Serve, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "solutions.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": prompt, "response": "12"}) for prompt in PROMPTS))
    assert main(["score", str(file), "--model", str(export), "--device", "cpu"]) == 0
    ours = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["score", str(file), "--server", serve_model(export).url]) == 0
    theirs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["self_reward"] for row in theirs] == pytest.approx([row["self_reward"] for row in ours], abs=1e-5)
    assert [row["verdict"] for row in theirs] == [row["verdict"] for row in ours]
    assert main(["score", str(file)]) == 2
    assert "give --model, --server, or both" in capsys.readouterr().err
    assert main(["score", str(file), "--server", "http://127.0.0.1:9", "--dtype", "float32"]) == 2
    assert "--dtype and --device are for weights that are loaded here" in capsys.readouterr().err
