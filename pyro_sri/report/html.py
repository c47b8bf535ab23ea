"""Self-contained HTML pages that work offline and on a phone, in light and dark mode.

All functions take plain text and escape it. Only functions of this module create HTML.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from pyro_sri.viz.film import gif
from pyro_sri.viz.sheets import Picture, png

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --card: #fff; --ink: #1d1d20; --soft: #65656e; --line: #e3e3e6;
  --accent: #0072b2; --mark: #fdf3d7; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #17171a; --card: #1f1f23; --ink: #e9e9ec;
  --soft: #a0a0aa; --line: #34343a; --accent: #56b4e9; --mark: #3d3416; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
body { margin: 0 auto; max-width: 78rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.75rem; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 3.25rem 0 .4rem; padding-top: 1.25rem; border-top: 1px solid var(--line); font-size: 1.2rem;
  font-weight: 650; }
h3 { margin: 0 0 .5rem; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
.wide + h3, .runs + h3, .wide + .runs { margin-top: 1.8rem; }
p { margin: .3rem 0 1rem; max-width: 46rem; } .soft, figcaption, footer { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin-top: .8rem; font-size: .92rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.runs { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
.runs > * { min-width: 0; }
.card { padding: 1.1rem 1.25rem; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr);
  gap: .15rem 1.1rem; margin: .6rem 0 0; font-size: .92rem; }
.card > dl { margin: 0; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: break-word; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .34rem 1.2rem .34rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 500; } thead th { font-weight: 600; vertical-align: bottom; }
td { min-width: 7rem; overflow-wrap: break-word; } td.text { min-width: 15rem; overflow-wrap: anywhere; }
.whole { white-space: nowrap; }
th:first-child { position: sticky; left: 0; background: var(--paper); }
td small, th small { display: block; color: var(--soft); font-weight: 400; font-size: .82rem; max-width: 20rem; }
tr.heading > th { padding-top: 1.3rem; } tr.heading span { position: sticky; left: .6rem; font-weight: 650; }
.matrix { width: auto; } .matrix td { min-width: 3.2rem; padding: .34rem .6rem; text-align: right;
  background: color-mix(in srgb, var(--accent) calc(var(--share) * 35%), transparent); }
tr.differs > * { background: var(--mark); } tr.differs > :first-child { box-shadow: inset 3px 0 var(--accent); }
tr > :first-child { padding-left: .6rem; }
abbr { text-decoration: underline dotted var(--soft); text-underline-offset: .2em; cursor: help; }
strong { font-weight: 700; }
button { all: unset; cursor: pointer; } button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th button::after { content: "\\a0\\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; color: var(--accent); }
figure { margin: 0; } figcaption { margin-top: .35rem; font-size: .86rem; }
.zoom { box-sizing: border-box; display: block; width: fit-content; max-width: 100%;
  cursor: zoom-in; overflow-x: auto; padding: .5rem; border: 1px solid var(--line);
  border-radius: 10px; background: #fff; }
.zoom img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
.zoom.pixels { width: min(100%, 44rem); } .pixels img { width: 100%; image-rendering: pixelated; }
.narrow { display: none; }
@media (max-width: 56rem) { .long { display: none; } .narrow { display: block; } }
@media (max-width: 40rem) { th, td { padding-right: .7rem; } h2 { margin-top: 2.25rem; }
  dl { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .45rem; }
  .number { padding: .6rem .75rem; } .number strong { font-size: 1.3rem; }
  .sheet img { max-width: max(100%, 44rem); } }
pre { margin: .3rem 0 1rem; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); font: .84rem/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  user-select: all; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); font-size: .92rem; }
.fold { margin: 0; border-top: 1px solid var(--line); padding: .7rem 0; } .fold[open] { padding-bottom: 2rem; }
.fold > summary h2 { display: inline; margin: 0; padding: 0; border: 0; font-size: 1.05rem; }
.fold > summary { color: var(--ink); } .fold[open] > summary { margin-bottom: .8rem; }
.more { margin-top: 3.25rem; } .lead { font-size: 1.05rem; max-width: 52rem; }
.warning { padding: .5rem .9rem; border-left: 3px solid var(--accent); background: var(--mark); }
.numbers { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.6rem), 1fr));
  margin: 1.4rem 0 0; }
.number { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 10px; background: var(--card);
  font-size: .86rem; }
.number strong { display: block; margin: .1rem 0; font-size: 1.6rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.number strong small { display: inline-block; font-size: .9rem; font-weight: 400; color: var(--soft); }
.number p { margin: 0; color: var(--soft); }
dialog { max-width: 100vw; max-height: 100vh; width: 100vw; height: 100vh; height: 100dvh; margin: 0; padding: 1rem;
  border: 0; background: #fff; overflow: auto; cursor: zoom-out; }
dialog img { display: block; margin: auto; max-width: none; background: #fff; }
dialog img.pixels { image-rendering: pixelated; }
dialog button { position: fixed; top: .6rem; right: .8rem; width: 2.2rem; height: 2.2rem; border-radius: 50%;
  background: #1d1d20; color: #fff; text-align: center; line-height: 2.2rem; }
footer { margin-top: 4rem; font-size: .86rem; }
@media print { nav, th button::after { display: none; } figure { break-inside: avoid; } .zoom { border: 0; }
  .wide { overflow: visible; } }
"""

SCRIPT = """
const zoomed = document.querySelector("dialog"), large = zoomed.querySelector("img");
document.querySelectorAll(".zoom").forEach(button => button.addEventListener("click", () => {
  const small = button.querySelector("img"), pixels = button.classList.contains("pixels");
  large.src = small.src; large.alt = small.alt; large.className = pixels ? "pixels" : "";
  const fit = Math.min(innerWidth - 40, (innerHeight - 40) * small.naturalWidth / small.naturalHeight);
  large.width = pixels ? small.naturalWidth * Math.max(1, Math.floor(fit / small.naturalWidth))
    : Math.max(small.naturalWidth, Math.min(fit, 1.5 * small.naturalWidth));
  zoomed.showModal();
}));
zoomed.addEventListener("click", () => zoomed.close());
const unfold = () => {
  const aim = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = aim && aim.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (aim) aim.scrollIntoView();
};
addEventListener("hashchange", unfold);
document.querySelectorAll("nav a").forEach(link => link.addEventListener("click", () => setTimeout(unfold)));
unfold();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(fold => fold.open = true));
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const head = button.closest("th"), table = head.closest("table");
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const key = row => row.children[head.cellIndex].dataset.value ?? "";
  const compare = (a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    const sign = order === "ascending" ? 1 : -1;
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  };
  for (const body of table.tBodies)
    body.append(...[...body.rows].filter(row => row.className !== "heading").sort(compare));
}));
"""


# The page can show its own content and run this script, but cannot load anything.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)


NO_BREAK = "\N{NO-BREAK SPACE}"
NUMBER = re.compile(r"[-+\d][\d.,e+-]*")


class Html(str):
    """Text that is already HTML. All other text is escaped."""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        content: The text.
        key: The key for sorting. A cell without a key comes last.
        note: A small line below.
        kind: The CSS class: "text" for long texts, "long" for cells that are hidden on a narrow screen.
    """

    content: str
    key: str | float | None = None
    note: str = ""
    kind: str | None = None


def text(content: str) -> Html:
    """Escapes a text, unless it is already HTML."""
    return content if isinstance(content, Html) else Html(escape(content))


def element(tag: str, *content: str, **attributes: str | None) -> Html:
    """An element. Its texts and attribute values are escaped. Write `class_` for `class`, and _ for - in names."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    written = "".join(f' {names[name]}="{escape(value)}"' for name, value in attributes.items() if value is not None)
    return Html(f"<{tag}{written}>{''.join(map(text, content))}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Joins parts."""
    return Html("\n".join(map(text, parts)))


def hint(content: str, explanation: str) -> Html:
    """A text with an explanation on hover."""
    return element("abbr", content, title=explanation) if explanation else text(content)


def fold(title: str, anchor: str, content: str) -> Html:
    """A folded part of the page. A click on its title opens it."""
    summary = element("summary", element("h2", title, id=anchor))
    return element("details", summary, content, class_="fold")


def picture(pixels: Picture, alt: str, caption: str = "", *, pixelated: bool = False) -> Html:
    """A picture. A click opens it in full size.

    Args:
        pixels: uint8 [h, w, 3].
        alt: A description for screen readers.
        caption: A line below.
        pixelated: Enlarge the picture with sharp pixels, for small pictures without labels.
    """
    image = _image(f"data:image/png;base64,{_base64(png(pixels))}", pixels, alt)
    return _figure(image, alt, caption, "zoom pixels" if pixelated else "zoom sheet")


def animation(frames: Sequence[Picture], milliseconds: int, alt: str, caption: str = "") -> Html:
    """An animation. In print, and with reduced motion until a click, only its first frame is shown.

    Args:
        frames: uint8 [h, w, 3] each.
        milliseconds: The duration of each frame.
        alt: A description for screen readers.
        caption: A line below.
    """
    still = Html(
        '<source media="print, (prefers-reduced-motion: reduce)" type="image/png" '
        f'srcset="data:image/png;base64,{_base64(png(frames[0]))}">'
    )
    moving = _image(f"data:image/gif;base64,{_base64(gif(frames, milliseconds))}", frames[0], alt)
    return _figure(element("picture", still, moving), alt, caption, "zoom sheet")


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """A list of names and values in two columns."""
    return element("dl", *(part for name, value in pairs for part in (element("dt", name), element("dd", value))))


def table(
    headers: Sequence[Cell],
    rows: Sequence[Sequence[Cell]],
    *,
    marked: Sequence[bool] = (),
    headings: Mapping[int, str] | None = None,
) -> Html:
    """A table. A click on a header sorts the rows.

    Args:
        headers: A header for each column. A header without a key does not sort.
        rows: The cells. The first cell of a row is its header.
        marked: For each row, whether it is marked. Empty if none is.
        headings: Headings above rows, by the number of the row. The rows between two headings are sorted separately.
    """
    head = element("tr", *(_head(header) for header in headers))
    bodies: list[list[Html]] = [[]]
    for i, (first, *others) in enumerate(rows):
        if headings is not None and i in headings:
            title = element("th", element("span", headings[i]), scope="rowgroup", colspan=str(len(headers)))
            bodies.append([element("tr", title, class_="heading")])
        cells = [_cell("th", first, scope="row"), *(_cell("td", cell) for cell in others)]
        bodies[-1].append(element("tr", *cells, class_="differs" if marked and marked[i] else None))
    parts = [element("thead", head), *(element("tbody", join(body)) for body in bodies if body)]
    return element("div", element("table", *parts), class_="wide")


def matrix(corner: str, rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """A matrix of counts. Cells with a larger share of their row are darker.

    Args:
        corner: The text to the left of the column names.
        rows: Names of the rows.
        columns: Names of the columns.
        counts: A sequence of counts for each row.
    """
    head = element("tr", *(element("th", name, scope="col") for name in (corner, *columns)))
    body = []
    for name, row in zip(rows, counts, strict=True):
        shares = [count / max(1, sum(row)) for count in row]
        cells = [element("td", str(n), style=f"--share: {share:.3f}") for n, share in zip(row, shares, strict=True)]
        body.append(element("tr", element("th", name, scope="row"), *cells))
    parts = [element("thead", head), element("tbody", join(body))]
    return element("div", element("table", *parts, class_="matrix"), class_="wide")


def page(title: str, body: Html) -> str:
    """A whole page."""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    close = element("button", "×", type="button", aria_label="close")
    dialog = element("dialog", close, Html('<img alt="">'), aria_label="enlarged picture")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n{dialog}\n<script>{SCRIPT}</script>'
        "</body></html>\n"
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _image(source: str, pixels: Picture, alt: str) -> Html:
    height, width = pixels.shape[:2]
    return Html(f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}">')


def _figure(image: Html, alt: str, caption: str, kind: str) -> Html:
    button = element("button", image, type="button", class_=kind, aria_label=f"{alt}: enlarge")
    return element("figure", button, element("figcaption", caption) if caption else "")


def _head(header: Cell) -> Html:
    content = header.content if header.key is None else element("button", header.content, type="button")
    return _cell("th", header._replace(content=content, key=None), scope="col")


def _cell(tag: str, cell: Cell, **attributes: str) -> Html:
    note = element("small", cell.note) if cell.note else ""
    key = None if cell.key is None else str(cell.key)
    is_number = isinstance(cell.key, int | float) or NUMBER.fullmatch(cell.content) is not None
    content = element("span", cell.content, class_="whole") if is_number else cell.content
    return element(tag, content, note, data_value=key, class_=cell.kind, **attributes)
