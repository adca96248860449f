"""open_clip models as scorers: a folder (config and safetensors), or a .safetensors file beside a .json of its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import DOWNLOAD, load_weights, read_json, weight_files, words
from .judge import FrozenScorer, check_ids, normal_mode
from .preprocess import Preprocess, for_open_clip

CONFIGS = ("open_clip_config.json", "config.json")  # the hub's name, and the one of folders made by hand
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
VOCABULARY = 49408  # of the tokenizer that open_clip brings along
TOKENIZER_WORDS = ("clean", "strip_sep_token", "language")  # of tokenizer_kwargs; others reach transformers' loader

Tokenizer = Callable[[list[str]], Tensor]


class OpenClipScorer(FrozenScorer):
    """An open_clip model (CLIP, CustomTextCLIP or CoCa); see `judge.Scorer`.

    Args:
        tokenizer: texts -> N L int64.
        module, preprocess, name, dtype: as in `judge.Frozen`.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Tokenizer, preprocess: Preprocess, name: str, dtype: torch.dtype
    ) -> None:
        super().__init__(module, preprocess, name, dtype)
        self._tokenizer = tokenizer

    def _image_tower(self, pixels: Tensor) -> Tensor:
        return self._model.encode_image(pixels)

    def _text_tower(self, texts: list[str], device: torch.device) -> Tensor:
        ids = self._tokenizer(texts)
        text: Any = getattr(self._model, "text", self._model)
        check_ids(ids, int(text.vocab_size), self.name)
        return self._model.encode_text(ids.to(device))


def load_open_clip(
    path: Path, tokenizer: Tokenizer | None = None, dtype: torch.dtype = torch.float32
) -> OpenClipScorer:
    """Loads an open_clip model, on the CPU.

    Args:
        path: a folder with open_clip_config.json or config.json (with `model_cfg`, or a model config of open_clip's
            own) and safetensors; or a .safetensors file beside a .json of the same name.
        tokenizer: texts -> N L int64; None for the one that the folder has (`find_tokenizer`).
        dtype: float32, or float16 or bfloat16 for an accelerator.
    Raises:
        FileNotFoundError, ValueError: what is there, what was expected, what to change.
    """
    settings, source, files = _files(path)
    model_cfg = settings["model_cfg"]
    weights = load_weights(files)
    with normal_mode():
        module = _build(model_cfg, source)
        _fill(module, weights, files[0])
        size = module.visual.image_size
        preprocess = for_open_clip(settings.get("preprocess_cfg") or {}, size)
        return OpenClipScorer(
            module, tokenizer or find_tokenizer(files[0].parent, model_cfg["text_cfg"]), preprocess, path.stem, dtype
        )


def open_clip_config(folder: Path) -> Path | None:
    """The folder's open_clip settings, if it has some."""
    for name in CONFIGS:
        if (folder / name).is_file() and ("model_cfg" in (found := read_json(folder / name)) or "vision_cfg" in found):
            return folder / name
    return None


def _files(path: Path) -> tuple[dict[str, Any], Path, list[Path]]:
    """The settings, the file that they come from, and the weights' files."""
    if path.suffix == ".safetensors":
        source, files = path.with_suffix(".json"), [path]
    else:
        source = open_clip_config(path) or path / CONFIGS[0]
        files = []
    settings = read_json(source)
    files = files or weight_files(path, *WEIGHTS)
    if "vision_cfg" in settings:
        settings = {"model_cfg": settings}
    model = settings.get("model_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(part), dict) for part in ("vision_cfg", "text_cfg")):
        raise ValueError(
            words(
                f"{source} has the keys {', '.join(sorted(settings)[:12])}",
                "an open_clip config: model_cfg with embed_dim, vision_cfg and text_cfg",
                "take the open_clip_config.json that came with the weights",
            )
        )
    return settings, source, files


def _build(settings: dict[str, Any], source: Path) -> Any:
    """A model with random weights, by open_clip's own choice of classes (`create_model`), which reaches no network."""
    import open_clip
    from open_clip.coca_model import CoCa

    settings = {key: value for key, value in settings.items() if key not in ("cast_dtype", "output_dict")}
    for part in ("text_cfg", "multimodal_cfg"):
        if (settings.get(part) or {}).get("hf_model_name"):
            raise ValueError(
                words(
                    f"{source}: the text tower is {settings[part]['hf_model_name']!r}, which open_clip would fetch",
                    "a text tower of open_clip's own",
                    "choose another model; nothing is fetched from the network here",
                )
            )
    vision = {key: value for key, value in settings["vision_cfg"].items() if key != "timm_model_pretrained"}
    custom = settings.pop("custom_text", False)
    kind: Any = open_clip.CLIP
    if custom:
        kind = CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    try:
        with torch.random.fork_rng(devices=[]):  # random weights, soon overwritten: the user's seed stays as it was
            return kind(**{**settings, "vision_cfg": vision})
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, AttributeError) as error:
        raise ValueError(
            words(
                f"{source} does not describe a model that the installed open_clip can build ({error})",
                "settings of open_clip (and a timm_model_name that the installed timm has)",
                "take the open_clip_config.json that came with the weights, or update open_clip_torch and timm",
            )
        ) from error


def _fill(module: Any, weights: dict[str, Tensor], file: Path) -> None:
    """`open_clip.load_checkpoint` for weights that are read already, and strictly: nothing is resized."""
    from open_clip.model import convert_to_custom_text_state_dict

    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if "positional_embedding" in weights and not hasattr(module, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    weights.pop("text.transformer.embeddings.position_ids", None)
    known = module.state_dict()
    for name in ("logit_scale", "logit_bias"):  # a scalar in some files, one number in a row in others
        if name in weights and name in known and weights[name].numel() == 1:
            weights[name] = weights[name].reshape(known[name].shape)
    missing, foreign = sorted(known.keys() - weights.keys()), sorted(weights.keys() - known.keys())
    other = [name for name in sorted(known) if name in weights and weights[name].shape != known[name].shape]
    if missing or foreign or other:
        name = next(iter(other or missing or foreign))
        shapes = [str(tuple(of[name].shape)) if name in of else "nothing" for of in (weights, known)]
        raise ValueError(
            words(
                f"{file} is not the model of its config: {len(missing)} tensors are missing, {len(foreign)} unknown, "
                f"{len(other)} of another shape; for example {name}: {shapes[0]}",
                f"for {name}: {shapes[1]}",
                "put the weights and the config of the same model together",
            )
        )
    module.load_state_dict(weights)


def find_tokenizer(folder: Path, text: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a folder: its own files, those in `tokenizer/` in it or beside it, or open_clip's own.

    Args:
        folder: where the weights are.
        text: the model's text_cfg. One beside the folder, which several models may share, counts only if it has as
            many tokens as this model.
    Raises:
        FileNotFoundError: none, and the model's vocabulary is not open_clip's own.
    """
    size = int(text.get("vocab_size", VOCABULARY))
    own = next((place for place in (folder, folder / "tokenizer") if _has_tokenizer(place)), None)
    shared = folder.parent / "tokenizer"
    if own is not None and (text.get("hf_tokenizer_name") or size != VOCABULARY):
        return _FolderTokenizer(own, text)
    if size != VOCABULARY and _has_tokenizer(shared):
        found = _FolderTokenizer(shared, text)
        if found.vocabulary == size:
            return found
    if size == VOCABULARY and not text.get("hf_tokenizer_name"):
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=int(text.get("context_length", 77)), **_tokenizer_words(text, ("clean",)))
    raise FileNotFoundError(
        words(
            f"{folder} has no tokenizer, and the model ({size} tokens) does not use open_clip's own",
            "tokenizer.json and tokenizer_config.json beside the weights",
            DOWNLOAD,
        )
    )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)


def _tokenizer_words(text: dict[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in (text.get("tokenizer_kwargs") or {}).items() if key in allowed}


class _FolderTokenizer:
    """open_clip's HFTokenizer on a folder's files.

    Where the text tower pools at the largest id (the end of the text), what follows the first end becomes 0, as in
    open_clip's own tokenizer: some vocabularies pad with the end, and which of equals argmax finds is not said.
    """

    def __init__(self, folder: Path, text: dict[str, Any]) -> None:
        from open_clip.tokenizer import HFTokenizer

        if (folder / "tokenizer_config.json").is_file():
            read_json(folder / "tokenizer_config.json")  # refuses what asks for code
        try:
            self._tokenizer = HFTokenizer(
                str(folder),
                context_length=int(text.get("context_length", 77)),
                tokenizer_mode=text.get("tokenizer_mode"),
                local_files_only=True,
                trust_remote_code=False,
                **_tokenizer_words(text, TOKENIZER_WORDS),
            )
        except (OSError, ValueError, TypeError, ImportError, KeyError, AttributeError) as error:
            raise ValueError(
                words(f"The tokenizer in {folder} does not load ({error})", "complete tokenizer files", DOWNLOAD)
            ) from error
        self.vocabulary = len(self._tokenizer.tokenizer)
        pooled_at_the_end = text.get("pool_type", "argmax") == "argmax"
        self._end = self._tokenizer.tokenizer.eos_token_id if pooled_at_the_end else None

    def __call__(self, texts: list[str]) -> Tensor:
        """Texts -> N context int64."""
        ids = self._tokenizer(texts)
        if self._end is None:
            return ids
        ends = (ids == self._end).cumsum(1)
        return ids.masked_fill((ends > 1) | ((ends == 1) & (ids != self._end)), 0)
