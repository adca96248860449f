"""Frozen judges of a picture: CLIP scorers, image classifiers. No host, no network, no pickle, no code from a folder.

Importing this room is light: open_clip, timm and transformers are imported when something is loaded.
"""
