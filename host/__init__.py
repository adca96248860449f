"""The only room that knows ComfyUI: gradients, image models, tiles, memory, progress, model folders."""
