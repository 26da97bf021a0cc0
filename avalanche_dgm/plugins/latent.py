"""Where latent replay's plugin can be imported from, too; see `plugins.made`."""

from avalanche_dgm.plugins.made import __getattr__ as __getattr__
