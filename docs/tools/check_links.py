"""
Follow every link inside the built site, and refuse what a page would load from a network.

``python docs/tools/check_links.py build/site`` lists what leads nowhere and exits with 1 if there is something.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
"""What a browser fetches to show a page. A link's ``rel`` of one of the following is no such thing."""
NOT_FETCHED = {"canonical", "next", "prev", "search", "index", "author", "genindex"}


class Page(HTMLParser):
    """The links of a page, what it loads, and the places in it that a link may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what a tag says."""
        said = {name: value or "" for name, value in attrs}
        self.anchors |= {said[name] for name in ("id", "name") if name in said}
        if tag == "a" and "href" in said:
            self.links.add(said["href"])
        elif said.get(LOADED.get(tag, "")) and said.get("rel") not in NOT_FETCHED:
            self.loads.add(said[LOADED[tag]])


def broken(site: Path) -> list[str]:
    """
    List what leads nowhere, and what would need a network.

    :param site: folder of the built site
    :return: a line each: page, link and what is wrong
    """
    pages = {
        file.resolve(): Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html") if "_static" not in file.parts
    }
    found = []
    for file, page in sorted(pages.items()):
        name = file.relative_to(site.resolve())
        for link in sorted(page.links | page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != "data":
                    found.append(f"{name}: {link} is loaded from a network")
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                found.append(f"{name}: {link} leads nowhere")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link} names no place of that page")
    return found


if __name__ == "__main__":
    wrong = broken(Path(sys.argv[1]))
    print("\n".join(wrong) or "every link inside the site leads somewhere, and nothing is loaded from a network")
    sys.exit(bool(wrong))
