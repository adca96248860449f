"""Loaders of judges: CLIP scorers and image classifiers, from the model folders or from the host's own objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ProvokeError
from ..host import judges
from ..host.api import io, schema
from ..host.judges import Held
from .objective import ClassifierSocket, ScorerSocket

NOTHING = "(none found: see the help)"


def listed(kind: str) -> list[str]:
    """What a loader offers of a model folder (of `judges`)."""
    return judges.entries(kind) or [NOTHING]


def in_words(make: Any, *arguments: Any) -> Any:
    """A call into scorers/, whose errors (in the same three parts) become the node's."""
    try:
        return make(*arguments)
    except (ValueError, FileNotFoundError) as error:
        came, _, rest = str(error).partition(". Expected: ")
        expected, _, change = rest.partition(". To fix it: ")
        if not change:
            raise
        raise ProvokeError(came, expected, change) from error


def loaded(kind: str, name: str, load: Callable[[Path, torch.dtype], Any]) -> Held:
    """An entry of a model folder, by a loader of scorers/, under the host's management."""
    return judges.manage(in_words(load, judges.resolve(kind, name), judges.judge_dtype()))


def chained(held: Held, before: Held | None, join: Callable[[list[Any]], Any]) -> Held:
    """A judge behind those that came in on `together_with`, as one; by itself where none did."""
    if before is None:
        return held
    members = getattr(before.judge, "members", (before.judge,))
    return held.within(in_words(join, [*members, held.judge]), before)


class LoadScorer(io.ComfyNode):
    """A CLIP or SigLIP of a folder of models/provoke_clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLoadScorer",
            display_name="Load CLIP Scorer",
            category="Provoke/load",
            description="A judge of how well a picture matches a text or another picture: an open_clip model or a "
            "transformers CLIP / SigLIP, from models/provoke_clip (safetensors). 'first' and 'second' are the demo "
            "world's.",
            search_aliases=["provoke", "CLIP", "SigLIP", "open_clip", "clip score", "reward model", "judge"],
            inputs=[
                io.Combo.Input(
                    "scorer",
                    options=listed(judges.CLIP_FOLDER),
                    tooltip="A folder (or an open_clip .safetensors file with its .json) in models/provoke_clip.",
                ),
            ],
            outputs=[ScorerSocket.Output("scorer", tooltip="For objectives, steered attacks and Score Images.")],
        )

    @classmethod
    def execute(cls, scorer: str) -> io.NodeOutput:
        from ..scorers.load import load_scorer

        return io.NodeOutput(loaded(judges.CLIP_FOLDER, scorer, load_scorer))


class ScorerFromClip(io.ComfyNode):
    """The host's own CLIP and CLIP_VISION as one judge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeScorerFromClip",
            display_name="CLIP Scorer from CLIP and CLIP Vision",
            category="Provoke/load",
            description="Makes a judge of a text encoder and a picture encoder that you have loaded anyway. They must "
            "be two halves of one CLIP, with their projections; many files of text encoders lack theirs.",
            search_aliases=["provoke", "clip vision", "clip score", "judge"],
            inputs=[
                io.Clip.Input("clip", tooltip="From Load CLIP or a checkpoint whose CLIP has its text projection."),
                io.ClipVision.Input("clip_vision", tooltip="The same CLIP's picture side, from Load CLIP Vision."),
            ],
            outputs=[ScorerSocket.Output("scorer", tooltip="For objectives, steered attacks and Score Images.")],
        )

    @classmethod
    def execute(cls, clip: Any, clip_vision: Any) -> io.NodeOutput:
        from ..scorers.preprocess import for_host

        return io.NodeOutput(judges.host_pair(clip, clip_vision, for_host))


class LoadClassifier(io.ComfyNode):
    """An image classifier of a folder of models/provoke_classifiers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLoadClassifier",
            display_name="Load Image Classifier",
            category="Provoke/load",
            description="A judge of what a picture shows: a transformers image-classification folder in "
            "models/provoke_classifiers (config.json, preprocessor_config.json, safetensors). Those named "
            "provoke-demo-... know the demo world.",
            search_aliases=["provoke", "ResNet", "ConvNeXt", "ViT", "ImageNet", "classifier", "judge"],
            inputs=[
                io.Combo.Input(
                    "classifier",
                    options=listed(judges.CLASSIFIER_FOLDER),
                    tooltip="A folder in models/provoke_classifiers.",
                ),
                ClassifierSocket.Input(
                    "together_with",
                    optional=True,
                    tooltip="Another classifier of the same classes: both become one ensemble, which is harder to "
                    "fool. Chain as many as you like.",
                ),
            ],
            outputs=[
                ClassifierSocket.Output("classifier", tooltip="For class objectives."),
                io.String.Output("classes", tooltip="The names of its classes, a line each."),
            ],
        )

    @classmethod
    def execute(cls, classifier: str, together_with: Held | None = None) -> io.NodeOutput:
        from ..scorers.classifiers import Ensemble, load_classifier

        held = chained(loaded(judges.CLASSIFIER_FOLDER, classifier, load_classifier), together_with, Ensemble)
        return io.NodeOutput(held, "\n".join(held.judge.labels))


class ZeroShotClassifier(io.ComfyNode):
    """A classifier made of a CLIP scorer and a list of words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeZeroShotClassifier",
            display_name="Zero-Shot Classifier",
            category="Provoke/load",
            description="A classifier over words of your own, by a CLIP scorer: which of them does the picture match "
            "best?",
            search_aliases=["provoke", "CLIP", "zero shot", "labels", "classifier", "judge"],
            inputs=[
                ScorerSocket.Input("scorer", tooltip="From Load CLIP Scorer."),
                io.String.Input(
                    "words",
                    multiline=True,
                    default="cat\ndog\nbird",
                    tooltip="The classes, a line each: at least two. Name also what the picture may show instead.",
                ),
                io.String.Input(
                    "template",
                    default="a photo of a {}",
                    tooltip="The sentence that each word is put into, at the empty braces.",
                ),
            ],
            outputs=[ClassifierSocket.Output("classifier", tooltip="For class objectives.")],
        )

    @classmethod
    def execute(cls, scorer: Held, words: str, template: str) -> io.NodeOutput:
        from ..scorers.classifiers import ZeroShot

        labels = [line.strip() for line in words.splitlines() if line.strip()]
        return io.NodeOutput(scorer.within(in_words(ZeroShot, scorer.judge, labels, template)))
