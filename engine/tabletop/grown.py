"""Painters of what grows.

A painter gets a source of chance and returns the parts of one instance, back to front. It knows nothing of size,
colour, light or pictures.
"""

import numpy as np

from engine.tabletop.outlines import (
    CREAM,
    DARK,
    LEAF,
    STEM,
    TERRACOTTA,
    Chance,
    Part,
    ellipse,
    lathe,
    mirrored,
    points,
    rectangle,
    smooth,
    stroke,
    turn,
)


def apple(u: Chance) -> list[Part]:
    w, h, dip = u(0.47, 0.54), u(0.45, 0.52), u(0.05, 0.1)
    fruit = smooth(
        points(
            (0, -h + dip),
            (w * 0.45, -h),
            (w * 0.95, -h * 0.45),
            (w * 0.9, h * 0.3),
            (w * 0.45, h * 0.95),
            (0, h * 0.88),
            (-w * 0.45, h * 0.95),
            (-w * 0.9, h * 0.3),
            (-w * 0.95, -h * 0.45),
            (-w * 0.45, -h),
        )
    )
    stem = smooth(points((0, -h + dip + 0.06), (u(-0.03, 0.03), -h - 0.06), (u(-0.1, 0.1), -h - 0.17)), False)
    leaf = turn(ellipse(0.14, -h - 0.08, 0.15, 0.065), u(-40, -10), 0, -h)
    return [Part(fruit), stroke(stem, 0.045, STEM), Part(leaf, LEAF)]


def tomato(u: Chance) -> list[Part]:
    w, h = 0.52, u(0.4, 0.46)
    ribs = [
        stroke(ellipse(0, 0, w * k, h * 0.98, 90, 270) * mirrored(side), 0.014, DARK, "flat")
        for k, side in ((0.55, 1), (0.55, -1))
    ]
    arms = [
        turn(points((-0.05, -h * 0.85), (0, -h * 0.85 - u(0.16, 0.24)), (0.05, -h * 0.85)), a, 0, -h * 0.85)
        for a in (-125, -80, 0, 80, 125)
    ]
    calyx = [Part(arm, LEAF, "flat") for arm in arms]
    return [Part(ellipse(0, 0, w, h)), *ribs, *calyx, Part(ellipse(0, -h * 0.86, 0.07, 0.045), LEAF)]


def pear(u: Chance) -> list[Part]:
    neck, r = u(0.15, 0.2), u(0.33, 0.39)
    fruit = lathe((0, 0.04), (0.05, neck * 0.8), (0.2, neck), (0.45, r * 0.8), (0.7, r), (0.9, r * 0.75), (1, 0.08))
    stem = smooth(points((0, 0.05), (0.01, -0.06), (u(-0.07, 0.07), -0.15)), False)
    return [stroke(stem, 0.045, STEM), Part(fruit)]


def lemon(u: Chance) -> list[Part]:
    h, tip = u(0.32, 0.38), u(0.58, 0.64)
    half = [
        (tip, 0),
        (tip - 0.06, -0.06),
        (0.4, -h * 0.68),
        (0, -h),
        (-0.4, -h * 0.68),
        (-tip + 0.06, -0.06),
        (-tip, 0),
    ]
    return [Part(smooth(points(*half, *[(x, -y) for x, y in half[-2:0:-1]])))]


def banana(u: Chance) -> list[Part]:
    thick, bend = u(0.15, 0.2), u(0.42, 0.6)
    outer = ellipse(0, 0, 0.6, bend, 12, 168)
    inner = ellipse(0, -0.02, 0.54, bend - thick * 1.5, 168, 12)
    ends = [Part(ellipse(float(p[0]), float(p[1]), 0.05, 0.045), STEM) for p in (outer[0] * 0.97, outer[-1] * 0.97)]
    ridge = stroke(ellipse(0, -0.01, 0.57, bend - thick * 0.75, 25, 155), 0.02, DARK, "flat")
    return [Part(smooth(np.concatenate([outer[::3], inner[::3]]))), ridge, *ends]


def plant(u: Chance) -> list[Part]:
    count, r = 5 + int(u(0, 4)), u(0.2, 0.27)
    pot = lathe((0.66, r), (0.76, r), (0.76, r * 0.9), (1.12, r * 0.7), curved=False)
    leaves = []
    for angle in np.linspace(-75, 75, count):
        reach, fat = u(0.5, 0.68), u(0.08, 0.12)
        blade = smooth(points((0, 0.68), (fat, 0.68 - reach * 0.55), (0, 0.68 - reach), (-fat, 0.68 - reach * 0.55)))
        a = angle + u(-8, 8)
        vein = points((0, 0.68), (0, 0.68 - reach * 0.9))
        leaves += [Part(turn(blade, a, 0, 0.68)), stroke(turn(vein, a, 0, 0.68), 0.012, DARK, "flat")]
    return [*leaves, Part(pot, TERRACOTTA, "turned")]


def cactus(u: Chance) -> list[Part]:
    r, pot_r = u(0.12, 0.17), u(0.2, 0.26)
    pot = lathe((0.72, pot_r), (0.8, pot_r), (0.8, pot_r * 0.9), (1.1, pot_r * 0.7), curved=False)
    arms = []
    for s, y in ((-1, u(0.36, 0.46)), (1, u(0.26, 0.4))):
        bend = smooth(
            points((0, y), (s * (r + 0.1), y), (s * (r + 0.14), y - 0.06), (s * (r + 0.14), y - u(0.16, 0.26))), False
        )
        arms.append(stroke(bend, 0.11))
    spines = [
        stroke(points((x - 0.02, y), (x + 0.02, y - 0.03)), 0.012, CREAM, "flat")
        for x, y in zip(np.tile([-0.06, 0.05, 0.0], 3), np.linspace(0.05, 0.6, 9), strict=True)
    ]
    return [*arms, Part(rectangle(-r, -0.1, r, 0.76, r)), *spines, Part(pot, TERRACOTTA, "turned")]


def mushroom(u: Chance) -> list[Part]:
    w, h, r = u(0.42, 0.52), u(0.36, 0.46), u(0.11, 0.16)
    cap = np.concatenate([ellipse(0, 0, w, h, 180, 360), ellipse(0, 0, w, 0.09, 0, 180)])
    return [
        Part(lathe((0, r), (0.25, r * 0.9), (0.46, r * 1.2), (0.52, r)), CREAM, "turned"),
        Part(ellipse(0, 0.02, w * 0.9, 0.09), (214, 196, 166), "flat"),
        Part(cap),
    ]
