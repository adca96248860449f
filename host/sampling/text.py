"""A CLIP of the host as a differentiable function of the embeddings in its prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...core.errors import ProvokeError
from ..checkpoint import checkpoint
from ..inplace import Guard
from ..memory import without_dynamic_memory
from ..trees import floating, put_together, replaced, taken_apart

Tokens = dict[str, list[list[Any]]]  # by encoder ("l", "g", "t5xxl", ...): sections of (token id or embedding, weight)


class TextEncoder:
    """Tokens, some of them embeddings, to a CONDITIONING.

    In a list of tokens, a tensor in the place of an id is an embedding: [D] in place of one token. CLIP-L and CLIP-G
    have a fixed number of positions: one vector a position; T5 and language models also take [n, D].

    Args:
        clip: from a CLIP socket.
    Raises:
        ProvokeError: a CLIP whose hooks change along the schedule: it gives one conditioning for each keyframe.
    """

    def __init__(self, clip: Any) -> None:
        if clip.patcher.forced_hooks is not None and clip.use_clip_schedule:
            raise ProvokeError(
                "The CLIP has hooks that change along the schedule",
                "a CLIP with at most one state",
                "turn schedule_clip off in Set CLIP Hooks, or connect the CLIP before that node",
            )
        self.clip = clip
        self.patcher = without_dynamic_memory(clip.patcher, "CLIP")
        self.module: nn.Module = self.patcher.model
        self._guard = Guard()

    def tokens(self, text: str) -> Tokens:
        """What `CLIPTextEncode` makes of a text; lists that may be changed."""
        return {key: [list(section) for section in sections] for key, sections in self.clip.tokenize(text).items()}

    def table(self, key: str) -> Tensor:
        """The vocabulary of an encoder ("l", "g", ...): V x D, as stored (often float16). Do not write to it."""
        name = next(
            (name for name in (f"clip_{key}", key) if hasattr(self.module, name)), getattr(self.module, "clip", "")
        )
        encoder: Any = getattr(self.module, name, None)
        if encoder is None:
            raise ProvokeError(f"The CLIP has no encoder {key!r}", "a key of its tokens", "use one of those")
        return encoder.transformer.get_input_embeddings().weight

    def __call__(self, tokens: Tokens) -> list[Any]:
        """CONDITIONING of one entry, as `CLIP.encode_from_tokens_scheduled` gives; differentiable, one checkpoint."""
        given = floating(tokens)
        outline: list[Any] = []

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            table = {id(before): now for before, now in zip(given, tensors, strict=True)}
            outputs, outline[:] = taken_apart(self._encode(replaced(tokens, table)))
            return outputs

        outputs = checkpoint(function, *given, around=self._guard.run) if given else function()
        entry = put_together(outputs, outline)
        self.clip.add_hooks_to_dict(entry)
        return [[entry.pop("cond"), entry]]

    def _encode(self, tokens: Tokens) -> dict[str, Any]:
        """`CLIP.encode_from_tokens` without its loading, which could unload what a graph goes through."""
        model: Any = self.module
        model.reset_clip_options()
        try:
            if self.clip.layer_idx is not None:
                model.set_clip_options({"layer": self.clip.layer_idx})
            model.set_clip_options({"execution_device": self.patcher.load_device})
            result = model.encode_token_weights(tokens)
        finally:
            model.reset_clip_options()
        extra = result[2] if len(result) > 2 else {}
        return {"cond": result[0], "pooled_output": result[1], **extra}
