"""Tabletop: a procedural world of everyday objects whose truth is known exactly.

It is demo data, test data and the laboratory in which filters, reviewers and detectors can be measured.
"""

from engine.tabletop.build import build
from engine.tabletop.difficulty import PRESETS, Difficulty, preset
from engine.tabletop.kinds import KINDS
from engine.tabletop.language import holds, referents
from engine.tabletop.records import (
    EDIT_TYPES,
    FalseStatement,
    Mask,
    Phrase,
    Relation,
    Scene,
    Statement,
    TrueObject,
    Truth,
    truths,
)
from engine.tabletop.scene import paint

__all__ = [
    "EDIT_TYPES",
    "KINDS",
    "PRESETS",
    "Difficulty",
    "FalseStatement",
    "Mask",
    "Phrase",
    "Relation",
    "Scene",
    "Statement",
    "TrueObject",
    "Truth",
    "build",
    "holds",
    "paint",
    "preset",
    "referents",
    "truths",
]
