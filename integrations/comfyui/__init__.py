"""Nodes of ComfyUI that generate images by the API of `subject-diffusion serve`.

ComfyUI loads this folder as a package of its own, so the modules import each other by relative names, and nothing of
the project. They need numpy, Pillow and torch, which ComfyUI has.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
