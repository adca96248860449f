"""The text tower of the demo's CLIPs in the host's terms: what its own text encoder class is built from.

Without open_clip: the generators need the tower alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

HOST_VOCABULARY = 49408  # rows of the host's token embedding: comfy.clip_model.CLIPEmbeddings has no other number


def host_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The text tower's figures under the names of comfy/sd1_clip_config.json.

    For the host's `model_options={"clip_l_model_config": ...}`; its `SDClipModel` also takes the `special_tokens`.
    """
    text = config["model_cfg"]["text_cfg"]
    return {
        "num_hidden_layers": text["layers"],
        "hidden_size": text["width"],
        "num_attention_heads": text["heads"],
        "intermediate_size": round(text["width"] * text.get("mlp_ratio", 4.0)),
        "hidden_act": "quick_gelu" if config["model_cfg"].get("quick_gelu") else "gelu",
        "max_position_embeddings": text["context_length"],
        "eos_token_id": text["vocab_size"] - 1,
    }


def special_tokens(config: dict[str, Any]) -> dict[str, int]:
    """Ids of start, end and padding: the tokenizer's last two, padded with the end."""
    last = config["model_cfg"]["text_cfg"]["vocab_size"] - 1
    return {"start": last - 1, "end": last, "pad": last}


def host_text_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's weights under the host's names (`comfy.clip_model.CLIPTextModel`), from an open_clip state dict.

    Where the host has rows for tokens that we have not, they are 0.
    """
    embedding = state["token_embedding.weight"]
    rows = embedding.new_zeros(HOST_VOCABULARY, embedding.shape[1])
    rows[: len(embedding)] = embedding
    weights = {
        "text_model.embeddings.token_embedding.weight": rows,
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    blocks = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}
    for index in sorted(blocks, key=int):
        ours, theirs = f"transformer.resblocks.{index}.", f"text_model.encoder.layers.{index}."
        for kind in ("weight", "bias"):
            joined = state[f"{ours}attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", joined, strict=True):
                weights[f"{theirs}self_attn.{name}_proj.{kind}"] = part.contiguous()
            for name, other in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                weights[f"{theirs}{other}.{kind}"] = state[f"{ours}{name}.{kind}"]
    return weights
