"""The optimizer of a checkpoint is put together from the shares of its processes, which are written out here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.policy.master_weights import COPIES, MasterWeights
from laser_lightning.runs.checkpoints import WholeFiles
from laser_lightning.runs.saved_optimizer import NotCarriedError, Spread, StateDicts, of_file, of_shards

SHAPES = {"a": torch.Size([3]), "b": torch.Size([2, 3]), "c": torch.Size([4])}
WHOLE = {"a": [1, 2, 3], "b": [[4, 5, 6], [7, 8, 9]], "c": [10, 11, 12, 13]}

# What two processes have of them: 14 elements with the filling, 7 each; and of a, b, c the shares of 2, 3 and 2.
END_TO_END = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 0]]
IN_SHARES = [[1, 2, 4, 5, 6, 10, 11], [3, 0, 7, 8, 9, 12, 13]]


def tensor(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def shard(stage: int, rank: int, **changed: Any) -> dict[str, Any]:
    """What a process writes: weights as above, a state ten times as large, and a count."""
    values = tensor((IN_SHARES if stage == 3 else END_TO_END)[rank])
    optimizer = {
        "state": {0: {"step": torch.tensor(5.0), "exp_avg": 10 * values, "max_exp_avg_sq": None}},
        "param_groups": [{"lr": 0.5, "params": [0]}],
    }
    # DeepSpeed cuts off what fills up a weight of ZeRO-1 and 2, and of their states nothing.
    weights = [values if stage == 3 or rank == 0 else values[:-1]]
    if stage == 3:
        return {"zero_stage": 3, "partition_count": 2, "optimizer_state_dict": optimizer, "fp32_flat_groups": weights}
    of_stage = {"base_optimizer_state": optimizer, "single_partition_of_fp32_groups": weights}
    return {"zero_stage": stage, "partition_count": [2], "param_alignment_paddings": [[0] * 3], **of_stage, **changed}


def written(path: Path, stage: int, ranks: int = 2, **zero: Any) -> Path:
    """A directory of DeepSpeed, as far as a run of one process reads it."""
    (path / "checkpoint").mkdir(parents=True)
    (path / "latest").write_text("checkpoint")
    for rank in range(ranks):
        values = {"optimizer_state_dict": shard(stage, rank)}
        torch.save(values, path / f"checkpoint/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    model: dict[str, Any] = {"module": {}, "buffer_names": [], "shared_params": {}, "global_step": 7}
    model |= {"param_shapes": [SHAPES], "ds_config": {"zero_optimization": {"stage": stage, **zero}}}
    for rank in range(ranks if stage == 3 else 1):
        prefix = f"zero_pp_rank_{rank}_" if stage == 3 else ""
        torch.save(model, path / f"checkpoint/{prefix}mp_rank_00_model_states.pt")
    return path


def test_a_vector_is_read_across_its_pieces() -> None:
    spread = Spread((tensor([0, 1, 2]), tensor([]), tensor([3]), tensor([4, 5, 6])), start=1)
    assert spread.read(0, 6).tolist() == [1, 2, 3, 4, 5, 6]
    assert spread.read(1, 3).tolist() == [2, 3, 4]
    assert spread.read(4, 2).tolist() == [5, 6]
    assert spread.read(2, 0).tolist() == []


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_parameter_is_whole_again(stage: int) -> None:
    saved = of_shards([shard(stage, 0), shard(stage, 1)], [SHAPES])
    assert saved.settings == [{"lr": 0.5}]
    assert [parameter.name for parameter in saved.parameters[0]] == ["a", "b", "c"]
    for parameter in saved.parameters[0]:
        assert parameter.whole(parameter.weight).tolist() == WHOLE[parameter.name]
        assert parameter.states.keys() == {"exp_avg"}
        assert torch.equal(parameter.whole(parameter.states["exp_avg"]), 10 * tensor(WHOLE[parameter.name]))
        assert parameter.numbers == {"step": 5.0}


def test_filling_between_parameters_is_passed_over() -> None:
    # Each begins at a multiple of 4: a a a 0 b b b b | b b 0 0 c c c c
    values = [tensor([1, 2, 3, 0, 4, 5, 6, 7]), tensor([8, 9, 0, 0, 10, 11, 12, 13])]
    shards = [
        shard(2, rank)
        | {"param_alignment_paddings": [[1, 2, 0]], "single_partition_of_fp32_groups": [values[rank]]}
        | {"base_optimizer_state": {"state": {}, "param_groups": [{"params": [0]}]}}
        for rank in (0, 1)
    ]
    (group,) = of_shards(shards, [SHAPES]).parameters
    assert [one.whole(one.weight).tolist() for one in group] == list(WHOLE.values())
    assert [one.states | one.numbers for one in group] == [{}] * 3  # no step was taken yet


def test_one_process_goes_on_with_the_shares_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = WholeFiles().load_checkpoint(written(tmp_path / "a.ckpt", 2))
    assert checkpoint["global_step"] == 7
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    optimizer = torch.optim.AdamW([{"params": parameters}], lr=0.1)
    assert len(checkpoint["optimizer_states"]) == 1
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    assert optimizer.param_groups[0]["lr"] == 0.5
    steps = []
    for parameter, whole in zip(parameters, WHOLE.values(), strict=True):
        assert torch.equal(optimizer.state[parameter]["exp_avg"], 10 * tensor(whole))
        steps.append(optimizer.state[parameter]["step"])
    steps[0] += 1
    assert steps == [6, 5, 5]  # each parameter counts its own


def test_copies_of_weights_in_half_precision_are_taken_up() -> None:
    saved = of_shards([shard(3, 0), shard(3, 1)], [SHAPES])
    # The second one is in float32 already, and is loaded with the module.
    types = [torch.bfloat16, torch.float32, torch.bfloat16]
    weights = [torch.nn.Parameter(torch.zeros(s, dtype=d)) for s, d in zip(SHAPES.values(), types, strict=True)]
    optimizer = MasterWeights([{"params": weights}], lambda groups: torch.optim.AdamW(groups, lr=0.1))
    optimizer.load_state_dict(saved.state_dict())
    assert [copy.tolist() for _, copy in optimizer.pairs] == [WHOLE["a"], WHOLE["c"]]
    assert torch.equal(optimizer.state[weights[1]]["exp_avg"], 10 * tensor(WHOLE["b"]))
    assert torch.equal(optimizer.state[optimizer.pairs[1][1]]["exp_avg"], 10 * tensor(WHOLE["c"]))


def test_the_optimizer_of_a_file_gets_names_and_its_copies() -> None:
    a, b = torch.ones(3, dtype=torch.bfloat16), torch.ones(2, 3)
    state = {
        "state": {0: {"step": torch.tensor(2.0), "exp_avg": tensor([1, 2, 3])}},  # no gradient has reached b
        "param_groups": [{"lr": 0.5, "params": [0]}, {"lr": 0.25, "params": [1]}],
        COPIES: [tensor([1.001, 1.002, 1.003])],
    }
    file = {"state_dict": {"a": a, "b": b, "frozen": a}, "optimizer_states": [state]}
    saved = of_file(file, [["a"], ["b"]])
    assert saved.settings == [{"lr": 0.5}, {"lr": 0.25}]
    (first,), (second,) = saved.parameters
    assert torch.equal(first.whole(first.weight), tensor([1.001, 1.002, 1.003]))
    assert first.states["exp_avg"].read(1, 2).tolist() == [2, 3]
    assert first.numbers == {"step": 2.0}
    assert torch.equal(second.whole(second.weight), b)
    assert second.states | second.numbers == {}

    with pytest.raises(NotCarriedError, match="steps other parameters"):
        of_file(file, [["a", "b"]])
    with pytest.raises(NotCarriedError, match="lacks the parameter c"):
        of_file(file, [["a"], ["c"]])
    with pytest.raises(NotCarriedError, match="exp_avg of b is not of the size of the weights"):
        of_file(file, [["b"], ["a"]])
    with pytest.raises(NotCarriedError, match="save_weights_only"):
        of_file({"state_dict": {}}, [["a"]])


def test_what_cannot_be_told_apart_is_left_with_the_reason(tmp_path: Path) -> None:
    elastic = [shard(2, rank, base_optimizer_state=[{}]) for rank in (0, 1)]
    with pytest.raises(NotCarriedError, match="elastic_checkpoint"):
        of_shards(elastic, [SHAPES])
    odd = [shard(2, rank) for rank in (0, 1)]
    for one in odd:
        one["base_optimizer_state"]["state"][0]["rows"] = torch.zeros(2)
    with pytest.raises(NotCarriedError, match="rows is not of the size of the weights"):
        of_shards(odd, [SHAPES])
    elsewhere = [shard(3, rank) | {"fp32_flat_groups": [torch.zeros(0)]} for rank in (0, 1)]
    with pytest.raises(NotCarriedError, match="float32 copies are elsewhere"):
        of_shards(elsewhere, [SHAPES])


def test_an_optimizer_that_is_left_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "a.ckpt", 2, round_robin_gradients=True)
    with caplog.at_level("INFO"):
        assert WholeFiles().load_checkpoint(path)["optimizer_states"] == []
    (told,) = [record.getMessage() for record in caplog.records if "this run is another" in record.getMessage()]
    assert "was written by 2 processes under ZeRO-2" in told
    assert "moments do not, since it was written with zero_options.round_robin_gradients" in told


def test_a_lost_or_damaged_shard_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lost\.ckpt was written by 2 processes, and has shards of 1\."):
        WholeFiles().load_checkpoint(written(tmp_path / "lost.ckpt", 2, ranks=1))
    path = written(tmp_path / "cut.ckpt", 3)
    cut = path / "checkpoint/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"rank_1_mp_rank_00_optim_states\.pt is not a whole checkpoint, and cannot be"):
        WholeFiles().load_checkpoint(path)


def test_states_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    class Unread:
        def state_dict(self) -> dict[str, Any]:
            raise AssertionError("an evaluation needs no optimizer")

    states = StateDicts(Unread())  # type: ignore[arg-type]
    assert len(states) == 1
    with pytest.raises(AssertionError):
        list(states)
