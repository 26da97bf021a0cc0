"""One HTML page about runs: what was measured, side by side, with seeds averaged.

`page.write_page` makes it. The page holds everything that it shows: nothing is loaded. PyTorch is
not needed.
"""

from avalanche_dgm.experiments.pages.page import default_page, write_page

__all__ = ["default_page", "write_page"]
