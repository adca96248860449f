"""A VAE's decoder as a differentiable function: latents to pictures, in whatever memory there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ..core.errors import GradientError, ProvokeError
from .checkpoint import Gradients, checkpoint
from .frames import decode_by_frames, is_by_frames, uncut
from .inplace import Guard
from .memory import Ladder, Managed, Rung, bytes_kept, is_out_of_memory, without_dynamic_memory
from .progress import check_cancelled
from .tiles import blend, halo_plan
from .units import Guards, checkpointed, repeated_blocks

WHOLE = Rung("the whole decode in one graph")
INSIDE = Rung("checkpoints inside the decoder")
FRAMES = Rung("one frame's graph at a time")
TILES = tuple(Rung(f"{tile} px tiles", tile=tile) for tile in (512, 256, 128))  # of the picture, halo included
HALO = 4  # a tile sees a quarter of its width on either side of what it gives
SAMPLE = 8  # latent pixels of a side: what is measured is measured on so much
BACKWARD_FACTOR = 3  # what a decode's graph keeps, in units of the host's estimate for the decode: 2.6, counted on SD's
WAYS, STEP, CUT = 4, 1e-2, 0.3  # random finite differences, and by how much they may disagree


class Decoder:
    """A VAE inside a gradient session: latents of a LATENT to pictures, differentiable, frozen.

    Between forward and backward it keeps the latent and nothing else. Every picture (every video) of the batch is
    computed by itself, so that one's gradient does not depend on the others and needs the room of one only.

    Args:
        vae: from a VAE socket.
        notes: what was done about memory, and what is approximate, is added to it in words.

    `patcher` is to be loaded completely and `module` to be in the gradient session before the first call; calls load
    nothing.

    Raises: ProvokeError for what does not decode to RGB pictures.
    """

    def __init__(self, vae: Any, notes: list[str]) -> None:
        vae.throw_exception_if_invalid()
        if vae.latent_dim not in (2, 3) or vae.output_channels not in (3, 4) or _is_sound(vae):
            raise ProvokeError(
                f"The VAE is not for pictures ({type(vae.first_stage_model).__name__}: {vae.latent_dim}-dimensional "
                f"latents, {vae.output_channels} channels)",
                "a VAE that decodes to RGB pictures or video",
                "connect the VAE that belongs to the model",
            )
        self.patcher = without_dynamic_memory(vae.patcher, "VAE")
        self.module: nn.Module = self.patcher.model
        self.notes = notes
        self._vae, self._residence = vae, Managed(self.patcher)
        self.cuts = bool(getattr(vae, "handles_tiling", False))  # it makes tiles itself, ours would be others
        self._half = vae.vae_dtype == torch.float16
        self._guards: dict[str, Guard] = defaultdict(Guard)
        self._inner_guards: Guards = defaultdict(Guard)
        self._ways: dict[tuple[int, ...], _Way] = {}

    def __call__(self, latent: Tensor) -> Tensor:
        """B C h w or B C T h w, float32 -> B' 3 H W, float32 in [0, 1]; the frames of a video one after the other.

        The pixels are those of `VAE.decode`, unless a note says that the decode itself did not fit into memory.

        Raises:
            ProvokeError: a latent that this VAE cannot decode; out of memory on the lowest rung.
            GradientError: a VAE that no gradient comes through.
        """
        if latent.ndim == 5 and self._vae.latent_dim == 2:  # as VAE.decode
            latent = latent[:, :, 0]
        if latent.ndim != self._vae.latent_dim + 2 or latent.numel() == 0:
            raise ProvokeError(
                f"The latent is {tuple(latent.shape)}",
                f"B C {'T ' if self._vae.latent_dim == 3 else ''}h w for this VAE",
                "make the latent with the node that belongs to the model (Empty Latent Image, Empty ... Latent Video)",
            )
        latent = latent.to(self._residence.device)
        way = self._way(latent)
        pictures = [
            checkpoint(way.value, latent[i : i + 1], around=way.around, half=self._half)[0] for i in range(len(latent))
        ]
        return pictures[0] if len(pictures) == 1 else torch.cat(pictures)

    def room(self, shape: Sequence[int]) -> float:
        """What the backward of one latent needs in bytes, as far as that is known before anything is decoded; in less
        it is done in smaller pieces. shape: of the LATENT; of one that it cannot decode nothing is known."""
        if len(shape) == 5 and self._vae.latent_dim == 2:  # as VAE.decode
            shape = (*shape[:2], *shape[3:])
        if len(shape) != self._vae.latent_dim + 2:
            return 0.0
        return BACKWARD_FACTOR * float(self._vae.memory_used_decode((1, *shape[1:]), self._vae.vae_dtype))

    def plain(self, latent: Tensor) -> Tensor:
        """B C h w or B C T h w -> B' H W C, what the host's VAEDecode node gives. It loads the VAE: call it in
        inference mode (`session.as_host()`), and refresh the session afterwards."""
        images = self._vae.decode(latent)
        return images.reshape(-1, *images.shape[-3:]) if images.ndim == 5 else images

    # ---------------------------------------------------------------------------------------------- one latent

    def _decode(self, latent: Tensor) -> Tensor:
        """1 C [T] h w -> 1 3 [T'] H W: the calls and casts of VAE.decode, without its loading, its batches, its output
        buffer and its fallback to tiles (which run in inference mode)."""
        with _device(self._residence.device), uncut(self.module):
            module: Any = self.module
            return self._finished(module.decode(latent.to(self._vae.vae_dtype)))

    def _by_frames(self, latent: Tensor) -> Tensor:
        run = self._guards["frame"].run
        with _device(self._residence.device):
            return self._finished(decode_by_frames(self.module, latent.to(self._vae.vae_dtype), run, self._half))

    def _inside(self, latent: Tensor) -> Tensor:
        with checkpointed(self._blocks(), self._inner_guards):
            return self._decode(latent)

    def _finished(self, output: Tensor) -> Tensor:
        dtype = torch.promote_types(output.dtype, torch.float32)  # float64 stays, for those who measure
        # process_output writes in place: hence the copy
        pixels = self._vae.process_output(output.to(self._residence.device, dtype, copy=True))
        return pixels[:, :3]  # RGBA (Qwen-Image-Layered): the judges see pictures

    def _blocks(self) -> list[nn.Module]:
        """What is checkpointed inside the decoder, for VAEs of pictures. The decoders of videos hand carried frames on
        through list arguments (conv_carry_out, feat_cache), which a checkpoint cannot see."""
        if self._vae.latent_dim != 2:
            return []
        from comfy.ldm.modules.diffusionmodules import model

        kinds = (model.ResnetBlock, model.AttnBlock, model.Upsample)
        root = getattr(self.module, "decoder", None) or getattr(self.module, "taesd_decoder", None)
        if root is None:
            return []
        blocks = [module for module in root.modules() if isinstance(module, kinds)] or repeated_blocks(root)
        if blocks or not isinstance(root, nn.Sequential):
            return blocks
        return [child for child in root if next(child.parameters(), None) is not None]  # TAESD

    # ---------------------------------------------------------------------------------------------- memory

    def _way(self, latent: Tensor) -> _Way:
        shape = tuple(latent.shape[1:])
        if shape not in self._ways:
            self._ways[shape] = self._look(latent[:1].detach())
        return self._ways[shape]

    def _look(self, latent: Tensor) -> _Way:
        """Measures on a corner of the latent: the scale, what a backward keeps, whether a gradient comes through."""
        corner = latent[..., :SAMPLE, :SAMPLE].clone()
        try:
            with torch.no_grad():
                output = self._decode(corner)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ProvokeError(
                f"The VAE cannot decode a latent of {tuple(latent.shape)} ({error})",
                f"a latent of the model that the VAE belongs to ({self._vae.latent_channels} channels)",
                "connect the VAE that belongs to the model",
            ) from error
        if output.shape[1] != 3:
            raise ProvokeError(f"The VAE gives {output.shape[1]} channels", "RGB pictures", "choose another VAE")
        video = latent.ndim == 5
        finer: list[tuple[Rung, Callable[[Tensor], Tensor]]] = []
        if video and is_by_frames(self.module) and latent.shape[2] > 1:
            finer = [(FRAMES, self._by_frames)]
        elif self._blocks():
            finer = [(INSIDE, self._inside)]
        if video and not is_by_frames(self.module):
            self._check(corner)
            self._note("this video VAE is decoded in one piece: its backward needs the graph of all frames at once")
        return _Way(self, latent, corner, output, finer)

    def _check(self, corner: Tensor) -> None:
        """Notes what only finite differences show: a gradient that is cut in part, as by caches that are
        detached. Source: ours."""
        rng = torch.Generator().manual_seed(0)

        def draw(shape: torch.Size) -> Tensor:
            return torch.randn(shape, generator=rng).to(corner.device)

        leaf = corner.clone().requires_grad_(True)
        with torch.enable_grad():
            output = checkpoint(
                lambda z: (self._decode(z),), leaf, around=self._guards[WHOLE.words].run, half=self._half
            )[0]
        weight = draw(output.shape)
        found = torch.autograd.grad(output, leaf, weight)[0]
        if found is None or not bool(found.any()) or not bool(found.isfinite().all()):
            raise GradientError(
                f"The VAE {type(self.module).__name__} has no usable gradient (none, exactly zero, or not finite)",
                "a decoder that is smooth, in float32 or bfloat16",
                "choose another VAE, or start ComfyUI with --fp32-vae or --bf16-vae",
            )
        with torch.no_grad():
            # (kernels that add in any order differ by less)
            if float((self._decode(corner) - self._decode(corner)).abs().max()) > 1e-3:
                self._note("the VAE draws random numbers: no two decodes are equal")
            elif self._vae.vae_dtype == torch.float32:  # smaller types drown steps this small
                ways = [draw(corner.shape) for _ in range(WAYS)]
                change = [self._decode(corner + STEP * d) - self._decode(corner - STEP * d) for d in ways]
                measured = torch.stack([(c.double() * weight).sum() for c in change]) / (2 * STEP)
                claimed = torch.stack([(found.double() * d).sum() for d in ways])
                error = float((claimed - measured).norm() / measured.norm())
                if error > CUT:
                    self._note(
                        f"part of the VAE's gradient seems to be cut (finite differences disagree by {error:.0%})"
                    )

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class _Way:
    """How latents of one shape are decoded: the rungs, what each needs, and where value and gradient stand."""

    def __init__(
        self,
        decoder: Decoder,
        latent: Tensor,
        corner: Tensor,
        output: Tensor,
        finer: list[tuple[Rung, Callable[[Tensor], Tensor]]],
    ) -> None:
        self._decoder = decoder
        self._height, self._width = latent.shape[-2:]
        self._scale = output.shape[-1] // corner.shape[-1]
        exact = all(a * self._scale == b for a, b in zip(corner.shape[-2:], output.shape[-2:], strict=True))
        tiled = [t for t in TILES if exact and not decoder.cuts and self._tile(t) < max(latent.shape[-2:])]
        self._functions = {WHOLE: decoder._decode, **dict(finer)}
        self._finest = finer[-1][0] if finer else WHOLE  # what a tile is decoded by
        self._picture = Ladder("picture", [WHOLE, *tiled], decoder.notes)
        self._gradient = Ladder("gradient", [WHOLE, *[rung for rung, _ in finer], *tiled], decoder.notes)
        self._corner = corner
        self._bytes: dict[Rung, float] = {}

    def value(self, latent: Tensor) -> tuple[Tensor]:
        """1 C [T] h w -> T' 3 H W; with a graph, as much of it as the gradient's rung has."""
        if torch.is_grad_enabled():
            return (_folded(self._on(self._gradient.rung, latent)),)
        while True:
            try:
                return (_folded(self._on(self._picture.rung, latent)),)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._picture.step_down()

    def around(self, piece: Callable[[], Gradients]) -> Gradients:
        """Runs a backward, and steps down before and after memory runs out."""
        while True:
            try:
                self._gradient.fit(self._needed, self._decoder._residence.free())
                return self._decoder._guards[self._gradient.rung.words].run(piece)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # outside of `except`: the exception holds the frames, and they hold the graph
            self._gradient.step_down()

    def _on(self, rung: Rung, latent: Tensor) -> Tensor:
        if rung.tile is None:
            return self._functions[rung](latent)
        tile = self._tile(rung)
        plan = halo_plan(self._height, self._width, self._scale, tile, tile // HALO)
        return blend(plan, lambda part, _: self._tile_of(part), latent, None, check_cancelled)

    def _tile_of(self, part: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self._decoder._decode(part)
        run = self._decoder._guards["tile"].run
        return checkpoint(lambda z: (self._functions[self._finest](z),), part, around=run, half=self._decoder._half)[0]

    def _tile(self, rung: Rung) -> int:
        """Latent pixels."""
        assert rung.tile is not None
        return max(HALO, rung.tile // self._scale)

    # ---------------------------------------------------------------------------------------------- bytes

    def _needed(self, rung: Rung) -> float:
        """Bytes that the backward keeps on this rung, estimated from what it keeps for the corner."""
        if rung.tile is not None:
            area = min(self._tile(rung), self._height) * min(self._tile(rung), self._width)
            return self._kept(self._finest) * area / (self._height * self._width)
        return self._kept(rung)

    def _kept(self, rung: Rung) -> float:
        if rung not in self._bytes:
            area = self._height * self._width / (self._corner.shape[-2] * self._corner.shape[-1])
            self._bytes[rung] = self._measured(rung) * area
        return self._bytes[rung]

    def _measured(self, rung: Rung) -> float:
        decoder = self._decoder
        kept = float(bytes_kept(self._functions[rung], self._corner, decoder.module))
        if rung is WHOLE:
            return kept
        if rung is FRAMES:  # what goes from step to step, and the largest step's graph
            steps = 1 + (self._corner.shape[2] - 1) / 2
            return kept + float(bytes_kept(decoder._decode, self._corner, decoder.module)) / steps
        return kept + _largest(decoder._blocks(), lambda: decoder._decode(self._corner), decoder.module)


def _largest(blocks: list[nn.Module], run: Callable[[], object], weights: nn.Module) -> float:
    """Bytes that the backward of the largest of these blocks keeps while `run` uses them."""
    seen: list[tuple[nn.Module, tuple[Any, ...]]] = []
    handles = [block.register_forward_pre_hook(lambda block, args: seen.append((block, args))) for block in blocks]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()

    def kept(block: nn.Module, first: Tensor, *rest: Any) -> float:
        return float(bytes_kept(lambda x: block(x, *rest), first, weights))

    return max((kept(block, *args) for block, args in seen), default=0.0)


def _folded(pictures: Tensor) -> Tensor:
    """1 3 T H W -> T 3 H W, in the order of VAEDecode."""
    return pictures[0].movedim(1, 0) if pictures.ndim == 5 else pictures


def _is_sound(vae: Any) -> bool:
    return getattr(vae, "extra_1d_channel", None) is not None


def _device(device: torch.device) -> AbstractContextManager[None]:
    """As VAE.decode has it around everything since host 0.30."""
    around = getattr(comfy.model_management, "cuda_device_context", None)
    return nullcontext() if around is None else around(device)
