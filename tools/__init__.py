"""What dev.py and the server tests are made of. Not part of what a user's ComfyUI loads."""
