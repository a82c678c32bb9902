"""What goes wrong while a weight file is read, in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConsisIDError, in_short, is_out_of_memory


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn whatever a library raises inside, while it reads this file, into a sentence about the file.

    Raises:
        ConsisIDError: the file is missing, not permitted, larger than the memory, full of code, or damaged.
    """
    try:
        file.open("rb").close()  # Tells apart what safetensors calls a missing file, whatever the cause.
        yield
    except ConsisIDError:
        raise
    except FileNotFoundError:
        raise ConsisIDError(f"{file} does not exist. Put the file there or choose another.") from None
    except PermissionError:
        raise ConsisIDError(
            f"{file} may not be read by the user that runs ComfyUI or this command. Change its permissions."
        ) from None
    # Whatever a damaged file makes the readers raise means the same to the user.
    except Exception as error:
        raise ConsisIDError(f"{file} {_problem(file, error)}") from None


def _problem(file, error):
    if is_out_of_memory(error):
        return (
            f"({file.stat().st_size / 1e9:.1f} GB) does not fit into the free memory. Close other programs, or choose "
            "a smaller form of these weights, such as fp8. The file itself need not be damaged."
        )
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"holds Python objects ({code[1]}) besides tensors. They are not loaded, because they can run any code. "
            "Choose a file of tensors only, at best .safetensors."
        )
    return (
        f"cannot be read as a weight file ({in_short(error)}). It is damaged, incomplete or of another kind; its size "
        f"is {file.stat().st_size:,} bytes. Download it again."
    )
