"""Scheduled hooks: the host's keyframes only know the way forward, and a backward goes back."""

from __future__ import annotations

from typing import Any

State = list[dict[str, Any]]


class Keyframes:
    """The keyframe groups of a run's hooks, whose state can be taken and put back.

    `HookKeyframeGroup.prepare_current_keyframe` counts used steps and moves on; computed again for an earlier step it
    would keep the strength of the last one.
    """

    def __init__(self, conds: dict[str, list[dict[str, Any]]], patcher: Any) -> None:
        self._patcher = patcher
        hooked = [c["hooks"] for cond in conds.values() for c in cond if c.get("hooks")]
        groups = [hook.hook_keyframe for hooks in hooked for hook in hooks.hooks]
        scheduled = [group for group in groups if group is not None and group.keyframes]
        self._groups = list({id(group): group for group in scheduled}.values())

    @property
    def scheduled(self) -> bool:
        """Whether there are any: the weights are not the same in every step."""
        return bool(self._groups)

    def state(self) -> State:
        """What `put_back` takes."""
        return [dict(vars(group)) for group in self._groups]

    def put_back(self, state: State) -> None:
        """The state as it was; weights that were made for another strength are thrown away."""
        stale = False
        for group, before in zip(self._groups, state, strict=True):
            strength = group.strength
            vars(group).update(before)
            stale |= group.strength != strength
        if stale:
            # ModelPatcher caches patched weights by hook group, whatever strength they were made with
            self._patcher.clear_cached_hook_weights()

    def start(self) -> None:
        """As before the first step of a run."""
        for group in self._groups:
            group.reset()
            group._curr_t = -1.0  # `reset` sets a `curr_t` that nobody reads
        if self._groups:
            self._patcher.clear_cached_hook_weights()
