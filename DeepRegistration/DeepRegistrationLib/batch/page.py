"""The page of a batch: one file with everything in it, to be leafed through, worst first."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from ..verdict import BAD, GOOD, LOOK
from .entries import Entry
from .rows import FILES

_CLASSES = {GOOD: "good", LOOK: "warning", BAD: "error"}

# what, digits, columns of the table before, after and, on the moving image, after the inverse
_SHOWN = (
    ("correlation", 3, "ncc_before", "ncc_after", "ncc_inverse"),
    ("mutual information", 3, "nmi_before", "nmi_after", "nmi_inverse"),
    ("Dice", 3, "dice_before", "dice_after", "dice_inverse"),
    ("landmark error (mm)", 2, "landmarks_before_mm", "landmarks_after_mm", None),
    ("folds (%)", 4, None, "folds_percent", "folds_inverse_percent"),
    ("seconds", 1, None, "seconds", None),
)

_FOLDERS = re.compile(r"(?<![\w.:/\\<])(?:[A-Za-z]:)?[/\\](?:[^\s/\\\"'<>|:]+[/\\])*(?=[^\s/\\])")
"""The folders of an absolute path."""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; color: #1d232b; background: #f5f6f8; }
header { padding: 14px 22px; background: #fff; border-bottom: 1px solid #d9dde3; }
h1 { font-size: 19px; margin: 0; } header p { margin: 2px 0 0; color: #4a5563; }
main { display: grid; grid-template-columns: fit-content(58%) minmax(0, 1fr); }
nav { height: calc(100vh - 76px); overflow: auto; border-right: 1px solid #d9dde3; background: #fff; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: 4px 8px; text-align: right; }
td { white-space: pre; }
th { position: sticky; top: 0; background: #eef0f3; font-weight: 600; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td:first-child { min-width: 9em; }
tbody tr { cursor: pointer; border-bottom: 1px solid #eceef1; }
tbody tr[aria-selected=true] { background: #dbe9ff; }
tr.failed td:first-child { color: #a8201a; font-weight: 600; }
section { padding: 14px 22px; overflow: auto; height: calc(100vh - 104px); }
section h2 { font-size: 17px; margin: 0 0 4px; overflow-wrap: anywhere; }
section p { margin: 4px 0; overflow-wrap: anywhere; } .error { color: #a8201a; } .warning { color: #8a5a00; }
section img { width: 100%; margin-top: 8px; background: #0e1013; }
button { font: inherit; padding: 3px 12px; margin-right: 6px; }
</style>
</head>
<body>
<header><h1>$title</h1><p>$text</p></header>
<main>
<nav><table><thead><tr>$head</tr></thead><tbody>
$rows
</tbody></table></nav>
<section>
<p><button id="back">Previous</button><button id="on">Next</button> or the arrow keys</p>
$articles
</section>
</main>
<script>
const rows = [...document.querySelectorAll("tbody tr")];
const articles = [...document.querySelectorAll("article")];
let shown = 0;
function show(k) {
  shown = Math.min(Math.max(k, 0), rows.length - 1);
  rows.forEach((row, i) => row.setAttribute("aria-selected", i === shown));
  articles.forEach((article, i) => { article.hidden = i !== shown; });
  rows[shown].scrollIntoView({ block: "nearest" });
}
rows.forEach((row, i) => row.addEventListener("click", () => show(i)));
document.getElementById("back").addEventListener("click", () => show(shown - 1));
document.getElementById("on").addEventListener("click", () => show(shown + 1));
document.addEventListener("keydown", event => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (step) { event.preventDefault(); show(shown + step); }
});
show(0);
</script>
</body>
</html>
""")


def written_page(entries: Sequence[Entry], pictures: Sequence[bytes | None], measure: str) -> str:
    """The page as HTML with its pictures inside: it can be moved and sent, and loads nothing.

    Args:
        entries: worst first.
        pictures: JPEG files, one an entry, None where there is none.
        measure: what the order goes by.
    """
    columns = [c for c in _SHOWN if any(entry.number(c[3]) is not None for entry in entries)]
    done = sum(entry.state == "done" for entry in entries)
    text = f"{done} of {len(entries)} pairs are done"
    failed = sum(entry.state == "failed" for entry in entries)
    text += f", {failed} failed" if failed else ""
    text += f". Worst first, by {measure}." if done and measure != "order" else "."
    if any(entry.number(c[4]) is not None for c in columns if c[4] for entry in entries):
        text += " Below, after the bar: the inverse transform, measured on the moving image."
    return _PAGE.substitute(
        title="Registrations",
        text=html.escape(text),
        head="".join(
            f"<th>{html.escape(name)}</th>" for name in ("pair", "verdict", *(c[0] for c in columns))
        ),
        rows="\n".join(_row(entry, columns) for entry in entries),
        articles="\n".join(_article(*pair) for pair in zip(entries, pictures, strict=True)),
    )


def _row(entry: Entry, columns: Sequence[tuple]) -> str:
    cells = [entry.row.name, entry.level]
    for _, digits, before, after, inverse in columns:
        values = [entry.number(key) for key in (before, after) if key is not None]
        told = ["-" if value is None else f"{value:.{digits}f}" for value in values]
        text = " \N{RIGHTWARDS ARROW} ".join(told)
        other = None if inverse is None else entry.number(inverse)
        text += "" if other is None else f"\n| {other:.{digits}f}"
        cells.append(text if entry.state == "done" else "")
    inside = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr class="{"done" if entry.state == "done" else "failed"}">{inside}</tr>'


def without_folders(text: str, folders: Sequence[str]) -> str:
    """A text with the names of files, but not where they lie: that may be a user's or a patient's name.

    Args:
        text: any.
        folders: absolute ones that are known to occur, also with spaces in their names.
    """
    known = [path for folder in (*folders, os.path.expanduser("~")) for path in _with_parents(folder)]
    for path in sorted(set(known), key=len, reverse=True):
        text = text.replace(os.path.join(path, ""), "")
    return _FOLDERS.sub("", text)


def _with_parents(folder: str) -> list[str]:
    return [str(path) for path in (Path(folder), *Path(folder).parents)[:-1]]


def _article(entry: Entry, picture: bytes | None) -> str:
    parts = [f"<h2>{html.escape(entry.row.name)}</h2>"]
    options = entry.row.options
    folders = [os.path.dirname(options[key]) for key in FILES if options.get(key)]

    def shown(text: str) -> str:
        return html.escape(without_folders(text, (*folders, str(entry.folder.absolute().parent))))

    parts.append(f"<p>fixed {shown(options['fixed'])}<br>moving {shown(options['moving'])}</p>")
    if entry.state != "done":
        parts.append(f'<p class="error">{shown(entry.sentence)}</p>')
    if entry.details:
        parts.append(f"<details><summary>Log</summary><pre>{shown(entry.details)}</pre></details>")
    parts += [f'<p class="{_CLASSES[finding.level]}">{shown(finding.text)}</p>' for finding in entry.findings]
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        parts.append(f'<img alt="before and after" src="data:image/jpeg;base64,{data}">')
    return f"<article>{''.join(parts)}</article>"
