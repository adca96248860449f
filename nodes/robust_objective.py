"""Objective: Robust Class (Ensemble): a failure counts only if several judges agree, one of them by the edges alone.

Source: SAGE (arXiv 2306.00974): an ensemble of classifiers and a member that sees only a Canny edge map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..core import semantic
from ..core.agreement import Agreement
from ..core.objectives import Objective
from ..host.api import io, schema
from ..host.judges import Held
from .load_judges import in_words
from .objective import ClassifierSocket, Parts, Situation, Term, one_of, one_within
from .objectives import objective_output, region_input

MEASURES = ("margin", "paper")
TOGETHER = ("weakest", "sum")
SOFTNESS = {"margin": 0.5, "paper": 0.05}  # of the soft minimum: in logits, in 2 p - 1


class RobustClassObjective(io.ComfyNode):
    """What several classifiers say of a picture, together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeRobustClassObjective",
            display_name="Objective: Robust Class (Ensemble)",
            category="Provoke/objective",
            description="How sure several classifiers are that a picture shows a class, as one score, so that a search "
            "has to change the picture and not fool one judge. Where less of it is wanted (break), all of them have to "
            "miss the class. One of them may see the picture's edges alone. Score Images says what each judge says, "
            "and whether all agree.",
            search_aliases=["provoke", "SAGE", "surrogate", "ensemble", "Canny", "edges", "vote", "agreement", "CW"],
            inputs=[
                ClassifierSocket.Input(
                    "classifier",
                    tooltip="From Load Image Classifier or Zero-Shot Classifier. The members of a chained one are "
                    "asked one by one.",
                ),
                io.String.Input(
                    "class_name",
                    default="",
                    tooltip="The class, by its name (or its number in the first classifier, from 0). A judge with "
                    "coarser labels is asked for the one that lies within it: 'circle' for 'red circle'.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    tooltip="margin: by how many logits the class leads, of each judge. paper: 2 p - 1 of each, for "
                    "its probability p, as SAGE has it; flat where a judge is sure. Both are above 0 where a judge "
                    "says so.",
                ),
                io.Combo.Input(
                    "together",
                    options=list(TOGETHER),
                    tooltip="weakest: a soft minimum; above 0 only where all judges agree. With break, or a negative "
                    "weight, a soft maximum: below 0 only where none finds the class. sum: all added up, as SAGE has "
                    "it; may be high although one judge disagrees.",
                ),
                io.Float.Input(
                    "confidence",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    advanced=True,
                    tooltip="For the margin: where a judge's lead stops counting, in logits (of how far it is behind, "
                    "where less of the class is wanted). Higher results transfer better to other judges.",
                ),
                io.Float.Input(
                    "edge_sigma",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Canny's Gaussian, in pixels of the size that the edge classifier sees.",
                ),
                io.Float.Input(
                    "edge_low",
                    default=0.05,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Canny's lower threshold, in contrast: a step from black to white has 1 unblurred, 0.62 "
                    "with a sigma of 1.",
                ),
                io.Float.Input(
                    "edge_high",
                    default=0.1,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Canny's upper threshold, in the same unit: an edge must reach it somewhere.",
                ),
                ClassifierSocket.Input(
                    "second_classifier", optional=True, tooltip="Another judge; its labels may be others."
                ),
                ClassifierSocket.Input("third_classifier", optional=True, tooltip="Another judge."),
                ClassifierSocket.Input(
                    "edge_classifier",
                    optional=True,
                    tooltip="A classifier that was trained on edge maps (of the demo's: provoke-demo-edge-resnet). It "
                    "sees the picture's Canny edges and nothing else, so colour and texture cannot fool it.",
                ),
                region_input(),
            ],
            outputs=objective_output(),
        )

    @classmethod
    def execute(
        cls,
        classifier: Held,
        class_name: str,
        measure: str,
        together: str,
        confidence: float,
        edge_sigma: float,
        edge_low: float,
        edge_high: float,
        second_classifier: Held | None = None,
        third_classifier: Held | None = None,
        edge_classifier: Held | None = None,
        region: Tensor | None = None,
    ) -> io.NodeOutput:
        held = [one for one in (classifier, second_classifier, third_classifier) if one is not None]
        judges = [member for one in held for member in getattr(one.judge, "members", (one.judge,))]
        if edge_classifier is not None:
            from ..scorers.edges import Canny, of_edges

            canny = in_words(Canny, edge_sigma, edge_low, edge_high)
            judges.append(in_words(of_edges, edge_classifier.judge, canny))
            held.append(edge_classifier)
        said = judges[0].labels[one_of(class_name, judges[0].labels)] if class_name.strip().isdigit() else class_name
        members: dict[str, Callable[[Situation], Objective]] = {}
        for judge in judges:
            name = judge.name
            while name in members:  # two of a name stay two
                name += "'"
            members[name] = _member(judge, one_within(said, judge.labels), measure)

        def objective(situation: Situation) -> Objective:
            return Agreement(
                {name: make(situation) for name, make in members.items()},
                softness=SOFTNESS[measure] if together == "weakest" else None,
                confidence=confidence if measure == "margin" else math.inf,
                absent=situation.absent,
            )

        term = Term(f"{measure} of '{said.strip()}', {together} of {len(judges)}", objective, 1.0, tuple(held), region)
        return io.NodeOutput(Parts((term,)))


def _member(judge: Any, index: int, measure: str) -> Callable[[Situation], Objective]:
    """What one judge says of its class number `index`; positive where it says so. How much of it counts, the agreement
    decides."""

    def make(situation: Situation) -> Objective:
        logits = situation.seen_by(judge.logits)
        if measure == "paper":
            return semantic.surrogate(logits, index)
        return semantic.margin(logits, index, confidence=math.inf)

    return make
