"""FaceLoom: face swapping for ComfyUI.

``nodes/`` is what ComfyUI sees, ``models/`` is everything that computes, ``cli/`` is the same code from a terminal.
"""

if __package__:  # pytest imports this file without a package when it collects a checkout
    WEB_DIRECTORY = "./js"

    async def comfy_entrypoint():
        """Called once by ComfyUI's loader; nothing of the pack is imported before that."""
        from .nodes import FaceLoomExtension

        return FaceLoomExtension()
