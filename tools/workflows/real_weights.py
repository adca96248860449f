"""Templates for real checkpoints, one for each method: wired and checked here, run where their files are."""

from __future__ import annotations

from typing import Any

from ..canvas import Canvas, Wire
from . import parts
from .parts import checkpoint, decoded, encoded, needs, saved, seen, told

NOT_RUN = (
    "\n\nThe pack's tests check how this graph is wired, and run its method on small models; with these weights they "
    "have not run it."
)
SCORER = f"`models/provoke_clip/{parts.CLIP_L}` (openai/{parts.CLIP_L}; the help of *Load CLIP Scorer* has the command)"
XL: dict[str, Any] = {"steps": 25, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}


def _note(canvas: Canvas, title: str, files: list[str], words: str) -> None:
    """The note: what it needs comes first."""
    needed = "\n".join(f"- {file}" for file in files)
    canvas.note(f"### {title}\n\n**Needs:**\n{needed}\n\n{words}{NOT_RUN}", size=(460, 420))


def _file(file: parts.File) -> str:
    return f"`models/{file.folder}/{file.name}`"


def vary_upscaler(canvas: Canvas) -> dict[str, Any]:
    _note(
        canvas,
        "How steady is your upscaler?",
        [_file(parts.UPSCALER) + ", or any model of *Load Upscale Model*", "a photo of your own, 512 pixels or less"],
        "**Vary Result** changes the photo by less than you see and lets the same frozen model enlarge it four times. "
        "An upscaler's answer is determined by its input, so expect little; a restorer, an inpainter or a coloriser "
        "in the same place can be moved far.",
    )
    canvas.group("1. A photo and a frozen model")
    photo = canvas.add("LoadImage", size=(320, 340), image="example.png")["IMAGE"]
    model = canvas.add("UpscaleModelLoader", models=parts.UPSCALER.model(), model_name=parts.UPSCALER.name)
    canvas.group("2. Search a change too small to see")
    found = canvas.add(
        "ProvokeUntargetedAttack", model=model["UPSCALE_MODEL"], image=photo, epsilon=4.0, truncation="clip"
    )
    canvas.group("3. What came of it")
    saved(canvas, found["results"], "varied-upscaling", "other answers to the same-looking photo")
    canvas.column()
    seen(canvas, found["unperturbed"], "what the model always answers")
    seen(canvas, found["comparison"], "before, after and the amplified difference, in one picture")
    canvas.column()
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.UPSCALER.name, "a photo"))


def steer_upscaler(canvas: Canvas) -> dict[str, Any]:
    _note(
        canvas,
        "Lead a frozen model's answer to a text",
        [_file(parts.UPSCALER) + ", or any model of *Load Upscale Model*", SCORER, "a photo of your own"],
        "**Steer Result** changes the photo by less than you see until a CLIP finds more of `target_text` (and less of "
        "`source_text`) in what the frozen model answers. Where a model has to invent, that reaches far; an upscaler's "
        "input determines most of its answer.",
    )
    canvas.group("1. A photo, a frozen model, a judge")
    photo = canvas.add("LoadImage", size=(320, 340), image="example.png")["IMAGE"]
    model = canvas.add("UpscaleModelLoader", models=parts.UPSCALER.model(), model_name=parts.UPSCALER.name)
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    canvas.group("2. Search a change too small to see")
    found = canvas.add(
        "ProvokeClipTargetedAttack",
        model=model["UPSCALE_MODEL"],
        image=photo,
        scorer=judge,
        epsilon=8.0,
        truncation="clip",
        count=2,
        source_text="a blurred photo",
        target_text="a photo of rough, weathered stone",
    )
    canvas.group("3. What came of it")
    saved(canvas, found["results"], "steered-upscaling", "answers led to the text")
    canvas.column()
    seen(canvas, found["unperturbed"], "what the model always answers")
    seen(canvas, found["comparison"], "before, after and the amplified difference, in one picture")
    canvas.column()
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.UPSCALER.name, parts.CLIP_L, "a photo"))


def vary_turbo(canvas: Canvas) -> dict[str, Any]:
    prompt = "portrait of an old sailor, soft light"
    _note(
        canvas,
        "Diversity for a model that hardly reacts to the seed",
        [_file(parts.TURBO), SCORER],
        "Distilled models draw nearly the same picture for every seed. **Vary Sampling** searches small changes of the "
        "conditioning that make four results of one seed differ most, while a CLIP sees to it that they still match "
        "`keep_text`. Diversity costs adherence: `keep` and `epsilon` trade one for the other, and the report "
        "says both.\n\nPut Z-Image-Turbo, Qwen-Image-Lightning or a LoRA of that kind in the checkpoint's place.",
    )
    canvas.group("1. A few-step model, a prompt, a judge")
    start = checkpoint(canvas, parts.TURBO, prompt, 512)
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    canvas.group("2. KSampler, with a search")
    found = canvas.add(
        "ProvokeUntargetedAttackSampler",
        **start.sampled(),
        scorer=judge,
        keep_text=prompt,
        keep=5.0,
        noise_seed=1,
        steps=2,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        search_steps=15,
    )
    canvas.group("3. What came of it")
    varied = decoded(canvas, found["results"], start.vae)
    usual = decoded(canvas, found["unperturbed"], start.vae)
    saved(canvas, varied, "varied-turbo", "four results of one seed")
    seen(canvas, usual, "what KSampler gives for that seed")
    canvas.column()
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.TURBO.name, parts.CLIP_L))


def steer_sd15(canvas: Canvas) -> dict[str, Any]:
    _note(
        canvas,
        "The same prompt and seed, led to another text",
        [_file(parts.SD15), SCORER],
        "**Steer Sampling** changes what the prompt became (the conditioning) by at most `epsilon` of its own size, "
        "until a CLIP finds `target_text` in the picture. Neither the model nor the seed changes. **Save "
        "Conditioning** keeps what was found, for any other workflow with this model.",
    )
    canvas.group("1. A checkpoint, a prompt, a judge")
    start = checkpoint(canvas, parts.SD15, "a photo of a cat on a sofa", 512, "blurry")
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    canvas.group("2. KSampler, with a search")
    found = canvas.add(
        "ProvokeClipTargetedAttackSampler",
        **start.sampled(),
        scorer=judge,
        noise_seed=42,
        steps=20,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        count=1,
        source_text="a photo of a cat",
        target_text="a photo of a fox",
    )
    kept = canvas.add("ProvokeSaveConditioning", conditioning=found["positive"], filename_prefix="cat-to-fox")
    canvas.group("3. What came of it")
    steered = decoded(canvas, found["results"], start.vae)
    usual = decoded(canvas, found["unperturbed"], start.vae)
    saved(canvas, steered, "steered-sd15", "the prompt, led to the other text")
    seen(canvas, usual, "what KSampler gives for that prompt and seed")
    canvas.column()
    told(canvas, kept["report"], "Where it was saved", 120)
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.SD15.name, parts.CLIP_L))


def search_flux(canvas: Canvas) -> dict[str, Any]:
    prompt = "a glass teapot left of a stack of three books, on a wooden table"
    _note(
        canvas,
        "A noise that satisfies the prompt (Flux)",
        [_file(parts.FLUX), SCORER],
        "**Search Noise, Custom** has the sockets of *SamplerCustomAdvanced*: guidance, schedule and sampler are those "
        "of any Flux workflow. It moves the seed's noise, within `epsilon` standard deviations, to where a CLIP finds "
        "more of the text, and tests whether what it has found still looks like a noise.\n\nA gradient through a model "
        "of this size needs memory: *one-step* follows the last prediction alone. **Latent from Noise** and *Save "
        "Latent* keep what was found.",
    )
    canvas.group("1. A checkpoint, a prompt, a judge")
    loaded = canvas.add("CheckpointLoaderSimple", models=parts.FLUX.model(), ckpt_name=parts.FLUX.name)
    latent = canvas.add("EmptyLatentImage", width=768, height=768, batch_size=1)["LATENT"]
    words = canvas.add("CLIPTextEncode", title="Prompt", size=(320, 130), clip=loaded["CLIP"], text=prompt)
    guided = canvas.add("FluxGuidance", conditioning=words["CONDITIONING"], guidance=3.5)["CONDITIONING"]
    canvas.column()
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    objective = canvas.add("ProvokeClipObjective", scorer=judge, text=prompt)["objective"]
    canvas.group("2. SamplerCustomAdvanced's parts")
    noise = canvas.add("RandomNoise", noise_seed=7)["NOISE"]
    guider = canvas.add("BasicGuider", model=loaded["MODEL"], conditioning=guided)["GUIDER"]
    sampler = canvas.add("KSamplerSelect", sampler_name="euler")["SAMPLER"]
    sigmas = canvas.add("BasicScheduler", model=loaded["MODEL"], scheduler="simple", steps=20, denoise=1.0)["SIGMAS"]
    canvas.group("3. Search Noise")
    found = canvas.add(
        "ProvokeLatentSearchCustom",
        noise=noise,
        guider=guider,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=latent,
        vae=loaded["VAE"],
        objective=objective,
        direction="satisfy",
        route="one-step",
        search_steps=20,
    )
    kept = canvas.add("ProvokeLatentFromNoise", noise=found["noise"], latent_image=latent)["latent"]
    canvas.add("SaveLatent", samples=kept, filename_prefix="latents/provoke-flux")
    canvas.group("4. What came of it")
    searched = decoded(canvas, found["output"], loaded["VAE"])
    usual = decoded(canvas, found["unperturbed"], loaded["VAE"])
    saved(canvas, searched, "searched-flux", "the prompt at the noise found")
    seen(canvas, usual, "the prompt at the seed's own noise")
    canvas.column()
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.FLUX.name, parts.CLIP_L))


def seeds_sdxl(canvas: Canvas) -> dict[str, Any]:
    prompt = "a red bicycle leaning on a blue door"
    _note(
        canvas,
        "The best of sixteen seeds (SDXL)",
        [_file(parts.SDXL), SCORER],
        "**Best of Seeds** draws sixteen seeds, lets a CLIP judge each, and keeps the best two. No gradient, so it "
        "works with every model and sampler: what a search has to beat. Its `seeds` go into any KSampler.",
    )
    canvas.group("1. A checkpoint, a prompt, a judge")
    start = checkpoint(canvas, parts.SDXL, prompt, 1024, "blurry, low quality")
    canvas.column()
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    objective = canvas.add("ProvokeClipObjective", scorer=judge, text=prompt)["objective"]
    canvas.group("2. KSampler, with many seeds")
    found = canvas.add("ProvokeBestOfSeeds", **start.sampled(), objective=objective, **XL, noise_seed=1, keep=2)
    canvas.group("3. What came of it")
    saved(canvas, decoded(canvas, found["output"], start.vae), "best-seeds-sdxl", "the best two of sixteen seeds")
    canvas.column()
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.SDXL.name, parts.CLIP_L))


def token_sd15(canvas: Canvas) -> dict[str, Any]:
    _note(
        canvas,
        "Teach the text encoder a word (SD1.5)",
        [_file(parts.SD15), SCORER],
        "**Learn Token** searches a vector that stands in a prompt like a word and brings a black umbrella into its "
        "pictures, beside what the prompt says. **Save Embedding** writes it into `models/embeddings`, as every "
        "workflow reads it. With reference pictures at *picture* of the objective it is textual inversion.",
    )
    canvas.group("1. A checkpoint, and what is wanted")
    loaded = canvas.add("CheckpointLoaderSimple", models=parts.SD15.model(), ckpt_name=parts.SD15.name)
    negative = canvas.add(
        "CLIPTextEncode", title="Negative", size=(320, 130), clip=loaded["CLIP"], text="blurry, low quality"
    )
    latent = canvas.add("EmptyLatentImage", width=512, height=512, batch_size=1)["LATENT"]
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    objective = canvas.add("ProvokeClipObjective", scorer=judge, text="{prompt}, with a black umbrella")["objective"]
    canvas.group("2. Learn the token")
    found = canvas.add(
        "ProvokeAdversarialToken",
        clip=loaded["CLIP"],
        model=loaded["MODEL"],
        vae=loaded["VAE"],
        negative=negative["CONDITIONING"],
        latent_image=latent,
        objective=objective,
        steps=12,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        route="one-step",
        prompts="a photo of a man in the street\na photo of a dog at the beach\na photo of a woman in a park",
        initial_word="umbrella",
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
    _note(
        canvas,
        "Prompts that a model draws wrongly (SD1.5)",
        [
            _file(parts.SD15),
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
    loaded = canvas.add("CheckpointLoaderSimple", models=parts.SD15.model(), ckpt_name=parts.SD15.name)
    negative = canvas.add(
        "CLIPTextEncode", title="Negative", size=(320, 130), clip=loaded["CLIP"], text="blurry, low quality"
    )
    latent = canvas.add("EmptyLatentImage", width=512, height=512, batch_size=1)["LATENT"]
    judge = canvas.add("ProvokeLoadScorer", scorer=parts.CLIP_L)["scorer"]
    objective = canvas.add("ProvokeClipObjective", scorer=judge, text="{prompt}")["objective"]
    language = canvas.add("ProvokeLoadLanguageModel", language=parts.GPT2)["language"]
    canvas.group("2. Search the words")
    found = canvas.add(
        "ProvokePromptSearch",
        clip=loaded["CLIP"],
        model=loaded["MODEL"],
        vae=loaded["VAE"],
        negative=negative["CONDITIONING"],
        latent_image=latent,
        language=language,
        objective=objective,
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


def inversion_sd15(canvas: Canvas) -> dict[str, Any]:
    prompt = "a red cube left of a blue sphere"
    _note(
        canvas,
        "A picture straight from what BLIP-2 says of it (SD1.5)",
        [
            _file(parts.SD15),
            f"`models/provoke_vlm/{parts.VLMS[0]}` (Salesforce/{parts.VLMS[0]}: does the text match?)",
            f"`models/provoke_vlm/{parts.VLMS[1]}` (Salesforce/{parts.VLMS[1]}: is it the caption?)",
        ],
        "**VLM Inversion Sampler** moves the latent to where the VLM says that the picture matches the sentence; "
        "the diffusion model keeps it natural. Both VLMs are large: leave the second out (connect the first alone) "
        "where memory is short. What a VLM's folder holds: help of *Load VLM*.",
    )
    canvas.group("1. A checkpoint, a prompt, a judge in two parts")
    start = checkpoint(canvas, parts.SD15, f"A photo exactly contains {prompt}", 512, "blurry, low quality")
    canvas.column()
    first = canvas.add("ProvokeLoadVlm", vlm=parts.VLMS[0])["vlm"]
    judge = canvas.add("ProvokeLoadVlm", vlm=parts.VLMS[1], together_with=first)["vlm"]
    canvas.group("2. The latent, moved to where the judge agrees")
    found = canvas.add("ProvokeVlmInversionSampler", **start.sampled(), vlm=judge, prompt=prompt)
    canvas.group("3. What came of it")
    saved(canvas, decoded(canvas, found["output"], start.vae), "inversion-sd15", "what the judge says matches")
    canvas.column()
    told(canvas, found["report"])
    return canvas.graph(**needs(parts.SD15.name, *parts.VLMS))


def scorer_sdxl(canvas: Canvas) -> dict[str, Any]:
    prompt = "a lighthouse on a cliff at dusk"
    _note(
        canvas,
        "A judge made of the CLIP that you have loaded anyway",
        [_file(parts.SDXL), _file(parts.VISION_G)],
        "SDXL's second text encoder (CLIP-G) comes with its text projection, so with the picture side of the same "
        "CLIP it is a judge: **CLIP Scorer from CLIP and CLIP Vision**. Here it ranks four seeds, and **Pick Best** "
        "keeps one. A CLIP-L file often lacks its projection; the node says so.",
    )
    canvas.group("1. A checkpoint and a prompt")
    loaded = canvas.add("CheckpointLoaderSimple", models=parts.SDXL.model(), ckpt_name=parts.SDXL.name)
    latent = canvas.add("EmptyLatentImage", width=1024, height=1024, batch_size=4)["LATENT"]
    positive, negative = encoded(canvas, loaded["CLIP"], prompt, "blurry, low quality")
    canvas.group("2. Draw four")
    drawn = _sampled(canvas, loaded["MODEL"], positive, negative, latent)
    images = decoded(canvas, drawn, loaded["VAE"])
    canvas.group("3. The checkpoint's own CLIP as a judge")
    vision = canvas.add("CLIPVisionLoader", models=parts.VISION_G.model(), clip_name=parts.VISION_G.name)
    scorer = canvas.add("ProvokeScorerFromClip", clip=loaded["CLIP"], clip_vision=vision["CLIP_VISION"])["scorer"]
    objective = canvas.add("ProvokeClipObjective", scorer=scorer, text=prompt)["objective"]
    canvas.column()
    scores = canvas.add("ProvokeScoreImages", images=images, objective=objective)
    best = canvas.add("ProvokePickBest", scores=scores["scores"], images=images)
    canvas.group("4. What came of it")
    saved(canvas, best["images"], "judged-sdxl", "the seed that the judge likes best")
    seen(canvas, images, "all four")
    canvas.column()
    told(canvas, scores["report"])
    return canvas.graph(**needs(parts.SDXL.name, parts.VISION_G.name))


def _sampled(canvas: Canvas, model: Wire, positive: Wire, negative: Wire, latent: Wire) -> Wire:
    """KSampler with SDXL's usual settings."""
    inputs: dict[str, Any] = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return canvas.add("KSampler", **inputs, **XL, seed=1, denoise=1.0)["LATENT"]


TEMPLATES = {
    "Vary a real upscaler (needs RealESRGAN)": vary_upscaler,
    "Steer a real upscaler (needs RealESRGAN, CLIP)": steer_upscaler,
    "Vary a turbo model (needs SDXL Turbo, CLIP)": vary_turbo,
    "Steer a prompt (needs SD1.5, CLIP)": steer_sd15,
    "Search noise (needs Flux, CLIP)": search_flux,
    "Best of seeds (needs SDXL, CLIP)": seeds_sdxl,
    "Learn a token (needs SD1.5, CLIP)": token_sd15,
    "Search a prompt (needs SD1.5, CLIP, GPT-2)": prompt_sd15,
    "Match a sentence (needs SD1.5, BLIP-2)": inversion_sd15,
    "Judge by the CLIP of SDXL (needs SDXL, CLIP Vision)": scorer_sdxl,
}
