"""The looks of comparisons: matrices, crops, and the answers of Why. Put `STYLE` into the `head` of a gr.HTML."""

STYLE = '<link rel="stylesheet" href="/studio-static/compare/compare.css">'
