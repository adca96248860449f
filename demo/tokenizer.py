"""The demo world's vocabulary: byte pairs in CLIP's file formats, learned from the captions' words.

    python demo/tokenizer.py        writes the files below demo/weights/provoke_clip/tokenizer

Every word of captions.WORDS is one token; any other text falls into smaller pieces, down to single bytes, so that
nothing is unknown. The ids are those of CLIP's own scheme: 256 bytes, the same 256 at the end of a word, one for every
merge, the start and the end. One folder serves three readers:
- `transformers.CLIPTokenizer.from_pretrained(FOLDER)`: vocab.json, merges.txt, tokenizer_config.json
- ComfyUI: `comfy.sd1_clip.SDTokenizer(tokenizer_path=FOLDER)`, which is the same class, and finds the start and the end
  by encoding nothing
- `open_clip.tokenizer.SimpleTokenizer(BPE)`: bpe.txt.gz. It must not end in a newline, which would be an empty merge.
  This class cleans text in its own way; `clip_models.Tokenizer` does it as the two others do, and pads with the end.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "weights" / "provoke_clip" / "tokenizer"
BPE = FOLDER / "bpe.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 77  # positions of the text towers, as in the host
_LAST = "</w>"  # marks the last piece of a word

Merge = tuple[str, str]


def byte_names() -> list[str]:
    """One printable character for each byte, in CLIP's order: the printable bytes first, as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]


def _merged(pieces: list[str], merge: Merge) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == merge:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def learn(words: Iterable[str]) -> list[Merge]:
    """Merge the most frequent neighbours (the first by name of equals) until every word is one piece. ASCII words."""
    spelled = [[*word[:-1], word[-1] + _LAST] for word in sorted(set(words))]
    merges: list[Merge] = []
    while pairs := Counter(pair for pieces in spelled for pair in itertools.pairwise(pieces)):
        merge = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(merge)
        spelled = [_merged(pieces, merge) for pieces in spelled]
    return merges


def vocabulary(merges: Iterable[Merge]) -> dict[str, int]:
    """Every token and its id."""
    names = byte_names()
    tokens = [*names, *(name + _LAST for name in names), *("".join(merge) for merge in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}


def write(folder: Path, words: Iterable[str]) -> None:
    """Learn the words and write the files."""
    merges = learn(words)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT,
        **{f"{kind}_token": END for kind in ("eos", "pad", "unk")},
        "bos_token": START,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges)) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    # no time and no name in the header: the same words give the same file
    (folder / "bpe.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def _main() -> None:
    import importlib.util
    import sys

    # captions.py imports its neighbours relatively: the folder is loaded by path as a package
    here = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "provoke_demo", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None
    sys.modules["provoke_demo"] = importlib.util.module_from_spec(spec)
    write(FOLDER, importlib.import_module("provoke_demo.captions").WORDS)


if __name__ == "__main__":
    _main()
