"""The languages of the nodes: complete, nothing left over, and what must not be translated still there.

When this fails after a node came or changed: put the listed sentences into tools/translations/, then
`python dev.py run tools/locales.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from provoke.tools import locales

# Everything goes through vue-i18n's compiler on one page or another (tooltips on older ones, which draw no node whose
# braces do not close as they want), where these begin a placeholder, a link or a plural.
COMPILED = set("{}@|")
# What is written alike in every language: files, sockets, methods, units, names of choices.
KEPT = re.compile(
    r"\{\w*\}|\[output\]|embedding:name|models/\w+|output/\w+|provoke-demo-[\w-]+|\b(?:epsilon|cfg|sigma|KSampler|"
    r"SamplerCustomAdvanced|NOISE|LATENT|SIGMAS|SAMPLER|MODEL|CLIP|VAE|VLM|SDS|SAGE|BLIP-2|LLaVA|A?PGD|MI-FGSM|FGSM|Adam|"
    r"RMS|L-inf|PNG|JSON|SHA-256|ControlNet|SDXL|LoRA|truncate|one-step|norm band|safetensors|Save Latent|Load Latent|"
    r"Plot Loss Graph|CLIP Text Encode|Load Upscale Model)\b|"
    r"\b(?:random|residual|exact|last steps|auto|turn|ball|box|clamp|break|satisfy|weakest|sum|margin|paper|balanced|"
    r"published|constant|cosine)(?=:)"
)
SAME = {"epsilon", "cfg", "vae", "vlm", "sds", "clip", "clip_vision", "json", "MODEL", "CLIP", "VAE", "sigmas"}


@pytest.fixture(scope="module")
def schemas(comfy: ModuleType) -> list[Any]:
    import provoke.nodes

    return locales.schemas(provoke.nodes)


@pytest.fixture(scope="module")
def asked(schemas: list[Any]) -> list[tuple[str, str]]:
    return locales.asked_for(schemas)


@pytest.mark.parametrize("language", locales.LANGUAGES)
def test_every_sentence_is_translated_and_none_is_left_over(language: str, asked: list[tuple[str, str]]) -> None:
    known = locales.Translations.load(language)
    missing, left = known.missing(asked), known.left_over(asked)
    assert not missing, f"{language} lacks:\n" + "\n".join(missing)
    assert not left, f"nothing asks {language} any more for:\n" + "\n".join(left)


def test_the_files_are_what_the_sources_say(schemas: list[Any]) -> None:
    for language, definitions in locales.languages(schemas):
        kept = locales.path(language).read_text(encoding="utf-8")
        assert kept == locales.text(definitions), f"{language}: run `python dev.py run tools/locales.py`"
    there = {path.name for path in locales.FOLDER.iterdir()}
    assert there == {"en", *locales.LANGUAGES}


@pytest.mark.parametrize("language", locales.LANGUAGES)
def test_what_no_language_translates_is_still_there(language: str, asked: list[tuple[str, str]]) -> None:
    known = locales.Translations.load(language)
    for kind, english in asked:
        said = known.say(kind, english)
        assert said == said.strip()
        if kind == "names":
            assert not said.isascii() or english.lower() in {word.lower() for word in SAME}, f"{english!r} is {said!r}"
            continue
        assert not said.isascii(), f"not translated: {english}"
        lost = Counter(numbers(english)) - Counter(numbers(said))
        assert not lost, f"{language} lost the numbers {dict(lost)} of: {english}\n{said}"
        gone = {word for word in KEPT.findall(english) if word not in said}
        assert not gone, f"{language} lost {gone} of: {english}\n{said}"
        assert english.count("`") == said.count("`"), f"{language}: backticks of: {english}\n{said}"


def numbers(text: str) -> list[str]:
    """The figures in a sentence: 0.05 of 0.05, 20 of 20."""
    return re.findall(r"\d+(?:\.\d+)?", text)


def test_the_page_can_compile_all_of_it(schemas: list[Any]) -> None:
    for language, definitions in locales.languages(schemas):
        for node, said in definitions.items():
            slots = [*said["inputs"].values(), *said["outputs"].values()]
            for text in (
                said["display_name"],
                said["description"],
                *(text for slot in slots for text in slot.values()),
            ):
                assert not COMPILED & set(text), f"{language}, {node}: {text}"
                assert text


@pytest.mark.parametrize("language", locales.LANGUAGES)
def test_no_two_nodes_share_a_title(language: str, schemas: list[Any]) -> None:
    known = locales.Translations.load(language)
    titles = [known.say("texts", schema.display_name) for schema in schemas]
    assert len(set(titles)) == len(titles)
