"""Decoding with compiled steps against decoding without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.transformers.compiled import CAN_COMPILE, CompiledSteps, padded_rows

pytestmark = pytest.mark.skipif(not CAN_COMPILE, reason="engine.compile needs a later torch than this one")

MakePolicy = Callable[..., Policy]
Z = 3  # <|reward|>
GROUP = 2
LIMIT = 16
# 20 prompts of 1 to 23 tokens, out of order.
PROMPTS = [[(7 * p + 5 * i) % 90 + 8 for i in range((p * 7) % 23 + 1)] for p in range(20)]
GREEDY = Sampling(max_response_tokens=LIMIT, temperature=0)


class Graphs:
    """A compiler that changes nothing.

    It keeps, of each graph, the rows of the cache and whether a tensor in it is larger than the cache of a layer, and
    the number of all runs.
    """

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.copies: list[bool] = []
        self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        (shape,) = {given.shape for given in inputs if isinstance(given, Tensor) and given.ndim == 4}
        self.rows.append(shape[0])
        results = [node.meta.get("example_value") for node in graph.graph.nodes]
        self.copies.append(any(isinstance(result, Tensor) and result.numel() > shape.numel() for result in results))

        def run(*given: Any) -> Any:
            self.runs += 1
            return graph.forward(*given)

        return run


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Graphs are traced as ever, and run by PyTorch as they are: inductor takes half a minute for each."""
    made, compile_ = Graphs(), torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda *args, mode, **options: compile_(*args, backend=made, **options))
    return made


def generate(
    engine: TransformersEngine,
    policy: Policy,
    sampling: Sampling = GREEDY,
    prompts: list[list[int]] = PROMPTS,
    group_size: int = GROUP,
) -> Rollouts:
    return engine.generate(policy, prompts, group_size, sampling, (Z,), torch.Generator().manual_seed(0))


def check_same(policy: Policy, engine: TransformersEngine, **options: Any) -> Rollouts:
    """The compiled engine's round is that of an engine without."""
    plain_engine = TransformersEngine(engine.max_batch_size, engine.max_cached_tokens, engine.drop_fraction)
    rollouts, plain = generate(engine, policy, **options), generate(plain_engine, policy, **options)
    for name in ("prompt_ids", "prompt_lengths", "response_ids", "response_lengths", "finished"):
        assert torch.equal(getattr(rollouts, name), getattr(plain, name)), name
    for name in ("sampling_log_probs", "reward_token_log_probs"):
        torch.testing.assert_close(getattr(rollouts, name), getattr(plain, name), rtol=0, atol=1e-5, equal_nan=True)
    return rollouts


# ----------------------------------------------------------- the same results


@pytest.mark.parametrize("config_class", [Qwen2Config, LlamaConfig])
@pytest.mark.parametrize(
    ("temperature", "most_rows"), [(0.0, 10), (0.9, 1024)], ids=["refilled and greedy", "at once and drawn"]
)
def test_responses_log_probs_and_scores_are_those_without(
    make_policy: MakePolicy,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
    tmp_path: Path,
    graphs: Graphs,
    config_class: type[PretrainedConfig],
    temperature: float,
    most_rows: int,
) -> None:
    path = save_model(tmp_path, tiny_config(config_class))
    policy = make_policy(path, eos_bias=1.0, eos_ids=(1, 5, 90))
    engine = TransformersEngine(max_batch_size=most_rows, compile=True)
    rollouts = check_same(policy, engine, sampling=Sampling(max_response_tokens=LIMIT, temperature=temperature))
    assert {True, False} == set(rollouts.finished.tolist())
    assert len(set(rollouts.response_lengths.tolist())) > 3
    last = {response[-1] for response, done in zip(rollouts.responses(), rollouts.finished, strict=True) if done}
    assert len(last) > 1
    assert graphs.runs >= LIMIT - 1
    assert not any(graphs.copies), "keys are not repeated for the query heads that share them"


def test_columns_are_taken_again_and_again(make_policy: MakePolicy, graphs: Graphs) -> None:
    check_same(make_policy(eos_bias=2.0), TransformersEngine(max_batch_size=GROUP, compile=True))
    assert graphs.runs > 1.2 * 128  # the columns of the ring
    assert graphs.rows == [GROUP]


def test_graphs_follow_the_weights(make_policy: MakePolicy, graphs: Graphs) -> None:
    policy, engine = make_policy(eos_bias=2.0), TransformersEngine(max_batch_size=8, compile=True)
    before = check_same(policy, engine)
    with torch.no_grad():
        for parameter in policy.lm.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    after = check_same(policy, engine)
    for parameter in policy.lm.parameters():  # other memory, as after weights were gathered
        parameter.data = parameter.data * 0.9
    last = check_same(policy, engine)
    assert not torch.equal(before.response_ids, after.response_ids)
    assert not torch.equal(after.response_ids, last.response_ids)
    assert graphs.rows == [8]


def test_another_model_and_longer_prompts_get_a_cache_of_their_own(
    make_policy: MakePolicy,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
    tmp_path: Path,
    graphs: Graphs,
) -> None:
    engine, prompts = TransformersEngine(compile=True), PROMPTS[:3]
    check_same(make_policy(), engine, prompts=prompts)
    other = make_policy(save_model(tmp_path, tiny_config(num_key_value_heads=2, num_hidden_layers=1)))
    check_same(other, engine, prompts=prompts)
    check_same(other, engine, prompts=[*prompts, [9, 8] * 60])
    ring, compiled = engine._steps.ring, len(graphs.rows)
    assert ring is not None
    assert ring.columns == 256  # 120 + 16, rounded up
    check_same(other, engine, prompts=[*prompts, [9]])  # 128 would do
    assert engine._steps.ring is ring
    assert len(graphs.rows) == compiled


def test_damaged_weights_leave_nothing_behind(make_policy: MakePolicy, graphs: Graphs) -> None:
    policy, engine = make_policy(eos_bias=2.0), TransformersEngine(max_batch_size=10, compile=True)
    generate(engine, policy)
    assert engine._steps.ring is not None
    for states in engine._steps.ring.states:
        states.fill_(torch.nan)
    check_same(policy, engine)


def test_a_round_in_inference_mode_and_one_outside(make_policy: MakePolicy, graphs: Graphs) -> None:
    policy, engine = make_policy(eos_bias=2.0), TransformersEngine(max_batch_size=8, compile=True)
    with torch.inference_mode():
        check_same(policy, engine)
    check_same(policy, engine)
    assert graphs.rows == [8]


def test_no_row_is_without_a_token(make_policy: MakePolicy, graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of padding either: attention over nothing is NaN on some devices, and would stay in the cache."""
    shortest, step = [], CompiledSteps.step

    def watched(self: CompiledSteps, decoder: Any, ring: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
        shortest.append(int(lengths.min()))
        return step(self, decoder, ring, tokens, lengths)

    monkeypatch.setattr(CompiledSteps, "step", watched)
    generate(TransformersEngine(compile=True), make_policy(), prompts=[PROMPTS[1]])
    assert set(shortest) == {1}


# ---------------------------------------------------------------- its shapes


def test_a_graph_for_each_power_of_two(make_policy: MakePolicy, graphs: Graphs) -> None:
    """40 rows are padded to 64, and as they end the batch gets smaller."""
    policy, engine = make_policy(eos_bias=4.0), TransformersEngine(drop_fraction=0.0, compile=True)
    sampling = Sampling(max_response_tokens=LIMIT)
    generate(engine, policy, sampling)
    assert graphs.rows == [64, 32, 16, 8]
    generate(engine, policy, sampling, PROMPTS[::-1])
    generate(engine, policy, sampling, PROMPTS[:13])
    assert graphs.rows == [64, 32, 16, 8]


def test_numbers_of_rows() -> None:
    assert [padded_rows(rows) for rows in (1, 8, 9, 16, 17, 1000, 1024)] == [8, 8, 16, 16, 32, 1024, 1024]


@pytest.mark.parametrize("budget", [GROUP * (23 + LIMIT), 5 * 128])
def test_the_cache_stays_within_the_budget(make_policy: MakePolicy, graphs: Graphs, budget: int) -> None:
    policy, engine = make_policy(eos_bias=2.0), TransformersEngine(max_cached_tokens=budget, compile=True)
    check_same(policy, engine)
    assert engine._steps.ring is not None
    assert 0.9 * budget <= engine._steps.ring.rows * engine._steps.ring.columns <= budget


def test_closing_releases_the_cache(make_policy: MakePolicy, graphs: Graphs) -> None:
    policy, engine = make_policy(), TransformersEngine(compile=True)
    generate(engine, policy, prompts=PROMPTS[:1])
    engine.close()
    assert engine._steps.ring is None
    check_same(policy, engine, prompts=PROMPTS[:1])


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("fields", "settings"),
    [({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, {}), ({}, {"attention": "eager"})],
    ids=["window", "eager"],
)
def test_models_that_cannot_be_compiled_are_refused(
    make_policy: MakePolicy,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
    tmp_path: Path,
    fields: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    policy = make_policy(save_model(tmp_path, tiny_config(**fields)), **settings)
    with pytest.raises(UserError, match=r"engine\.compile works for .* set engine\.compile to false"):
        generate(TransformersEngine(compile=True), policy)


# ----------------------------------------------------------------- inductor


@pytest.mark.slow
def test_compiled_by_inductor(make_policy: MakePolicy) -> None:
    torch._dynamo.reset()
    policy, engine = make_policy(eos_bias=2.0, eos_ids=(1, 5)), TransformersEngine(max_batch_size=10, compile=True)
    check_same(policy, engine)
    with torch.no_grad():
        for parameter in policy.lm.parameters():
            parameter *= 0.9
    check_same(policy, engine)
