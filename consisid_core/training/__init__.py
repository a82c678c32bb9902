"""The paper's recipe: data, losses, loop. No ComfyUI here."""
