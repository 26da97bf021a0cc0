"""An HTML page that compares the results of runs, averaged over seeds.

`page.write_page` writes it. The page is self-contained: it loads nothing. PyTorch is not needed.
"""

from avalanche_dgm.experiments.pages.page import default_page, write_page

__all__ = ["default_page", "write_page"]
