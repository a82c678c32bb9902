import pytest
from helpers.interpreter import Interpreter


@pytest.fixture(scope="package")
def run_python(tmp_path_factory):
    """Runs a program in a fresh interpreter that has imported nothing but ComfyUI; returns its output."""
    with Interpreter(tmp_path_factory.mktemp("interpreter")) as interpreter:
        yield interpreter.run
