"""The tokenizer of the embedded model: one token per byte of text, and a reward token that no text contains."""

from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer

EOS_TOKEN = "<|eos|>"
PAD_TOKEN = "<|pad|>"
UNKNOWN_TOKEN = "<|unknown|>"
REWARD_TOKEN = "<|reward|>"

# "12+34" from the user is rendered as "12+34=": the equals sign is what asks the assistant to answer.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}={{ message['content'] }}{{ eos_token }}"
    "{%- elif message['role'] == 'system' -%}{{ message['content'] }}{{ '\n' }}"
    "{%- else -%}{{ message['content'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}={%- endif -%}"
)


def character_tokenizer() -> Qwen2Tokenizer:
    """Build the tokenizer: four special tokens and the 256 bytes, so that every ASCII character is one token.

    It is of Qwen2's own class without merges, since transformers loads no other class beside a Qwen2 model.
    """
    special = [PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN, REWARD_TOKEN]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        additional_special_tokens=[REWARD_TOKEN],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
    )
