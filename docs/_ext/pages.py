"""What the site makes of the pages: links to files outside ``docs/`` work, and each page is there as Markdown, too.

- A page whose only text is "This page is [NAME](../NAME)." shows that Markdown file of the repository.
- Links to such a file lead to its page. Links to any other file, such as a test, lead to a copy of it, as plain text.
- ``NAME.md`` beside ``NAME.html`` has the text of a page, and ``llms.txt`` lists these files (https://llmstxt.org).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.io import StringOutput
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.text import TextBuilder
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.writers.text import TextWriter

logger = logging.getLogger(__name__)

SCHEME = "repository"
"""MyST turns links with this scheme into links to copies, by ``myst_url_schemes`` in ``conf.py``."""

COPIES = "files"
"""The directory of the site that has the copies. Their names end with .txt, so that every server sends them as text."""

_STANDS_FOR = re.compile(r"^This page is \[[^]]*\]\(\.\./([^)]+)\)\.$", re.MULTILINE)
_FENCE = re.compile(r"^([ ]*`{3,})[^\n]*\n.*?^\1[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")
_TOCTREE = re.compile(r"^```\{toctree\}.*?^```\n", re.MULTILINE | re.DOTALL)

_LEVELS = '*=-~"+`'  # with what Sphinx's writer of text underlines titles
_UNDERLINED = re.compile(rf"^(\S.*)\n([{re.escape(_LEVELS)}])\2+$", re.MULTILINE)


class Pages:
    """The Markdown of the pages, and the files of the repository to which they link.

    Args:
        docs: the directory of the pages.
    """

    def __init__(self, docs: Path) -> None:
        self.docs = docs.resolve()
        self.root = self.docs.parent
        self.linked: set[Path] = set()
        self._page_of: dict[Path, str] = {}
        for page in self.docs.glob("*.md"):
            stands_for = _STANDS_FOR.search(page.read_text(encoding="utf-8"))
            if stands_for:
                self._page_of[self.root / stands_for[1]] = page.name

    def markdown(self, name: str) -> str:
        """Return the text of a page, with links that are right on the site."""
        file = self.docs / f"{name}.md"
        text = file.read_text(encoding="utf-8")
        stands_for = _STANDS_FOR.search(text)
        if stands_for:
            file = self.root / stands_for[1]
            text = file.read_text(encoding="utf-8")
        parts, end = [], 0
        for fence in _FENCE.finditer(text):  # what looks like a link in code is none
            parts += [self._linked_from(file, text[end : fence.start()], name), fence[0]]
            end = fence.end()
        return "".join([*parts, self._linked_from(file, text[end:], name)])

    def _linked_from(self, file: Path, text: str, name: str) -> str:
        return _LINK.sub(lambda link: self._target(file, link[1], name) + (link[2] or ""), text)

    def _target(self, file: Path, link: str, name: str) -> str:
        if not link or "://" in link:
            return link
        target = (file.parent / link).resolve()
        page = self._page_of.get(target) or self._page_of.get(target / "README.md")
        if page:
            return page
        if target.is_relative_to(self.docs):
            return target.relative_to(self.docs).as_posix()
        if not target.is_file():
            logger.warning("the site has no page or file for the link %s", link, location=name, type="pages")
            return link
        self.linked.add(target)
        return f"{SCHEME}:{target.relative_to(self.root).as_posix()}"

    def copy_linked(self, directory: Path) -> None:
        """Copy the files to which pages link."""
        for file in self.linked:
            copied = directory / COPIES / f"{file.relative_to(self.root).as_posix()}.txt"
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)


def write_twins(app: Sphinx, pages: Pages) -> None:
    """Write each page as Markdown, and their list."""
    directory = Path(app.outdir)
    for name in app.env.found_docs:
        text = pages.markdown(name)
        if "```{eval-rst}" in text:  # docstrings and options of commands are not in the text of the page
            text = _as_text(app, name)
        twin = re.sub(rf"\({SCHEME}:([^)#]*)", rf"({COPIES}/\1.txt", _TOCTREE.sub("", text))
        twin = twin.replace("](pictures/", f"]({app.builder.imagedir}/")
        (directory / f"{name}.md").write_text(f"{twin.rstrip()}\n", encoding="utf-8")
    (directory / "llms.txt").write_text("\n".join(_listed(app.env)), encoding="utf-8")


def check_twins(directory: Path) -> None:
    """Warn of links in the Markdown files of the site that lead nowhere; Sphinx checks those of the pages."""
    for twin in sorted(directory.glob("*.md")):
        for link, _ in _LINK.findall(_FENCE.sub("", twin.read_text(encoding="utf-8"))):
            if link and "://" not in link and not (directory / link).exists():
                logger.warning("%s has a link to %s, which is not there", twin.name, link, type="pages")


def _as_text(app: Sphinx, name: str) -> str:
    builder = TextBuilder(app, app.env)
    builder.init()
    destination = StringOutput(encoding="unicode")
    text = str(TextWriter(builder).write(app.env.get_and_resolve_doctree(name, app.builder), destination))
    return _UNDERLINED.sub(lambda title: f"{'#' * (_LEVELS.index(title[2]) + 1)} {title[1]}", text)


def _listed(env: BuildEnvironment) -> Iterator[str]:
    front = env.get_doctree(env.config.root_doc)
    yield f"# {env.titles[env.config.root_doc].astext()}"
    yield f"\n> {_first_sentences(front, 2)}"
    for toctree in front.findall(addnodes.toctree):
        yield f"\n## {toctree['caption']}\n"
        for _, name in toctree["entries"]:
            yield f"- [{env.titles[name].astext()}]({name}.md): {_first_sentences(env.get_doctree(name), 1)}"
    yield ""


def _first_sentences(doctree: nodes.document, count: int) -> str:
    paragraph = next(iter(doctree.findall(nodes.paragraph)), None)
    text = "" if paragraph is None else " ".join(paragraph.astext().split())
    return " ".join(re.split(r"(?<=[.])\s", text)[:count]).removesuffix(":")


def make_accessible(context: dict[str, Any]) -> None:
    """Add what axe misses in the theme: keys can scroll wide code and tables, and headings have a level."""
    body = context.get("body", "").replace("<pre>", '<pre tabindex="0">')
    context["body"] = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
    tree = "furo_navigation_tree"
    context[tree] = context.get(tree, "").replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect this extension to Sphinx."""
    pages = Pages(Path(app.srcdir))

    def read(_: Sphinx, name: str, source: list[str]) -> None:
        source[0] = pages.markdown(name)

    def complete(_: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
        if doctree is not None:
            link = f'<link rel="alternate" type="text/markdown" href="{name}.md">'
            context["metatags"] = context.get("metatags", "") + link
            make_accessible(context)

    def finish(app: Sphinx, error: Exception | None) -> None:
        if error is None and app.builder.format == "html":
            write_twins(app, pages)
            pages.copy_linked(Path(app.outdir))
            check_twins(Path(app.outdir))

    app.connect("source-read", read)
    app.connect("html-page-context", complete, priority=900)  # after the theme
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
