"""BLIP-2 of transformers as a judge: its matching and contrastive heads, and how likely a caption is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .files import words
from .preprocess import Preprocess
from .vlm import CONTRASTIVE, MATCHING, CaptionVlm, FrozenVlm, wide


class Blip2Matching(FrozenVlm):
    """Blip2ForImageTextRetrieval; see `vlm.Vlm`. Both losses go through the model's own forward."""

    kinds = (MATCHING, CONTRASTIVE)

    @property
    def _rows(self) -> int:
        return int(self._model.embeddings.word_embeddings.num_embeddings)

    @property
    def _room(self) -> int:
        return int(self._model.config.qformer_config.max_position_embeddings) + self._places

    @property
    def _places(self) -> int:
        """How many ids in front the model takes for the picture's: configurations from before 4.46 have none."""
        config = self._model.config
        return 0 if config.image_token_index is None else int(config.num_query_tokens)

    def _tokens(self, text: str) -> list[int]:
        # the forward cuts the places off again: whatever stands there is never looked up
        return [*[0] * self._places, *self._words(text)]

    def _loss(self, kind: str, pixels: Tensor, ids: Tensor, silent: int) -> Tensor:
        matching = kind == MATCHING
        given = ids.expand(len(pixels), -1) if matching else ids
        found: Tensor = self._model(
            pixel_values=pixels,
            input_ids=given,
            attention_mask=torch.ones_like(given),
            use_image_text_matching_head=matching,
        ).logits_per_image  # B 2: no, yes; or B 1: the cosine of the nearest query
        return -functional.log_softmax(wide(found), -1)[:, 1] if matching else 1 - wide(found)[:, 0]


class Blip2Captioning(CaptionVlm):
    """Blip2ForConditionalGeneration with a decoder-only language model; see `vlm.Vlm`.

    ValueError: a T5 as its language model, or a configuration without the picture's token.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Any, preprocess: Preprocess, name: str, dtype: torch.dtype
    ) -> None:
        super().__init__(module, tokenizer, preprocess, name, dtype)
        config = self._model.config
        if not config.use_decoder_only_language_model or config.image_token_index is None:
            lacks = "no image_token_index" if config.use_decoder_only_language_model else "a T5 as its language model"
            raise ValueError(
                words(
                    f"{name} is a BLIP-2 with {lacks}",
                    "a BLIP-2 with an OPT, and image_token_index in its config.json (transformers 4.46 and later)",
                    "download the newest files of blip2-opt-2.7b or blip2-opt-6.7b",
                )
            )

    @property
    def _rows(self) -> int:
        return int(self._model.get_input_embeddings().num_embeddings)

    @property
    def _room(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings)

    def _parts(self, text: str) -> tuple[list[int], list[int]]:
        places = [int(self._model.config.image_token_index)] * int(self._model.config.num_query_tokens)
        ids = self._words(text)
        start = self._tokenizer.bos_token_id
        silent = int(start is not None and ids[0] == start)  # a start is given, not guessed
        return [*places, *ids[:silent]], ids[silent:]
