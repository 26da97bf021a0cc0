"""Generators that are not the package's: those of ``examples/generators``, which is no package."""

import importlib.util
import sys
from pathlib import Path


def _of_example(file, name):
    path = Path(__file__).parents[1] / "examples" / "generators" / f"{file}.py"
    spec = importlib.util.spec_from_file_location(f"example_{file}", path)
    module = importlib.util.module_from_spec(spec)
    # Under its name, so that what is pickled can be found again.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


Mixtures = _of_example("gaussian_mixture", "Mixtures")
Flow = _of_example("normalizing_flow", "Flow")
Diffusion = _of_example("diffusion", "Diffusion")
