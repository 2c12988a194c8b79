"""Painters of what stands or lies on a laid table.

A painter gets a source of chance and returns the parts of one instance, back to front. It knows nothing of size,
colour, light or pictures.
"""

import numpy as np

from engine.tabletop.outlines import (
    BODY,
    BRASS,
    CREAM,
    DARK,
    FLAME,
    INK,
    PALE,
    STEEL,
    Chance,
    Part,
    either_side,
    ellipse,
    lathe,
    mirrored,
    points,
    rectangle,
    rim,
    smooth,
    stroke,
)


def mug(u: Chance) -> list[Part]:
    r, foot, side, depth = u(0.33, 0.45), u(0.86, 1.0), either_side(u), u(0.06, 0.1)
    handle = ellipse(r * 0.95, u(0.42, 0.52), u(0.2, 0.27), u(0.22, 0.28), -90, 90) * mirrored(side)
    wall = lathe((0, r), (0.9, r * foot), (0.97, r * foot * 0.95), (1, r * foot * 0.8), curved=False)
    return [stroke(handle, u(0.08, 0.11)), Part(wall, BODY, "turned"), *rim(0, r, depth)]


def cup(u: Chance) -> list[Part]:
    r, foot, depth, tall = u(0.4, 0.5), u(0.5, 0.68), u(0.06, 0.1), u(0.8, 1.05)
    wall = lathe((0, r), (tall * 0.94, r * foot), (tall, r * foot * 0.85), curved=False)
    return [Part(wall, BODY, "turned"), *rim(0, r, depth)]


def bowl(u: Chance) -> list[Part]:
    tall, foot, depth = u(0.42, 0.56), u(0.22, 0.32), u(0.07, 0.14)
    wall = lathe((0, 0.6), (tall * 0.4, 0.55), (tall * 0.8, 0.37), (tall, foot))
    base = rectangle(-foot, tall - 0.03, foot, tall + u(0.03, 0.07), 0.02)
    return [Part(base, DARK, "turned"), Part(wall, BODY, "turned"), *rim(0, 0.6, depth)]


def bottle(u: Chance) -> list[Part]:
    neck, r, shoulder = u(0.07, 0.1), u(0.17, 0.25), u(0.36, 0.46)
    wall = lathe(
        (0, neck), (shoulder - 0.14, neck * 1.1), (shoulder, r * 0.85), (shoulder + 0.1, r), (0.95, r), (1, r * 0.9)
    )
    top = u(0.55, 0.62)
    label = rectangle(-r, top, r, top + u(0.16, 0.24))
    cap = rectangle(-neck * 1.2, -0.06, neck * 1.2, 0.05, 0.02)
    return [Part(wall, BODY, "turned"), Part(label, CREAM, "turned"), Part(cap, DARK, "turned")]


def vase(u: Chance) -> list[Part]:
    lip, neck, belly, low, foot = u(0.17, 0.25), u(0.09, 0.14), u(0.3, 0.38), u(0.5, 0.68), u(0.15, 0.22)
    wall = lathe(
        (0, lip),
        (0.1, neck * 1.1),
        (0.22, neck),
        (low - 0.15, belly * 0.85),
        (low, belly),
        (0.88, foot * 1.3),
        (1, foot),
    )
    return [Part(wall, BODY, "turned"), *rim(0, lip, 0.05)]


def goblet(u: Chance) -> list[Part]:
    r, deep, foot = u(0.24, 0.32), u(0.42, 0.55), u(0.2, 0.28)
    hold = lathe((0, r * 0.9), (deep * 0.4, r), (deep * 0.8, r * 0.65), (deep, 0.04))
    stem = rectangle(-0.035, deep - 0.03, 0.035, 0.96)
    return [
        Part(ellipse(0, 0.96, foot, 0.055)),
        Part(stem, BODY, "turned"),
        Part(hold, BODY, "turned"),
        *rim(0, r * 0.9, 0.06),
    ]


def teapot(u: Chance) -> list[Part]:
    r, flat, s = u(0.42, 0.5), u(0.76, 0.95), either_side(u)
    spout = smooth(
        points(
            (s * r * 0.7, 0.1),
            (s * (r + 0.2), -0.12),
            (s * (r + 0.3), -0.3),
            (s * (r + 0.36), -0.26),
            (s * (r + 0.25), 0.08),
            (s * r * 0.8, 0.3),
        )
    )
    handle = smooth(
        points((-s * r * 0.8, -0.2), (-s * (r + 0.25), -0.24), (-s * (r + 0.27), 0.08), (-s * r * 0.85, 0.2)), False
    )
    lid = ellipse(0, -r * flat * 0.86, r * 0.5, 0.1)
    return [
        stroke(handle, 0.08),
        Part(spout),
        Part(ellipse(0, 0, r, r * flat)),
        Part(lid, PALE),
        Part(ellipse(0, -r * flat - 0.1, 0.07, 0.065), DARK),
    ]


def spoon(u: Chance) -> list[Part]:
    w, h, thin = u(0.14, 0.18), u(0.2, 0.26), u(0.03, 0.045)
    handle = lathe((0.3, thin), (0.6, thin * 0.8), (0.95, thin * 1.9), (1.05, thin * 1.4))
    return [Part(handle), Part(ellipse(0, 0.15, w, h)), Part(ellipse(0, 0.15, w * 0.72, h * 0.76), DARK)]


def fork(u: Chance) -> list[Part]:
    w, thin, tines = u(0.13, 0.17), u(0.03, 0.045), 3 + int(u(0, 2))
    handle = lathe((0.3, thin), (0.6, thin * 0.8), (0.95, thin * 1.9), (1.05, thin * 1.4))
    palm = lathe((0.12, w), (0.24, w * 0.9), (0.34, thin))
    prongs = [rectangle(x - 0.025, -0.1, x + 0.025, 0.16, 0.02) for x in np.linspace(-w + 0.025, w - 0.025, tines)]
    return [Part(handle), *[Part(p) for p in prongs], Part(palm)]


def knife(u: Chance) -> list[Part]:
    w, cut, r = u(0.1, 0.14), u(0.42, 0.52), u(0.05, 0.065)
    blade = smooth(
        points((-r, cut + 0.05), (-r, 0.1), (-r * 0.4, -0.08), (w - r, 0.14), (w, cut), (r, cut + 0.05)), steps=4
    )
    rivets = [Part(ellipse(0, y, 0.02, 0.02), BRASS) for y in (cut + 0.16, cut + 0.38)]
    return [Part(blade, STEEL, "flat"), Part(rectangle(-r, cut, r, 1.05, 0.05)), *rivets]


def candle(u: Chance) -> list[Part]:
    r, flame = u(0.1, 0.17), u(0.14, 0.19)
    glow = smooth(
        points((0, -flame * 1.9), (flame * 0.42, -flame * 0.8), (0, -flame * 0.25), (-flame * 0.42, -flame * 0.8))
    )
    heart = ellipse(0, -flame * 0.72, flame * 0.18, flame * 0.36)
    drip = rectangle(r * u(-0.8, 0.2), 0, r * u(0.4, 0.9), u(0.12, 0.3), 0.05)
    saucer = [Part(ellipse(0, 1.0, r * u(2.0, 2.6), 0.07), BRASS)]
    return [
        *saucer,
        Part(rectangle(-r, 0, r, 1), BODY, "turned"),
        Part(drip, PALE),
        Part(ellipse(0, 0, r, 0.035), PALE, "flat"),
        stroke(points((0, 0), (0, -flame * 0.5)), 0.025, INK, "flat"),
        Part(glow, FLAME, "flat"),
        Part(heart, (255, 244, 200), "flat"),
    ]
