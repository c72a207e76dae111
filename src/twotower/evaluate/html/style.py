"""How the page looks: light and dark as the reader's system is, and on paper always light."""

_LIGHT = (
    "--ink:#1c2430;--quiet:#5b6675;--faint:#e3e7ec;--paper:#fff;--panel:#f6f7f9;--whole:#aab3bf;"
    "--kept:#2e7d4f;--slope:#eceff3;--c0:#2563c9;--c1:#b65c02;--c2:#7a3fc4;--c3:#b3265e;--c4:#56680c;--c5:#0b7f78"
)
_DARK = (
    "--ink:#e8ecf2;--quiet:#9fabba;--faint:#2c3542;--paper:#12171e;--panel:#1a212b;--whole:#5d6978;"
    "--kept:#58b983;--slope:#212a35;--c0:#74a7ff;--c1:#f0a043;--c2:#bd93f5;--c3:#f27ba9;--c4:#b3c552;--c5:#3fc4ba"
)

STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:920px;padding:32px 24px 80px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}}
h1{{font-size:30px;line-height:1.2;margin:0 0 4px}}
h2{{font-size:22px;line-height:1.3;margin:0 0 6px;text-wrap:balance}}
h3{{font-size:16px;margin:20px 0 4px}}
h4{{font-size:14px;margin:16px 0 4px}}
p{{margin:6px 0 12px;max-width:70ch}}
section{{margin-top:56px}}
.eyebrow{{font-size:13px;letter-spacing:.04em;text-transform:uppercase;color:var(--quiet);margin:0 0 2px}}
.quiet,small{{color:var(--quiet);font-weight:400}}
small{{font-size:12px}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0 0}}
.tiles div{{background:var(--panel);border-radius:8px;padding:12px 14px}}
.tiles b{{display:block;font-size:26px;line-height:1.25;font-weight:600}}
.tiles span{{display:block;font-size:13px;color:var(--quiet);line-height:1.35}}
nav{{margin-top:20px;font-size:14px;display:flex;flex-wrap:wrap;gap:4px 16px}}
a{{color:var(--c0)}}
.wide{{overflow-x:auto}}
.chart{{display:block;width:100%;min-width:600px;height:auto;margin:12px 0 4px;fill:var(--ink)}}
.pair{{display:flex;flex-wrap:wrap;gap:24px}}
.pair>div{{flex:0 1 380px}}
.pair .chart{{min-width:280px}}
svg text{{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
fill:var(--ink)}}
svg text.quiet{{fill:var(--quiet);font-size:12px}}
svg text.name{{font-weight:600}}
svg text.head{{font-weight:600;font-size:14px}}
.c0{{--c:var(--c0)}}.c1{{--c:var(--c1)}}.c2{{--c:var(--c2)}}
.c3{{--c:var(--c3)}}.c4{{--c:var(--c4)}}.c5{{--c:var(--c5)}}
svg text.coloured{{fill:var(--c)}}
.ckept{{--c:var(--kept)}}
.ink{{color:var(--c)}}
.bar{{fill:var(--c)}}.whole{{fill:var(--whole)}}.kept{{fill:var(--kept)}}.slope{{fill:var(--slope)}}
.grid{{stroke:var(--faint);stroke-width:1}}
.axis{{stroke:var(--quiet);stroke-width:1}}
.tail{{stroke:var(--quiet);stroke-width:1.5}}
.leader{{stroke:var(--quiet);stroke-width:.75;fill:none;opacity:.6}}
.ideal{{stroke:var(--quiet);stroke-width:1;stroke-dasharray:4 4;fill:none}}
.line{{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round}}
.thin{{stroke-width:1.25}}
.beyond{{stroke:var(--c);stroke-width:1.5;stroke-dasharray:2 4;fill:none}}
.drop{{stroke:var(--c);stroke-width:1;opacity:.35}}
.dot{{fill:var(--c);stroke:var(--paper);stroke-width:1.5}}
.key{{display:inline-block;width:10px;height:10px;border-radius:3px;background:var(--c);margin-right:6px}}
.keys{{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px;margin:8px 0 0}}
table{{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}}
th,td{{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--faint);vertical-align:top}}
th{{color:var(--quiet);font-weight:600;font-size:13px;vertical-align:bottom}}
.n{{text-align:right;padding-right:18px}}
.below{{color:var(--c3)}}
tr.relevant td{{background:color-mix(in srgb,var(--kept) 13%,transparent)}}
details{{border:1px solid var(--faint);border-radius:8px;padding:10px 14px;margin:8px 0}}
summary{{cursor:pointer}}
details[open]>summary{{margin-bottom:8px}}
dl{{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:8px 0;font-size:14px}}
dt{{color:var(--quiet)}}dd{{margin:0}}
.trace{{display:flex;flex-wrap:wrap;gap:2px 20px;font-size:14px;max-width:none}}
ul{{padding-left:20px;margin:8px 0}}
@media print{{
:root{{color-scheme:light;{_LIGHT}}}
body{{max-width:none;padding:0;font-size:11pt}}
nav{{display:none}}
section{{margin-top:28px}}
svg,tr,.tiles{{break-inside:avoid}}
h2,h3,h4{{break-after:avoid}}
rect,circle,polygon,.key,tr.relevant td,.tiles div{{
print-color-adjust:exact;-webkit-print-color-adjust:exact}}
details::details-content{{content-visibility:visible;block-size:auto}}
}}
"""
