"""The review card as a Gradio component: an empty place that `card.js` fills. It has no events and no state."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

STYLE = "".join(
    f'<link rel="stylesheet" href="/studio-static/{name}.css">' for name in ("review_card/card", "editor/editor")
)
START = "import('/studio-static/review_card/card.js').then((card) => card.mount(element, props));"


def review_card(links: Mapping[str, str]) -> gr.HTML:
    """The card; `links` names the addresses of the pages `datasets`, `generate` and `train`, which empty states point to."""
    place = '<div class="review-place"></div>'
    return gr.HTML(html_template=place, js_on_load=START, head=STYLE, apply_default_css=False, links=dict(links))
