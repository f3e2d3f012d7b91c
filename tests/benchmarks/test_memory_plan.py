"""Memory per GPU by items, with values worked out by hand, and the page that shows them."""

import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/multi_node.md").read_text()


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import memory_plan

    return memory_plan


def sizes(plan: ModuleType, **setting: object) -> dict[str, float]:
    return {item.name: item.size for item in plan.items_of(plan.Setting(**{"parameters": 8e9, "gpus": 8} | setting))}


# GB of weights, gradients, float32 copies and moments of 8 G weights: N in G times the bytes of each, over 8 processes
# where the stage shards them.
@pytest.mark.parametrize(
    ("zero", "dtype", "expected"),
    [
        (0, "bfloat16", (16, 16, 32, 64)),
        (0, "float32", (32, 32, 0, 64)),  # the weights themselves are stepped
        (1, "bfloat16", (16, 16, 4, 8)),
        (2, "bfloat16", (16, 2, 4, 8)),
        (2, "float32", (32, 4, 4, 8)),  # DeepSpeed makes copies all the same
        (3, "bfloat16", (2, 2, 4, 8)),
    ],
)
def test_weights_and_optimizer(plan: ModuleType, zero: int, dtype: str, expected: tuple[float, ...]) -> None:
    found = sizes(plan, zero=zero, dtype=dtype)
    names = ("weights", "gradients", "float32 copies", "two moments")
    assert [found[name] for name in names] == [size * 1e9 for size in expected]


def test_adapters_alone_have_an_optimizer(plan: ModuleType) -> None:
    # 28 layers of 3584, 18944 and 512: in + out of q and o 2 x 7168, of k and v 2 x 4096, of the other three 3 x 22528,
    # together 90112; times 28 layers and rank 16 are 40370176 weights.
    found = sizes(plan, zero=0, lora_rank=16)
    assert found["weights"] == 2 * (8e9 + 40_370_176)
    assert found["two moments"] == 8 * 40_370_176


def test_the_rollout(plan: ModuleType) -> None:
    # A token of the 7B shape: 2 x 28 layers x 512 numbers x 2 bytes = 57344, as docs/memory.md has it.
    own = sizes(plan, cached_tokens=1000, rows=10)
    assert own["keys and values"] == 57_344_000
    assert own["logits of a decoding step"] == 3 * 4 * 10 * 152_064
    assert own["weights of the engine"] == own["weights gathered at once"] == 0
    vllm = sizes(plan, cached_tokens=1000, zero=3, engine="vllm", tensor_parallel=8)
    assert vllm["weights of the engine"] == 2e9
    # The embedding, 3584 x 152064; a layer has 2 x 3584 x (3584 + 512) + 3 x 3584 x 18944 = 233,046,016.
    assert vllm["weights gathered at once"] == 2 * 544_997_376
    assert sizes(plan, zero=3)["weights gathered at once"] == 16e9
    assert vllm["keys and values"] == 57_344_000 / 4  # the heads of 4 keys, each on two GPUs


def test_the_update(plan: ModuleType) -> None:
    # 1000 tokens: all kept 28 x (8 x 3584 + 4 x 18944) x 2 bytes each; recomputed 28 x 3584 x 2 and one layer at work.
    layer = 104_448 * 2 * 1000
    found = sizes(plan, tokens=1000)
    assert found["activations, all kept"] == 28 * layer
    assert found["activations, recomputed"] == 28 * 3584 * 2 * 1000 + layer
    assert found["logits of a chunk"] == 2**28
    assert found["DeepSpeed's buckets"] == 4 * 2e8 * 2
    assert found["weights gathered by layers"] == 0
    third = sizes(plan, zero=3)
    assert (third["DeepSpeed's buckets"], third["weights gathered by layers"]) == (2 * 2e8 * 2, 2e9)
    assert sizes(plan, zero=0)["DeepSpeed's buckets"] == 0


def test_the_larger_of_rollout_and_update_counts(plan: ModuleType) -> None:
    held = (("a", "always", 5.0), ("b", "rollout", 2.0), ("kept", "update", 4.0), ("recomputed", "update", 1.0))
    items = [plan.Item(*one) for one in held]
    assert plan.most(items, "recomputed") == 9
    assert plan.most(items, "kept") == 7


def test_json_has_what_the_table_has(plan: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--parameters", "7.6e9", "32.8e9", "--gpus", "8"]
    plan.main(options)
    lines = capsys.readouterr().out.splitlines()
    plan.main([*options, "--json"])
    entries = json.loads(capsys.readouterr().out)
    assert [entry["shape"] for entry in entries] == ["Qwen2.5-7B", "Qwen2.5-32B"]
    for column, entry in enumerate(entries):
        shown = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[2 + column] for line in lines}
        for item in entry["items"]:
            assert shown.get(item["name"], "0.0") == f"{item['size'] / 2**30:.1f}"
        assert shown["**at most**, activations recomputed"] == f"**{entry['at_most']['recomputed'] / 2**30:.1f}**"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--gpus 0", "--gpus is 0, and must be above 0"),
        ("--gpus 8 --tensor_parallel 3 --engine vllm", "--tensor_parallel 3 does not divide --gpus 8"),
        ("--gpus 8 --tensor_parallel 2", "--tensor_parallel is for --engine vllm"),
    ],
)
def test_what_no_run_can_be_is_refused(
    plan: ModuleType, options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan.main(["--parameters", "7e9", *options.split()])
    assert said in capsys.readouterr().err


def test_the_page_shows_what_the_script_prints(plan: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"```bash\npython benchmarks/memory_plan\.py (.+?)\n```\n\n((?:\|.*\n)+)", PAGE)
    assert len(shown) == 3
    for options, table in shown:
        plan.main(shlex.split(options))
        assert capsys.readouterr().out == table
