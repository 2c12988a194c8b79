"""The threshold lab as a Gradio component: an empty place that `lab.js` fills. It has no events and no state."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

STYLE = '<link rel="stylesheet" href="/studio-static/lab/lab.css">'
START = "import('/studio-static/lab/lab.js').then((lab) => lab.mount(element, props));"


def lab(links: Mapping[str, str]) -> gr.HTML:
    """The lab; `links` names the addresses of the pages `datasets`, `generate`, `jobs` and `review`."""
    place = '<div class="lab-place"></div>'
    return gr.HTML(html_template=place, js_on_load=START, head=STYLE, apply_default_css=False, links=dict(links))
