"""Templates of the methods that write words, for real weights: a token, a prompt."""

from __future__ import annotations

from typing import Any

from ..canvas import Canvas
from . import parts
from .parts import needs, saved, seen, told
from .real_weights import SCORER, file, note


def _start(canvas: Canvas, wish: str) -> dict[str, Any]:
    """A checkpoint, a negative prompt, a latent, and a CLIP's likeness to the wish: sockets of what writes prompts."""
    loaded = canvas.add("CheckpointLoaderSimple", models=parts.SD15.model(), ckpt_name=parts.SD15.name)
    negative = canvas.add(
        "CLIPTextEncode", title="Negative", size=(320, 130), clip=loaded["CLIP"], text="blurry, low quality"
    )
    latent = canvas.add("EmptyLatentImage", width=512, height=512, batch_size=1)["LATENT"]
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    objective = canvas.add("ProvokeClipObjective", scorer=judge, text=wish)["objective"]
    models = {"clip": loaded["CLIP"], "model": loaded["MODEL"], "vae": loaded["VAE"]}
    return {**models, "negative": negative["CONDITIONING"], "latent_image": latent, "objective": objective}


def token_sd15(canvas: Canvas) -> dict[str, Any]:
    note(
        canvas,
        "Teach the text encoder a word (SD1.5)",
        [file(parts.SD15), SCORER],
        "**Learn Token** searches vectors that stand in a prompt like words and bring a black umbrella into its "
        "pictures, beside what the prompt says. It starts from the words themselves (`initial_word`, a vector for "
        "each) and stays near them, which is the way that works on the pack's demo models. **Save Embedding** writes "
        "it into `models/embeddings`, as every workflow reads it. With reference pictures at *picture* of the "
        "objective it is textual inversion.",
    )
    canvas.group("1. A checkpoint, and what is wanted")
    sockets = _start(canvas, "{prompt}, with a black umbrella")
    canvas.group("2. Learn the token")
    found = canvas.add(
        "ProvokeAdversarialToken",
        **sockets,
        steps=12,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        route="one-step",
        prompts="a photo of a man in the street\na photo of a dog at the beach\na photo of a woman in a park",
        vectors=4,
        initial_word="with a black umbrella",
        epsilon=0.5,
        step_size=0.025,
        name="black-umbrella",
    )
    canvas.group("3. Save it, and look")
    kept = canvas.add("ProvokeSaveEmbedding", embedding=found["embedding"])
    saved(canvas, found["images"], "token-sd15", "the prompts with the learned token")
    canvas.column()
    seen(canvas, found["unperturbed"], "the same prompts and seed without it")
    told(canvas, kept["report"], "Where it was saved", 120)
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.SD15.name, parts.CLIP_L))


def prompt_sd15(canvas: Canvas) -> dict[str, Any]:
    note(
        canvas,
        "Prompts that a model draws wrongly (SD1.5)",
        [
            file(parts.SD15),
            SCORER,
            f"`models/provoke_language/{parts.GPT2}` (openai-community/{parts.GPT2}, or any causal language model: the "
            "help of *Load Language Model* says what it holds)",
        ],
        "**Search Prompt** lets a language model write the words in the template's slots, and keeps the sentences "
        "whose pictures match their own words least by a CLIP, over several seeds: ordinary prompts that this "
        "checkpoint does not follow. *satisfy* finds those that it follows best. *evolution* needs no gradient; "
        "*gradient* is SAGE's own way.\n\n`context` tells the language model what kind of text it writes; the "
        "checkpoint does not see it. **Failure Report** keeps prompts, seeds, scores and pictures.",
    )
    canvas.group("1. A checkpoint, a judge, a language model")
    sockets = _start(canvas, "{prompt}")
    language = canvas.add("ProvokeLoadLanguageModel", language=parts.GPT2)["language"]
    canvas.group("2. Search the words")
    found = canvas.add(
        "ProvokePromptSearch",
        **sockets,
        language=language,
        template="a photo of a {colour} bicycle {more:8}",
        direction="break",
        must_stay="bicycle",
        must_not_come="no, without",
        context="Captions of photographs:",
        method="evolution",
        search_steps=60,
        seeds=3,
        steps=20,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
    )
    canvas.group("3. What came of it")
    saved(canvas, found["images"], "prompts-sd15", "the prompts that it follows least, with every seed")
    seen(canvas, found["plain"], "the template's own words")
    canvas.column()
    told(canvas, found["prompts"], "The prompts", 160)
    told(canvas, found["report"])
    canvas.column()
    canvas.add(
        "ProvokeFailureReport",
        images=found["images"],
        prompts=found["prompts"],
        seed=found["seeds"],
        scores=found["judged"],
        notes="SD1.5, euler, 20 steps, cfg 7",
        filename_prefix="failures/bicycle",
    )
    return canvas.graph(**needs(parts.SD15.name, parts.CLIP_L, parts.GPT2))


TEMPLATES = {
    "Learn a token (needs SD1.5, CLIP)": token_sd15,
    "Search a prompt (needs SD1.5, CLIP, GPT-2)": prompt_sd15,
}
