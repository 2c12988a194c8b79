"""HTML whose marked parts can be chosen with mouse or keys: rows of a table, thumbnails, page buttons.

Two events: `pick` with `{"id": ...}` of a part marked `data-pick`, `turn` with `{"trail": ...}` of a button marked `data-turn`.
"""

from __future__ import annotations

import gradio as gr

# Gradio makes an event of every name that stands quoted in this text.
START = "import('/studio-static/grid/grid.js').then((grid) => grid.mount(element, trigger, watch)); /* 'pick' 'turn' */"


def grid(label: str, *, max_height: int | None = None) -> gr.HTML:
    return gr.HTML(
        html_template='<div class="w" role="group" aria-label="${label_text}">${value}</div>',
        js_on_load=START,
        apply_default_css=False,
        label_text=label,
        max_height=max_height,
    )
