"""LLaVA of transformers as a judge: how likely a caption is as the answer to a question about the picture."""

from __future__ import annotations

from .vlm import CaptionVlm

# LLaVA 1.5's own form of a conversation
BEFORE, QUESTION = "USER: ", "\nDescribe the image in one sentence. ASSISTANT: "


class Llava(CaptionVlm):
    """LlavaForConditionalGeneration with a CLIP or SigLIP tower; see `vlm.Vlm`."""

    @property
    def _rows(self) -> int:
        return int(self._model.get_input_embeddings().num_embeddings)

    @property
    def _room(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings)

    @property
    def _places(self) -> int:
        """Of one picture, as `LlavaModel.get_image_features` gives them."""
        config = self._model.config
        vision = config.vision_config
        patches = (int(vision.image_size) // int(vision.patch_size)) ** 2
        own = 1 if vision.model_type == "clip_vision_model" else 0  # CLIP's tower has a state of its own in front
        return patches + own - (config.vision_feature_select_strategy == "default")

    def _parts(self, text: str) -> tuple[list[int], list[int]]:
        start = self._tokenizer.bos_token_id
        begin = [] if start is None else [int(start)]
        places = [int(self._model.config.image_token_index)] * self._places
        asked = [*self._words(BEFORE, special=False), *places, *self._words(QUESTION, special=False)]
        return [*begin, *asked], self._words(text, special=False)
