"""What both forms of the CLIP-targeted attack share: the objective that leads to a text or a reference picture.

Source: arXiv 2403.08294; augmented copies: Athalye et al. 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core import augment, objectives, semantic
from ..core.augment import Augmentation
from ..core.errors import ProvokeError
from ..core.objectives import Objective, WeightedSum
from ..host.api import io
from ..host.judges import Held, judging
from .measured import Verdict
from .objective import Make, ObjectiveSocket, Parts, ScorerSocket, Situation
from .objectives import check_target, vector

GUIDANCES = ["auto", "similarity", "direction (dot product)", "direction (cosine)"]


def inputs() -> list[io.Input]:
    """The sockets and widgets, in the order that workflows store. Nothing may be added here."""
    return [
        ScorerSocket.Input("scorer", tooltip="The judge that is followed: from Load CLIP Scorer."),
        io.String.Input("target_text", multiline=True, default="", tooltip="What the result is to show, in words."),
        io.String.Input(
            "source_text",
            default="",
            tooltip="What the usual result shows, in words. With it the direction from source to target is "
            "followed, without it the similarity to the target.",
        ),
        io.Combo.Input(
            "guidance",
            options=GUIDANCES,
            advanced=True,
            tooltip="auto: a direction where there is a source, else similarity. dot product is the paper's; "
            "cosine counts the direction alone.",
        ),
        io.Int.Input(
            "copies",
            default=4,
            min=0,
            max=64,
            advanced=True,
            tooltip="How many randomly changed copies of a result the scorer sees in each step (a little "
            "shift, turn, zoom, light, noise), so that the picture moves and not the scorer's blind spot. 0: "
            "the result itself. Copies cost runs of the scorer, not of the model.",
        ),
        io.Float.Input(
            "diversity",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.1,
            advanced=True,
            tooltip="How strongly the results of one image are pushed away from each other (a weight, no unit).",
        ),
        io.Image.Input("target_picture", optional=True, tooltip="A picture to move to, instead of a text."),
        io.Image.Input("source_picture", optional=True, tooltip="With target_picture: where to move from."),
        ScorerSocket.Input(
            "second_judge",
            optional=True,
            tooltip="Another scorer that is not followed: it says in the report whether the result is more "
            "than an attack on the first.",
        ),
    ]


def later_inputs() -> list[io.Input]:
    """What came later still. Nothing may be added here."""
    return [
        ObjectiveSocket.Input(
            "objective",
            optional=True,
            tooltip="What the result is to have more of besides, added to the score: a distance with a negative weight "
            "(Combine Objectives) keeps it near the usual one, a classifier makes the scorer harder to fool.",
        ),
    ]


@dataclass(frozen=True)
class Steering:
    """Where a search is led, and how its report is judged.

    objective: made when the results are known. judges: what it and the verdicts compute with. still: why there is
    nothing to search, if so. coupled: whether the results of one image are compared with each other. augment, copies:
    as in core.problem.ImageProblem.
    """

    objective: Make
    judges: list[Held]
    verdicts: list[Verdict]
    still: str
    coupled: bool
    augment: Augmentation | None
    copies: int


def steering(
    count: int,
    scorer: Held,
    target_text: str,
    source_text: str,
    guidance: str,
    copies: int,
    diversity: float,
    target_picture: Tensor | None = None,
    source_picture: Tensor | None = None,
    second_judge: Held | None = None,
    objective: Parts | None = None,
) -> Steering:
    """From what came in on `inputs`, for `count` results an image.

    Raises: ProvokeError for a target that is missing, or a guidance without a fitting source.
    """
    check_target(target_text, target_picture, "target_text", "target_picture")
    directed = _directed(guidance, source_text, target_picture, source_picture)
    judges = [scorer] if second_judge is None else [scorer, second_judge]
    with judging(*judges):
        targets = [vector(judge, target_text, target_picture).cpu() for judge in judges]
        source = vector(scorer, source_text, source_picture).cpu() if directed else None
    same = source is not None and semantic.same(targets[0], source)
    still = "source and target are the same" if same and objective is None else ""
    together = diversity > 0 and count > 1
    also = () if objective is None else objective.held

    def towards(situation: Situation) -> WeightedSum:
        default = situation.needs_default("target")
        embed, target = scorer.judge.encode_images, targets[0].to(default.device)
        if source is None:
            led = semantic.similarity(embed, target)
        else:
            cosine = guidance == "direction (cosine)"
            led = semantic.directional(embed, default, target, source.to(default.device), cosine=cosine)
        parts: dict[str, tuple[float, Objective]] = {"target": (1.0, led)}
        if objective is not None:
            parts["objective"] = (1.0, objective.build(situation))
        if together:
            parts["diversity"] = (diversity, objectives.pairwise_diversity(count, situation.region))
        return WeightedSum(parts)

    names = ("similarity to the target", "the second judge")
    return Steering(
        objective=towards,
        judges=[*judges, *(one for one in also if all(one is not judge for judge in judges))],
        verdicts=[
            *(
                Verdict(f"{name}, {held.judge.name}", similarity_to(held, target))
                for name, held, target in zip(names, judges, targets, strict=False)
            ),
            *([] if objective is None else [Verdict(objective.name, objective.build)]),
        ],
        still=still,
        coupled=together,
        augment=views() if copies else None,
        copies=max(1, copies),
    )


def views() -> augment.Augmentation:
    """Small random changes that keep what a picture shows. No flips: left and right are part of a meaning. Ours."""
    return augment.compose(
        augment.affine(degrees=5, translate=0.05, scale=0.08),
        augment.brightness_contrast(brightness=0.05, contrast=0.1),
        augment.pixel_noise(0.02),
    )


def _directed(guidance: str, source_text: str, target_picture: Tensor | None, source_picture: Tensor | None) -> bool:
    """Whether a direction is followed. Raises ProvokeError where one is asked for and there is no fitting source."""
    if source_picture is not None and target_picture is None:
        raise ProvokeError(
            "A picture as the source and a text as the target",
            "both in the same form: CLIP keeps texts and pictures apart",
            "connect target_picture as well, or write source_text instead",
        )
    there = source_picture is not None if target_picture is not None else bool(source_text.strip())
    if guidance.startswith("direction") and not there:
        name = "source_text" if target_picture is None else "source_picture"
        raise ProvokeError(
            f"guidance is '{guidance}' and there is no source",
            f"{name}: what the usual result shows",
            f"fill in {name}, or set guidance to auto or similarity",
        )
    return there and guidance != "similarity"


def similarity_to(held: Held, target: Tensor) -> Make:
    """Cosine between a picture and a target vector (D, of length 1), by a scorer."""

    def score(image: Tensor) -> Tensor:
        vectors = held.judge.encode_images(image)
        return (vectors * target.to(vectors)).sum(-1)

    return lambda situation: score
