"""From a problem to the prompt that the policy sees."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.prompts import encode_prompt

_PLACE = "{problem}"


@dataclass(frozen=True)
class PromptTemplate:
    """How a problem becomes a prompt.

    Args:
        template: the prompt, with ``{problem}`` where the problem belongs; other braces are left alone. By
            default the prompt is the problem as it is.
        chat: put the result into the tokenizer's chat template, as the user's message.
        system: system message, if not empty; only with ``chat``.
    """

    # no `str | None`: jsonargparse would read "### Problem ..." as a YAML comment, and silently set None
    template: str = _PLACE
    chat: bool = False
    system: str = ""

    def __post_init__(self) -> None:
        if _PLACE not in self.template:
            raise UserError(f"template '{self.template}' has no {_PLACE}: write it where the problem belongs.")
        if self.system and not self.chat:
            raise UserError(
                "template.system is set, but template.chat is not: set chat: true, or write the system "
                "message into template.template."
            )

    def render(self, problem: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """The prompt's text.

        Raises:
            UserError: ``chat`` is set, and the tokenizer has no chat template.
        """
        # not str.format: problems and templates are full of LaTeX braces
        text = self.template.replace(_PLACE, problem)
        if not self.chat:
            return text
        if tokenizer.chat_template is None:
            raise UserError(
                "template.chat is set, but the tokenizer has no chat template: use an instruction-tuned "
                "model, or set chat: false and write the whole prompt into template.template."
            )
        messages = [{"role": "user", "content": text}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def encode(self, problem: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
        """The prompt's text and its token ids.

        Special tokens come once, from the chat template or else from the tokenizer.

        Raises:
            UserError: see ``render`` and ``encode_prompt``.
        """
        prompt = self.render(problem, tokenizer)
        return prompt, encode_prompt(prompt, tokenizer, add_special_tokens=not self.chat)
