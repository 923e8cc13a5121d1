"""The page's style sheet, light and dark; print uses the light colours."""

STYLE = """
:root { color-scheme: light; --page: #ffffff; --ink: #1c2024; --soft: #60666d; --rule: #dfe2e6; --panel: #f6f7f9;
  --differs: #fff3cf; --run-0: #1f6fb4; --run-1: #c4511d; --run-2: #2c8a4b; --run-3: #8a4bb0; --run-4: #a8790a;
  --run-5: #c2366f; }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --page: #14171a; --ink: #e6e8ea; --soft: #9aa1a9; --rule: #30353b; --panel: #1d2126;
    --differs: #453a14; --run-0: #5fabeb; --run-1: #f08a55; --run-2: #5cc07c; --run-3: #c18ae6; --run-4: #e0b13f;
    --run-5: #f07aa8; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 78rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .4rem 0; max-width: 48rem; } .soft { color: var(--soft); }
nav a { color: inherit; margin-right: 1rem; }
.cards, .columns { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.columns { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.card { background: var(--panel); border: 1px solid var(--rule); border-top: 4px solid var(--run); border-radius: 6px;
  padding: .75rem 1rem; overflow-wrap: anywhere; }
.card h3 { margin: 0 0 .25rem; }
.card dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .9rem; margin: 0; }
.card dt { color: var(--soft); } .card dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child { text-align: left; font-weight: 500; } thead th { font-weight: 600; border-bottom-width: 2px; }
.text td { overflow-wrap: anywhere; max-width: 32rem; } .text td, .text thead th { text-align: left; }
.differs th, .differs td { background: var(--differs); }
details { margin: .6rem 0; } summary { cursor: pointer; }
.wide svg { min-width: 40rem; } .rows { display: grid; gap: 1rem; }
.columns + .rows { margin-top: 1rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 13px; }
.grid { stroke: var(--rule); } .mark { stroke: var(--soft); stroke-dasharray: 2 4; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.faint { opacity: .28; stroke-width: 1; } .dashed { stroke-dasharray: 6 5; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .9rem; margin: .3rem 0; }
.legend i { display: inline-block; width: 1.6rem; border-top: 3px solid var(--run); vertical-align: middle;
  margin-right: .45rem; }
figure { margin: 0; padding: .6rem; background: #ffffff; border: 1px solid var(--rule); border-radius: 6px; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: #60666d; font-size: .8rem; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, .card { break-inside: avoid; } }
"""
