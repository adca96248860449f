"""CLIP and SigLIP folders of transformers as scorers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import words
from .judge import FrozenScorer, check_ids
from .preprocess import Preprocess, for_transformers
from .transformers_files import load_model, load_part, model_type

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}  # by model_type


class TransformersScorer(FrozenScorer):
    """A CLIPModel or SiglipModel of transformers; see `judge.Scorer`.

    Args:
        tokenizer: of transformers.
        module, preprocess, name, dtype: as in `judge.Frozen`.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Any, preprocess: Preprocess, name: str, dtype: torch.dtype
    ) -> None:
        super().__init__(module, preprocess, name, dtype)
        self._tokenizer = tokenizer

    def _image_tower(self, pixels: Tensor) -> Tensor:
        return _pooled(self._model.get_image_features(pixel_values=pixels))

    def _text_tower(self, texts: list[str], device: torch.device) -> Tensor:
        # SigLIP was trained on texts filled up to its length; CLIP does not look at what follows the end
        tokens = self._tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        check_ids(tokens["input_ids"], self._model.config.text_config.vocab_size, self.name)
        given = {key: tokens[key].to(device) for key in _INPUTS if key in tokens}
        return _pooled(self._model.get_text_features(**given))


_INPUTS = ("input_ids", "attention_mask")  # what the tokenizer's model_input_names ask for


def _pooled(features: Any) -> Tensor:
    """transformers 4 gives the tensor, 5 an output object."""
    return features if isinstance(features, Tensor) else features.pooler_output


def load_transformers_scorer(folder: Path, dtype: torch.dtype = torch.float32) -> TransformersScorer:
    """Loads a CLIP or SigLIP folder, on the CPU: config.json, model.safetensors (or shards and their index),
    preprocessor_config.json, and the tokenizer's files.

    Raises:
        FileNotFoundError, ValueError: what is there, what was expected, what to change.
    """
    import transformers

    kind = model_type(folder)
    if kind not in CLASSES:
        raise ValueError(
            words(
                f"{folder / 'config.json'} is of the model_type {kind!r}",
                f"{' or '.join(CLASSES)}: models with an image and a text tower into one space (SigLIP 2 with a fixed "
                "size is a 'siglip'; 'siglip2' is NaFlex, whose pictures have many sizes)",
                "choose a CLIP or SigLIP folder; image classifiers belong into models/provoke_classifiers",
            )
        )
    processor = load_part(transformers.AutoImageProcessor, folder, "preprocessor_config.json")
    tokenizer = load_part(transformers.AutoTokenizer, folder, "tokenizer_config.json")
    preprocess = for_transformers(processor)
    module = load_model(getattr(transformers, CLASSES[kind]), folder)
    return TransformersScorer(module, tokenizer, preprocess, folder.name, dtype)
