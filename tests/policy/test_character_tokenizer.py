"""One token per character, in memory and as a directory that transformers loads beside a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast, Qwen2Config

from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.model import EMBEDDED, PolicySettings, load_tokenizer

PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))
TEXTS = ["12+34=", "7+5=12;4+8+1=13;#132", "What is 3 apples?\n\n- a  .  b , I'm 'it's'\n", PRINTABLE, "   ", ""]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return character_tokenizer()


def test_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.convert_tokens_to_ids("<|reward|>") == 3
    assert tokenizer.encode("<|reward|>", add_special_tokens=False) == [3]
    assert len(tokenizer) == 260  # 4 and 256 bytes


def test_every_printable_character_is_a_token_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode(PRINTABLE)
    assert len(ids) == len(PRINTABLE) == len(set(ids))
    assert min(ids) > 3


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, 1, 0, 0], skip_special_tokens=True) == text


def test_other_characters_are_their_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    # In UTF-8 "é" is 2 bytes and "√" is 3.
    ids = tokenizer.encode("aé√1")
    assert len(ids) == 1 + 2 + 3 + 1
    assert 2 not in ids, "nothing is unknown"
    assert tokenizer.decode(ids) == "aé√1"


def test_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": "12+34"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "Add.\n12+34="
    answered = [*messages, {"role": "assistant", "content": "#46"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == "Add.\n12+34=#46<|eos|>"


@pytest.mark.parametrize("text", [*TEXTS, "aé√1"])
@pytest.mark.parametrize("config_class", [Qwen2Config, LlamaConfig])
def test_a_saved_tokenizer_beside_a_model_reads_text_the_same_way(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, config_class: Callable[..., PretrainedConfig], text: str
) -> None:
    # AutoTokenizer chooses its class by the model's config, and some classes bring a splitting of their own.
    tokenizer.save_pretrained(tmp_path)
    config_class(vocab_size=260, bos_token_id=None, eos_token_id=1).save_pretrained(tmp_path)
    loaded = load_tokenizer(PolicySettings(path=str(tmp_path)))
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_the_embedded_tokenizer_is_lossless(text: str) -> None:
    loaded = load_tokenizer(PolicySettings(EMBEDDED))
    assert loaded.decode(loaded.encode(text)) == text
    assert AutoTokenizer.from_pretrained(loaded.name_or_path).encode(text) == loaded.encode(text)
