"""A token in every kind of text encoder: where it stands, what its file says, and its gradient."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import ProvokeError

READERS = ("sd15", "sd2", "sdxl", "sd3", "flux", "z-image")
KEYS = {
    "sd15": {"l": "clip_l"}, "sd2": {"h": "clip_h"}, "sdxl": {"l": "clip_l", "g": "clip_g"},
    "sd3": {"l": "clip_l", "g": "clip_g"}, "flux": {"l": "clip_l", "t5xxl": "t5xxl"},
    "z-image": {"qwen3_4b": "qwen3_4b"},
}  # fmt: skip
TEXT = "a photo of a <token>, in the snow"
BAR = 0.01  # relative L2 error of the vector of directional derivatives


@pytest.fixture(scope="module")
def folder(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture
def embeddings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's embeddings folder."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(folder)], {".safetensors"}))
    return folder


@pytest.fixture(scope="module")
def clips(folder: Path) -> dict[str, Any]:
    """Made when asked for, once."""
    from provoke.tools.tiny_encoders import text_encoder

    class Made(dict[str, Any]):
        def __missing__(self, kind: str) -> Any:
            if kind == "z-image" and not names_end_at_marks():
                pytest.skip("platform: this host reads no embedding at the end of Z-Image's prompts")
            self[kind] = text_encoder(kind, embeddings=[str(folder)])
            return self[kind]

    return Made()


def names_end_at_marks() -> bool:
    """Whether the host takes `embedding:name<|im_end|>` apart: 0.30 does, 0.24 and 0.18 do not."""
    from comfy.sd1_clip import SDTokenizer

    return "[<" in inspect.getsource(SDTokenizer._try_get_embedding)


def token_of(clip: Any, count: int = 2) -> Any:
    from provoke.host.sampling.text import TextEncoder
    from provoke.host.sampling.tokens import Token

    return Token(TextEncoder(clip), count)


def drawn(token: Any, seed: int = 0) -> Tensor:
    return torch.randn(1, token.count, token.width, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------- the same as a file


@pytest.mark.parametrize("kind", READERS)
def test_what_a_search_encodes_is_what_the_saved_file_gives(clips, embeddings, kind: str) -> None:
    """CLIPTextEncode with embedding:name, bit for bit; a weight and another embedding in the prompt included."""
    from nodes import CLIPTextEncode
    from provoke.host.embedding_files import save
    from provoke.host.sampling.tokens import by_host, said

    clip = clips[kind]
    token, other = token_of(clip), token_of(clip, 1)
    assert {part.key: part.name for part in token.parts} == KEYS[kind]
    rows = drawn(token)
    _, name = save(token.vectors(rows), f"{kind}-one")
    _, second = save(other.vectors(drawn(other, 1)), f"{kind}-two")
    weighed = "a <token>" if kind == "z-image" else "<token> and (<token>:1.3)"
    for text in (TEXT, "a dog", f"{weighed} with embedding:{second}", " ".join(["snow"] * 76)):
        mine = by_host(clip, token.tokens(text, "<token>", token.vectors(rows)))
        with torch.inference_mode():
            theirs = CLIPTextEncode().encode(clip, said(text, "<token>", name))[0]
            without = CLIPTextEncode().encode(clip, text.replace("<token>", ""))[0]
        assert len(mine) == len(theirs) == 1
        assert torch.equal(mine[0][0], theirs[0][0]), text
        assert set(mine[0][1]) == set(theirs[0][1])
        for key, value in mine[0][1].items():
            assert torch.equal(value, theirs[0][1][key]) if isinstance(value, Tensor) else value == theirs[0][1][key]
        assert mine[0][0].shape != without[0][0].shape or not torch.equal(mine[0][0], without[0][0]), text


@pytest.mark.parametrize("kind", READERS)
def test_the_differentiable_way_is_the_hosts(clips, kind: str) -> None:
    from provoke.host.gradients import gradient_session
    from provoke.host.sampling.tokens import by_host

    token = token_of(clips[kind])
    rows = drawn(token)
    theirs = by_host(clips[kind], token.tokens(TEXT, "<token>", token.vectors(rows)))
    with gradient_session(token.encoder.module), torch.no_grad():
        mine = token.conditioning(TEXT, "<token>", rows)
    torch.testing.assert_close(mine[0][0], theirs[0][0].clone(), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------- gradients


def ways(token: Any) -> list[Tensor]:
    """Random directions, and blocks: each encoder, each vector of it, half of its numbers."""
    rng = torch.Generator().manual_seed(7)
    found = [torch.randn(1, token.count, token.width, generator=rng) for _ in range(16)]
    for part in token.parts:
        half = slice(part.start, part.start + part.vocabulary.width // 2)
        blocks = [(slice(None), slice(None), part.place), (slice(None), slice(None), half)]
        blocks += [(slice(None), row, part.place) for row in range(token.count)]
        for block in blocks:
            one = torch.zeros(1, token.count, token.width)
            one[block] = torch.randn(one[block].shape, generator=rng)
            found.append(one)
    return found


@pytest.mark.parametrize("kind", READERS)
def test_the_gradient_of_every_encoders_embeddings(clips, kind: str) -> None:
    from provoke.host.gradients import gradient_session

    token = token_of(clips[kind])
    base = drawn(token)

    def score(rows: Tensor) -> Tensor:
        entry = token.conditioning(TEXT, "<token>", rows)[0]
        parts = [entry[0], *(v for v in (entry[1].get("pooled_output"),) if isinstance(v, Tensor))]
        total = torch.zeros((), dtype=torch.float64)
        for number, value in enumerate(parts):
            weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
            total = total + (value.double() * weight).sum()
        return total

    with gradient_session(token.encoder.module):
        leaf = base.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(score(leaf), leaf)
        step, along = 3e-3, ways(token)
        with torch.no_grad():
            measured = torch.stack([(score(base + step * d) - score(base - step * d)) / (2 * step) for d in along])
    claimed = torch.stack([(gradient.double() * d.double()).sum() for d in along])
    assert float((claimed - measured).norm() / measured.norm()) <= BAR
    for part in token.parts:
        assert bool(gradient[..., part.place].any())


# ---------------------------------------------------------------------------------------------- values and words


@pytest.mark.parametrize("kind", READERS)
def test_an_initial_word_is_the_word(clips, kind: str) -> None:
    """Its vectors are rows of the table, and the nearest word is the word itself."""
    token = token_of(clips[kind], 1)
    rows = token.of_word("snow")
    for part in token.parts:
        vector = token.vectors(rows)[part.name]
        ((number, cosine),) = token.nearest(rows)[part.key]
        assert cosine > 0.999
        torch.testing.assert_close(vector[0], token.encoder.table(part.key)[number].float(), rtol=1e-5, atol=1e-7)
        assert "snow" in token.words(rows)[part.key][0]
    longer = token_of(clips[kind], 3).of_word("snow")
    assert torch.equal(longer[0, 2], rows[0, 0])


def test_the_unit_is_the_vocabularys_deviation(clips) -> None:
    token = token_of(clips["sdxl"])
    for part in token.parts:
        table = token.encoder.table(part.key).float()
        assert part.vocabulary.deviation == pytest.approx(float(table.square().mean().sqrt()), rel=1e-4)
        ones = token.vectors(torch.ones(1, 2, token.width))[part.name]
        torch.testing.assert_close(ones, torch.full_like(ones, part.vocabulary.deviation))


def test_a_long_initial_word_is_refused(clips) -> None:
    with pytest.raises(ProvokeError, match="tokens to the text encoder"):
        token_of(clips["sd15"], 1).of_word("a photograph of uncharacteristically")


def test_a_random_token_can_be_as_long(clips) -> None:
    token = token_of(clips["flux"])
    rows, other = drawn(token), drawn(token, 1)
    same = token.as_long_as(rows, other)
    for part in token.parts:
        a, b, c = (one[..., part.place] for one in (rows, same, other))
        torch.testing.assert_close(a.norm(dim=-1), b.norm(dim=-1))
        assert float(torch.nn.functional.cosine_similarity(b, c, dim=-1).min()) > 0.9999


# ---------------------------------------------------------------------------------------------- what is not honoured


def test_an_encoder_without_embedding_files_is_refused(clips) -> None:
    with pytest.raises(ProvokeError, match="reads no embedding files"):
        token_of(clips["qwen-image"])


def test_where_a_name_runs_into_the_template_the_encoder_is_refused(comfy: ModuleType, folder: Path) -> None:
    """Z-Image's on older hosts, which would take the token for words and warn in the log alone."""
    from provoke.tools.tiny_encoders import text_encoder

    clip = text_encoder("z-image", embeddings=[str(folder)])
    with contextlib.nullcontext() if names_end_at_marks() else pytest.raises(ProvokeError, match="update ComfyUI"):
        assert token_of(clip).parts[0].name == "qwen3_4b"


def test_weights_that_are_not_honoured_are_said(clips) -> None:
    assert token_of(clips["sd15"]).notes(["a (dog:1.2)"], "") == []
    assert token_of(clips["z-image"]).notes(["a dog"], "") == []
    (note,) = token_of(clips["z-image"]).notes(["a (dog:1.2)"], "")
    assert "honours no weights" in note


def test_a_place_that_the_host_does_not_see_is_refused(clips) -> None:
    token = token_of(clips["z-image"])
    with pytest.raises(ProvokeError, match="does not reach the text encoder"):
        token.tokens("a (<token>:1.2)", "<token>", token.vectors(drawn(token)))


def test_the_users_tokenizer_stays_as_it_is(clips, folder: Path) -> None:
    clip = clips["sdxl"]
    token_of(clip).tokens(TEXT, "<token>", token_of(clip).vectors(drawn(token_of(clip))))
    for part in (clip.tokenizer.clip_l, clip.tokenizer.clip_g):
        assert part.embedding_directory == [str(folder)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a dog", "a dog embedding:x"),
        ("", "embedding:x"),
        ("a <token> dog", "a embedding:x dog"),
        ("<token>", "embedding:x"),
        ("a <token>, red", "a embedding:x, red"),
        ("a (<token>:1.2) dog", "a (embedding:x:1.2) dog"),
        ("red-<token>.", "red- embedding:x ."),
        ("<token><token>", "embedding:x embedding:x"),
    ],
)
def test_how_a_prompt_says_it(comfy: ModuleType, text: str, wanted: str) -> None:
    from provoke.host.sampling.tokens import said, without

    assert said(text, "<token>", "x") == wanted
    assert "<token>" not in without(text, "<token>")
    assert without("a dog", "<token>") == "a dog"
    assert without("a <token> dog", "<token>") == "a dog"
