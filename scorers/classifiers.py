"""Image classifiers: folders of transformers, several at once, and a CLIP scorer over a list of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .files import words
from .judge import Frozen, ImageClassifier, Scorer
from .preprocess import Preprocess, for_transformers
from .transformers_files import load_model, load_part, model_type


class Classifier(Frozen):
    """An image classifier of transformers (...ForImageClassification); see `judge.ImageClassifier`.

    Args:
        labels: names of its classes, in order.
        module, preprocess, name, dtype: as in `judge.Frozen`.
    """

    def __init__(
        self, module: nn.Module, labels: Sequence[str], preprocess: Preprocess, name: str, dtype: torch.dtype
    ) -> None:
        super().__init__(module, preprocess, name, dtype)
        self.labels = tuple(labels)

    def logits(self, images: Tensor) -> Tensor:
        """B 3 H W in [0, 1] -> B K. Differentiable."""
        found = self._seen(self._of_pixels, images)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def look(self, images: Tensor) -> Tensor:
        """As `Scorer.look`."""
        return self.logits(images)

    def seeing(self, preprocess: Preprocess, name: str) -> Classifier:
        """The same net (shared, not copied) behind another preprocessing: pictures B 3 H W -> what it takes."""
        return Classifier(self.module, self.labels, preprocess, name, self.input_dtype)

    def _of_pixels(self, pixels: Tensor) -> Tensor:
        return self._model(pixel_values=pixels).logits


class ZeroShot:
    """A CLIP scorer as a classifier over words: its logits are the scorer's own, scale x cosine + bias.

    Args:
        scorer: its module is not copied.
        labels: words; at least two, all different.
        template: the sentence that each word is put into, in the place of {}.
    Raises:
        ValueError: too few words, equal ones, or a template without {}.
    """

    def __init__(self, scorer: Scorer, labels: Sequence[str], template: str = "a photo of a {}") -> None:
        self.labels = tuple(label.strip() for label in labels)
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels) or not all(self.labels):
            raise ValueError(
                words(
                    f"The words are {', '.join(map(repr, self.labels)) or 'none'}",
                    "at least two words, all different",
                    "list what the picture may show instead as well",
                )
            )
        if "{}" not in template:
            raise ValueError(
                words(f"The template is {template!r}", "a sentence with {} for the word", "put {} into it")
            )
        self.scorer, self.name = scorer, f"{scorer.name}, zero-shot"
        self.module, self.size = scorer.module, scorer.size
        self._texts = [template.replace("{}", label) for label in self.labels]
        self._encoded: Tensor | None = None

    @property
    def input_dtype(self) -> torch.dtype:
        return self.scorer.input_dtype

    def logits(self, images: Tensor) -> Tensor:
        """B 3 H W in [0, 1] -> B K. Differentiable."""
        pictures = self.scorer.encode_images(images)
        if self._encoded is None:
            self._encoded = self.scorer.encode_texts(self._texts)
        texts = self._encoded.to(pictures)
        return self.scorer.scale * pictures @ texts.T + self.scorer.bias

    def look(self, images: Tensor) -> Tensor:
        """As `Scorer.look`."""
        return self.logits(images)


class Ensemble:
    """Several classifiers of the same classes, whose order is the first one's.

    ValueError: no members, or members whose classes have other names.
    """

    def __init__(self, members: Sequence[ImageClassifier]) -> None:
        if not members:
            raise ValueError(words("There are no classifiers", "at least one", "connect a classifier"))
        self.members, self.labels = tuple(members), members[0].labels
        self.name = " + ".join(member.name for member in members)
        self._orders = [self._order(member) for member in members]

    def logits(self, images: Tensor) -> Tensor:
        """B 3 H W in [0, 1] -> B K: the log of the members' mean probability. Differentiable."""
        each = functional.log_softmax(self.member_logits(images), dim=-1)
        return each.logsumexp(0) - torch.tensor(float(len(self.members))).log().to(each)

    def member_logits(self, images: Tensor) -> Tensor:
        """B 3 H W in [0, 1] -> M B K, each member's own, under the names of `labels`. Differentiable."""
        each = [member.logits(images)[:, order] for member, order in zip(self.members, self._orders, strict=True)]
        return torch.stack([logits.to(each[0]) for logits in each])

    def look(self, images: Tensor) -> Tensor:
        """As `Scorer.look`."""
        return self.member_logits(images)

    def _order(self, member: ImageClassifier) -> list[int]:
        """Where the member has each of `labels`."""
        if sorted(member.labels) != sorted(self.labels):
            only = [
                sorted(set(a) - set(b))[:4] for a, b in ((self.labels, member.labels), (member.labels, self.labels))
            ]
            raise ValueError(
                words(
                    f"{self.members[0].name} has {len(self.labels)} classes and {member.name} {len(member.labels)}; "
                    f"only the first has {only[0] or 'none'}, only the second {only[1] or 'none'}",
                    "classifiers whose classes have the same names (in any order)",
                    "connect classifiers of the same data set",
                )
            )
        place = {label: index for index, label in enumerate(member.labels)}
        return [place[label] for label in self.labels]


def load_classifier(folder: Path, dtype: torch.dtype = torch.float32) -> Classifier:
    """Loads an image-classification folder: config.json, model.safetensors (or shards and their index),
    preprocessor_config.json. On the CPU.

    Raises:
        FileNotFoundError, ValueError: what is there, what was expected, what to change.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KINDS

    kind = model_type(folder)
    if kind not in KINDS:
        raise ValueError(
            words(
                f"{folder / 'config.json'} is of the model_type {kind!r}",
                "an image classifier of transformers (vit, swin, resnet, convnext, dinov2, ...)",
                "choose another folder; CLIP and SigLIP belong into models/provoke_clip",
            )
        )
    processor = load_part(transformers.AutoImageProcessor, folder, "preprocessor_config.json")
    preprocess = for_transformers(processor)
    module: Any = load_model(transformers.AutoModelForImageClassification, folder)
    names = module.config.id2label
    labels = [str(names[index]) for index in range(len(names))]
    if len(set(labels)) < len(labels):
        raise ValueError(
            words(f"{folder} has classes of the same name", "a name for each class", "mend id2label in its config.json")
        )
    return Classifier(module, labels, preprocess, folder.name, dtype)
