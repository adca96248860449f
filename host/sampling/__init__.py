"""The host's sampling as a differentiable function of whatever goes into it."""
