"""Painters of tools, toys and the rest of the house.

A painter gets a source of chance and returns the parts of one instance, back to front. It knows nothing of size,
colour, light or pictures.
"""

import numpy as np

from engine.tabletop.outlines import (
    BODY,
    BRASS,
    CREAM,
    CUT,
    DARK,
    FLAME,
    INK,
    PALE,
    STEEL,
    WOOD,
    Chance,
    Part,
    either_side,
    ellipse,
    lathe,
    mirrored,
    points,
    rectangle,
    smooth,
    stroke,
    turn,
)


def ball(u: Chance) -> list[Part]:
    a = u(0, 180)
    seams = [
        turn(ellipse(0, 0, 0.5 * k, 0.5, -90, 90) * mirrored(s), a) for k, s in ((u(0.35, 0.6), 1), (u(0.35, 0.6), -1))
    ]
    return [Part(ellipse(0, 0, 0.5, 0.5)), *[stroke(s, 0.022, DARK, "flat") for s in seams]]


def box(u: Chance) -> list[Part]:
    w, h, dx, dy, s = u(0.6, 0.9), u(0.45, 0.8), u(0.14, 0.28), u(0.12, 0.24), either_side(u)
    front = rectangle(0, 0, w, h)
    top = points((0, 0), (dx, -dy), (w + dx, -dy), (w, 0))
    flank = points((w, 0), (w + dx, -dy), (w + dx, h - dy), (w, h))
    mirror = mirrored(s)
    seam = points((dx * 0.5, -dy * 0.5), (w + dx * 0.5, -dy * 0.5))
    return [
        Part(front * mirror, BODY, "flat"),
        Part(top * mirror, PALE, "flat"),
        Part(flank * mirror, DARK, "flat"),
        stroke(seam * mirror, 0.02, DARK, "flat"),
    ]


def book(u: Chance) -> list[Part]:
    w, h, lean, thick = u(0.75, 0.95), u(0.5, 0.68), u(0.12, 0.28), u(0.1, 0.17)
    top = points((lean, 0), (lean + w, 0), (w, h), (0, h))
    pages = points((0.02, h), (w, h), (w, h + thick), (0.02, h + thick))
    edge = points((w, h), (w + lean, 0), (w + lean, thick), (w, h + thick))
    spine = points((0, h), (lean, 0), (lean + 0.08, 0), (0.08, h))
    under = points(
        (0, h + thick),
        (w, h + thick),
        (w + lean, thick),
        (w + lean, thick + 0.03),
        (w, h + thick + 0.035),
        (0, h + thick + 0.035),
    )
    title = [
        points((lean * k + 0.26 * w, h * (1 - k)), (lean * k + u(0.6, 0.85) * w, h * (1 - k))) for k in (0.72, 0.56)
    ]
    return [
        Part(under, DARK, "flat"),
        Part(pages, CREAM, "flat"),
        Part(edge, (216, 206, 180), "flat"),
        Part(top, BODY, "flat"),
        Part(spine, DARK, "flat"),
        *[stroke(t, 0.035, CREAM, "flat") for t in title],
    ]


def tube(u: Chance) -> list[Part]:
    wide, neck = u(0.21, 0.27), u(0.08, 0.11)
    skin = points(
        (-wide, 0), (wide, 0), (wide * 0.92, 0.62), (neck * 1.2, 0.8), (-neck * 1.2, 0.8), (-wide * 0.92, 0.62)
    )
    band = rectangle(-wide * 0.97, u(0.24, 0.3), wide * 0.97, u(0.4, 0.48))
    return [
        Part(skin, BODY, "turned"),
        Part(band, CREAM, "turned"),
        Part(rectangle(-wide * 1.05, -0.05, wide * 1.05, 0.05), DARK, "flat"),
        Part(rectangle(-neck * 1.25, 0.79, neck * 1.25, 1.0, 0.02), (235, 235, 238), "turned"),
    ]


def scissors(u: Chance) -> list[Part]:
    open_by, ring = u(9, 24), u(0.13, 0.16)
    parts: list[Part] = []
    for s in (-1, 1):
        blade = points((-s * 0.03, 0.62), (-s * 0.065, 0.05), (-s * 0.01, -0.05), (s * 0.035, 0.1), (s * 0.05, 0.62))
        shank = points((0, 0.5), (s * 0.06, 0.72), (s * 0.1, 0.82))
        grip = ellipse(s * 0.14, 0.95, ring, ring * u(1.05, 1.25))
        parts += [
            Part(turn(blade, -s * open_by, 0, 0.5), STEEL, "flat"),
            stroke(turn(shank, -s * open_by, 0, 0.5), 0.09),
            stroke(turn(grip, -s * open_by, 0, 0.5), 0.075),
        ]
    return [*parts, Part(ellipse(0, 0.5, 0.035, 0.035), INK, "flat")]


def key(u: Chance) -> list[Part]:
    r, thin = u(0.17, 0.23), u(0.05, 0.07)
    teeth = [rectangle(0, y, u(0.12, 0.2), y + 0.07) for y in (0.8, u(0.9, 0.93))]
    bow = ellipse(0, 0.1, r, r * u(0.8, 1.0))
    return [
        Part(rectangle(-thin, 0.2, thin, 1.02, 0.03)),
        *[Part(t) for t in teeth],
        Part(bow),
        Part(ellipse(0, 0.07, r * 0.5, r * 0.42), CUT),
    ]


def lamp(u: Chance) -> list[Part]:
    top, low, tall, foot = u(0.18, 0.28), u(0.38, 0.48), u(0.38, 0.48), u(0.2, 0.28)
    shade = lathe((0, top), (tall, low), curved=False)
    pole = rectangle(-0.03, tall, 0.03, 0.95)
    return [
        Part(pole, BRASS, "turned"),
        Part(ellipse(0, 0.96, foot, 0.06), BRASS),
        Part(ellipse(0, tall, low, 0.05), FLAME, "flat"),
        Part(shade, BODY, "turned"),
        stroke(points((-low, tall), (low, tall)), 0.025, PALE, "flat"),
    ]


def clock(u: Chance) -> list[Part]:
    ticks = [turn(points((0, -0.42), (0, -0.36)), a) for a in range(0, 360, 30)]
    hands = [
        (turn(points((0, 0.05), (0, -0.24)), u(0, 360)), 0.04),
        (turn(points((0, 0.05), (0, -0.35)), u(0, 360)), 0.025),
    ]
    feet = [Part(turn(rectangle(-0.05, 0.44, 0.05, 0.6, 0.02), a), INK) for a in (-32, 32)] if u(0, 1) < 0.5 else []
    bells = [Part(turn(ellipse(0, -0.53, 0.14, 0.09), a), BRASS) for a in (-32, 32)] if feet else []
    return [
        *feet,
        *bells,
        Part(ellipse(0, 0, 0.5, 0.5)),
        Part(ellipse(0, 0, 0.39, 0.39), CREAM, "flat"),
        *[stroke(t * 0.88, 0.022, INK, "flat") for t in ticks],
        *[stroke(h * 0.9, w, INK, "flat") for h, w in hands],
    ]


def star(u: Chance) -> list[Part]:
    waist, arms = u(0.22, 0.3), 5
    angle = np.radians(-90 + np.arange(2 * arms) * 180 / arms)
    reach = np.where(np.arange(2 * arms) % 2 == 0, 0.55, waist)
    return [Part(np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1).astype(np.float32))]


def hat(u: Chance) -> list[Part]:
    r, tall, brim = u(0.26, 0.33), u(0.34, 0.52), u(0.52, 0.6)
    crown = lathe((0, r * u(0.75, 0.95)), (0.06, r * 0.98), (tall, r), curved=False)
    band = rectangle(-r, tall - u(0.1, 0.14), r, tall)
    return [Part(ellipse(0, tall, brim, 0.1), BODY), Part(crown, BODY, "turned"), Part(band, DARK, "turned")]


def duck(u: Chance) -> list[Part]:
    s, head = either_side(u), u(0.2, 0.25)
    mirror = mirrored(s)
    body = smooth(
        points(
            (-0.55, -0.02),
            (-0.42, 0.08),
            (-0.1, 0.0),
            (0.25, -0.02),
            (0.42, 0.16),
            (0.36, 0.38),
            (0, 0.46),
            (-0.36, 0.38),
            (-0.52, 0.16),
        )
    )
    wing = turn(ellipse(-0.08, 0.2, u(0.18, 0.24), 0.11), u(-20, 5))
    beak = smooth(
        points((0.2 + head * 0.8, -0.24), (0.34 + head, -0.2), (0.36 + head, -0.14), (0.2 + head * 0.7, -0.1))
    )
    return [
        Part(beak * mirror, (244, 140, 40)),
        Part(body * mirror),
        Part(ellipse(0.2, -0.18, head, head) * mirror),
        Part(wing * mirror, DARK),
        Part(ellipse(0.27, -0.24, 0.035, 0.042) * mirror, INK),
    ]


def car(u: Chance) -> list[Part]:
    s, roof, r = either_side(u), u(0.22, 0.3), u(0.1, 0.13)
    mirror = mirrored(s)
    cabin = points((-0.36, 0.02), (-0.26, -roof), (0.14, -roof), (0.3, 0.02))
    panes = [
        points((-0.28, 0), (-0.21, -roof + 0.05), (-0.08, -roof + 0.05), (-0.08, 0)),
        points((-0.03, 0), (-0.03, -roof + 0.05), (0.11, -roof + 0.05), (0.22, 0)),
    ]
    wheels = [
        part
        for x in (-0.32, 0.32)
        for part in (Part(ellipse(x, 0.28, r, r), INK), Part(ellipse(x, 0.28, r * 0.5, r * 0.5), STEEL))
    ]
    return [
        Part(smooth(cabin, steps=3) * mirror),
        Part(rectangle(-0.58, 0, 0.58, 0.28, 0.1) * mirror),
        *[Part(p * mirror, (188, 222, 236), "flat") for p in panes],
        Part(ellipse(0.54, 0.1, 0.035, 0.045) * mirror, FLAME),
        *[Part(w.outline * mirror, w.paint) for w in wheels],
    ]


def pencil(u: Chance) -> list[Part]:
    r, tip = u(0.045, 0.065), u(0.13, 0.18)
    cone = points((-r, tip), (0, 0), (r, tip))
    lead = points((-r * 0.35, tip * 0.35), (0, 0), (r * 0.35, tip * 0.35))
    return [
        Part(cone, WOOD, "flat"),
        Part(lead, INK, "flat"),
        Part(rectangle(-r, tip, r, 0.94), BODY, "turned"),
        Part(rectangle(-r, 0.94, r, 1.0), STEEL, "turned"),
        Part(rectangle(-r, 1.0, r, 1.07, 0.03), (232, 140, 150), "turned"),
    ]


def bell(u: Chance) -> list[Part]:
    r, crown = u(0.38, 0.46), u(0.16, 0.22)
    cup_ = lathe((0.05, 0.04), (0.1, crown), (0.4, crown * 1.25), (0.68, r * 0.75), (0.8, r), curved=True)
    return [
        stroke(ellipse(0, 0.02, 0.07, 0.08), 0.04, BRASS),
        Part(ellipse(0, 0.84, 0.09, 0.09), BRASS),
        Part(cup_, BODY, "turned"),
        stroke(points((-r * 0.98, 0.79), (r * 0.98, 0.79)), 0.05, DARK),
    ]


def umbrella(u: Chance) -> list[Part]:
    h, n = u(0.42, 0.55), 4
    dome = ellipse(0, 0, 0.6, h, 180, 360)
    bumps = np.concatenate([ellipse(0.6 - 0.3 * (k + 0.5), 0, 0.15, 0.07, 0, -180)[1:] for k in range(n)])
    canopy = np.concatenate([dome, bumps])
    ribs = [smooth(points((0, -h), (x * 0.75, -h * 0.55), (x, -0.02)), False) for x in (-0.3, 0.0, 0.3)]
    hook = smooth(points((0, 0), (0, 0.45), (0.04, 0.55), (0.12, 0.54), (0.15, 0.46)), False)
    return [
        stroke(hook, 0.045, WOOD),
        Part(canopy),
        *[stroke(r, 0.014, DARK, "flat") for r in ribs],
        stroke(points((0, -h), (0, -h - 0.08)), 0.03, INK),
    ]


def hammer(u: Chance) -> list[Part]:
    r, s = u(0.05, 0.065), either_side(u)
    head = smooth(
        points((-0.24, 0.02), (-0.24, 0.2), (-0.14, 0.17), (0.1, 0.18), (0.34, 0.06), (0.12, 0.04), (-0.14, 0.05)),
        steps=4,
    )
    return [Part(rectangle(-r, 0.1, r, 1.02, 0.04), BODY, "turned"), Part(head * mirrored(s), STEEL)]


def drum(u: Chance) -> list[Part]:
    h, r, depth = u(0.5, 0.7), 0.48, u(0.1, 0.15)
    wall = np.concatenate([ellipse(0, h, r, depth, 0, 180), points((-r, 0), (r, 0))])
    xs = np.linspace(-r * 0.95, r * 0.95, 9)
    ends = np.where(np.arange(9) % 2 == 0, 0.06, h)[:, None] + depth * np.sqrt(1 - (xs / r) ** 2)[:, None] * 0.9
    cord = np.concatenate([xs[:, None], ends], 1).astype(np.float32)
    hoops = [stroke(ellipse(0, y, r, depth, 0, 180), 0.05, DARK) for y in (0.04, h)]
    return [
        Part(wall, BODY, "turned"),
        stroke(cord, 0.02, CREAM, "flat"),
        *hoops,
        Part(ellipse(0, 0, r, depth), CREAM, "flat"),
        stroke(ellipse(0, 0, r, depth), 0.03, DARK, "flat"),
    ]


def fish(u: Chance) -> list[Part]:
    s, h, fork_ = either_side(u), u(0.2, 0.29), u(0.2, 0.28)
    mirror = mirrored(s)
    body = smooth(
        points(
            (0.5, 0),
            (0.32, -h * 0.8),
            (0.02, -h),
            (-0.34, -h * 0.4),
            (-0.42, 0),
            (-0.34, h * 0.4),
            (0.02, h),
            (0.32, h * 0.8),
        )
    )
    tail = points((-0.34, 0), (-0.62, -fork_), (-0.55, 0), (-0.62, fork_))
    fin = points((0.12, -h * 0.85), (-0.1, -h - 0.14), (-0.2, -h * 0.7))
    gill = ellipse(0.2, 0, 0.06, h * 0.6, 90, 270)
    return [
        Part(tail * mirror, DARK),
        Part(fin * mirror, DARK),
        Part(body * mirror),
        stroke(gill * mirror, 0.02, DARK, "flat"),
        Part(ellipse(0.34, -h * 0.25, 0.045, 0.045) * mirror, (250, 250, 250), "flat"),
        Part(ellipse(0.35, -h * 0.25, 0.024, 0.024) * mirror, INK, "flat"),
    ]


def crown(u: Chance) -> list[Part]:
    h, n = u(0.5, 0.62), 5
    xs = np.linspace(-0.5, 0.5, 2 * n - 1)
    ys = np.where(np.arange(2 * n - 1) % 2 == 0, 0.0, h * u(0.42, 0.55))
    rim = np.stack([xs, ys], 1).astype(np.float32)
    pearls = [Part(ellipse(x, -0.02, 0.05, 0.05), BRASS) for x in xs[::2]]
    gems = [Part(ellipse(x, h + 0.06, 0.045, 0.045), paint) for x, paint in ((-0.25, STEEL), (0, CREAM), (0.25, STEEL))]
    return [
        Part(np.concatenate([rim, points((0.42, h), (-0.42, h))]), BODY, "turned"),
        Part(rectangle(-0.43, h - 0.02, 0.43, h + 0.14, 0.03), DARK, "turned"),
        *pearls,
        *gems,
    ]


def bulb(u: Chance) -> list[Part]:
    r, neck = u(0.32, 0.38), u(0.13, 0.16)
    glass = lathe((-r, 0.03), (-r * 0.86, r * 0.52), (-r * 0.2, r), (r * 0.45, r * 0.8), (r + 0.1, neck))
    screw = [
        Part(rectangle(-neck, r + 0.08 + 0.075 * k, neck, r + 0.15 + 0.075 * k, 0.03), STEEL, "turned")
        for k in range(3)
    ]
    wire = smooth(points((-0.05, r), (-0.1, 0), (0, 0.1), (0.1, 0), (0.05, r)), False)
    return [*screw, Part(ellipse(0, r + 0.31, neck * 0.5, 0.04), INK), Part(glass), stroke(wire, 0.02, FLAME, "flat")]


def boat(u: Chance) -> list[Part]:
    s, deep, mast = either_side(u), u(0.22, 0.3), u(0.6, 0.78)
    mirror = mirrored(s)
    hull = smooth(points((-0.52, 0), (0.58, 0), (0.36, deep), (-0.34, deep)), steps=3)
    sail = points((0.03, -mast), (0.03, -0.06), (u(0.34, 0.46), -0.06))
    jib = points((-0.03, -mast * 0.86), (-0.03, -0.06), (-u(0.26, 0.4), -0.06))
    return [
        stroke(points((0, 0), (0, -mast - 0.04)), 0.035, WOOD),
        Part(sail * mirror, CREAM, "flat"),
        Part(jib * mirror, PALE, "flat"),
        Part(hull * mirror),
    ]
