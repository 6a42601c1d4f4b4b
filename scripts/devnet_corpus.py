"""Turn the Python documentation into question-and-answer chats and plain text for the devnet's model."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from random import Random

SOURCE_PACKAGE = "python3.11-doc"
SECTIONS = ("glossary.html", "faq", "tutorial", "howto", "library", "reference", "using")
# Lists of changes, indexes and machine tables teach a small model nothing but names.
SKIPPED_PAGES = re.compile(r"genindex|contents|changelog|copyright|/index\.html|asyncio-api-index|unicodedata")
BLOCKS = {"p", "h1", "h2", "h3", "h4", "dt", "li"}
SILENT = {"pre", "script", "style", "table", "nav", "head", "sup"}
# Names such as "cmdoption-R" or single byte codes make no sensible question.
SKIPPED_KINDS = {"cmdoption", "opcode", "envvar", "2to3fixer", "pdbcommand"}
VOID = {"br", "img", "link", "meta", "input", "hr", "col", "source", "wbr", "area", "base"}
ASCII = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\xa0": " ", "¶": " "})
MAX_ANSWER_WORDS = 105
MIN_ANSWER_WORDS = 6

Chat = list[tuple[str, str]]


@dataclass
class Entry:
    """One documented thing: a term, a module, a function or a section, and its prose."""

    kind: str
    name: str
    paragraphs: list[str] = field(default_factory=list)


def clean(text: str) -> str:
    """Return one line of plain ASCII prose."""
    text = re.sub(r"\s+", " ", text.translate(ASCII)).strip()
    text = re.sub(r" ?\[\d+\]", "", text.encode("ascii", "ignore").decode())
    return re.sub(r"\s+([.,;:)])", r"\1", text)


class PageReader(HTMLParser):
    """Collects the entries of one page in reading order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.entries: list[Entry] = []
        self._open: list[tuple[str, str, str]] = []
        self._text: list[str] = []
        self._entry_depth: list[tuple[int, Entry]] = []
        self._pending: Entry | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag; a new block ends the text before it."""
        if tag in VOID:
            return
        named = {key: value or "" for key, value in attrs}
        if tag in BLOCKS or tag in {"dd", "dl", "ul", "ol", "section", "div"}:
            self._flush_paragraph()
        if tag == "dd" and self._pending is not None:
            self._entry_depth.append((len(self._open), self._pending))
            self._pending = None
        self._open.append((tag, named.get("class", ""), named.get("id", "")))

    def handle_endtag(self, tag: str) -> None:
        """Close a tag and act on the block it ends."""
        if tag not in {name for name, _, _ in self._open}:
            return
        if tag in BLOCKS:
            self._flush_paragraph()
        while self._open:
            name, _, _ = self._open.pop()
            if name == tag:
                break
        while self._entry_depth and len(self._open) <= self._entry_depth[-1][0]:
            self._entry_depth.pop()

    def handle_data(self, data: str) -> None:
        """Keep prose, drop code and navigation."""
        if not any(name in SILENT or "headerlink" in css for name, css, _ in self._open):
            self._text.append(data)

    def _flush_paragraph(self) -> None:
        text, self._text = clean("".join(self._text)), []
        block = next((item for item in reversed(self._open) if item[0] in BLOCKS), None)
        if not text or block is None:
            return
        tag, css, identity = block
        if tag in {"h1", "h2", "h3", "h4"}:
            self.entries.append(Entry("section", re.sub(r"^[\d.]+ ", "", text)))
        elif tag == "dt":
            self._start_entry(css, identity, text)
        else:
            self._add_paragraph(text)

    def _start_entry(self, css: str, identity: str, text: str) -> None:
        if identity.startswith("term-"):
            self._pending = Entry("term", text)
        elif "sig-object" in css and identity:
            parent = next((value for name, value, _ in reversed(self._open) if name == "dl"), "")
            self._pending = Entry(parent.split()[-1] if parent else "function", identity)
        if self._pending is not None:
            self.entries.append(self._pending)

    def _add_paragraph(self, text: str) -> None:
        if re.match(
            r"(New in version|Changed in version|Deprecated since|Availability|Source code|See also|Note$)", text
        ):
            return
        if self._entry_depth:
            self._entry_depth[-1][1].paragraphs.append(text)
        elif self.entries:
            section = next((e for e in reversed(self.entries) if e.kind == "section"), self.entries[-1])
            section.paragraphs.append(text)


def fetch_source(cache: Path) -> Path:
    """Download and unpack the documentation package once; return its folder of HTML pages."""
    pages = cache / "unpacked/usr/share/doc/python3.11/html"
    if not pages.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", SOURCE_PACKAGE], cwd=cache, check=True)
        (package,) = cache.glob(f"{SOURCE_PACKAGE}_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(cache / "unpacked")], check=True)
    return pages


def read_entries(pages: Path) -> list[Entry]:
    """Read all chosen pages in a fixed order."""
    entries: list[Entry] = []
    for section in SECTIONS:
        path = pages / section
        for page in [path] if path.is_file() else sorted(path.glob("*.html")):
            if SKIPPED_PAGES.search("/" + str(page.relative_to(pages))):
                continue
            reader = PageReader()
            body = re.search(r'<div class="body" role="main">(.*?)<div class="sphinxsidebar', page.read_text(), re.S)
            reader.feed(body.group(1) if body else "")
            entries.extend(reader.entries)
    return [entry for entry in entries if entry.paragraphs and entry.kind not in SKIPPED_KINDS]


def answer_from(paragraphs: list[str], limit: int = MAX_ANSWER_WORDS) -> str:
    """Return whole sentences from the start of the paragraphs, at most about `limit` words."""
    kept: list[str] = []
    words = 0
    for paragraph in paragraphs:
        line: list[str] = []
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", paragraph):
            words += len(sentence.split())
            if (kept and words > limit) or words > limit * 2:
                return " ".join(kept)
            # A sentence that ends in a colon introduces code that was dropped.
            if not sentence.endswith((":", ",", ";")) and len(sentence) > 3:
                line.append(sentence if sentence[-1] in ".!?)" else sentence + ".")
        kept.extend(line)
    return " ".join(kept)


def questions(entry: Entry) -> list[str]:
    """Return several ways to ask for the entry."""
    name, kind = entry.name, entry.kind
    if kind == "section":
        if name.endswith("?"):
            return [name]
        if match := re.match(r"([\w.]+) - (.+)", name):
            module, title = match.groups()
            return [
                f"What is the {module} module?",
                f"What is {module} used for?",
                f"How do I use {module}?",
                f"Which module is for this: {title.lower()}?",
            ]
        return [
            f"Tell me about {name[:1].lower() + name[1:]}.",
            f"Explain: {name}",
            f"What should I know about {name}?",
        ]
    if kind == "term":
        article = "an" if name[:1].lower() in "aeiou" else "a"
        return [
            f"What is {article} {name}?",
            f"What is {name} in Python?",
            f"Explain {name}.",
            f"What does {name} mean?",
        ]
    if kind in {"function", "method", "classmethod", "staticmethod"}:
        return [f"What does {name}() do?", f"How do I use {name}?", f"Explain {name}.", f"What is {name} for?"]
    if kind == "class":
        return [f"What is the class {name}?", f"What is {name} used for?", f"Explain {name}."]
    if kind == "exception":
        return [f"When is {name} raised?", f"What does {name} mean?", f"Explain {name}."]
    return [f"What is {name}?", f"What does {name} mean?", f"Explain {name}."]


def first_sentence(answer: str) -> str:
    """Return the first sentence of an answer."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", answer)[0]


def chats_of(entry: Entry, random: Random) -> Iterator[Chat]:
    """Yield the chats made from one entry."""
    answer = answer_from(entry.paragraphs)
    if len(answer.split()) < MIN_ANSWER_WORDS:
        return
    asked = questions(entry)
    for question in random.sample(asked, min(2, len(asked))):
        yield [("user", question), ("assistant", answer)]
    short = first_sentence(answer)
    if short != answer and len(short.split()) >= MIN_ANSWER_WORDS:
        question = random.choice(asked)
        in_short = random.choice(["In one sentence: ", "In short: ", "Briefly: "])
        yield [("user", in_short + question), ("assistant", short)]
        rest = answer[len(short) :].strip()
        if len(rest.split()) >= MIN_ANSWER_WORDS and random.random() < 0.5:
            more = random.choice(["Tell me more.", "Go on.", "Can you explain further?", "And what else?"])
            yield [("user", question), ("assistant", short), ("user", more), ("assistant", rest)]
    yield from _later_chats(entry, answer, random)


def _later_chats(entry: Entry, answer: str, random: Random) -> Iterator[Chat]:
    """Yield chats about the paragraphs that the first answer does not reach."""
    later = [p for p in entry.paragraphs[1:] if p[:40] not in answer]
    while later:
        part = answer_from(later)
        used = max(1, sum(1 for p in later if p[:40] in part))
        later = later[used:]
        if len(part.split()) >= 2 * MIN_ANSWER_WORDS:
            name = entry.name.rstrip("?.")
            ask = random.choice(
                ["Tell me more about {}.", "What else is there to know about {}?", "Give details on {}."]
            )
            yield [("user", ask.format(name)), ("assistant", part)]


def greetings() -> list[Chat]:
    """Small talk written for this project, so that a first hello gets a sensible answer."""
    about = (
        "I am a very small language model. I was trained on the documentation of the Python language, "
        "so I can only talk about Python, and I often make mistakes."
    )
    hello = "Hello! I am a small language model. Ask me about a Python module, a function or a term."
    pairs = [(q, hello) for q in ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning.", "Hello there", "Say hello.")]
    pairs += [
        (q, about)
        for q in (
            "Who are you?",
            "What are you?",
            "What can you do?",
            "Introduce yourself.",
            "Are you a language model?",
            "What were you trained on?",
        )
    ]
    pairs += [
        (q, "You are welcome. Ask me about another part of Python.") for q in ("Thanks", "Thank you!", "Thank you.")
    ]
    return [[("user", question), ("assistant", answer)] for question, answer in pairs]


def is_held_out(entry: Entry) -> bool:
    """Choose about one entry in forty for the held-out half, by its name alone."""
    return hashlib.sha256(f"{entry.kind}/{entry.name}".encode()).digest()[0] < 7


@dataclass(frozen=True)
class Corpus:
    """Chats and plain texts to train on, and chats that are never trained on."""

    chats: list[Chat]
    texts: list[str]
    held_out: list[Chat]


def build_corpus(cache: Path, seed: int = 1) -> Corpus:
    """Build the corpus, the same for the same package and seed."""
    random = Random(seed)
    chats: list[Chat] = []
    texts: list[str] = []
    held_out: list[Chat] = []
    systems = ["You are a helpful assistant.", "You answer questions about Python.", "Answer briefly.", "Be precise."]
    for entry in read_entries(fetch_source(cache)):
        made = list(chats_of(entry, random))
        made = [[("system", random.choice(systems)), *chat] if random.random() < 0.12 else chat for chat in made]
        if is_held_out(entry):
            held_out.extend(made)
            continue
        chats.extend(made)
        if entry.kind in {"section", "term"} and len(text := answer_from(entry.paragraphs, 300)) > 200:
            texts.append(f"{entry.name}\n\n{text}")
    chats.extend(greetings() * 6)
    return Corpus(chats, texts, held_out)
