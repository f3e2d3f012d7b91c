"""What the data module says of few problems, and of bounds that nothing asks."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from laser_lightning.data import AccuracyBounds, ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError


def data_of(tokenizer: PreTrainedTokenizerFast, size: int, **settings: Any) -> PromptDataModule:
    data = PromptDataModule(ArithmeticSource("train", size=size, seed=0), prompts_per_step=4, **settings)
    data.set_tokenizer(tokenizer)
    return data


def test_a_set_smaller_than_a_step_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    data = data_of(tokenizer, 1)
    with pytest.warns(UserWarning, match="has 1 problems, fewer than data.prompts_per_step = 4: they are repeated"):
        data.setup("fit")
    loader = data.train_dataloader()
    assert [len(batch) for batch in loader] == [4]
    assert {problem.index for problem in next(iter(loader))} == {0}


@pytest.mark.parametrize("module", [SimpleNamespace(sampling_rounds=1), SimpleNamespace()])
def test_bounds_need_further_rounds(module: object, tokenizer: PreTrainedTokenizerFast) -> None:
    data = data_of(tokenizer, 4, accuracy_bounds=AccuracyBounds(0.25, 0.75))
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1)  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"\(from 0.25 to 0.75\) .* set model.sampling_rounds above 1"):
        data.setup("fit")


def test_bounds_need_a_group_that_can_meet_them(tokenizer: PreTrainedTokenizerFast) -> None:
    data = data_of(tokenizer, 4, accuracy_bounds=AccuracyBounds(0.3, 0.4))
    module = SimpleNamespace(sampling_rounds=2, group_size=4)
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1)  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"from 0.3 to 0.4\) .* model.group_size is 4; the nearest: 0.25 .* 0.5"):
        data.setup("fit")


def test_bounds_with_further_rounds(tokenizer: PreTrainedTokenizerFast) -> None:
    data = data_of(tokenizer, 4, accuracy_bounds=AccuracyBounds(0.25, 0.75))
    module = SimpleNamespace(sampling_rounds=2)
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1)  # type: ignore[assignment]
    data.setup("fit")
    assert len(data.train_problems) == 4
