"""The checkpoint's tokenizer and chat template, as the engine uses them."""

from collections.abc import Sequence
from typing import Any

from . import _videre
from ._calls import body_fields, join, to_json
from .media import chat_media


class Tokenizer:
    """What `LLM.get_tokenizer()` returns. Any thread may call it."""

    def __init__(self, engine: _videre.Engine):
        self._engine = engine

    @property
    def vocab_size(self) -> int:
        return int(self._engine.info["vocab_size"])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`, exactly as the reference tokenizer's."""
        return self._engine.tokenize(text, add_special_tokens)

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text of ids; parts of characters become U+FFFD."""
        ids = [token_ids] if isinstance(token_ids, int) else [int(token_id) for token_id in token_ids]
        return self._engine.detokenize(ids, skip_special_tokens)

    def batch_decode(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, Any]:
        if isinstance(text, str):
            return {"input_ids": self.encode(text, add_special_tokens)}
        return {"input_ids": [self.encode(one, add_special_tokens) for one in text]}

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Any] | None = None,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The conversation's prompt: text, or ids with `tokenize`.

        Parts {"type": "image"} and {"type": "video"} become placeholders, which `multi_modal_data`
        fills in `generate`. Other keywords are variables of the template (enable_thinking=False).
        """
        for name in ("padding", "truncation", "max_length", "return_tensors", "return_dict"):
            kwargs.pop(name, None)
        messages, _ = chat_media(conversation)
        fields = {
            "tools": list(tools) if tools else None,
            "chat_template": chat_template,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "chat_template_kwargs": kwargs or None,
        }
        body = join('"messages":' + to_json(messages, "messages"), body_fields(fields))
        plan = self._engine.plan(_videre.Request.make(body), template_only=True)
        return plan["prompt_token_ids"] if tokenize else plan["prompt"]
