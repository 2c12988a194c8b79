"""The grid of many candidates as a Gradio component: an empty place that `browse.js` fills. It has no events and no state."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

STYLE = '<link rel="stylesheet" href="/studio-static/browse/browse.css">'
START = "import('/studio-static/browse/browse.js').then((browse) => browse.mount(element, props));"


def browse(links: Mapping[str, str]) -> gr.HTML:
    """The grid; `links` names the addresses of the pages `datasets`, `generate` and `review`."""
    place = '<div class="browse-place"></div>'
    return gr.HTML(html_template=place, js_on_load=START, head=STYLE, apply_default_css=False, links=dict(links))
