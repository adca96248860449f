"""Image models of the host as differentiable functions: UPSCALE_MODEL, INPAINT_MODEL and other masked models, VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import comfy.model_management
import torch
from torch import Tensor

from ..core.errors import ProvokeError
from .gradients import GradientSession, gradient_session, normal
from .judges import Held, room
from .kinds import Kind, at_least_float32, recognise
from .memory import MARGIN, RUNGS, Ladder, Rung, is_out_of_memory, resident, together
from .probe import Finding, part, probe
from .progress import check_cancelled
from .tiles import Plan, adjoint, blend, host_plan, smaller_plan, whole_plan


@contextmanager
def open_image_model(
    model: object,
    image: Tensor,
    mask: Tensor | None = None,
    *,
    gradient: bool = True,
    samples: int = 1,
    also: Sequence[Held] = (),
) -> Iterator[ImageModel]:
    """An image model inside a gradient session: loaded, differentiable, frozen. Afterwards everything is as it was.

    Args:
        model: from an UPSCALE_MODEL, INPAINT_MODEL or VAE socket.
        image: B H W 3 in [0, 1], as on an IMAGE socket; its size decides about tiles.
        mask: B H W (or 1 H W, or H W), 1 = hole; needed by inpainting models only.
        gradient: False when no `vjp` will be asked for: then models without a gradient are welcome too.
        samples: how many variations of each image will be run at once; room is asked for so many.
        also: judges that compute at the same time: loaded together with the model, their gradients right as well.

    Raises:
        ProvokeError: an unknown model, an image or mask of the wrong shape, an empty image, NaN, a mask that is
            missing.
        GradientError: a model that no gradient comes through.
    """
    kind = recognise(model)
    check_image(image)
    height, width = image.shape[1:3]
    kind.crop(height, width)  # refuses sizes that the model cannot take
    notes: list[str] = []
    hole = _check_mask(kind, image, mask)
    kind.residence = together(kind.residence, [patcher for one in also for patcher in one.patchers])
    modules = [module for one in also for module in one.modules]
    beside = room(also, len(image) * samples) if gradient else 0.0
    with resident(kind.residence), gradient_session(kind.module, *modules) as session:
        finding = probe(kind, height, width, gradient=gradient)
        notes.extend(finding.notes)
        opened = ImageModel(kind, session, finding, None if hole is None else normal(hole), (height, width), notes)
        opened._reserve(len(image) * samples, beside)
        yield opened


class ImageModel:
    """A frozen image model as a `core.problem.Generator`: x, B 3 H W float32 in [0, 1] -> B 3 (scale H) (scale W).

    The order of a batch that is larger than the opened image's is image-major: its samples s belong to image
    s // (len(x) // B), whose mask they use. Large pictures, large batches and small memories are handled inside;
    `notes` says in words what was done. The image is the function itself as long as a forward fits into memory; tiles
    for memory change only how the gradient is computed.
    """

    def __init__(
        self,
        kind: Kind,
        session: GradientSession,
        finding: Finding,
        hole: Tensor | None,
        size: tuple[int, int],
        notes: list[str],
    ) -> None:
        self.name = kind.name
        self.scale = float(kind.scale)
        self.device = kind.residence.device
        self.notes = notes
        self._kind, self._session, self._finding = kind, session, finding
        self._hole = None if hole is None else hole.to(self.device)
        self._size = size
        self._crop = kind.crop(*size)
        self._base = self._base_plan()
        self._plans: dict[int, Plan] = {}
        rungs = [rung for rung in RUNGS if self._makes_sense(rung)]
        self._forward, self._backward = Ladder("picture", rungs, notes), Ladder("gradient", rungs, notes)
        self._fitted: set[int] = set()
        self._beside = 0.0  # bytes

    @property
    def forward_cost(self) -> float:
        """Forward-equivalents of one call: 1, or more where tiles overlap that the host's own node does not have."""
        return self._plan(self._forward.rung).area / self._base.area

    @property
    def vjp_cost(self) -> float:
        """Forward-equivalents of `vjp` and its pullback: 2 with the graph kept, 3 where it is computed again."""
        if not self._backward.rung.single:
            return 2.0
        return self.forward_cost + 2 * self._plan(self._backward.rung).area / self._base.area

    def __call__(self, variable: Tensor) -> Tensor:
        """B 3 H W -> B 3 h w, no graph."""
        x = self._accept(variable)
        while True:
            try:
                return self._render(x)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._forward.step_down()

    def vjp(self, variable: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The image without a graph, and a function (callable once) from d score / d image to d score / d x."""
        x = self._accept(variable)
        self._fit(len(x))
        kept = self._graph(x)
        image = kept[1].detach() if kept else self(x)

        def pullback(cotangent: Tensor) -> Tensor:
            cotangent = at_least_float32(normal(cotangent).to(self.device))
            gradient = self._backward_through(kept, cotangent)
            return self._recomputed(x, cotangent) if gradient is None else gradient

        return image, pullback

    def plain(self, image: Tensor) -> Tensor:
        """B H W C -> B h w C through the host's own node or call, bit-identical to it."""
        hole = None if self._hole is None else self._holes(len(image))
        with self._session.as_host():
            result = self._finding.plain(self._kind, image, hole)
        with torch.inference_mode():
            self._kind.residence.ask(0)  # hosts before 0.30 move the model away when their node ends
        self._session.refresh()
        return normal(result)

    # ---------------------------------------------------------------------------------------------- running

    def _render(self, x: Tensor) -> Tensor:
        rung = self._forward.rung
        plan, size = self._plan(rung), 1 if rung.single else len(x)
        holes = self._holes(len(x))
        with torch.no_grad():
            parts = [
                blend(plan, self._run, self._cropped(x[i : i + size]), part(holes, i, size), check_cancelled)
                for i in range(0, len(x), size)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, x: Tensor, hole: Tensor | None) -> Tensor:
        return self._finding.run(self._kind, x, hole)

    def _graph(self, x: Tensor) -> list[Tensor]:
        """[x, image] in one graph, or nothing where that is not meant to be or does not fit."""
        if self._backward.rung.single:
            return []
        try:
            return self._run_with_graph(self._base, x, self._holes(len(x)))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._backward.step_down()
        return []

    def _run_with_graph(self, plan: Plan, x: Tensor, holes: Tensor | None) -> list[Tensor]:
        with torch.enable_grad(), self._finding.graph():
            leaf = x.detach().requires_grad_(True)
            return [leaf, blend(plan, self._run, self._cropped(leaf), holes, check_cancelled)]

    def _backward_through(self, kept: list[Tensor], cotangent: Tensor) -> Tensor | None:
        """The gradient through a kept graph, which is freed; None where there is none, or where it does not fit."""
        if not kept:
            return None
        leaf, image = kept
        kept.clear()
        try:
            return self._pull(leaf, image, cotangent)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        del leaf, image
        self._backward.step_down()
        return None

    def _recomputed(self, x: Tensor, cotangent: Tensor) -> Tensor:
        """The gradient, image by image and (further down the ladder) tile by tile."""
        while True:
            try:
                return self._recompute(x, cotangent)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._backward.step_down()

    def _recompute(self, x: Tensor, cotangent: Tensor) -> Tensor:
        rung, gradient = self._backward.rung, torch.zeros_like(x)
        holes = self._holes(len(x))
        for i in range(len(x)):
            one, hole, direction = x[i : i + 1], part(holes, i, 1), cotangent[i : i + 1]
            if rung.tile is None:
                gradient[i : i + 1] = self._image_vjp(one, hole, direction)
            else:
                target = self._cropped(gradient[i : i + 1])
                target.copy_(
                    adjoint(self._plan(rung), self._tile_vjp, self._cropped(one), hole, direction, check_cancelled)
                )
        return gradient

    def _image_vjp(self, x: Tensor, hole: Tensor | None, cotangent: Tensor) -> Tensor:
        leaf, image = self._run_with_graph(self._base, x, hole)
        return self._pull(leaf, image, cotangent)

    def _tile_vjp(self, x: Tensor, hole: Tensor | None, cotangent_of: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad(), self._finding.graph():
            leaf = x.detach().requires_grad_(True)
            output = self._run(leaf, hole)
        return self._pull(leaf, output, cotangent_of(output.detach()))

    def _pull(self, leaf: Tensor, output: Tensor, cotangent: Tensor) -> Tensor:
        """J^T cotangent. Linear in the cotangent: in float16 each image's is scaled to 1, or it would underflow."""
        if not self._kind.half:
            return torch.autograd.grad(output, leaf, cotangent)[0]
        size = cotangent.abs().amax(dim=(1, 2, 3), keepdim=True)
        size = torch.where(size > 0, size, 1)
        return torch.autograd.grad(output, leaf, cotangent / size)[0] * size

    # ---------------------------------------------------------------------------------------------- shapes

    def _accept(self, variable: Tensor) -> Tensor:
        if variable.ndim != 4 or variable.shape[1] != 3 or tuple(variable.shape[2:]) != self._size:
            height, width = self._size
            raise ProvokeError(
                f"The model was opened for {height}x{width} pictures but got {tuple(variable.shape)}",
                f"B x 3 x {height} x {width}",
                "open the model with an image of the size that it is to work on",
            )
        return at_least_float32(normal(variable).to(self.device))

    def _cropped(self, x: Tensor) -> Tensor:
        return x[..., self._crop[0], self._crop[1]]

    def _holes(self, count: int) -> Tensor | None:
        """The mask of every sample, B 1 H W."""
        if self._hole is None:
            return None
        if count % len(self._hole):
            raise ProvokeError(
                f"{count} samples cannot be shared out to {len(self._hole)} images",
                "the same number of samples for every image",
                "make the batch a multiple of the number of images",
            )
        return self._hole.repeat_interleave(count // len(self._hole), dim=0)

    # ---------------------------------------------------------------------------------------------- memory

    def _base_plan(self) -> Plan:
        rows, columns = self._crop
        size = rows.stop - rows.start, columns.stop - columns.start
        return (host_plan if self._kind.host_tiles else whole_plan)(*size, self._kind.scale)

    def _makes_sense(self, rung: Rung) -> bool:
        if rung.tile is None:
            return True
        # a model that draws would draw something else in tiles of another size
        tiles = self._kind.tiles and not self._finding.draws and rung.tile >= self._kind.minimum
        return tiles and rung.tile < max(self._base.height, self._base.width)

    def _plan(self, rung: Rung) -> Plan:
        if rung.tile is None:
            return self._base
        if rung.tile not in self._plans:
            self._plans[rung.tile] = smaller_plan(self._base, rung.tile)
        return self._plans[rung.tile]

    def _needed(self, rung: Rung, count: int) -> float:
        """Bytes kept for the backward of the largest piece, and of what is alive beside it."""
        pieces = [
            self._kind.padded(tile.row.stop - tile.row.start, tile.column.stop - tile.column.start)
            for tile in self._plan(rung)
        ]
        pixels = sum(pieces) if rung.tile is None else max(pieces)
        one = self._finding.bytes_per_pixel * pixels
        # a graph of all waits while the judges look; one that is computed again comes when theirs is gone
        return one if rung.single else one * count + self._beside

    def _reserve(self, count: int, beside: float) -> None:
        """Asks the host for room: for the largest piece that the device could hold at all, and for the judges'
        `beside` it. No graph is alive yet, so what the host unloads for it does no harm."""
        rungs = [rung for rung in RUNGS if self._makes_sense(rung)]
        total = comfy.model_management.get_total_memory(self.device)
        self._beside = beside
        needs = (self._needed(rung, count) * MARGIN for rung in rungs)  # what `Ladder.fit` compares with
        wanted = max(beside * MARGIN, next((need for need in needs if need < 0.8 * total), 0.0))
        with torch.inference_mode():
            self._kind.residence.ask(wanted)
        self._session.refresh()
        self._fit(count)

    def _fit(self, count: int) -> None:
        """Steps down before anything fails, once per batch size."""
        if count not in self._fitted:
            self._fitted.add(count)
            self._backward.fit(lambda rung: self._needed(rung, count), self._kind.residence.free())


def check_image(image: Tensor, name: str = "image") -> None:
    """Raises ProvokeError for what is no IMAGE of finite RGB pictures (B H W 3). name: of the socket, for its words."""
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[-1] != 3 or image.numel() == 0:
        came = f"{tuple(image.shape)} (B H W C)" if isinstance(image, Tensor) else type(image).__name__
        raise ProvokeError(
            f"{name} is {came}",
            "one or more RGB pictures, B H W 3",
            f"connect an IMAGE to {name}; take the alpha channel off with Split Image with Alpha if it has one",
        )
    if not bool(image.isfinite().all()):
        bad = int((~image.isfinite()).flatten(1).any(1).sum())
        raise ProvokeError(
            f"{bad} of the {len(image)} pictures of {name} hold values that are not finite (NaN or infinite)",
            "finite values, from 0 (black) to 1 (white)",
            f"look at the node that made {name}: a VAE in float16 is the usual cause (ComfyUI's --fp32-vae)",
        )


def _check_mask(kind: Kind, image: Tensor, mask: Tensor | None) -> Tensor | None:
    """The hole, B 1 H W in {0, 1}, or None for models without."""
    if not kind.masked:
        return None
    if mask is None:
        raise ProvokeError(
            f"{kind.name} needs a mask and none came",
            "a MASK, B x H x W, 1 where the picture is to be filled in",
            "connect the mask input (Load Image gives one, from the picture's alpha channel)",
        )
    mask = mask[None] if mask.ndim == 2 else mask.squeeze(1) if mask.ndim == 4 and mask.shape[1] == 1 else mask
    if mask.ndim != 3 or mask.shape[1:] != image.shape[1:3] or len(mask) not in (1, len(image)):
        raise ProvokeError(
            f"The mask is {tuple(mask.shape)} but the image is {tuple(image.shape[:3])} (B x H x W)",
            "a mask of the image's size, one for all images or one for each",
            "resize the mask, or take both from the same node",
        )
    hole = mask.round().clamp(0, 1)[:, None].expand(len(image), -1, -1, -1).to(torch.float32)
    share = hole.mean(dim=(1, 2, 3))
    if bool((share == 0).any()) or bool((share == 1).any()):
        empty = bool((share == 0).any())
        raise ProvokeError(
            "The mask is empty: there is nothing to fill in" if empty else "The mask covers the whole picture",
            "a mask that is 1 (above one half) in the hole and 0 around it, for every image",
            "paint the hole" if empty else "invert the mask, or leave some of the picture visible",
        )
    return hole
