"""Nodes that make an objective: what a search is to have more of (or less: the method says which)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import objectives, semantic
from ..core.errors import ProvokeError
from ..core.objectives import Objective
from ..host.api import io, schema
from ..host.judges import Held
from .objective import ClassifierSocket, ObjectiveSocket, Parts, ScorerSocket, Situation, Term, one_of, pictures

DISTANCES = {
    "mean absolute (L1)": objectives.l1_distance,
    "root mean square (L2)": objectives.l2_distance,
    "mean colour": objectives.mean_shift,
    "contrast": objectives.variance_shift,
}


def _scorer() -> io.Input:
    return ScorerSocket.Input("scorer", tooltip="From Load CLIP Scorer.")


def _picture(name: str, tooltip: str) -> io.Input:
    return io.Image.Input(name, optional=True, tooltip=tooltip)


def region_input() -> io.Input:
    return io.Mask.Input(
        "region",
        optional=True,
        tooltip="Where the picture counts (1); a judge sees the default result elsewhere. Everywhere if not connected.",
    )


def objective_output() -> list[io.Output]:
    return [
        ObjectiveSocket.Output(
            "objective",
            tooltip="For searches and Score Images. Higher is more; the method says whether it wants more or less.",
        )
    ]


def one(term: Term) -> io.NodeOutput:
    """An objective of a single term."""
    return io.NodeOutput(Parts((term,)))


class DistanceObjective(io.ComfyNode):
    """How far a result is from the default one, or from a picture, without any judge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeDistanceObjective",
            display_name="Objective: Distance from the Default",
            category="Provoke/objective",
            description="How far a result is from the one without a perturbation (or from a picture of yours), in the "
            "units of a picture (1 = from black to white).",
            search_aliases=["provoke", "loss", "L1", "L2", "variance", "difference", "reference picture", "MSE"],
            inputs=[
                io.Combo.Input(
                    "distance",
                    options=list(DISTANCES),
                    tooltip="What is compared, pixel by pixel or of the whole picture's colours.",
                ),
                region_input(),
                _picture(
                    "picture",
                    "Compare with this picture instead of the default result, resized to fit. A search that goes away "
                    "from the distance comes near to the picture.",
                ),
            ],
            outputs=objective_output(),
        )

    @classmethod
    def execute(cls, distance: str, region: Tensor | None = None, picture: Tensor | None = None) -> io.NodeOutput:
        make = DISTANCES[distance]
        given = None if picture is None else pictures(picture, "picture")
        name = f"distance ({distance})" if given is None else f"distance from the picture ({distance})"

        def objective(situation: Situation) -> Objective:
            if given is None:
                return make(situation.needs_default(name), situation.region)
            return objectives.from_picture(make, situation.own(given, "picture"), situation.region)

        return one(Term(name, objective, region=region))


class ClipObjective(io.ComfyNode):
    """Similarity to a text or a picture by a CLIP scorer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeClipObjective",
            display_name="Objective: Similarity (CLIP)",
            category="Provoke/objective",
            description="How well a picture matches a text, or another picture: the cosine of their CLIP vectors, -1 "
            "to 1. A picture as the target is used instead of the text.",
            search_aliases=["provoke", "CLIP", "loss", "text similarity", "image similarity", "clip score"],
            inputs=[
                _scorer(),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="What the picture is to match, in words. In Learn Token and Search Prompt, prompt in "
                    "braces stands for each prompt.",
                ),
                _picture("picture", "A picture to match, instead of the text."),
                region_input(),
            ],
            outputs=objective_output(),
        )

    @classmethod
    def execute(
        cls, scorer: Held, text: str, picture: Tensor | None = None, region: Tensor | None = None
    ) -> io.NodeOutput:
        check_target(text, picture, "text", "picture")
        said = "the picture" if picture is not None else f"'{text.strip()}'"

        def objective(situation: Situation) -> Objective:
            target = vector(scorer, situation.told(text), picture)
            return semantic.similarity(situation.seen_by(scorer.judge.encode_images), target)

        return one(Term(f"similarity to {said}", objective, held=(scorer,), region=region))


class DirectionObjective(io.ComfyNode):
    """The direction from a source to a target in CLIP space."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeDirectionObjective",
            display_name="Objective: Direction (CLIP)",
            category="Provoke/objective",
            description="How far a result has moved from the default one in the direction from a source to a target "
            "('a photo' to 'a watercolour'). Needs both in the same form: two texts, or two pictures.",
            search_aliases=["provoke", "CLIP", "directional loss", "StyleGAN-NADA", "text direction"],
            inputs=[
                _scorer(),
                io.String.Input("source_text", default="", tooltip="What the default result is, in words."),
                io.String.Input("target_text", default="", tooltip="What it is to become, in words."),
                io.Combo.Input(
                    "measure",
                    options=["dot product", "cosine"],
                    tooltip="dot product (the paper's) also counts how far; cosine counts the direction alone.",
                ),
                _picture("source_picture", "Instead of source_text, with target_picture."),
                _picture("target_picture", "Instead of target_text, with source_picture."),
                region_input(),
            ],
            outputs=objective_output(),
        )

    @classmethod
    def execute(
        cls,
        scorer: Held,
        source_text: str,
        target_text: str,
        measure: str,
        source_picture: Tensor | None = None,
        target_picture: Tensor | None = None,
        region: Tensor | None = None,
    ) -> io.NodeOutput:
        if (source_picture is None) != (target_picture is None):
            raise ProvokeError(
                "A text on one side and a picture on the other",
                "two texts or two pictures: CLIP keeps texts and pictures apart, and the gap between them would be "
                "most of the direction",
                "connect a picture to the other side as well, or write a text instead",
            )
        check_target(source_text, source_picture, "source_text", "source_picture")
        check_target(target_text, target_picture, "target_text", "target_picture")
        words = "between the pictures" if target_picture is not None else f"'{source_text}' to '{target_text}'"

        def objective(situation: Situation) -> Objective:
            return semantic.directional(
                situation.seen_by(scorer.judge.encode_images),
                situation.needs_default("direction"),
                vector(scorer, target_text, target_picture),
                vector(scorer, source_text, source_picture),
                cosine=measure == "cosine",
            )

        return one(Term(f"direction {words} ({measure})", objective, held=(scorer,), region=region))


class ClassObjective(io.ComfyNode):
    """What a classifier says of a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeClassObjective",
            display_name="Objective: Class (Classifier)",
            category="Provoke/objective",
            description="How sure a classifier is that a picture shows a class: its probability (0 to 1), or by how "
            "much its logit leads the best other one (the margin of Carlini and Wagner; positive where it wins).",
            search_aliases=["provoke", "classifier", "probability", "CW", "margin", "logit", "attack loss"],
            inputs=[
                ClassifierSocket.Input("classifier", tooltip="From Load Image Classifier or Zero-Shot Classifier."),
                io.String.Input("class_name", default="", tooltip="The class, by its name (or its number, from 0)."),
                io.Combo.Input(
                    "measure",
                    options=["margin", "probability"],
                    tooltip="margin still has a slope where the classifier is sure; probability is easier to read.",
                ),
                io.Float.Input(
                    "confidence",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    advanced=True,
                    tooltip="For the margin: where it stops counting, in logits (of how far it is behind, where less "
                    "of the class is wanted). Higher results transfer better to other judges.",
                ),
                region_input(),
            ],
            outputs=objective_output(),
        )

    @classmethod
    def execute(
        cls, classifier: Held, class_name: str, measure: str, confidence: float, region: Tensor | None = None
    ) -> io.NodeOutput:
        judge = classifier.judge
        index = one_of(class_name, judge.labels)

        def objective(situation: Situation) -> Objective:
            logits = situation.seen_by(judge.logits)
            if measure == "probability":
                return semantic.class_probability(logits, index)
            return semantic.margin(logits, index, confidence=confidence, absent=situation.absent)

        return one(Term(f"{measure} of '{judge.labels[index]}'", objective, held=(classifier,), region=region))


class CombineObjectives(io.ComfyNode):
    """A weighted sum of objectives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeCombineObjectives",
            display_name="Combine Objectives",
            category="Provoke/objective",
            description="Adds objectives by weight. A negative weight asks for less of one.",
            search_aliases=["provoke", "weighted sum", "add losses", "mix"],
            inputs=[
                ObjectiveSocket.Input("first", tooltip="An objective."),
                io.Float.Input(
                    "first_weight", default=1.0, min=-100.0, max=100.0, step=0.05, tooltip="Its weight, no unit."
                ),
                ObjectiveSocket.Input("second", tooltip="Another one. Chain this node for more."),
                io.Float.Input(
                    "second_weight", default=1.0, min=-100.0, max=100.0, step=0.05, tooltip="Its weight, no unit."
                ),
            ],
            outputs=objective_output(),
        )

    @classmethod
    def execute(cls, first: Parts, first_weight: float, second: Parts, second_weight: float) -> io.NodeOutput:
        return io.NodeOutput(Parts((*first.times(first_weight).terms, *second.times(second_weight).terms)))


def check_target(text: str, picture: Tensor | None, text_name: str, picture_name: str) -> None:
    """Raises ProvokeError where neither a text nor a picture is given, or the picture is none."""
    if picture is not None:
        pictures(picture, picture_name)
    elif not text.strip():
        raise ProvokeError(
            f"{text_name} is empty and no {picture_name} is connected",
            "a text or a picture",
            f"write into {text_name}, or connect {picture_name}",
        )


def vector(scorer: Held, text: str, picture: Tensor | None) -> Tensor:
    """The vector of a picture (of several: their mean), or of a text: D, of length 1. Within the judge's session."""
    judge = scorer.judge
    with torch.no_grad():
        if picture is None:
            return judge.encode_texts([text.strip()])[0]
        mean = judge.encode_images(pictures(picture, "picture")).mean(0)
        return torch.nn.functional.normalize(mean, dim=0)
