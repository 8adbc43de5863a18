"""One HTML page that holds a whole comparison, and its plots as files: from stored cells, opened without a network."""

from benchkit.page.content import Content, gather
from benchkit.page.document import page, write_page

__all__ = ["Content", "gather", "page", "write_page"]
