"""Writes `locales/`: names and tooltips of every node in English, Chinese, Japanese and Korean, as ComfyUI reads them.

python dev.py run tools/locales.py

English comes from the schemas. The other languages come from tools/translations/<language>.json, where every English
name and sentence stands once, however many nodes use it. A new or changed sentence is listed as missing; a translation
that nothing asks for any more, as left over. Then: translate it there, and run this again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .inprocess import open_pack
from .pack import ROOT

LANGUAGES = ("zh", "ja", "ko")
FOLDER = ROOT / "locales"
SOURCES = Path(__file__).parent / "translations"
Definitions = dict[str, dict[str, Any]]
Said = Callable[[str, str], str]  # kind ("names" or "texts") and English -> what is written


@dataclass(frozen=True)
class Translations:
    """One language: `names` of inputs and outputs, and `texts` (titles, descriptions, tooltips), by their English."""

    language: str
    names: dict[str, str]
    texts: dict[str, str]

    @classmethod
    def load(cls, language: str) -> Translations:
        """From its file."""
        raw = json.loads((SOURCES / f"{language}.json").read_text(encoding="utf-8"))
        return cls(language, raw["names"], raw["texts"])

    def missing(self, asked: Sequence[tuple[str, str]]) -> list[str]:
        """What is asked for and not there."""
        return [english for kind, english in dict.fromkeys(asked) if not getattr(self, kind).get(english)]

    def left_over(self, asked: Sequence[tuple[str, str]]) -> list[str]:
        """What is there and never asked for."""
        known = [(kind, english) for kind in ("names", "texts") for english in getattr(self, kind)]
        return [english for kind, english in known if (kind, english) not in asked]

    def say(self, kind: str, english: str) -> str:
        """The translation. Raises KeyError without one."""
        return str(getattr(self, kind)[english])


def schemas(nodes: ModuleType) -> list[Any]:
    """The schema of every node of the pack. `nodes` is the package `provoke.nodes`."""
    found = asyncio.run(nodes.Provoke().get_node_list())
    return [node.define_schema() for node in found]


def written(every: Sequence[Any], say: Said) -> Definitions:
    """What nodeDefs.json holds: by node its title, description, inputs by id, and outputs by number."""
    return {
        schema.node_id: {
            "display_name": say("texts", schema.display_name),
            "description": say("texts", schema.description),
            "inputs": {put.id: _slot(put, say) for put in schema.inputs},
            "outputs": {str(at): _slot(put, say) for at, put in enumerate(schema.outputs)},
        }
        for schema in every
    }


def _slot(put: Any, say: Said) -> dict[str, str]:
    return {"name": say("names", put.display_name or put.id), "tooltip": say("texts", put.tooltip)}


def asked_for(every: Sequence[Any]) -> list[tuple[str, str]]:
    """Every (kind, English) that a language has to have."""
    heard: list[tuple[str, str]] = []

    def listen(kind: str, english: str) -> str:
        heard.append((kind, english))
        return english

    written(every, listen)
    return list(dict.fromkeys(heard))


def languages(every: Sequence[Any]) -> Iterator[tuple[str, Definitions]]:
    """Each language and its nodeDefs. Raises KeyError where a translation is missing."""
    yield "en", written(every, lambda kind, english: english)
    for language in LANGUAGES:
        yield language, written(every, Translations.load(language).say)


def path(language: str) -> Path:
    """Where ComfyUI looks for it."""
    return FOLDER / language / "nodeDefs.json"


def text(definitions: Definitions) -> str:
    """The file's content."""
    return json.dumps(definitions, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    every = schemas(open_pack())
    asked = asked_for(every)
    incomplete = False
    for language in LANGUAGES:
        known = Translations.load(language)
        for word, found in (("missing", known.missing(asked)), ("left over", known.left_over(asked))):
            incomplete = incomplete or bool(found)
            for english in found:
                print(f"{language}: {word}: {english}")
    if incomplete:
        raise SystemExit("Nothing written: put tools/translations/ in order first.")
    for language, definitions in languages(every):
        path(language).parent.mkdir(parents=True, exist_ok=True)
        path(language).write_text(text(definitions), encoding="utf-8")
        print(path(language))


if __name__ == "__main__":
    main()
