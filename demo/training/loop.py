"""Drive a training: budget, average of the weights, progress line, checkpoints, quality gate, export."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE.parent / "weights"


class Trainer(Protocol):
    """What upscaler.py and its neighbours provide. `modules` has "net" and its running average "average".

    `folder` is the model folder of ComfyUI's (below demo/weights) that the file goes to. A trainer with a `config` (a
    dictionary, as transformers and open_clip keep beside their weights) gets a folder of its own name there, with the
    JSON `files` (by name) that it may have. `look`: seconds between two validations, where 60 are too few.
    """

    name: str
    folder: str
    steps: int
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    generators: dict[str, torch.Generator]

    def step(self, progress: float) -> dict[str, float]: ...
    def validate(self) -> dict[str, float]: ...
    def failings(self, figures: dict[str, float]) -> list[str]: ...
    def weights(self) -> dict[str, Tensor]: ...


def _average(trainer: Trainer, step: int) -> None:
    """Exponential moving average of the net's weights, short at first."""
    keep = min(0.999, (1 + step) / (10 + step))
    mine = trainer.modules["average"].state_dict()
    for key, value in trainer.modules["net"].state_dict().items():
        if value.is_floating_point():
            mine[key].lerp_(value, 1 - keep)
        else:  # a batch norm's count
            mine[key].copy_(value)


def save_checkpoint(trainer: Trainer, folder: Path, facts: dict[str, float]) -> None:
    """Everything that the next step depends on, as safetensors and JSON; written beside and moved into place."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"module.{m}.{k}": v for m, module in trainer.modules.items() for k, v in module.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{name}.{index}.{key}": value for key, value in state.items()})
    tensors.update({f"generator.{name}": g.get_state() for name, g in trainer.generators.items()})
    save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, folder / "new.safetensors")
    (folder / "new.json").write_text(json.dumps(facts))
    (folder / "new.safetensors").replace(folder / "state.safetensors")
    (folder / "new.json").replace(folder / "state.json")


def load_checkpoint(trainer: Trainer, folder: Path) -> dict[str, float]:
    """Restore what save_checkpoint wrote; returns its facts. Raises FileNotFoundError when there is none."""
    tensors = load_file(folder / "state.safetensors")
    for name, module in trainer.modules.items():
        head = f"module.{name}."
        module.load_state_dict({k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)})
    for name, optimizer in trainer.optimizers.items():
        head = f"optimizer.{name}."
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(head):
                index, field = key[len(head) :].split(".")
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, generator in trainer.generators.items():
        generator.set_state(tensors[f"generator.{name}"])
    return json.loads((folder / "state.json").read_text())


def export(trainer: Trainer, place: Path) -> Path:
    """Write the averaged weights as fp16 safetensors into a folder; whoever loads them copies them into fp32."""
    config = getattr(trainer, "config", None)
    target = place / exported(trainer).relative_to(WEIGHTS / trainer.folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    if config is not None:
        for name, content in {"config.json": config, **getattr(trainer, "files", {})}.items():
            (target.parent / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights = {k: v.detach().cpu() for k, v in trainer.weights().items()}
    halved = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in weights.items()}
    save_file(halved, target, metadata={"format": "pt"})
    target.chmod(0o644)  # save_file leaves it readable by its owner alone
    return target


def exported(trainer: Trainer) -> Path:
    """Where the trainer's weights go."""
    plain = getattr(trainer, "config", None) is None
    name = f"{trainer.name}.safetensors" if plain else f"{trainer.name}/model.safetensors"
    return WEIGHTS / trainer.folder / name


def _line(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def train(
    trainer: Trainer,
    *,
    minutes: float,
    steps: int | None = None,
    resume: bool = False,
    draft: bool = False,
    onward: int = 0,
) -> bool:
    """Train for the trainer's steps, or until the CPU minutes are spent; True if the weights passed and were exported.

    `onward`: begin at this step of the schedule, with the exported weights (where the checkpoint is gone); chance and
    optimizer begin anew. `draft` exports below the bar too, after every validation (to develop against). Time is this
    process's CPU time, so that a busy machine does not shorten a training; on an accelerator it is wall time.
    """
    total = steps or trainer.steps
    folder = HERE / ".runs" / trainer.name
    cpu = next(trainer.modules["net"].parameters()).device.type == "cpu"
    clock = time.process_time if cpu else time.monotonic
    step, spent = 0, 0.0
    if resume:
        facts = load_checkpoint(trainer, folder)
        step, spent = int(facts["step"]), facts["seconds"]
        print(f"resumed at step {step}")
    elif onward:
        step, weights = onward, load_file(exported(trainer))
        for module in (trainer.modules["net"], trainer.modules["average"]):
            module.load_state_dict(weights)
    start = clock() - spent
    next_save = next_look = clock() - start
    losses: dict[str, float] = {}
    while step < total and clock() - start < minutes * 60:
        for name, value in trainer.step(step / total).items():
            losses[name] = losses.get(name, value) * 0.98 + value * 0.02
        step += 1
        _average(trainer, step)
        seconds = clock() - start
        if seconds >= next_look:
            next_look = seconds + getattr(trainer, "look", 60)
            figures = trainer.validate()
            print(
                f"{trainer.name} {step}/{total}  {seconds / 60:.1f} min  {_line(losses)}  |  {_line(figures)}",
                flush=True,
            )
            if draft:
                export(trainer, WEIGHTS / trainer.folder)
        if seconds >= next_save:
            next_save = seconds + 120
            save_checkpoint(trainer, folder, {"step": step, "seconds": seconds})
    save_checkpoint(trainer, folder, {"step": step, "seconds": clock() - start})
    figures = trainer.validate()
    print(f"{trainer.name} done: {step} steps, {(clock() - start) / 60:.1f} min  |  {_line(figures)}", flush=True)
    failings = trainer.failings(figures)
    for failing in failings:
        print(f"NOT GOOD ENOUGH  {failing}", flush=True)
    if failings and not draft:
        return False
    # The comparison model is not part of the pack: it stays with the checkpoints.
    place = folder if getattr(trainer, "plain", False) else WEIGHTS / trainer.folder
    print(f"wrote {export(trainer, place)}", flush=True)
    return not failings
