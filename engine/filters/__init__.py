"""Filters: each gives a candidate one number and the sentence that explains it. Those that need a
model take it from the model pack, and give no value where there is none.

A filter's value is raw; what is good enough is said by a policy, and moving its threshold is a query.
"""

from __future__ import annotations

from db.records import WHOLE, Kind, Rule
from engine.filters import alignment, boxes, detector, duplicates, embedded, learning, looks, pixels, soft, texts, whole
from engine.filters.judgement import IMAGES, TEXTS, Filter, Judgement, each

__all__ = ["FILTERS", "Filter", "Judgement"]

WITH_TEXTS = frozenset(Kind) - {Kind.TRIPLET, Kind.PAIR}  # or a class: what can be said of one box or one class
LEAST_ABOVE = 1e-6  # rules say "at least", and here 0, a picture that is on neither side, is not good enough

FILTERS: dict[str, Filter] = {
    "text_duplicate": Filter(
        name="text_duplicate",
        title="Duplicate text",
        help="Whether the negative says the same as a true text of the image; 1 means the same words.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="text_duplicate", at_most=0.95),
        judge=each(texts.text_duplicate),
    ),
    "paraphrase": Filter(
        name="paraphrase",
        title="Paraphrase",
        help="Whether the negative says in other words what a true text says; 1 is the same, 0.5 one thing said otherwise.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="paraphrase", at_most=0.75),
        judge=each(texts.paraphrase),
    ),
    "hypernym": Filter(
        name="hypernym",
        title="Wider word or synonym",
        help="1 when a new noun may be said of the one it replaces (person for man), 0.6 of another annotated thing, "
        "0.5 when the two can be confused (cup for mug).",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="hypernym", at_most=0.5),
        judge=each(texts.hypernym),
    ),
    "still_true": Filter(
        name="still_true",
        title="May still be true",
        help="How far the other annotations speak for the negative; the reason names the one that does.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="still_true", at_most=0.5),
        judge=each(texts.still_true_of),
    ),
    "text_length": Filter(
        name="text_length",
        title="Length ratio",
        help="Words of the negative over words of the true text.",
        kinds=TEXTS,
        better="higher",
        default=Rule(filter="text_length", at_least=0.5, at_most=2.0),
        judge=each(texts.text_length),
    ),
    "single_edit": Filter(
        name="single_edit",
        title="Concepts changed",
        help="How many concepts differ from the true text; a foil changes exactly one, a recombination more.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="single_edit", at_least=1, at_most=1),
        judge=each(texts.single_edit),
    ),
    "fluency": Filter(
        name="fluency",
        title="Faults of form",
        help="Doubled words, a for an, brackets without partner, cut ends, remains of JSON or markdown: their number.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="fluency", at_most=0),
        judge=each(texts.fluency),
    ),
    "language": Filter(
        name="language",
        title="Same language",
        help="Share of the telling words and letters that fit the language of the true texts; none when it is too short.",
        kinds=TEXTS,
        better="higher",
        default=Rule(filter="language", at_least=0.75),
        judge=each(texts.language),
    ),
    "profanity": Filter(
        name="profanity",
        title="Profane words",
        help="Share of words that are profane or slurs. In no shipped policy: add it where your texts may hold some.",
        kinds=TEXTS,
        better="lower",
        default=Rule(filter="profanity", at_most=0),
        judge=each(texts.profanity),
    ),
    "outside_change": Filter(
        name="outside_change",
        title="Change outside the edit",
        help="The largest change of a pixel outside the edited rectangle; anything but 0 is damage.",
        kinds=IMAGES,
        better="lower",
        default=Rule(filter="outside_change", at_most=0.0),
        judge=each(pixels.outside_change),
    ),
    "seam": Filter(
        name="seam",
        title="Seam",
        help="How strong the edge around the edit is, in units of the image's own edges; above 3 it shows.",
        kinds=IMAGES,
        better="lower",
        default=Rule(filter="seam", at_most=3.0),  # keeps 96 % of the good; 2 finds four times the edges and keeps 86 %
        judge=each(pixels.seam),
    ),
    "plausible_size": Filter(
        name="plausible_size",
        title="Plausible size and place",
        help="How usual area, shape and place of the box are for its class in this data set; 1 is typical.",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="plausible_size", at_least=0.02),
        judge=boxes.plausible_size,
    ),
    "sharpness": Filter(
        name="sharpness",
        title="Sharpness",
        help="Fine detail in the box relative to the rest of the image; near 0 is a blur.",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="sharpness", at_least=0.05),
        judge=each(pixels.sharpness),
    ),
    "exposure": Filter(
        name="exposure",
        title="Clipped pixels",
        help="Share of the box that is pure black or pure white.",
        kinds=IMAGES,
        better="lower",
        default=Rule(
            filter="exposure", at_most=0.2
        ),  # on Tabletop 0.4 let a quarter of the burnt ones through, 0.2 7 %
        judge=each(pixels.exposure),
    ),
    "overlap": Filter(
        name="overlap",
        title="Covers another annotation",
        help="The largest share of another annotated box that the new one covers.",
        kinds=IMAGES,
        better="lower",
        default=Rule(filter="overlap", at_most=0.5),
        judge=each(boxes.overlap),
    ),
    "box_drift": Filter(
        name="box_drift",
        title="Box stayed in place",
        help="IoU of the box that was asked for with the box fitted to what was painted; 1 means it did not move.",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="box_drift", at_least=0.5),  # Tabletop: keeps 98 % of the good, finds all that moved
        judge=each(boxes.box_drift),
    ),
    "near_duplicate": Filter(
        name="near_duplicate",
        title="Near-duplicate",
        help="How like the box's picture, or the whole image that was made, is to one that the same run made before for its "
        "class, by perceptual hash and, where the pack has one, by embedder; whole images are compared with those of the data "
        "set too, by perceptual hash. 1 is the same.",
        kinds=IMAGES | WHOLE,
        better="lower",
        # on Tabletop 0.96 took a tenth of the good for duplicates, 0.98 half as many, and no fewer copies were found
        default=Rule(filter="near_duplicate", at_most=0.98),
        judge=duplicates.near_duplicate,
    ),
    "detector_agreement": Filter(
        name="detector_agreement",
        title="Detector agreement",
        help="Best overlap of the box with what the pack's detector, else the newest detector trained here, sees of its "
        "class (Gen2Det asks for 0.3); the reason tells its score, or the class seen instead.",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="detector_agreement", at_least=0.3),
        judge=detector.detector_agreement,
    ),
    "clip_agreement": Filter(
        name="clip_agreement",
        title="Picture fits the text",
        help="Cosine similarity of the box's picture with the text that should be true of it: the true text for a false one, "
        "the negative text for a negative image, the class for an instance. What is high depends on the embedder: about 0.2 with "
        "CLIP ViT-L/14, 0.5 with the pocket pack's. Needs an embedder.",
        kinds=WITH_TEXTS,
        better="higher",
        default=Rule(
            filter="clip_agreement", at_least=0.2
        ),  # ViT-L/14's scale; with the pocket embedder 0.5 parts best
        judge=embedded.compared(embedded.agreement),
        roles=("embedder",),
    ),
    "clip_margin": Filter(
        name="clip_margin",
        title="Fits the right text better",
        help="Similarity with the text that should be true, less that with the one that should be false (for an instance, "
        "the best other class). Above 0 the picture takes the right side. Needs an embedder.",
        kinds=WITH_TEXTS,
        better="higher",
        default=Rule(filter="clip_margin", at_least=LEAST_ABOVE),
        judge=embedded.compared(embedded.margin),
        roles=("embedder",),
    ),
    "clip_delta": Filter(
        name="clip_delta",
        title="Gained by the edit",
        help="By how much the edit raised the similarity of the box's picture with the negative text. Needs an embedder.",
        kinds=frozenset((Kind.NEGATIVE_IMAGE,)),
        better="higher",
        default=Rule(filter="clip_delta", at_least=embedded.LEAST_RISE),
        judge=embedded.compared(embedded.delta, before=True),
        roles=("embedder",),
    ),
    "two_step": Filter(
        name="two_step",
        title="Two-step filter",
        help="Enhanced Negatives' filter: -2 when size, shape or overlap of the box are out of bounds, else how far the "
        "picture is on the negative text's side and the edit has brought it there. Above 0 is good. Needs an embedder.",
        kinds=frozenset((Kind.NEGATIVE_IMAGE,)),
        better="higher",
        default=Rule(filter="two_step", at_least=LEAST_ABOVE),
        judge=embedded.compared(embedded.two_step, before=True),
        roles=("embedder",),
    ),
    "aesthetic": Filter(
        name="aesthetic",
        title="Looks",
        help="Aesthetic rating of the whole image less the mean of the data set's own images, so 0 is Gen2Det's threshold. "
        "Needs an embedder and an aesthetic head.",
        kinds=IMAGES,
        better="higher",
        default=Rule(filter="aesthetic", at_least=0.0),
        judge=looks.aesthetic,
        roles=("embedder", "aesthetics"),
    ),
    "phrase_coverage": Filter(
        name="phrase_coverage",
        title="Phrases with a box",
        help="Share of the phrases of a whole image that name at least one box; the reason lists those without.",
        kinds=frozenset((Kind.TRIPLET,)),
        better="higher",
        default=Rule(filter="phrase_coverage", at_least=0.5),
        judge=each(whole.phrase_coverage),
    ),
    "least_score": Filter(
        name="least_score",
        title="Least sure box",
        help="The lowest detector score of the boxes of a whole image; none where the boxes come from a layout.",
        kinds=frozenset((Kind.TRIPLET,)),
        better="higher",
        default=Rule(filter="least_score", at_least=0.5),
        judge=each(whole.least_score),
    ),
    "caption_agreement": Filter(
        name="caption_agreement",
        title="Image fits its caption",
        help="Cosine similarity of the whole image with its caption, of a class image with its class. What is high depends on "
        "the embedder: about 0.2 with CLIP ViT-L/14. Needs an embedder.",
        kinds=WHOLE,
        better="higher",
        default=Rule(filter="caption_agreement", at_least=0.2),
        judge=whole.caption_agreement,
        roles=("embedder",),
    ),
    "pair_alignment": Filter(
        name="pair_alignment",
        title="Words are seen",
        help="Mean cosine of the caption and its phrases with the region that fits each best, by the newest detector of DetCLIPv2 "
        "trained here; the reason names the phrase that fits worst.",
        kinds=frozenset((Kind.PAIR,)),
        better="higher",
        default=Rule(filter="pair_alignment", at_least=0.0),
        judge=alignment.pair_alignment,
    ),
    "soft_agreement": Filter(
        name="soft_agreement",
        title="Share of its class",
        help="The share of the candidate's class in CLIP's soft label of its box, over all classes of the data set; the "
        "reason names what CLIP sees. Needs an embedder.",
        kinds=IMAGES | {Kind.CLASS_IMAGE},
        better="higher",
        default=Rule(filter="soft_agreement", at_least=0.1),
        judge=soft.soft_agreement,
        roles=("embedder",),
    ),
    "learned": Filter(
        name="learned",
        title="Learned from verdicts",
        help="How likely people are to accept it, going by all scores and the verdicts given so far (Report, or `winnow learn`).",
        kinds=frozenset(Kind),
        better="higher",
        default=Rule(filter="learned", at_least=0.5),
        judge=learning.learned,
    ),
}
"""Every filter by name, in the order in which they are shown."""
