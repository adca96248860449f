"""Templates on the demo world, which run with no download."""

from __future__ import annotations

from typing import Any

from ..canvas import Canvas
from .parts import FEW, decoded, demo, needs, read, saved, seen, told

SCENE = "a pink square below a yellow square"


def report_a_failure(canvas: Canvas) -> dict[str, Any]:
    """Robust class, Search Noise, Score Images, Failure Report."""
    canvas.note(
        "### A failure that several judges agree on\n\n"
        "A search that follows one classifier often finds a picture that fools that classifier. **Objective: Robust "
        "Class** is above 0 only where all its judges say the class: here two classifiers, and one that sees the "
        "picture's edges alone. **Search Noise** looks for noises at which the prompt *a red circle* gives what all "
        "three call a ring.\n\n"
        "**Score Images** says which judge said what, and **Failure Report** keeps it: a contact sheet, a JSON with "
        "the prompt, the seed, the scores and the workflow, and the noise itself. Drop the sheet onto the page, and "
        "this graph opens again.\n\n"
        "Press **Run**. Then try `epsilon` 0.7, `together` *sum*, another class (*red square*), or the objective with "
        "one classifier alone: is what it finds a ring to you as well, and to **Read Demo Scene**?"
    )
    canvas.group("1. A model and a prompt")
    start = demo(canvas, "a red circle")
    canvas.group("2. Three judges, one objective")
    judges = [canvas.add("ProvokeLoadClassifier", classifier=f"provoke-demo-{n}") for n in ("resnet", "hgnet")]
    edges = canvas.add("ProvokeLoadClassifier", title="Sees edges alone", classifier="provoke-demo-edge-resnet")
    canvas.column()
    objective = canvas.add(
        "ProvokeRobustClassObjective",
        class_name="red ring",
        classifier=judges[0]["classifier"],
        second_classifier=judges[1]["classifier"],
        edge_classifier=edges["classifier"],
    )["objective"]
    canvas.group("3. Noises at which the prompt fails")
    found = canvas.add(
        "ProvokeLatentSearch",
        **start.sampled(),
        objective=objective,
        noise_seed=20,
        **FEW,
        search_steps=25,
        route="one-step",
        direction="satisfy",
        count=4,
        keep=4,
        epsilon=1.4,
        budget="turn",
        step_size=0.2,
    )
    canvas.group("4. Judge and keep")
    images = decoded(canvas, found["output"], start.vae)
    usual = decoded(canvas, found["unperturbed"], start.vae)
    scores = canvas.add("ProvokeScoreImages", images=images, objective=objective)
    report = canvas.add(
        "ProvokeFailureReport",
        shows="the contact sheet of Failure Report: every judge's word under each picture",
        images=images,
        scores=scores["scores"],
        noise=found["noise_latent"],
        prompts="a red circle",
        seed=20,
        notes="the demo's model, 6 steps of euler, cfg 1",
        filename_prefix="provoke/failures/red-circle",
    )
    canvas.group("5. What came of it")
    saved(canvas, images, "agreed-failures", "one prompt at the noises found")
    seen(canvas, usual, "what KSampler gives for that prompt and these seeds")
    canvas.column()
    read(canvas, images)
    told(canvas, scores["report"], "Which judge said what", 260)
    told(canvas, found["report"])
    canvas.column()
    told(canvas, report["json"], "The report's JSON", 700)
    return canvas.graph()


def sampler_form_of_inversion(canvas: Canvas) -> dict[str, Any]:
    """VLM Inversion as a SAMPLER."""
    canvas.note(
        "### A judge in the sampler's place\n\n"
        "**VLM Inversion (SAMPLER)** is the *VLM Inversion Sampler* for *SamplerCustomAdvanced*: instead of removing "
        "noise it moves the latent to where a vision-language model says that the picture matches the sentence.\n\n"
        "The other sockets then mean: `guider` the model that keeps the picture natural (its `cfg` is the guidance "
        "of that), `sigmas` the noise levels that the model is asked at (not a number of steps), `noise` and "
        "`latent_image` where the search starts. `steps` on the node counts the gradient steps.\n\n"
        "Press **Run**. Then try 160 steps and 10 copies (the defaults), another sentence in both places, `sds` 0 (the "
        "judge alone: look what pleases it). Its report comes beneath the chart on *SamplerCustomAdvanced* when it is "
        "over."
    )
    canvas.group("1. A model, a prompt, a judge in two parts")
    start = demo(canvas, SCENE)
    canvas.column()
    first = canvas.add("ProvokeLoadVlm", vlm="provoke-demo-blip2-itm")
    judge = canvas.add("ProvokeLoadVlm", vlm="provoke-demo-blip2-opt", together_with=first["vlm"])
    canvas.group("2. The usual picture, to start from")
    usual = canvas.add(
        "KSampler",
        seed=400,
        **FEW,
        denoise=1.0,
        model=start.model,
        positive=start.positive,
        negative=start.negative,
        latent_image=start.latent,
    )["LATENT"]
    canvas.group("3. SamplerCustomAdvanced's parts")
    noise = canvas.add("RandomNoise", noise_seed=400)
    guider = canvas.add("CFGGuider", model=start.model, positive=start.positive, negative=start.negative, cfg=8.0)
    sigmas = canvas.add("BasicScheduler", model=start.model, scheduler="simple", steps=20, denoise=0.95)
    canvas.column()
    sampler = canvas.add("ProvokeVlmInversion", vae=start.vae, vlm=judge["vlm"], prompt=SCENE, steps=40, copies=2)
    canvas.column()
    found = canvas.add(
        "SamplerCustomAdvanced",
        noise=noise["NOISE"],
        guider=guider["GUIDER"],
        sampler=sampler["sampler"],
        sigmas=sigmas["SIGMAS"],
        latent_image=usual,
    )
    after = decoded(canvas, found["output"], start.vae)
    before = decoded(canvas, usual, start.vae)
    both = canvas.add("ProvokeComparePictures", before=before, after=after)
    canvas.group("4. What came of it")
    saved(canvas, after, "inversion-as-sampler", "what the judge says matches the sentence")
    seen(canvas, before, "what KSampler gives for that prompt and seed")
    canvas.column()
    read(canvas, after)
    seen(
        canvas,
        both["comparison"],
        "before, after and their difference, amplified, in one picture",
        "Before, after, difference",
        (620, 340),
    )
    return canvas.graph()


def follow_a_vlm(canvas: Canvas) -> dict[str, Any]:
    """Objective: Matches the Text, for seeds, and for a search of the noise."""
    canvas.note(
        "### A sentence, read by a vision-language model\n\n"
        "**Objective: Matches the Text (VLM)** gives any search a judge that reads the whole sentence: what is what "
        "colour, and where. Here two nodes follow it: **Best of Seeds** draws twelve seeds and keeps the best, and "
        "**Search Noise** moves one seed's noise until the picture matches (`direction` *satisfy*).\n\n"
        "The scores are log probabilities: at most 0, higher is better. **Read Demo Scene** is no judge of the search "
        "but a measurement of what the pictures show.\n\n"
        "Press **Run**. Then write another sentence into the prompt and into the objective, or only into the "
        "objective. What the same judge does without a sampler in between: *Match a sentence*."
    )
    canvas.group("1. A model and a prompt")
    start = demo(canvas, SCENE)
    canvas.group("2. A judge, and a sentence")
    first = canvas.add("ProvokeLoadVlm", vlm="provoke-demo-blip2-itm")
    judge = canvas.add("ProvokeLoadVlm", vlm="provoke-demo-blip2-opt", together_with=first["vlm"])
    objective = canvas.add("ProvokeVlmObjective", vlm=judge["vlm"], text=SCENE)["objective"]
    canvas.group("3. Seeds, and a noise")
    seeds = canvas.add("ProvokeBestOfSeeds", **start.sampled(), objective=objective, noise_seed=400, **FEW, seeds=12)
    canvas.column()
    found = canvas.add(
        "ProvokeLatentSearch",
        **start.sampled(),
        objective=objective,
        noise_seed=400,
        **FEW,
        search_steps=15,
        route="one-step",
        direction="satisfy",
        epsilon=1.0,
        budget="turn",
        step_size=0.2,
    )
    canvas.column()
    best = decoded(canvas, seeds["output"], start.vae)
    searched = decoded(canvas, found["output"], start.vae)
    usual = decoded(canvas, found["unperturbed"], start.vae)
    canvas.group("4. What came of it")
    saved(canvas, best, "vlm-best-of-seeds", "the best of twelve seeds, by the VLM")
    saved(canvas, searched, "vlm-search", "one seed's noise, moved until the VLM agrees")
    canvas.column()
    seen(canvas, usual, "what KSampler gives for that seed")
    read(canvas, best, "The best seed shows")
    read(canvas, searched, "The noise found shows")
    canvas.column()
    told(canvas, seeds["report"], "Report on the seeds", 260)
    told(canvas, found["report"], "Report on the search")
    return canvas.graph()


def load_a_kept_prompt(canvas: Canvas) -> dict[str, Any]:
    """Load Conditioning, on what another template has saved."""
    canvas.note(
        "### What was kept, in another workflow\n\n"
        "Run the template **Keep a steered prompt** first: it leaves a file in `output/conditioning`. (If this page "
        "was open then, press **R**, so that its lists are read again.)\n\n"
        "**Load Conditioning** stands in the place of a prompt here. With the model, seed and steps of the search it "
        "gives the very picture that the search has found; the other three pictures are the same conditioning with "
        "seeds that no search has seen. Does it still lead to a blue circle there?\n\n"
        "Press **Run**. A file that somebody sent you goes into ComfyUI's `input` folder."
    )
    canvas.group("1. A model, and a conditioning from a file")
    models = canvas.add("ProvokeLoadDemoModels", model="20 steps")
    kept = canvas.add("ProvokeLoadConditioning", conditioning="conditioning/blue-circle_00001_.safetensors [output]")
    canvas.column()
    empty = canvas.add("CLIPTextEncode", title="Negative (empty)", size=(320, 130), clip=models["CLIP"], text="")
    canvas.group("2. The seed of the search, and three others")
    latents = [canvas.add("EmptyLatentImage", width=64, height=64, batch_size=count) for count in (1, 3)]
    canvas.column()
    drawn = [
        canvas.add(
            "KSampler",
            title=title,
            model=models["MODEL"],
            positive=kept["conditioning"],
            negative=empty["CONDITIONING"],
            latent_image=latent["LATENT"],
            seed=seed,
            steps=4,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        )["LATENT"]
        for title, latent, seed in zip(("The search's seed", "Other seeds"), latents, (100, 101), strict=True)
    ]
    canvas.column()
    pictures = [decoded(canvas, latent, models["VAE"]) for latent in drawn]
    canvas.group("3. What came of it")
    saved(canvas, pictures[0], "kept-conditioning", "the conditioning from the file, at the seed of the search")
    read(canvas, pictures[0])
    canvas.column()
    saved(canvas, pictures[1], "kept-conditioning-others", "the same conditioning at seeds that no search has seen")
    read(canvas, pictures[1])
    return canvas.graph(after="Keep a steered prompt", **needs("what Keep a steered prompt has saved"))


TEMPLATES = {
    "Report a failure": report_a_failure,
    "VLM inversion as a sampler": sampler_form_of_inversion,
    "Follow a VLM": follow_a_vlm,
    "Load a kept prompt (needs its file)": load_a_kept_prompt,
}
