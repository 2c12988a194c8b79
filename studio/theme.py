"""How the studio looks: one accent colour, system fonts, nothing from the network."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ICON = Path(__file__).parent.parent / "assets" / "icons" / "winnow.svg"
FONTS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue="amber", neutral_hue="stone", font=FONTS, font_mono=["ui-monospace", "monospace"], radius_size="sm", spacing_size="sm"
    )


CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
h1.page { font-size: 1.45rem; font-weight: 650; margin: .2rem 0 .1rem; }
p.lead { color: var(--body-text-color-subdued); margin: 0 0 .6rem; }
.empty { border: 1px dashed var(--border-color-primary); border-radius: 8px; padding: 1.6rem; text-align: center; }
.winnow-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 8px; }
.winnow-grid figure { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 6px; overflow: hidden;
  background: var(--background-fill-secondary); }
.winnow-grid svg { display: block; width: 100%; height: auto; }
.winnow-grid figcaption { font-size: .78rem; padding: 3px 7px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.winnow-pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
table.winnow { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
table.winnow th, table.winnow td { text-align: left; padding: 4px 8px; border-bottom: 1px solid var(--border-color-primary); }
table.winnow td.n, table.winnow th.n { text-align: right; }
table.winnow tr.good td.n:last-child { color: #15803d; } table.winnow tr.poor td.n:last-child { color: #b91c1c; }
.bar { background: var(--border-color-primary); border-radius: 4px; height: 8px; min-width: 120px; overflow: hidden; }
.bar > i { display: block; height: 100%; background: var(--color-accent); }
.state { border-radius: 9px; padding: 1px 9px; font-size: .8rem; background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); }
.state.done { color: #15803d; } .state.failed { color: #b91c1c; } .state.running { color: #b45309; }
pre.log { max-height: 300px; overflow: auto; font-size: .8rem; white-space: pre-wrap; margin: 0; }
.faults { max-height: 320px; overflow: auto; }
"""
