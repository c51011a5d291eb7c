"""An HTML page taken apart, for tests of what a browser would see."""

import json
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Start tags with their attributes, the text, and whether every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open, self.unclosed = [], [], [], []
        self.blocks = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        self.words.append(data)
        if self.open[-1:] == ["script"] and "id" in self.tags[-1][1]:
            self.blocks[self.tags[-1][1]["id"]] = data

    def of(self, tag, **wanted):
        """Attributes of all start tags of a name."""
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    def data(self, name):
        """The value of a block of JSON."""
        return json.loads(self.blocks[name])

    def assert_safe(self):
        """Every element is closed, and no script runs but the page's own."""
        assert self.unclosed == self.open == []
        assert [script for script in self.of("script") if script.get("type") != "application/json"] == [{}]
        for tag, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")], tag
            assert not str(attributes.get("href", "")).lower().startswith("javascript:")
