import pytest
import torch

from laser_lightning.metrics import percentile_interval, resampled_means, standard_error


def test_two_problems_by_hand() -> None:
    # Two of two are drawn: 0 and 0, 0 and 1, 1 and 0, or 1 and 1. The means are 0, 0.5 and 1 in a quarter, half and
    # quarter of the resamples; of 0 and 10 in the second column they are ten times that, in the same resamples.
    means = resampled_means(torch.tensor([[0.0, 0.0], [1.0, 10.0]]), resamples=4000)
    assert means.shape == (4000, 2)
    assert means.dtype == torch.float64
    assert torch.equal(means[:, 1], 10 * means[:, 0])
    shares = {value: (means[:, 0] == value).double().mean().item() for value in (0.0, 0.5, 1.0)}
    assert sum(shares.values()) == 1
    assert shares == pytest.approx({0.0: 0.25, 0.5: 0.5, 1.0: 0.25}, abs=0.03)  # s.e. 0.008


def test_interval_of_given_means_by_hand() -> None:
    # Of 0, 1, ..., 100 the share of 90% in the middle lies from 5 to 95.
    low, high = percentile_interval(torch.arange(101).double()[:, None], level=0.9)
    assert low.tolist() == pytest.approx([5.0])
    assert high.tolist() == pytest.approx([95.0])


def test_interval_is_that_of_the_normal_distribution_for_many_problems() -> None:
    values = torch.rand(400, 1, generator=torch.Generator().manual_seed(1))
    low, high = percentile_interval(resampled_means(values, resamples=4000))
    mean, error = values.mean().item(), standard_error(values[:, 0]).item()
    assert low.item() == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high.item() == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_resamples_are_those_of_the_seed() -> None:
    values = torch.rand(10, 1, generator=torch.Generator().manual_seed(0))
    first = resampled_means(values, seed=3, resamples=150)  # more than are drawn at a time, and no multiple of it
    assert first.shape == (150, 1)
    assert len(first.unique()) > 100
    assert torch.equal(resampled_means(values, seed=3, resamples=150), first)
    assert not torch.equal(resampled_means(values, seed=4, resamples=150), first)


@pytest.mark.parametrize("problems", [0, 1])
def test_fewer_than_two_problems_have_no_interval(problems: int) -> None:
    low, high = percentile_interval(resampled_means(torch.ones(problems, 3)))
    assert low.shape == high.shape == (3,)
    assert low.isnan().all()
    assert high.isnan().all()


def test_equal_values_have_an_interval_without_width() -> None:
    low, high = percentile_interval(resampled_means(torch.full((7, 1), 0.25)))
    assert (low.item(), high.item()) == pytest.approx((0.25, 0.25))
