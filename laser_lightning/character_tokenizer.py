"""The tokenizer of the embedded model: one token per character, and a reward token that no text contains."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: the printable ASCII characters, the newline and four special tokens (100 ids)."""
    characters = ["\n", *(chr(code) for code in range(32, 127))]
    special = [PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN, REWARD_TOKEN]
    vocabulary = {token: index for index, token in enumerate([*special, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_TOKEN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        additional_special_tokens=[REWARD_TOKEN],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
