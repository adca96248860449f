"""The loader of language models, from the model folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..host import judges
from ..host.api import io, schema
from ..host.progress import check_cancelled
from .load_judges import in_words, listed, loaded
from .objective import LanguageSocket


class InWords:
    """A language model whose errors become the node's, and which hears the user's *Cancel* (core.writing.Language).

    Args:
        model: of scorers/language.py.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def next_words(self, text: str, count: int, rarest: float) -> list[tuple[str, float]]:
        """As the model's."""
        check_cancelled()
        return in_words(self.model.next_words, text, count, rarest)

    def read(self, texts: Sequence[str], *, ended: bool) -> list[list[tuple[float, float]]]:
        """As the model's."""
        check_cancelled()
        return in_words(partial(self.model.read, ended=ended), texts)


class LoadLanguage(io.ComfyNode):
    """A causal language model of a folder of models/provoke_language."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLoadLanguageModel",
            display_name="Load Language Model",
            category="Provoke/load",
            description="A model that writes sentences on, for Search Prompt: a transformers folder of a causal "
            "language model (GPT-2, Qwen, Llama, SmolLM, ...) in models/provoke_language (config.json, the "
            "tokenizer's files, safetensors). 'provoke-demo-gpt2' knows the demo world's captions.",
            search_aliases=["provoke", "LLM", "GPT-2", "Qwen", "Llama", "causal language model", "text generation"],
            inputs=[
                io.Combo.Input(
                    "language",
                    options=listed(judges.LANGUAGE_FOLDER),
                    tooltip="A folder in models/provoke_language. Small ones will do: it proposes words.",
                ),
            ],
            outputs=[LanguageSocket.Output("language", tooltip="For Search Prompt.")],
        )

    @classmethod
    def execute(cls, language: str) -> io.NodeOutput:
        from ..scorers.load_language import load_language

        return io.NodeOutput(loaded(judges.LANGUAGE_FOLDER, language, load_language))
