"""Small judges of the libraries' own classes in folders, photographs, and finite differences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

DEMO = Path(__file__).resolve().parents[2] / "demo"
TOKENIZER = DEMO / "weights" / "provoke_clip" / "tokenizer"
VOCABULARY = 647  # of the demo's tokenizer

OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 2},
    }
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TEXT, "image_size": 64, "patch_size": 16}


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """The photographs in demo/photos, of several shapes, and parts of them that are wide, tall and odd."""
    whole = [Image.open(path).convert("RGB") for path in sorted((DEMO / "photos").glob("*.png"))]
    first = whole[1]
    width, height = first.size
    parts = [(0, 0, width, height // 3), (0, 0, width // 4, height), (3, 5, 3 + 97, 5 + 101), (7, 7, 7 + 31, 7 + 23)]
    return whole + [first.crop(box) for box in parts]


@pytest.fixture(scope="session")
def as_tensor() -> Callable[[Image.Image], Tensor]:
    """1 3 H W in [0, 1]."""
    return lambda photo: torch.from_numpy(np.array(photo)).movedim(-1, 0)[None] / 255


class Folders:
    """Writes model folders, as the libraries themselves or their hubs have them."""

    def __init__(self, root: Path) -> None:
        self.root, self._count = root, 0

    def new(self) -> Path:
        self._count += 1
        folder = self.root / f"model-{self._count}"
        folder.mkdir()
        return folder

    def open_clip(self, settings: dict[str, Any] | None = None, *, tokenizer: bool = True) -> Path:
        """The hub's layout: open_clip_config.json, open_clip_model.safetensors, the tokenizer's files."""
        import open_clip

        settings = settings or OPEN_CLIP
        folder = self.new()
        torch.manual_seed(0)
        model = {key: value for key, value in settings["model_cfg"].items() if key != "custom_text"}
        kind = open_clip.CustomTextCLIP if settings["model_cfg"].get("custom_text") else open_clip.CLIP
        save_file(kind(**model).state_dict(), folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps(settings))
        if tokenizer:
            self.tokenizer(folder)
        return folder

    def transformers(self, kind: str = "clip", **shard: Any) -> Path:
        """A CLIP or SigLIP folder: save_pretrained of the model, the processor and the tokenizer."""
        import transformers

        folder = self.new()
        torch.manual_seed(0)
        if kind == "clip":
            text = {**TEXT, "vocab_size": VOCABULARY, "max_position_embeddings": 16}
            ids = {"bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1}
            config: Any = transformers.CLIPConfig(text_config={**text, **ids}, vision_config=VISION, projection_dim=24)
            model: Any = transformers.CLIPModel(config)
            processor: Any = transformers.CLIPImageProcessor(
                size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
            )
        else:
            text = {**TEXT, "vocab_size": VOCABULARY, "max_position_embeddings": 16, "projection_size": 32}
            config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
            model = transformers.SiglipModel(config)
            processor = transformers.SiglipImageProcessor(size={"height": 64, "width": 64})
        model.save_pretrained(folder, **shard)
        processor.save_pretrained(folder)
        self.tokenizer(folder)
        return folder

    def classifier(
        self, labels: tuple[str, ...] = ("cat", "coffee", "rocket"), seed: int = 0, processor: Any = None
    ) -> Path:
        """A ViT classifier."""
        import transformers

        folder = self.new()
        torch.manual_seed(seed)
        names = dict(enumerate(labels))
        config = transformers.ViTConfig(**VISION, id2label=names, label2id={name: i for i, name in names.items()})
        transformers.ViTForImageClassification(config).save_pretrained(folder)
        (processor or transformers.ViTImageProcessor(size={"height": 64, "width": 64})).save_pretrained(folder)
        return folder

    def tokenizer(self, folder: Path) -> None:
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            shutil.copy(TOKENIZER / name, folder)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture(scope="session")
def finite_difference_error() -> Callable[[Callable[[Tensor], Tensor], Tensor], float]:
    """Relative L2 error of the vector of directional derivatives of <random, f(x)>, in float64: random directions and
    blocks (one picture, one channel, one region). A check along the gradient itself is blind. The step is so small that
    hardly any ReLU changes sides within it (at 1e-5 some do, and the error is 3e-3)."""

    def measure(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-7) -> float:
        rng = torch.Generator().manual_seed(0)
        leaf = x.double().requires_grad_(True)
        output = function(leaf)
        weight = torch.randn(output.shape, generator=rng, dtype=torch.float64)
        gradient = torch.autograd.grad(output, leaf, weight)[0]
        ways = [torch.randn(x.shape, generator=rng, dtype=torch.float64) for _ in range(16)]
        blocks: list[Any] = [slice(0, 1), (slice(None), 1), (..., slice(0, x.shape[-2] // 2), slice(1, x.shape[-1]))]
        for block in blocks:
            way = torch.zeros_like(ways[0])
            way[block] = ways[0][block]
            ways.append(way)
        with torch.no_grad():
            changes = [function(x + step * way) - function(x - step * way) for way in ways]
        measured = torch.stack([(change * weight).sum() for change in changes]) / (2 * step)
        claimed = torch.stack([(gradient * way).sum() for way in ways])
        return float((measured - claimed).norm() / measured.norm())

    return measure
