"""What a server wrote, read for the pack's troubles."""

from __future__ import annotations

import re

from . import pack


def problems(log: str) -> list[str]:
    """What a server log says of the pack's failures: lines of trouble that name it, the ends of tracebacks through it.

    The host's own troubles (an older one lacks OpenGL nodes here) are not counted.
    """
    # The name, but not as a folder above the host: a clone may be called so too.
    ours = re.compile(rf"custom_nodes[\\/]{pack.NAME}\b|\b{pack.NAME}\b(?![\\/])", re.IGNORECASE)
    trouble = re.compile(r"warn|error|fail|exception|deprecat|cannot import", re.IGNORECASE)
    # A prompt that asks for a file which is not there: the host lists those that are, ours among them.
    refused = re.compile(r"- Value not in list: ")
    found = []
    lines = iter(log.splitlines())
    for line in lines:
        if "Traceback (most recent call last)" not in line:
            if ours.search(line) and trouble.search(line) and not refused.search(line):
                found.append(line)
            continue
        block = [line]
        for following in lines:
            block.append(following)
            if following and not following[0].isspace():  # the exception itself
                break
        if any(ours.search(part) for part in block):
            found.append(f"Traceback: {block[-1]}")
    return found
