"""Ports to listen on."""

from __future__ import annotations

import os
import socket

from .console import DevError


def claim_port(wanted: int = 0) -> int:
    """The wanted port, or any free one for 0. Raises DevError when somebody listens there."""
    with socket.socket() as probe:
        if os.name == "posix":  # a port of a server that just ended is free (on Windows the option means another thing)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except (OSError, OverflowError) as error:
            raise DevError(f"Port {wanted} on 127.0.0.1 cannot be used: {error}. Choose another --port.") from None
        return int(probe.getsockname()[1])


def free_port(preferred: int) -> int:
    """The preferred port if nobody listens there, else any free one."""
    try:
        return claim_port(preferred)
    except DevError:
        return claim_port()
