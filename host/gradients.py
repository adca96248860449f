"""The gradient session: leaving the host's inference mode for a while, and leaving no trace of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..core.errors import GradientError
from .trees import mapped


@dataclass(frozen=True)
class _Swap:
    """One tensor of a module that was replaced by an alias on the same memory."""

    table: dict[str, Any]
    key: str
    original: Tensor
    alias: Tensor


class GradientSession:
    """What `gradient_session` yields. Call `refresh` when the host may have loaded or moved the model since."""

    def __init__(self, roots: tuple[nn.Module, ...], foreign: bool) -> None:
        self._foreign = foreign
        self._modules = [module for root in roots for module in root.modules()]
        # not modules, but they hold tensors: latents_mean and latents_std of Wan, SDXL Playground and others
        formats = [vars(module).get("latent_format") for module in self._modules]
        self._formats = list({id(one): one for one in formats if hasattr(one, "__dict__")}.values())
        self._training = [(module, module.training) for module in self._modules]
        self._swaps: dict[tuple[int, str], _Swap] = {}

    def refresh(self) -> None:
        """Makes every tensor of the models usable by autograd and frozen, without copying. Harmless when repeated."""
        self._follow_moves()
        for module in self._modules:
            module.training = False
        aliases: dict[int, Tensor] = {}  # tied weights stay tied
        for table in self._tables():
            for key, tensor in list(table.items()):
                if isinstance(tensor, Tensor) and (tensor.is_inference() or tensor.requires_grad):
                    if id(tensor) not in aliases:
                        alias = _alias(tensor, self._foreign)
                        if alias is None:
                            continue
                        aliases[id(tensor)] = alias
                    known = self._swaps.get((id(table), key))  # moved meanwhile: it is one of ours
                    original = tensor if known is None else known.original
                    self._swaps[id(table), key] = _Swap(table, key, original, aliases[id(tensor)])
                    table[key] = aliases[id(tensor)]

    def _tables(self) -> Iterator[dict[str, Any]]:
        """Where the tensors are: parameters, buffers, and plain attributes (SwinIR keeps its mean so). What
        execution.py's inference mode made (`with torch.inference_mode()` around the whole prompt) cannot be saved for
        backward."""
        for module in self._modules:
            yield module._parameters
            yield module._buffers
            yield vars(module)
        for one in self._formats:
            yield vars(one)

    @contextmanager
    def as_host(self) -> Iterator[None]:
        """For calls of the host's own nodes within the session: inference mode, as execution.py has it around
        every node. `refresh` afterwards."""
        with torch.inference_mode(), _training_flag(False):
            yield

    def close(self) -> None:
        """Puts the original tensors, their gradients' state and the train/eval flags back."""
        self._follow_moves()
        for swap in self._swaps.values():
            swap.table[swap.key] = swap.original
        self._swaps.clear()
        for module, training in self._training:
            module.training = training
            for table in (module._buffers, vars(module)):
                for key, value in list(table.items()):
                    # a forward that keeps its activations on self: the graph would live on with them
                    if isinstance(value, Tensor) and value.grad_fn is not None:
                        table[key] = value.detach()

    def _follow_moves(self) -> None:
        """The host may have loaded, unloaded or moved the model since."""
        # Another tensor in our place: ModelPatcher.load and unpatch_model set new parameters
        # (comfy.utils.set_attr_param), Module.to new buffers. What is there is right, and putting ours back would undo
        # it: forget ours.
        self._swaps = {at: swap for at, swap in self._swaps.items() if swap.table.get(swap.key) is swap.alias}
        # Module.to (ImageUpscaleWithModel.execute ends with it in hosts before 0.30) gives a parameter new memory in
        # place, hence our alias and not the original: hand it on, or the old device would stay occupied.
        for swap in self._swaps.values():
            if swap.alias.data_ptr() != swap.original.data_ptr():
                with torch.inference_mode(swap.original.is_inference()):
                    swap.original.data = swap.alias.data


@contextmanager
def gradient_session(*roots: nn.Module, foreign: bool = False) -> Iterator[GradientSession]:
    """Inside: normal autograd, frozen models in eval mode, the host's kernels without a backward switched off.

    Args:
        roots: the modules that gradients will pass through, *already loaded* on their device: loading makes inference
            tensors.
        foreign: leave weights of tensor classes that cannot be aliased (GGUF's) as they are. Right only where the model
            turns them into ordinary tensors in every forward; whoever says so has to check the gradient.

    Afterwards every model is as it was, also when something flies out. torch keeps inference mode per thread: no
    `await` inside, or the state leaks into other nodes.

    Raises:
        GradientError: a model whose weights cannot be aliased (TorchScript, quantised weights).
    """
    for root in roots:
        _refuse_script(root)
    session = GradientSession(roots, foreign)
    with torch.inference_mode(False), torch.enable_grad(), _training_flag(True):
        try:
            session.refresh()
            yield session
        finally:
            session.close()


def normal(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy that autograd may use when it comes from a node that ran in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


class normal_arguments(TorchFunctionMode):
    """Within: an operation that meets an inference tensor computes with an alias of it.

    For tensors that sit where nobody can look for them, in the closures of a node's patches. A Python call an
    operation: only for models that need it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*mapped(args, _normal_alias), **mapped(kwargs or {}, _normal_alias))


def _normal_alias(tensor: Tensor) -> Tensor:
    alias = _alias(tensor, foreign=True) if tensor.is_inference() else None
    return tensor if alias is None else alias


def is_inference_refused(error: BaseException | None) -> bool:
    """Whether autograd refused a tensor because it was made in inference mode."""
    return isinstance(error, RuntimeError) and "Inference tensors cannot be saved for backward" in str(error)


def _alias(tensor: Tensor, foreign: bool = False) -> Tensor | None:
    """A normal, frozen tensor on the memory of an inference tensor, or of one that wants gradients.

    None for a class that cannot be aliased, if `foreign` ones are allowed."""
    if type(tensor) not in (Tensor, nn.Parameter):
        if type(tensor.data).__module__.startswith("comfy") and hasattr(tensor, "__tensor_flatten__"):
            alias = _alias_quantised(tensor)  # comfy_kitchen's QuantizedTensor
        elif foreign:
            return None
        else:
            raise GradientError(
                f"The model holds weights of the kind {type(tensor).__name__}",
                "plain tensors (float32, float16 or bfloat16)",
                "load the same model from a file that is not quantised",
            )
    else:
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    if isinstance(tensor, nn.Parameter):
        alias = nn.Parameter(alias, requires_grad=False)
    alias.__dict__.update(tensor.__dict__)  # ModelPatcherDynamic.load hangs `_model_dtype` on parameters
    return alias


def _alias_quantised(tensor: Any) -> Tensor:
    """A wrapper subclass consists of plain tensors, and says of which."""
    names, context = tensor.__tensor_flatten__()
    inner = {name: _alias(getattr(tensor, name)) for name in names}
    return type(tensor).__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())


def _refuse_script(root: nn.Module) -> None:
    """A compiled module keeps its parameters where Python cannot replace them."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in root.modules()):
        raise GradientError(
            "The model is TorchScript (compiled, often a .pt file)",
            "a model in plain PyTorch, as spandrel loads it",
            "load the weights (.safetensors or .pth) of the same model with a node that uses spandrel",
        )


@contextmanager
def _training_flag(value: bool) -> Iterator[None]:
    """`comfy.model_management.in_training`: flux, wan, lumina and others then use plain torch instead of
    comfy_kitchen's rotary embedding, which has no backward. (Every host that we know has it; older ones may not.)"""
    management = comfy.model_management
    # a training node sets the second and forgets it: QuantLinearFunc would then round the gradient itself to fp8
    flags = {"in_training": value, "training_fp8_bwd": False}
    before = {name: getattr(management, name) for name in flags if hasattr(management, name)}
    for name in before:
        setattr(management, name, flags[name])
    try:
        yield
    finally:
        for name, flag in before.items():
            setattr(management, name, flag)
