"""How diverse the negatives of a run are, how many of each sort are accepted, and what an accepted one costs."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from db.queries import Policies
from db.records import Candidate, Kind, Policy, Record, Score
from db.store import Store
from engine.claims import tokens
from engine.spending import spent

SAMPLE = 200  # texts that self-BLEU is computed on
TOP = 20  # concepts that are listed
_ORDERS = 4  # of BLEU's n-grams
_EPSILON = 0.1  # a match that is counted where there is none
_BATCH = 500  # candidates read at a time
_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
Verdict = Literal["accept", "reject"]
Words = tuple[str, ...]


class Negative(Record, frozen=True, kw_only=True):
    """A negative text with what was said of it. `decision` is that of a person or of a policy, None while it is open;
    `cost`, `tokens` and `seconds` are what it took."""

    text_before: str
    text_after: str
    edit_type: str = ""
    strategy: str = ""
    changed_from: str = ""
    changed_to: str = ""
    decision: Verdict | None = None
    cost: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0


class Share(Record, frozen=True, kw_only=True):
    """How many negatives of a sort were made, decided upon and accepted. `rate` is accepted over decided, with its 95 % interval
    `low` to `high`; None while nothing is decided."""

    name: str
    made: int
    decided: int
    accepted: int
    rate: float | None
    low: float | None
    high: float | None


class Count(Record, frozen=True, kw_only=True):
    name: str
    times: int


class Diversity(Record, frozen=True, kw_only=True):
    """The report. `concepts` counts the distinct words and phrases that were changed or put in their place, the most
    frequent of which are listed. Figures that need something that is not there are None: words, a second text, a decision."""

    negatives: int
    distinct_texts: int
    concepts: int
    changed_from: tuple[Count, ...]
    changed_to: tuple[Count, ...]
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    self_bleu: float | None
    overall: Share
    edit_types: tuple[Share, ...]
    strategies: tuple[Share, ...]
    cost: float
    tokens: int
    seconds: float
    cost_per_accepted: float | None
    seconds_per_accepted: float | None


def report(negatives: Sequence[Negative]) -> Diversity:
    """The figures of some negatives, the same for the same negatives in the same order."""
    texts = [negative.text_after for negative in negatives]
    overall = _share("all", negatives)
    cost, seconds = sum(one.cost for one in negatives), sum(one.seconds for one in negatives)
    old = Counter(one.changed_from.lower() for one in negatives if one.changed_from)
    new = Counter(one.changed_to.lower() for one in negatives if one.changed_to)
    return Diversity(
        negatives=len(negatives),
        distinct_texts=len({_words(text) for text in texts}),
        concepts=len(old.keys() | new.keys()),
        changed_from=_top(old),
        changed_to=_top(new),
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
        distinct_3=distinct(texts, 3),
        self_bleu=self_bleu(texts),
        overall=overall,
        edit_types=_shares(negatives, lambda one: one.edit_type),
        strategies=_shares(negatives, lambda one: one.strategy),
        cost=cost,
        tokens=round(sum(one.tokens for one in negatives)),
        seconds=seconds,
        cost_per_accepted=cost / overall.accepted if overall.accepted else None,
        seconds_per_accepted=seconds / overall.accepted if overall.accepted else None,
    )


def _top(counts: Counter[str]) -> tuple[Count, ...]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Count(name=name, times=times) for name, times in ranked[:TOP])


def _shares(negatives: Sequence[Negative], sort: Callable[[Negative], str]) -> tuple[Share, ...]:
    """One share for each sort, the most frequent first; negatives without one are left out."""
    groups: dict[str, list[Negative]] = {}
    for negative in negatives:
        if sort(negative):
            groups.setdefault(sort(negative), []).append(negative)
    shares = (_share(name, group) for name, group in groups.items())
    return tuple(sorted(shares, key=lambda share: (-share.made, share.name)))


def _share(name: str, negatives: Sequence[Negative]) -> Share:
    accepted = sum(one.decision == "accept" for one in negatives)
    decided = sum(one.decision is not None for one in negatives)
    low, high = wilson(accepted, decided) if decided else (None, None)
    rate = accepted / decided if decided else None
    return Share(name=name, made=len(negatives), decided=decided, accepted=accepted, rate=rate, low=low, high=high)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share, within [0, 1] (Wilson 1927). `trials` is at least 1."""
    share, spread = successes / trials, _Z95**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


# Wording


def _words(text: str) -> Words:
    return tuple(token.word for token in tokens(text))


def _ngrams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[at : at + n] for at in range(len(words) - n + 1))


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Distinct-n: different n-grams over all n-grams of all texts, in (0, 1] (Li et al. 2016, "A Diversity-Promoting
    Objective Function for Neural Conversation Models"); None without any. Fewer repetitions, higher value."""
    found: Counter[Words] = Counter()
    for text in texts:
        found.update(_ngrams(_words(text), n))
    return len(found) / found.total() if found else None


def self_bleu(texts: Sequence[str], *, seed: int = 0) -> float | None:
    """The mean BLEU of each text with all others as its references, in [0, 1] (Zhu et al. 2018, "Texygen"); 1 when all say the
    same. None when fewer than two have words.

    On `SAMPLE` texts at most, drawn with `seed`. BLEU-4 of Papineni et al. (2002): clipped precisions of n-grams, geometric mean,
    brevity penalty against the reference of the closest length. An n-gram order without match counts as 0.1 matches (method
    1 of Chen and Cherry 2014), and a text of fewer than four words is compared by the orders it has.
    """
    worded = [words for words in map(_words, texts) if words]
    if len(worded) < 2:
        return None
    chosen = random.Random(seed).sample(worded, min(SAMPLE, len(worded)))
    counted = [[_ngrams(words, n) for n in range(1, _ORDERS + 1)] for words in chosen]
    most = [_two_most(counts[n] for counts in counted) for n in range(_ORDERS)]
    lengths = [len(words) for words in chosen]
    return sum(_bleu(i, counts, most, lengths) for i, counts in enumerate(counted)) / len(chosen)


Most = dict[
    Words, tuple[int, int, int]
]  # n-gram -> the text that has it most often, how often, how often at most another


def _two_most(counted: Iterable[Counter[Words]]) -> Most:
    """What lets the maximum over all texts but one be looked up."""
    most: Most = {}
    for i, counts in enumerate(counted):
        for ngram, times in counts.items():
            owner, first, second = most.get(ngram, (i, 0, 0))
            most[ngram] = (i, times, first) if times > first else (owner, first, max(second, times))
    return most


def _bleu(own: int, counts: list[Counter[Words]], most: list[Most], lengths: list[int]) -> float:
    """BLEU of text number `own` against all others."""
    orders = [(ngrams, known) for ngrams, known in zip(counts, most, strict=True) if ngrams]
    logs = [math.log(max(_matches(own, ngrams, known), _EPSILON) / ngrams.total()) for ngrams, known in orders]
    length = lengths[own]
    others = (other for i, other in enumerate(lengths) if i != own)
    closest = min(others, key=lambda other: (abs(other - length), other))
    return math.exp(sum(logs) / len(logs) + min(0.0, 1 - closest / length))


def _matches(own: int, ngrams: Counter[Words], known: Most) -> int:
    """How many n-grams of the text another text has, each as often as one of them has it."""
    found = 0
    for ngram, times in ngrams.items():
        owner, first, second = known[ngram]
        found += min(times, second if owner == own else first)
    return found


# From the store


def of_run(store: Store, run_id: int, policies: Policies | None = None) -> Diversity:
    """The report on the negative texts of a run. What nobody has decided counts as `policies` say, by default those of
    the data set's runs.

    The store knows what a run took as a whole: its money and tokens are shared out evenly among its negative texts, its
    seconds among all its candidates. Raises NotFound for an unknown run.
    """
    run = store.ledger.run(run_id)
    if policies is None:
        policies = store.review.policies(run.dataset_id) if run.dataset_id is not None else {}
    ids = store.review.candidate_ids(run_id)
    batches = (ids[at : at + _BATCH] for at in range(0, len(ids), _BATCH))
    names = {} if run.dataset_id is None else {c.id: c.name for c in store.datasets.categories(run.dataset_id)}
    made = [one for batch in batches for one in _negatives(store, batch, policies.get(run_id), names)]
    sums = spent(store, run_id)
    usage, share = sums["usage"], 1 / max(len(made), 1)
    cost, words = usage["cost"] * share, (usage["tokens_in"] + usage["tokens_out"]) * share
    seconds = sums["seconds"] / max(len(ids), 1)
    return report([msgspec.structs.replace(one, cost=cost, tokens=words, seconds=seconds) for one in made])


def _negatives(store: Store, ids: Sequence[int], policy: Policy | None, names: Mapping[int, str]) -> list[Negative]:
    found = [one for one in store.review.candidates(ids) if one.kind is Kind.NEGATIVE_TEXT]
    scores = store.review.scores_of([one.id for one in found])
    return [_negative(one, _decision(one, scores[one.id], policy, names.get(one.category_id or 0))) for one in found]


def _negative(candidate: Candidate, decision: Verdict | None) -> Negative:
    detail = candidate.detail
    return Negative(
        text_before=candidate.text_before or "",
        text_after=candidate.text_after or "",
        edit_type=detail.get("edit_type", ""),
        strategy=detail.get("strategy", ""),
        changed_from=detail.get("changed_from", ""),
        changed_to=detail.get("changed_to", ""),
        decision=decision,
    )


def _decision(
    candidate: Candidate, scores: Sequence[Score], policy: Policy | None, category: str | None
) -> Verdict | None:
    """What stands, as `db.queries.effective` has it: the word of a person (an edit is an accept), else that of the policy."""
    if candidate.human is not None and candidate.human != "skip":
        return "reject" if candidate.human == "reject" else "accept"
    if policy is None:
        return None
    said = policy.decide(candidate.kind, {score.filter: score.value for score in scores}, category)
    return None if said is None else "accept" if said else "reject"
