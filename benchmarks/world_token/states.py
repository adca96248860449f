"""How many vectors it takes to say what five words say, by the text encoder alone: no sampler, no judge.

Vectors at a prompt's end are moved until the encoder's states from there on are those that the words give (mean square,
the states of the token itself and of the end weigh five times). What then remains of the difference is what so few
vectors cannot say in this encoder, whatever a search through the sampler does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

START = 4  # the place after the start token and "a red circle"
HEAVY = 5.0  # weight of the token's own states and the end's


def told(
    clip: Any, prompts: Sequence[str], words: str, count: int, steps: int, word: str
) -> tuple[Tensor, float, float]:
    """Vectors (n D, in the encoder's own units), and the mean square difference of the states before and after.

    Args:
        prompts: of three words each. words: what is to be said after them. word: where all vectors start.
    """
    from ...host.gradients import gradient_session
    from ...host.sampling.text import TextEncoder
    from ...host.sampling.tokens import Token

    token = Token(TextEncoder(clip), count)
    with gradient_session(token.encoder.module):
        with torch.no_grad():
            wanted = [token.encoder(clip.tokenize(f"{prompt} {words}"))[0][0] for prompt in prompts]
        more = len(words.split()) - count  # by so many places the words' states come later
        leaf = token.of_word(word).clone().requires_grad_(True)
        rule = torch.optim.Adam([leaf], lr=1.0)
        over_time = torch.optim.lr_scheduler.CosineAnnealingLR(rule, steps)
        losses: list[float] = []
        for _ in range(steps):
            loss = torch.zeros(())
            for prompt, target in zip(prompts, wanted, strict=True):
                states = token.conditioning(prompt, "", leaf)[0][0]
                off = states[:, START : states.shape[1] - more] - target[:, START + more :]
                weight = torch.ones(off.shape[1])
                weight[: count + 1] = HEAVY
                loss = loss + (off.square().mean((0, 2)) * weight).mean() / len(prompts)
            rule.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            rule.step()
            over_time.step()
            losses.append(float(loss.detach()))
        vectors = token.vectors(leaf.detach())["clip_l"].cpu()
    return vectors, losses[0], losses[-1]
