"""ConsisID for ComfyUI: one photo of a person and a prompt become a video of that person."""
