import pytest
from helpers.served import Run, link_released_names
from helpers.templates import write_enlarging_models


@pytest.fixture(scope="session")
def served(tmp_path_factory, models_dir):
    """A ComfyUI that has the tiny files under their own names and under those of the released ones."""
    models = tmp_path_factory.mktemp("released")
    link_released_names(models_dir, models)
    write_enlarging_models(models)
    with Run(tmp_path_factory.mktemp("server"), models) as run:
        run.object_info()  # Waits until it is ready.
        yield run
