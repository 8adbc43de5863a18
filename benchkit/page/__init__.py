"""One HTML page that holds a whole comparison, and its plots as files: from stored cells, opened without a network."""

from benchkit.page.content import Content, gather
from benchkit.page.document import page, write_page
from benchkit.page.figures import write_figures

__all__ = ["Content", "gather", "page", "write_figures", "write_page"]
