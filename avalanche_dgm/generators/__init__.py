"""Networks that can sample what they have learned."""

from avalanche_dgm.generators.density import ClassDensity
from avalanche_dgm.generators.spec import VAESpec, choose_spec
from avalanche_dgm.generators.vae import VAE

__all__ = ["VAE", "ClassDensity", "VAESpec", "choose_spec"]
