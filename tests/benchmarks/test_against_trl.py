"""The recipe's steps against TRL's: one step of either on a tiny model, the trial of TRL's settings, and the table."""

import json
from dataclasses import replace
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def case(word_problems: Path) -> Any:
    """Two steps of two problems with four solutions of at most eight tokens."""
    from recipe_case import RecipeCase

    problems = str(word_problems / "word_problems_train.jsonl")
    return RecipeCase(prompts=2, group_size=4, response_tokens=8, steps=2, problems=problems)


@pytest.fixture
def rewards_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's answers are all wrong: every second one is right, so that there is something to train."""
    from laser_lightning.verifiers import ExactVerifier

    rewards = cycle((1.0, 0.0))
    monkeypatch.setattr(ExactVerifier, "reward", lambda *_: next(rewards))


def reports(printed: str) -> list[dict[str, float]]:
    """What a process of the benchmark told its parent."""
    lines = [line.removeprefix("RESULT ") for line in printed.splitlines() if line.startswith("RESULT ")]
    return [json.loads(line) for line in lines]


def prompt_tokens(path: Path, first: int, count: int, group_size: int) -> int:
    """Tokens of the prompts of some problems: one for a byte, for <|im_start|> and for <|im_end|>."""
    problems = [json.loads(line)["problem"] for line in path.read_text().splitlines()[first : first + count]]
    messages = [[("system", "Answer briefly."), ("user", problem)] for problem in problems]
    lengths = [
        sum(1 + len(role) + 1 + len(text) + 1 + 1 for role, text in message) + 1 + len("assistant") + 1
        for message in messages
    ]
    return group_size * sum(lengths)


def two_steps(case: Any, capfd: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    """What a process told of two steps on a file's problems, in its order; AdamW has two moments, 8 bytes a weight."""
    steps = reports(capfd.readouterr().out)
    assert [step["solutions"] for step in steps] == [8, 8]
    path = Path(case.problems)
    assert [step["prompt_tokens"] for step in steps] == [prompt_tokens(path, first, 2, 4) for first in (0, 2)]
    for step in steps:
        assert 8 <= step["tokens"] <= 64
        assert step["reward"] == 0.5
        assert step["optimizer_gb"] == pytest.approx(step["parameters"] * 8 / 1e9, rel=1e-2)
    return steps


@pytest.mark.usefixtures("rewards_differ")
@pytest.mark.parametrize("overlays", [(), ("recipes/word_problems_lora",)])
def test_our_steps(
    overlays: tuple[str, ...],
    case: Any,
    chat_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import our_step

    from laser_lightning.cli.command_line import main

    monkeypatch.setattr(our_step, "wait_for_turn", lambda: None)
    words = replace(case, overlays=overlays).words(chat_model_dir, str(tmp_path / "run"))
    quick = ["--calibration=null", "--model.self_reward.init_args.reference=-5"]
    assert main([*words, "--trainer.callbacks+=recipe_step.Told", *quick]) == 0
    for step in two_steps(case, capfd):
        assert step["seconds"] >= step["rollout"] + step["update"] + step["judging"] > 0
    assert not any((tmp_path / "run").glob("**/*.ckpt"))


@pytest.mark.usefixtures("rewards_differ")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing")  # has a new name in the newest transformers
@pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: pip install 'trl==1.16.*'")
def test_steps_of_trl(
    case: Any, chat_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same problems in the same order, drawn in two parts: as many solutions, and as many tokens of prompts."""
    import trl_step

    monkeypatch.setattr(trl_step, "wait_for_turn", lambda: None)
    trl_step.train(replace(case, accumulation=2, trl_settings={"steps_per_generation": 1}), chat_model_dir)
    two_steps(case, capfd)


def test_the_reward_is_the_recipe_s(case: Any) -> None:
    """What the line of calculation ends with; the rate is the recipe's, or that of its overlay."""
    assert [case.verifier.reward(text, "30") for text in ("4*7+2=30", "4*7+2=30.", "30")] == [1.0, 0.0, 0.0]
    assert case.learning_rate == 1e-5
    assert replace(case, overlays=("recipes/word_problems_lora",)).learning_rate == 1e-4


# ----------------------------------------------------------------------- turns


class FakeWorker:
    """Takes the seconds that its settings say, and remembers whose turn it was."""

    turns: ClassVar[list[str]] = []

    def __init__(self, script: str, case: Any, model: Path, logs: Path) -> None:
        if "torch_compile" in case.trl_settings:
            raise SystemExit("A process failed; its last words:\nno compiler")
        self.waits = True
        self.name = "trl" if script.startswith("trl") else " ".join(case.overlays) or "ours"
        self.seconds = {"trl": 16.0 / case.accumulation, "ours": 2.0}.get(self.name, 1.0)
        self.seconds = abs(self.seconds - 3.0) + len(case.trl_settings)  # of 2, 4, 8 and 16 parts, 4 are the fastest

    def step(self) -> dict[str, float]:
        first, self.waits = self.waits, False
        self.turns.append(self.name)
        sizes = {
            "memory": 4.0 if first else 3.0,
            "loaded": 1.0 if first else 4.0,
            "parameters": 134.5e6,
            "optimizer_gb": 1.08,
        }
        counts = {"solutions": 64, "prompt_tokens": 2880, "tokens": 640, "reward": 0.25}
        parts = {} if self.name == "trl" else {"rollout": 0.25, "update": 0.5, "judging": 0.0}
        return {"seconds": self.seconds, "cpu_seconds": 2 * self.seconds, **counts, **sizes, **parts}

    def close(self) -> None: ...


@pytest.fixture
def fake_workers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import against_trl_recipe

    monkeypatch.setattr(against_trl_recipe, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "turns", [])
    return FakeWorker.turns


def test_the_fastest_settings_of_trl(case: Any, fake_workers: list[str]) -> None:
    """|16 / parts - 3| seconds: 5, 1, 1, 2 with 2, 4, 8, 16 parts; then each further setting costs a second more."""
    from against_trl_recipe import fastest

    said: list[str] = []
    settings = fastest(replace(case, prompts=8, group_size=8), Path(), 2, said.append)
    assert str(settings) == "4 parts"
    assert said[1:5] == [f"| {parts} parts | {s}.00 | 4.00 |" for parts, s in ((2, 5), (4, 1), (8, 1), (16, 2))]
    assert said[5] == "| 4 parts, solutions drawn part by part | 2.00 | 4.00 |"
    assert said[8] == "| 4 parts, torch.compile | fails | no compiler |"
    assert len(fake_workers) == 3 * 8  # a warm-up and two steps of each


def test_the_table_of_the_turns(case: Any, fake_workers: list[str]) -> None:
    """TRL in 16 parts takes 2 s, ours |2 - 3| = 1 s: 64 solutions a second, twice TRL's."""
    from against_trl_recipe import Settings, compare

    text = compare(replace(case, prompts=8, group_size=8, steps=9), Path(), Settings(16), ["laser"], 2, 0, 1)
    assert fake_workers == ["trl", "ours", *("ours", "trl"), *("trl", "ours")]  # a warm-up of each in front
    head, _, trl, ours = text.splitlines()
    assert head.startswith("| trainer | solutions/s | seconds a step (range) | rollout | update | judging |")
    assert trl == (
        "| TRL's GRPOTrainer | 32.00 | 2.00 (2.00 to 2.00) |  |  |  | 1.00 (1.00 to 1.00) | 1.00 | 10.0 | 0.25 | 4.00 |"
        " 1.00 | 134.50 | 1.08 |"
    )
    assert ours == (
        "| LaSeR | 64.00 | 1.00 (1.00 to 1.00) | 0.25 | 0.50 | 0.00 | 2.00 (2.00 to 2.00) | 2.00 |"
        " 10.0 | 0.25 | 4.00 | 1.00 | 134.50 | 1.08 |"
    )


@pytest.mark.parametrize(("words", "settings"), [([], "4 parts"), (["--accumulation", "16"], "16 parts")])
def test_from_the_command_line(
    words: list[str],
    settings: str,
    case: Any,
    chat_model_dir: Path,
    fake_workers: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A trial, unless TRL's parts are given, and a row of TRL and of each of ours."""
    from against_trl import main

    main(["--model", str(chat_model_dir), "--problems", case.problems, "--pairs", "1", "--seconds", "0", *words])
    printed = capsys.readouterr().out
    assert f"TRL with {settings}:\n" in printed
    assert ("continuous batching" in printed) == (not words)
    names = [line.split(" | ")[0] for line in printed.split(settings + ":\n\n")[1].splitlines()[2:]]
    ours = ["LaSeR", "LaSeR with judging updates", "LaSeR, LoRA"]
    assert names == [f"| {name}" for name in ("TRL's GRPOTrainer", *ours)]


def test_other_prompts_are_refused(case: Any, fake_workers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from against_trl_recipe import Settings, compare

    step = FakeWorker.step
    monkeypatch.setattr(
        FakeWorker,
        "step",
        lambda self: step(self) | ({"prompt_tokens": 2881} if self.name == "ours" else {}),
    )
    with pytest.raises(SystemExit, match="LaSeR: its prompts have other lengths than TRL's"):
        compare(replace(case, prompts=8, group_size=8), Path(), Settings(16), ["laser"], 1, 0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "MODEL"], "--model and --problems belong together"),
        (["--model", "nowhere", "--problems", "FILE"], "nowhere is no directory of a transformers model"),
        (["--model", "MODEL", "--problems", "nowhere"], "there is no file nowhere"),
        (["--model", "MODEL", "--problems", "FILE", "--rows", "laser,dapo"], "there is no row 'dapo'"),
        (["--model", "MODEL", "--problems", "FILE", "--device", "cuda"], "the recipe is measured on CPU in float32"),
    ],
)
def test_what_is_not_there_is_refused(
    words: list[str], message: str, case: Any, chat_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from against_trl import parse

    with pytest.raises(SystemExit):
        parse([word.replace("MODEL", str(chat_model_dir)).replace("FILE", case.problems) for word in words])
    assert message in " ".join(capsys.readouterr().err.split())
