"""The report's looks, inlined into it: the reader's own light or dark, one column on a phone."""

STYLE = """
:root { --paper: #fff; --ink: #1d1d1f; --soft: #6a6a70; --line: #d9d9de; --code: #f1f1f4; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17181b; --ink: #e8e8ea; --soft: #a0a0a8; --line: #3a3b40; --code: #26272c; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; font-weight: 600; }
.lead { font-size: 1.1rem; }
code { background: var(--code); padding: .1em .35em; border-radius: 4px; font-size: .9em;
  overflow-wrap: anywhere; user-select: all; }
.wide { overflow-x: auto; margin-bottom: .75rem; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
td code { white-space: nowrap; font-size: .8em; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .85rem; }
img { display: block; width: 100%; border-radius: 6px; }
img.pixels { image-rendering: pixelated; }
svg { display: block; width: 100%; max-width: 44rem; height: auto; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; max-width: 36rem; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(7rem, 10rem); gap: .5rem; overflow-x: auto; }
@media print {
  body { font-size: 11px; } h2 { break-after: avoid; }
  .strip { grid-auto-flow: row; grid-template-columns: repeat(5, 1fr); }
}
"""
