import pytest
import torch

from laser_lightning.metrics import ResponseStatistics


def test_values_by_hand() -> None:
    # (3 + 8 + 8 + 1) / 4 = 5 tokens; two of four were cut.
    metric = ResponseStatistics()
    metric.update(torch.tensor([3, 8]), torch.tensor([True, False]))
    metric.update(torch.tensor([8, 1], dtype=torch.int32), torch.tensor([False, True]))
    values = {name: value.item() for name, value in metric.compute().items()}
    # Two are finished, and have a score, for one token more.
    assert values == {"length_tokens": 5.0, "truncation_rate": 0.5, "tokens": 20, "judging_tokens": 0.5}


def test_verdicts_cost_what_was_written() -> None:
    metric = ResponseStatistics()
    metric.update(torch.tensor([3, 8]), torch.tensor([True, False]), torch.tensor([7, 4]))
    assert metric.compute()["judging_tokens"].item() == 5.5
    metric.update(torch.tensor([3]), torch.tensor([True]), torch.tensor([-1]))  # of one it is not known
    assert metric.compute()["judging_tokens"].isnan()


def test_merge_weighs_by_responses() -> None:
    # (10 + 1 + 1) / 3 = 4, and one of three was cut; the mean of the two means would be 5.5 and 1/2.
    left, right = ResponseStatistics(), ResponseStatistics()
    left.update(torch.tensor([10]), torch.tensor([False]))
    right.update(torch.tensor([1, 1]), torch.tensor([True, True]))
    left.merge_state(right)
    values = left.compute()
    assert values["length_tokens"].item() == 4.0
    assert values["truncation_rate"].item() == pytest.approx(1 / 3)


def test_sums_do_not_overflow() -> None:
    metric = ResponseStatistics()
    metric.update(torch.full((4,), 2**31 - 1, dtype=torch.int32), torch.ones(4, dtype=torch.bool))
    assert metric.tokens.item() == 4 * (2**31 - 1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_data_is_undefined() -> None:
    values = ResponseStatistics().compute()
    assert values["length_tokens"].isnan()
    assert values["truncation_rate"].isnan()
    assert values["judging_tokens"].isnan()


@pytest.mark.against_signatures
def test_wrong_dtypes_are_refused() -> None:
    metric = ResponseStatistics()
    with pytest.raises(ValueError, match=r"integers in lengths, but got torch\.float32"):
        metric.update(torch.tensor([1.0]), torch.tensor([True]))
    with pytest.raises(ValueError, match=r"boolean tensor, but its dtype is torch\.int64"):
        metric.update(torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"integers in judging_tokens, but got torch\.float32"):
        metric.update(torch.tensor([1]), torch.tensor([True]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="1-dimensional tensors of one length"):
        metric.update(torch.tensor([1, 2]), torch.tensor([True]))
