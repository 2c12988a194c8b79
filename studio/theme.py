"""How the studio looks: wheat on slate, system fonts, nothing from the network."""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr

ICON = Path(__file__).parent.parent / "assets" / "icons" / "winnow.svg"
STYLE = Path(__file__).parent / "components" / "shell.css"

WHEAT = gr.themes.Color(
    c50="#fdf8ec", c100="#faeecf", c200="#f3dc9f", c300="#ebc66a", c400="#e0ab3c", c500="#c98d1c",
    c600="#a56d12", c700="#835312", c800="#6a4315", c900="#573716", c950="#301d0a",
)  # fmt: skip
SLATE = gr.themes.Color(
    c50="#f8f9fa", c100="#f1f3f5", c200="#e3e7eb", c300="#cfd6dc", c400="#98a3ae", c500="#67737f",
    c600="#4b5661", c700="#343c45", c800="#242b32", c900="#1a1f25", c950="#13171c",
)  # fmt: skip


def theme() -> gr.themes.Base:
    """Buttons and links in wheat, dark enough for white text (contrast 4.6 and better)."""
    base = gr.themes.Base(
        primary_hue=WHEAT,
        secondary_hue=WHEAT,
        neutral_hue=SLATE,
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "monospace"],
        radius_size="md",
        spacing_size="sm",
        text_size="md",
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_padding="0",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_400",
        block_title_text_size="*text_sm",
        block_info_text_color="*neutral_500",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        border_color_primary_dark="*neutral_700",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_width="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="white",
        button_primary_text_color_dark="*neutral_950",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_large_text_weight="600",
        button_large_text_size="*text_md",
        checkbox_background_color_selected="*primary_600",
        checkbox_border_color_selected="*primary_600",
        layout_gap="14px",
        form_gap_width="12px",
    )


def style() -> str:
    """The style sheet of all pages, with the logo in it: a page needs no second request to look right."""
    logo = base64.b64encode(ICON.read_bytes()).decode()
    return f':root {{ --w-logo: url("data:image/svg+xml;base64,{logo}"); }}\n{STYLE.read_text()}'
